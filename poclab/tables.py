"""Tables of poclab: a DataFrame, HTML for a notebook, text for a terminal; and how counts and numbers are written.

What a model, a file or a person wrote is shown as text, and never as markup or as a terminal's commands.
"""

from __future__ import annotations

import datetime
import functools
import html
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from poclab.errors import printable

if TYPE_CHECKING:
    import pandas

#: A longer cell of a notebook's table is cut.
CHARACTERS_SHOWN = 500
#: Rows of a DataFrame, and characters of a cell of it in a terminal.
ROWS_SHOWN = 200
CELL = 60
#: A cell that is no longer stays on one line, such as a difference with its interval; a sentence is not squeezed to one word a line.
SHORT = 26
#: What nobody sees, or what shows a text in another order: control characters, half characters, Unicode's directions and tags.
UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]")
#: A cell that is one number, and what stands in a column of numbers where there is none.
NUMBER = re.compile(r"(?:[<>] )?[+-]?\$?(?:\d[\d,]*)?\.?\d+(?:e[+-]?\d+)?%?")
NO_NUMBER = ("", "unknown", "none")


def frame(rows: Iterable[Mapping[str, Any]]) -> pandas.DataFrame:
    """Return rows as a DataFrame with its columns in the order they first appear: every table of poclab is made here.

    It is shown as the other tables are; what is cut out of it is shown as pandas does.
    """
    return _calm_frame()(list(rows))


@functools.cache
def _calm_frame() -> type[pandas.DataFrame]:
    import pandas

    class Frame(pandas.DataFrame):
        def _repr_html_(self) -> str:
            return block(html_table([*map(str, self.columns)], _frame_cells(self)), paragraph(_hidden(self)))

        def __repr__(self) -> str:
            rows = [[cut(cell, CELL) for cell in row] for row in _frame_cells(self)]
            return "\n".join(filter(None, (text_table([*map(str, self.columns)], rows), _hidden(self))))

        def __reduce__(self) -> Any:
            return pandas.DataFrame, (pandas.DataFrame(self),)

    return Frame


def _frame_cells(data: pandas.DataFrame) -> Iterator[list[str]]:
    """Yield the first rows as texts. A column of whole numbers beyond 1 is one of counts, also where pandas made floats of them."""
    columns = [list(data[:ROWS_SHOWN].iloc[:, place]) for place in range(len(data.columns))]
    given = [[value for value in column if isinstance(value, float) and value == value] for column in columns]
    counts = [all(value == int(value) for value in one if abs(value) < math.inf) and any(value > 1 for value in one) for one in given]
    forms = [".0f" if count else form_of(str(name)) for name, count in zip(data.columns, counts, strict=True)]
    for row in zip(*columns, strict=True):
        yield [_frame_cell(*one) for one in zip(data.columns, row, forms, strict=True)]


def _frame_cell(name: Any, value: Any, form: str) -> str:
    if value is None or (isinstance(value, float | datetime.datetime) and value != value):
        return "unknown" if str(name).startswith("cost") else ""
    if isinstance(value, datetime.datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if name == "run_id":
        return str(value)[:8]
    return f"{value:{form}}" if isinstance(value, float) else str(value)


def _hidden(data: pandas.DataFrame) -> str:
    return f"... and {len(data) - ROWS_SHOWN} more" if len(data) > ROWS_SHOWN else ""


def escaped(text: Any) -> str:
    """Return a text as HTML that shows all of it, and in its order: no markup; what would not be seen as an escape."""
    return html.escape(UNSEEN.sub(lambda found: repr(found[0])[1:-1], str(text)))


def block(*parts: str) -> str:
    """Return parts of HTML as one, in which two prices in a line are no formula."""
    return f"<div class='tex2jax_ignore mathjax_ignore' style='line-height:1.45'>{''.join(parts)}</div>"


def paragraph(text: str, *, name: str = "") -> str:
    """Return a text as a paragraph, below a name if it has one; nothing of an empty one."""
    head = f"<b>{escaped(name)}</b>{': ' if text else ''}" if name else ""
    return f"<p style='margin:.3em 0;white-space:pre-wrap'>{head}{escaped(text)}</p>" if head or text else ""


def folded(summary: str, *parts: str, is_open: bool = False) -> str:
    """Return parts of HTML that a click on their summary opens."""
    return f"<details{' open' if is_open else ''}><summary>{escaped(summary)}</summary>{''.join(parts)}</details>"


def anchor(text: str, address: str) -> str:
    """Return a paragraph with a link; nothing for an address that is not one of the web."""
    if not address.startswith(("http://", "https://")):
        return ""
    given = f"href='{escaped(address)}' target='_blank' rel='noopener' style='text-decoration:underline'"
    return f"<p style='margin:.3em 0'><a {given}>{escaped(text)}</a></p>"


def html_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return an HTML table in which every cell is text: what a model or a file says is never markup. Long cells are cut.

    Columns of numbers are set to the right. It has no colours but those of the notebook's theme: that may be light or dark.
    """
    shown = [[str(value) for value in row] for row in rows]
    right = {place for place in range(len(columns)) if _is_numbers([row[place] for row in shown])}
    line = "border-bottom:1px solid var(--jp-border-color1,#888)"
    head = f"<thead style='{line}'>{_html_row('th', columns, right)}</thead>" if columns else ""
    body = "".join(_html_row("td", row, right) for row in shown)
    return f"<table style='border-collapse:collapse;margin:.3em 0;font-variant-numeric:tabular-nums'>{head}<tbody>{body}</tbody></table>"


def _is_numbers(cells: Sequence[str]) -> bool:
    numbers = [cell for cell in cells if cell not in NO_NUMBER]
    return bool(numbers) and all(NUMBER.fullmatch(cell) for cell in numbers)


def _html_row(tag: str, values: Sequence[str], right: Collection[int]) -> str:
    # Words stay whole, so that a long reply does not squeeze the ids.
    common = "vertical-align:top;overflow-wrap:break-word;padding:.15em 1em .15em 0"
    cells = (
        f"<{tag} style='text-align:{'right' if place in right else 'left'};{common};"
        f"{'white-space:pre' if len(value) <= SHORT else 'white-space:pre-wrap;min-width:9em'}'>{escaped(_cut(value))}</{tag}>"
        for place, value in enumerate(values)
    )
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
