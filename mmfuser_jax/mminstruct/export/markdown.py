"""Numbers and tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def usd(value: int | float) -> str:
    """US dollars, to hundredths of a cent; what is less, with two digits that say something."""
    return f"{value:.7f}" if 0 < value < 0.001 else f"{value:,.4f}"


def percent(part: int | float, whole: int | float) -> str:
    """A share; "-" of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def shares(counts: Mapping[str, int], nothing: str = "") -> list[tuple[object, ...]]:
    """Rows of a name, a count and its share of all; `nothing`: instead of an empty name."""
    whole = sum(counts.values())
    return [(name or nothing, count, percent(count, whole)) for name, count in counts.items()]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table, numbers to the right; a line that says so where there is nothing in it."""
    rows = list(rows)
    if not rows:
        return "None.\n"
    numeric = [all(isinstance(row[place], int | float) for row in rows) for place in range(len(head))]
    lines = [_line(head), _line("---:" if right else "---" for right in numeric), *map(_line, rows)]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[object]) -> str:
    texts = (f"{cell:,}" if isinstance(cell, int | float) else " ".join(str(cell).split()) for cell in cells)
    return "| " + " | ".join(text.replace("|", "\\|").replace("<", "&lt;") for text in texts) + " |"
