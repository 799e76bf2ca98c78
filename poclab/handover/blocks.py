"""A document as blocks, written as Markdown and as a page of its own: what a model or a file says stays text in both."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poclab.errors import printable

#: What Markdown would read as more than text.
SPECIAL = re.compile(r"([\\`*_\[\]|#~$])")
#: What it would read as a list or a rule at the beginning of a line.
LEADING = re.compile(r"^(\s*)([-+>=]|\d+[.)])")
LONGEST_WORD = 24
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1f2328;background:#fff;overflow-wrap:anywhere}
h1{font-size:1.7rem}h2{font-size:1.25rem;border-bottom:1px solid #d0d7de;padding-bottom:.2rem;margin-top:2rem}h3{font-size:1.05rem}
table{border-collapse:collapse;width:100%;font-size:13px;margin:.6rem 0}th,td{border:1px solid #d0d7de;padding:.25rem .5rem;text-align:left;vertical-align:top;overflow-wrap:normal}
.long{overflow-wrap:anywhere}th{background:#f6f8fa}pre{background:#f6f8fa;padding:.7rem;white-space:pre-wrap;overflow-wrap:anywhere;font-size:12.5px}
img{max-width:100%}.verdict{font-size:1.3rem;font-weight:600;border-left:6px solid #57606a;padding:.4rem .8rem;background:#f6f8fa}
.go{border-color:#1a7f37}.no-go{border-color:#b42318}
@media print{body{margin:0;max-width:none;font-size:11pt}h2,h3{break-after:avoid}tr,img{break-inside:avoid}thead{display:table-header-group}}
"""


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Verdict:
    """The line that a reader looks for first. `word` is go, no-go or not yet."""

    text: str
    word: str


@dataclass(frozen=True)
class Table:
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Listing:
    """Text that is shown letter by letter: a prompt, a command, a log."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A PNG file: `path` is relative to the document, `file` where it lies now."""

    path: str
    alt: str
    file: Path


Block = Heading | Text | Verdict | Table | Listing | Picture


def markdown(blocks: Iterable[Block]) -> str:
    """Return the blocks as Markdown (GitHub's, for its tables)."""
    return "\n\n".join(_markdown(one) for one in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_plain(text)}"
        case Verdict(text, _):
            return f"**{_plain(text)}**"
        case Text(text):
            return _plain(text)
        case Table(columns, rows):
            lines = [[_inline(one) for one in columns], ["---"] * len(columns), *([_inline(str(cell)) for cell in row] for row in rows)]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Listing(text):
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
            return f"{fence}text\n{_visible(text)}\n{fence}"
        case Picture(path, alt, _):
            return f"![{_plain(alt)}]({path})"


def _plain(text: str) -> str:
    """Return text as Markdown that shows it as it is, on a line of its own."""
    return LEADING.sub(lambda found: f"{found[1]}{found[2][:-1]}\\{found[2][-1]}", _inline(text))


def _inline(text: str) -> str:
    """Return text as Markdown that shows it as it is, within a line: in a cell, `1.000` and `+0.750` begin no list."""
    return SPECIAL.sub(r"\\\1", html.escape(printable(" ".join(text.split())), quote=False))


def _visible(text: str) -> str:
    return "\n".join(printable(line.replace("\t", "    ")) for line in text.rstrip("\n").split("\n"))


def page(title: str, blocks: Iterable[Block]) -> str:
    """Return the blocks as one HTML file that needs no other, can be printed, and runs no script."""
    body = "\n".join(_html(one) for one in blocks)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<meta name='viewport' content='width=device-width'><title>{_text(title)}</title><style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{_text(text)}</h{level}>"
        case Verdict(text, word):
            return f"<p class='verdict {word.replace(' ', '-')}'>{_text(text)}</p>"
        case Text(text):
            return f"<p>{_text(text)}</p>"
        case Table(columns, rows):
            head = "".join(f"<th>{_text(one)}</th>" for one in columns)
            lines = "".join(f"<tr>{''.join(_cell(str(cell)) for cell in row)}</tr>" for row in rows)
            return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
        case Listing(text):
            return f"<pre>{html.escape(_visible(text))}</pre>"
        case Picture(_, alt, file):
            return f"<img alt='{_text(alt)}' src='data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}'>"


def _cell(text: str) -> str:
    # Only a digest or an address may be broken: `q017` must stay in one piece however narrow its column.
    long = any(len(word) > LONGEST_WORD for word in text.split())
    return f"<td{' class=long' if long else ''}>{_text(text)}</td>"


def _text(text: str) -> str:
    return html.escape(printable(" ".join(text.split())))
