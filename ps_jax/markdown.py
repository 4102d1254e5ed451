"""Tables as Markdown."""

from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table of text cells, as Markdown.

    Args:
      head: titles of the columns.
      lines: rows of as many cells.
    """
    return "\n".join(map(markdown_row, [head, ["---"] * len(head), *lines]))


def markdown_row(cells: Sequence[str]) -> str:
    """One line of such a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
