"""One page of results: the numbers, the protocol they were made by, and the pictures beside it."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from ps_jax.evaluation.cbgm_grid import best_cell, grid_cells

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #202226; margin: 0 auto; max-width: 1500px; padding: 24px;
} h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 19px; margin: 36px 0 8px; }
p { margin: 4px 0 12px; color: #5a5e64; max-width: 75em; }
.key { display: flex; flex-wrap: wrap; gap: 14px; margin: 20px 0; }
.key div { border: 1px solid #d6d8dc; border-radius: 8px; padding: 10px 18px; min-width: 92px; }
.key b { display: block; font-size: 28px; line-height: 1.2; }
.key span { color: #5a5e64; font-size: 14px; }
table { border-collapse: collapse; }
td, th { text-align: right; padding: 5px 14px; border-bottom: 1px solid #e4e6ea; font-variant-numeric:
tabular-nums; } td:first-child, th:first-child, .left td, .left th { text-align: left; }
th { font-weight: 600; color: #5a5e64; }
.curves { display: flex; flex-wrap: wrap; gap: 20px; margin-top: 20px; }
.curves a { flex: 0 1 640px; }
.curves img { width: 100%; }
.sheet { display: block; max-width: 100%; margin: 0 0 18px; border: 1px solid #e4e6ea; }
.right { color: #188c42; } .wrong { color: #c82828; }
"""

_CURVES = {
    "precision_recall.png": "Precision against recall of detection",
    "gallery_size.png": "mAP against gallery size",
    "cbgm_grid.png": "Context matching by k1 and k2",
}


def page(
    results: Mapping[str, Any],
    rows: Sequence[tuple[str, Mapping[str, Any]]],
    shown: str,
    curves: Sequence[str],
    sheets: Sequence[str],
) -> str:
    """The page as HTML; it refers to the files in `pictures/`.

    Args:
      results: what `evaluate` returns.
      rows: title and numbers of every search.
      shown: the gallery the contact sheets and the headline show.
      curves, sheets: file names of the pictures.
    """
    first, detection = results["search"][shown], results["detection"]
    headline = [
        ("search mAP", first["mAP"]),
        ("top-1", first["top1"]),
        ("detection AP", detection["AP"]),
        ("detection recall", detection["recall"]),
    ]
    cards = "".join(f"<div><b>{100 * value:.1f}</b><span>{name}, %</span></div>" for name, value in headline)
    searches = "".join(
        _row(title, f"{row['scenes']:.0f}", row["queries"], *_percent(row, "mAP", "top1", "top5", "top10"))
        for title, row in rows
    )
    answerable = any("answerable" in row for _, row in rows)
    note = "<p>A query is answerable where its gallery shows its person; the others count as 0.</p>"
    rules = (note if answerable else "") + "".join(
        f"<p>{_text(name)}: {_text(row['gallery'])}.</p>" for name, row in results["search"].items()
    )
    found = _row("everybody", detection["people"], *_percent(detection, "recall", "AP"))
    if "labelled_recall" in detection:
        found += _row("known identity", "", *_percent(detection, "labelled_recall", "labelled_AP"))
    protocol = "".join(_row(key.replace("_", " "), value) for key, value in results["settings"].items())
    versions = "".join(_row(key.replace("_", " "), value) for key, value in results["versions"].items())
    pictures = "".join(
        f'<a href="pictures/{name}"><img src="pictures/{name}" alt="{_CURVES[name]}"></a>' for name in curves
    )
    contact = "".join(
        f'<a href="pictures/{name}">'
        f'<img class="sheet" src="pictures/{name}" alt="Contact sheet {number}"></a>'
        for number, name in enumerate(sheets, 1)
    )
    search_head = _head("gallery", "scenes", "queries", "mAP", "top-1", "top-5", "top-10")
    detection_head = _head(detection["over"], "people", "recall", "AP")
    title = f"{_text(results['dataset'])} {_text(results['partition'])}, {_text(shown)}"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Person search: {title}</title><style>{_STYLE}</style></head><body>
<h1>Person search: {title}</h1>
<div class="key">{cards}</div>
<h2>Search</h2>
<table>{search_head}
{searches}</table>
{rules}
{_grid(results, shown)}<h2>Detection</h2>
<table>{detection_head}
{found}</table>
<div class="curves">{pictures}</div>
<h2>Contact sheets</h2>
<p>Each row is a query (blue), the person as annotated in one scene of the gallery, and the most similar
detections with their similarity and scene. <span class="right">Green is right</span>,
<span class="wrong">red is wrong</span>; at most one detection a scene is right. The queries that went worst
come first.</p>
{contact}
<h2>Protocol</h2>
<table class="left">{protocol}</table>
<h2>Versions</h2>
<table class="left">{versions}</table>
</body></html>
"""


def _grid(results: Mapping[str, Any], shown: str) -> str:
    """Context matching by k1 and k2 on the shown gallery; nothing where it was not asked for."""
    if "search_cbgm_grid" not in results:
        return ""
    rows = grid_cells(results["search_cbgm_grid"][shown])
    best = best_cell(rows)
    head = _head("k2", *(f"k1 = {cell.k1}" for cell in rows[0]))
    lines = "".join(
        _row(row[0].k2, *(cell.words + (" *" if cell is best else "") for cell in row)) for row in rows
    )
    return f"""<h2>Context matching by k1 and k2</h2>
<p>(mAP + top-1) / 2, and in brackets mAP and top-1, in percent; * marks the best pair.</p>
<table>{head}
{lines}</table>
"""


def _percent(row: Mapping[str, Any], *names: str) -> list[str]:
    return [f"{100 * row[name]:.2f}" for name in names]


def _head(*cells: Any) -> str:
    return "<tr>" + "".join(f"<th>{_text(cell)}</th>" for cell in cells) + "</tr>"


def _row(*cells: Any) -> str:
    return "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in cells) + "</tr>\n"


def _text(value: Any) -> str:
    return html.escape(str(value))
