"""The one place where embeddings become similarities: unit length, score weighting, branches side by side.

Systems return embeddings as the model makes them. What a paper calls the similarity of a query and a
detection is decided here and named in every result.
"""

import numpy as np
from jaxtyping import Float

from ps_jax.errors import ConfigError

SIMILARITIES = ("cosine", "score_cosine")


def unit_rows(
    embedding: Float[np.ndarray, "rows width"], branches: int = 1
) -> Float[np.ndarray, "rows width"]:
    """Rows of length one, in float64.

    Args:
      embedding: f[rows, width], as the model makes it.
      branches: how many embeddings of equal width lie side by side in a row (two for ROI-AlignPS's and
        LEAPS's branches). Each is brought to length one before they count as one, so that none outweighs the
        others; the row is then scaled to length one too, which leaves every ranking as it is.

    Returns:
      f64[rows, width]. A zero embedding stays zero (as `torch.nn.functional.normalize`).
    """
    rows, width = embedding.shape
    if branches < 1 or width % branches:
        raise ValueError(f"branches: {branches} do not divide an embedding of width {width}")
    parts = np.asarray(embedding, np.float64).reshape(rows, branches, width // branches)
    length = np.maximum(np.linalg.norm(parts, axis=-1, keepdims=True), 1e-12)
    return (parts / length / np.sqrt(branches)).reshape(rows, width)


def gallery_features(
    embedding: Float[np.ndarray, "rows width"],
    score: Float[np.ndarray, " rows"],
    similarity: str,
    branches: int = 1,
) -> Float[np.ndarray, "rows width"]:
    """Features of detections whose dot product with a query's unit feature is the similarity.

    Args:
      embedding: f[rows, width], as the model makes it.
      score: f[rows], detection scores.
      similarity: "cosine" (SPNet), or "score_cosine": the cosine times the detection's score (NAE, SeqNet,
        COAT: confidence-weighted similarity).
      branches: see `unit_rows`.

    Returns:
      f64[rows, width].

    Raises:
      ConfigError: the similarity is not one of these.
    """
    check_similarity(similarity)
    feature = unit_rows(embedding, branches)
    return feature * np.asarray(score, np.float64)[:, None] if similarity == "score_cosine" else feature


def check_similarity(similarity: str) -> None:
    """Raises ConfigError unless `similarity` is one of `SIMILARITIES`."""
    if similarity not in SIMILARITIES:
        raise ConfigError(
            f"eval.similarity: {similarity!r} is unknown; choose one of {', '.join(SIMILARITIES)}"
        )
