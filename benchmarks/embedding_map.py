"""Embeddings of some people in two dimensions, by identity and by branch (figure 9 of AlignPS's paper).

    python -m benchmarks.embedding_map --workdir runs/roi_alignps --out embeddings.png [--identities 15] [--seed 0]

Every annotated box of so many random people, those in four scenes or more where there are enough, becomes a point for
each branch (a star is the second one's: of ROI-AlignPS the box branch, of LEAPS the interaction module), in a colour of
its own a person. As in the paper t-SNE lays them out, all branches together: who is near whom means something, the
distances across the picture do not. The table printed beside it needs no plane: the mean cosine of two boxes of one
person, and of two people, by branch.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from input_pipeline import open_source
from input_pipeline.scenes import UNKNOWN, Split
from ps_jax.errors import ConfigError, DataError, PersonSearchError
from ps_jax.evaluation.curves import as_png, new_figure
from ps_jax.evaluation.options import evaluation_config, parse_arguments
from ps_jax.evaluation.report import write_atomically
from ps_jax.evaluation.similarity import unit_rows
from ps_jax.markdown import markdown_table
from ps_jax.systems import System
from ps_jax.training import load_system

OFTEN = 4  # boxes of a person that is chosen by preference
MARKERS = ("o", "*")
PERPLEXITY = 30.0  # about so many neighbours of a point count, of a few points a third of them
LEAST_POINTS = 4


class Embedded(NamedTuple):
    """Boxes of some people.

    Attributes:
      identity: i64[box], who.
      embedding: f64[box, branch, dimension], of length 1.
    """

    identity: Int[np.ndarray, " box"]
    embedding: Float[np.ndarray, "box branch dimension"]


def choose_people(split: Split, count: int, seed: int) -> list[int]:
    """Random known identities of a split, those with `OFTEN` boxes or more where there are `count` of them.

    Raises:
      DataError: the split has no known identity.
    """
    identities = np.array(
        [person.identity for scene in split.scenes for person in scene.people if person.identity != UNKNOWN]
    )
    known, boxes = np.unique(identities, return_counts=True)
    if not len(known):
        raise DataError(f"{split.dataset} {split.partition}: nobody in it has a known identity")
    order = np.random.default_rng(seed).permutation(len(known))
    preferred = sorted(order, key=lambda place: boxes[place] < OFTEN)
    return [int(known[place]) for place in preferred[:count]]


def embed_people(
    system: System, variables: Any, batches: Iterator[Any], split: Split, people: Sequence[int]
) -> Embedded:
    """Embeds all annotated boxes of some people.

    Args:
      system, variables: what embeds.
      batches: all scenes of the split with their people.
      split: the records.
      people: identities.
    """
    labels = {split.labels[identity]: identity for identity in people}
    embed = jax.jit(system.embed)
    identity, embedding = [], []
    for batch in batches:
        wanted = np.isin(np.asarray(batch.people.identity), list(labels)) & np.asarray(batch.people.valid)
        wanted &= np.asarray(batch.index)[:, None] >= 0
        if not wanted.any():
            continue
        rows = np.asarray(embed(variables, batch.scenes, np.asarray(batch.people.box)))[wanted]
        embedding.append(rows.reshape(len(rows), system.branches, -1))
        identity += [labels[int(label)] for label in np.asarray(batch.people.identity)[wanted]]
    whole = np.concatenate(embedding)
    unit = np.stack([unit_rows(whole[:, branch]) for branch in range(system.branches)], axis=1)
    return Embedded(np.array(identity), unit)


def tsne_plane(rows: Float[np.ndarray, "row dimension"], perplexity: float) -> Float[np.ndarray, "row 2"]:
    """t-SNE's two coordinates of some rows, the same in every run.

    Raises:
      ConfigError: scikit-learn is not installed.
    """
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ConfigError("the picture needs scikit-learn: install the extra `pictures`") from error
    # One thread: threads add up in any order, and spin for each other for minutes where a machine is busy.
    with threadpool_limits(1):
        return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(rows)


def similarity_table(embedded: Embedded) -> str:
    """Mean cosines within and between people, by pair of branches, in Markdown."""
    same = embedded.identity[:, None] == embedded.identity
    others = ~np.eye(len(same), dtype=bool)
    lines = []
    for one, two in itertools.combinations_with_replacement(range(embedded.embedding.shape[1]), 2):
        cosine = embedded.embedding[:, one] @ embedded.embedding[:, two].T
        within, between = cosine[same & others], cosine[~same]
        name = f"branch {one + 1}" if one == two else f"branch {one + 1} with branch {two + 1}"
        lines.append([name, *(f"{x.mean():.3f}" if x.size else "" for x in (within, between))])
    return markdown_table(["cosine of", "two boxes of a person", "boxes of two people"], lines)


def embedding_picture(embedded: Embedded) -> bytes:
    """The points of all boxes and branches, PNG.

    Raises:
      DataError: they are too few to lay out.
      ConfigError: scikit-learn is not installed.
    """
    boxes, branches, dimension = embedded.embedding.shape
    points = boxes * branches
    if points < LEAST_POINTS:
        raise DataError(
            f"there are {points} embeddings to lay out, {LEAST_POINTS} are needed; choose more people by --identities"
        )
    perplexity = min(PERPLEXITY, (points - 1) / 3)
    plane = tsne_plane(embedded.embedding.reshape(points, dimension), perplexity).reshape(boxes, branches, 2)
    people = np.unique(embedded.identity)
    figure, (axes,) = new_figure()
    for number, identity in enumerate(people):
        there = embedded.identity == identity
        color = _color(number, len(people))
        for branch in range(branches):
            axes.scatter(
                *plane[there, branch].T,
                s=70 if branch else 22,
                color=color,
                marker=MARKERS[min(branch, 1)],
                alpha=0.85,
                linewidths=0.4,
                edgecolors="white",
            )
    axes.set(xticks=[], yticks=[])
    stars = "; stars: second branch" if branches > 1 else ""
    axes.set_title(f"{len(people)} people, t-SNE of perplexity {perplexity:.0f}{stars}", loc="left")
    return as_png(figure)


def _color(number: int, count: int) -> tuple[float, float, float]:
    """One of so many hues, light and dark in turns."""
    from matplotlib.colors import hsv_to_rgb

    red, green, blue = hsv_to_rgb((number / count, 0.85, 0.9 if number % 2 else 0.6))
    return float(red), float(green), float(blue)


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.embedding_map",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("--workdir", required=True, type=Path, help="work directory of a training")
    option("--out", required=True, type=Path, help="picture to write")
    option("--identities", type=int, default=15, help="people, default: %(default)s")
    option("--seed", type=int, default=0, help="of their choice")
    option("--partition", choices=("train", "test"), default="test")
    options, changes = parser.parse_known_args(arguments)
    config = evaluation_config(parse_arguments("", ["--workdir", str(options.workdir)])[0], changes)
    system, variables, _ = load_system(options.workdir)
    source = open_source(config.data)
    split = source.split(options.partition)
    people = choose_people(split, options.identities, options.seed)
    embedded = embed_people(system, variables, source.scene_batches(options.partition), split, people)
    print(similarity_table(embedded))
    write_atomically(options.out, embedding_picture(embedded))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PersonSearchError as error:
        print(f"embedding_map: {error}", file=sys.stderr)
        sys.exit(2)
