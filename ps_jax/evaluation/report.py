"""What an evaluation leaves behind: a table in the terminal, `results.json`, pictures and a page of them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from input_pipeline.scenes import Split
from ps_jax.evaluation.cbgm_grid import format_grid
from ps_jax.evaluation.detection import DetectionResult
from ps_jax.evaluation.page import page
from ps_jax.evaluation.protocols import SearchTask
from ps_jax.evaluation.search import SearchResult

ANSWERABLE = ", answerable queries only"
SEARCHES = {"search": "", "search_cbgm": ", context matching", "search_true_boxes": ", true boxes"}


def search_rows(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(title, numbers) of every search in the results, gallery by gallery."""
    rows = []
    for gallery in results["search"]:
        for kind, words in SEARCHES.items():
            if kind in results:
                numbers = results[kind][gallery]
                rows.append((f"{gallery}{words}", numbers))
                if "answerable" in numbers:
                    rows.append((f"{gallery}{words}{ANSWERABLE}", numbers | numbers["answerable"]))
    return rows


def format_table(results: Mapping[str, Any]) -> str:
    """The results as text: numbers in percent, then the protocol they were made by."""
    rows = search_rows(results)
    width = max(24, *(len(title) for title, _ in rows))
    lines = [
        f"{results['dataset']} {results['partition']}",
        f"{'search':<{width}}  scenes  queries     mAP   top-1   top-5  top-10",
    ]
    for title, row in rows:
        values = "".join(f"{100 * row[name]:8.2f}" for name in ("mAP", "top1", "top5", "top10"))
        lines.append(f"{title:<{width}}  {row['scenes']:6.0f}  {row['queries']:7d}{values}")
    for gallery, row in results["search"].items():
        lines.append(f"{gallery}: {row['gallery']}")
    for gallery, entries in results.get("search_cbgm_grid", {}).items():
        lines += format_grid(gallery, entries, results["search"][gallery])
    detection = results["detection"]
    lines.append(
        f"detection over {detection['people']} {detection['over']}: recall {100 * detection['recall']:.2f}, "
        f"AP {100 * detection['AP']:.2f}"
    )
    if "labelled_recall" in detection:
        lines[-1] += (
            f"; of known identity: recall {100 * detection['labelled_recall']:.2f}, "
            f"AP {100 * detection['labelled_AP']:.2f}"
        )
    for name in ("settings", "versions"):
        lines.append(f"{name}: " + ", ".join(f"{key} {value}" for key, value in results[name].items()))
    return "\n".join(lines)


def write_report(
    directory: Path,
    results: Mapping[str, Any],
    *,
    source: Any,
    split: Split,
    task: SearchTask,
    search: SearchResult,
    detection: DetectionResult,
    pictures: int,
) -> None:
    """Writes `results.json`, and with `pictures` also contact sheets, curves and `index.html`.

    Args:
      directory: created where it does not exist.
      results: what `evaluate` returns.
      source, split: where the pixels of the scenes come from.
      task, search: the search the contact sheets show.
      detection: what the precision-recall curve shows.
      pictures: queries on the contact sheets.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    if not pictures:
        return
    # Only here, so that an evaluation without pictures does not load the drawing libraries.
    from ps_jax.evaluation.contact_sheets import contact_sheets
    from ps_jax.evaluation.curves import gallery_size_curve, grid_picture, precision_recall_curve

    images = {"precision_recall.png": precision_recall_curve(detection)}
    sizes = gallery_size_curve(results)
    if sizes is not None:
        images["gallery_size.png"] = sizes
    if "search_cbgm_grid" in results:
        images["cbgm_grid.png"] = grid_picture(results, task.name)
    sheets = contact_sheets(source, split, task, search, pictures)
    sheet_names = [f"{_file_name(task.name)}_{number:02}.png" for number in range(1, len(sheets) + 1)]
    images |= dict(zip(sheet_names, sheets, strict=True))
    (directory / "pictures").mkdir(exist_ok=True)
    for name, data in images.items():
        write_atomically(directory / "pictures" / name, data)
    curves = [name for name in images if name not in sheet_names]
    html = page(results, search_rows(results), task.name, curves, sheet_names)
    write_atomically(directory / "index.html", html.encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that it is there in full or, if that fails, as it was before."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _file_name(gallery: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in gallery)
