"""Tables of poclab: a DataFrame, HTML for a notebook, text for a terminal; and how counts and numbers are written.

What a model, a file or a person wrote is shown as text, and never as markup or as a terminal's commands.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from poclab.errors import printable

if TYPE_CHECKING:
    import pandas

#: A longer cell of a notebook's table is cut.
CHARACTERS_SHOWN = 500
#: What is not seen, or turns what follows it around: control characters other than white space, and those that override directions.
HIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
#: A sentence among numbers would else be squeezed to one word a line.
WIDE = ";min-width:9em"


def frame(rows: Iterable[Mapping[str, Any]]) -> pandas.DataFrame:
    """Return rows as a DataFrame with its columns in the order they first appear: every table of poclab is made here."""
    import pandas

    return pandas.DataFrame(list(rows))


def as_html(text: str) -> str:
    """Return a text as HTML that shows it as it stands, hidden characters as their escapes."""
    return html.escape(HIDDEN.sub(lambda found: repr(found[0])[1:-1], text))


def html_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return an HTML table in which every cell is text: what a model or a file says is never markup. Long cells are cut."""
    head = f"<thead>{_html_row('th', columns)}</thead>" if columns else ""
    return f"<table>{head}<tbody>{''.join(_html_row('td', row) for row in rows)}</tbody></table>"


def _html_row(tag: str, values: Sequence[Any]) -> str:
    # No colours: a notebook may be light or dark. Words stay whole, so that a long reply does not squeeze the ids.
    style = "text-align:left;vertical-align:top;white-space:pre-wrap;overflow-wrap:break-word;padding:.15em 1em .15em 0"
    cells = (f"<{tag} style='{style}{WIDE if len(str(value)) > 24 else ''}'>{as_html(_cut(str(value)))}</{tag}>" for value in values)
    return f"<tr>{''.join(cells)}</tr>"


def cut(text: str, most: int) -> str:
    """Return a text as a cell of a terminal's table has room for."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _cut(text: str) -> str:
    return text if len(text) <= CHARACTERS_SHOWN else f"{text[:CHARACTERS_SHOWN]} ... ({len(text)} characters)"


def text_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table for a terminal: columns padded, control characters shown as escapes."""
    shown = [[printable(str(value)) for value in row] for row in (columns, *rows)]
    widths = [max(len(row[index]) for row in shown) for index in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown)


def counts_text(counts: Mapping[str, int]) -> str:
    """Return what there is of each: `ok 60, wrong 18, timeout 2`."""
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count)


def money(usd: float | None) -> str:
    return "unknown" if usd is None else f"${usd:.4f}" if usd >= 0.01 or usd == 0 else f"${usd:.2g}"


def form_of(metric: str) -> str:
    """Return how a metric is written: a case may cost a millionth of a dollar."""
    return ".4g" if metric.startswith("cost") else ".3f"
