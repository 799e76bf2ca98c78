"""The description of a run, in the Markdown that MLflow shows on its page: numbers, and links into the same UI.

What a model, a file or a person wrote is text there, and never markup: an image would be fetched from wherever it says.
"""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from poclab.errors import printable
from poclab.report import Report
from poclab.tables import counts_text
from poclab.tracking import routes

#: The tag that holds it.
NOTE = "mlflow.note.content"
#: MLflow cuts a tag at 8,000 characters. This many may a table of a description have.
LONGEST_TABLE = 6000


def plain(text: str) -> str:
    """Return a text as Markdown that shows it as it stands, in one line."""
    shown = re.sub(r"([\\`*_{}\[\]()#+!|~-])", r"\\\1", html.escape(printable(text), quote=False))
    return re.sub(r"://|www\.", lambda found: f"&#{ord(found[0][0])};{found[0][1:]}", shown)  # no address becomes a link by itself


def link(text: str, address: str) -> str:
    return f"[{plain(text)}]({address})"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of rows; of one that is too long the first of them."""
    if not rows:
        return ""
    lines = [f"| {' | '.join(plain(str(cell)) or ' ' for cell in row)} |" for row in (rows[0], *(row.values() for row in rows))]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    sizes = itertools.accumulate(map(len, lines))
    kept = [line for line, size in zip(lines, sizes, strict=True) if size <= LONGEST_TABLE]
    return "\n".join(kept) + (f"\n\n{len(lines) - len(kept)} more are not shown" if len(kept) < len(lines) else "")


def links(addresses: Mapping[str, str]) -> str:
    """Return links in a line, each shown as what it leads to."""
    return " · ".join(link(what, address) for what, address in addresses.items())


def of_report(report: Report, experiment_id: str, run_id: str, *, beside: Mapping[str, str] | None = None) -> str:
    """Return the numbers of a run, what became of its cases, and links: those given, and to the traces of cases that are not `ok`."""
    found = dict(beside or {})
    if any(one.outcome != "ok" and one.trace_id for one in report.results):
        found["failing traces only"] = routes.failing(experiment_id, run_id)
    return "\n\n".join(filter(None, [plain(report.summary()), plain(counts_text(report.outcomes)), links(found)]))
