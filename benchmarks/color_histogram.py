"""The floor of person search: colour histograms of the true boxes, no learning and no detector.

    python -m benchmarks.color_histogram --layout cuhk_sysu --dir data/streets

Prints search mAP and top-1 on the test split for several histograms. A trained system should be far above.
"""

import argparse
import io
import sys
from collections.abc import Callable

import numpy as np
from PIL import Image

from input_pipeline.cuhk_sysu import read_cuhk_sysu
from input_pipeline.prw import read_prw
from input_pipeline.scenes import Split
from ps_jax.errors import PersonSearchError
from ps_jax.evaluation.protocols import gallery_names, search_task
from ps_jax.evaluation.search import SearchResult, evaluate_search
from ps_jax.evaluation.table import DetectionTable, make_table

READERS: dict[str, Callable[[str, str], Split]] = {"cuhk_sysu": read_cuhk_sysu, "prw": read_prw}
SPACES = ("RGB", "HSV")
SIMILARITIES = ("cosine", "intersection")


def color_histogram(crop: np.ndarray, bins: int = 8, parts: int = 1) -> np.ndarray:
    """Joint histogram of three channels.

    Args:
      crop: u8[h, w, 3] with at least `parts` rows.
      bins: bins of each channel.
      parts: horizontal strips with a histogram each; 2 tells upper from lower body.

    Returns:
      f64[parts * bins^3] that sums to 1.
    """
    rows = []
    for strip in np.array_split(crop, parts):
        index = (strip.reshape(-1, 3).astype(np.int64) * bins) >> 8
        flat = (index[:, 0] * bins + index[:, 1]) * bins + index[:, 2]
        rows.append(np.bincount(flat, minlength=bins**3) / max(1, flat.size))
    return np.concatenate(rows) / parts


def histogram_table(split: Split, space: str = "RGB", parts: int = 1) -> DetectionTable:
    """Histograms of all annotated boxes of a split, as detections with score 1."""
    scenes = []
    for position, scene in enumerate(split.scenes):
        image = np.asarray(Image.open(io.BytesIO(split.encoded(position))).convert(space))
        boxes = scene.boxes.astype(np.float64)
        crops = [image[int(y1) : int(y2), int(x1) : int(x2)] for x1, y1, x2, y2 in boxes]
        rows = [color_histogram(crop, parts=parts) for crop in crops]
        scenes.append((boxes, np.ones(len(boxes)), np.array(rows).reshape(len(rows), parts * 512)))
    return make_table(scenes)


def search_by_histogram(
    split: Split, table: DetectionTable, similarity: str = "cosine", gallery: str = "default"
) -> SearchResult:
    """Searches a gallery of the split by the similarity of histograms, "cosine" or "intersection"."""
    task = search_task(split, gallery_names(split, [gallery])[0])
    feature = table.embedding
    if similarity == "cosine":
        feature = feature / np.maximum(np.linalg.norm(feature, axis=1, keepdims=True), 1e-12)

    def answers():
        for query in task.queries:
            place = split.positions[query.scene]
            own = table.rows(place)
            row = own.start + int((table.box[own] == np.array(query.box)).all(1).argmax())
            if similarity == "cosine":
                yield table, feature @ feature[row]
            else:
                yield table, np.minimum(feature, feature[row]).sum(1)

    return evaluate_search(task, answers())


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.color_histogram", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--dir", required=True, help="directory of the data set")
    parser.add_argument("--layout", choices=sorted(READERS), default="cuhk_sysu", help="default: %(default)s")
    parser.add_argument("--gallery", default="default", help="name of a gallery; default: the split's own")
    options = parser.parse_args(arguments)
    try:
        split = READERS[options.layout](options.dir, "test")
        print(f"{'histogram':<12} {'parts':>5} {'similarity':<12} {'mAP':>6} {'top-1':>6}")
        for space in SPACES:
            for parts in (1, 2):
                table = histogram_table(split, space, parts)
                for similarity in SIMILARITIES:
                    result = search_by_histogram(split, table, similarity, options.gallery)
                    scores = f"{result.mean_average_precision:6.3f} {result.top[1]:6.3f}"
                    print(f"{space + ' 8x8x8':<12} {parts:>5} {similarity:<12} {scores}")
    except PersonSearchError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
