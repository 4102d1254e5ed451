"""Context matching for every pair of k1 and k2 on the same detections: SeqNet's table 4."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ps_jax.errors import ConfigError
from ps_jax.evaluation.cbgm import CANDIDATES, ContextMatching


@dataclass(frozen=True)
class ContextGrid:
    """Which pairs to try.

    Attributes:
      k1, k2: values of each, see `ContextMatching`; all pairs of them are tried.
      candidates: as in `ContextMatching`.
    """

    k1: tuple[int, ...]
    k2: tuple[int, ...]
    candidates: str = CANDIDATES[0]

    def __post_init__(self):
        for name, values in (("k1", self.k1), ("k2", self.k2)):
            if not values:
                raise ConfigError(
                    f"eval.cbgm_grid.{name}: there is no value; give at least one for k1 and k2"
                )
            if len(set(values)) < len(values):
                raise ConfigError(f"eval.cbgm_grid.{name}: {', '.join(map(str, values))} names one twice")
        _ = self.matchings  # their settings are checked too

    @property
    def matchings(self) -> tuple[ContextMatching, ...]:
        """All pairs, k1 by k1."""
        return tuple(ContextMatching(*pair, self.candidates) for pair in itertools.product(self.k1, self.k2))

    @property
    def words(self) -> str:
        """The settings as every result prints them."""
        k1, k2 = (",".join(map(str, values)) for values in (self.k1, self.k2))
        return f"k1={k1} k2={k2} candidates={self.candidates}"


class GridCell(NamedTuple):
    """What one pair gives; `score` is the mean of mAP and top-1, by which the paper compares pairs."""

    k1: int
    k2: int
    mean_ap: float
    top1: float

    @property
    def score(self) -> float:
        return (self.mean_ap + self.top1) / 2

    @property
    def words(self) -> str:
        """Score, mAP and top-1 in percent."""
        return f"{100 * self.score:.1f} ({100 * self.mean_ap:.1f} / {100 * self.top1:.1f})"


def grid_entry(matching: ContextMatching, numbers: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Key ("10x3") and entry of one pair in the results, from the numbers of its search."""
    kept = ("mAP", "top1", "top5", "top10")
    entry = {"k1": matching.k1, "k2": matching.k2} | {name: numbers[name] for name in kept}
    return f"{matching.k1}x{matching.k2}", entry


def grid_cells(entries: Mapping[str, Mapping[str, Any]]) -> list[list[GridCell]]:
    """The entries of one gallery as rows of equal k2, in the order they were asked for."""
    cells = [GridCell(one["k1"], one["k2"], one["mAP"], one["top1"]) for one in entries.values()]
    rows = dict.fromkeys(cell.k2 for cell in cells)
    return [[cell for cell in cells if cell.k2 == k2] for k2 in rows]


def best_cell(rows: Sequence[Sequence[GridCell]]) -> GridCell:
    """The pair of the highest score; of equal ones the smaller k1, then the smaller k2, which cost less."""
    return max(itertools.chain(*rows), key=lambda cell: (cell.score, -cell.k1, -cell.k2))


def format_grid(
    gallery: str, entries: Mapping[str, Mapping[str, Any]], without: Mapping[str, Any]
) -> list[str]:
    """Lines of text: (mAP + top-1) / 2, mAP and top-1 in percent, k1 across and k2 down, the best pair marked.

    Args:
      gallery: its name.
      entries: of this gallery, from `grid_entry`.
      without: the numbers of the same search without context matching.
    """
    rows = grid_cells(entries)
    best = best_cell(rows)
    plain = GridCell(0, 0, without["mAP"], without["top1"])
    lines = [
        f"{gallery}, context matching: (mAP + top-1) / 2 (mAP / top-1); without it {plain.words}; * best",
        "k2 \\ k1" + "".join(f"{cell.k1:>22d}" for cell in rows[0]),
    ]
    for row in rows:
        cells = "".join(f"{cell.words + ('*' if cell is best else ' '):>22}" for cell in row)
        lines.append(f"{row[0].k2:>7d}{cells}".rstrip())
    return lines
