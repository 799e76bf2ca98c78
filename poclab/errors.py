"""Errors that a person who typed something can act on.

    PocError              what was found, where, what was expected, and what to type next
    |-- InputError        a file, a parameter or an argument is not what it should be
    |-- FrozenError       a frozen test set is not what its lock says
    |-- EndpointError     a model cannot be asked: no key, no answer, not the API that was expected
    +-- StoreError        the MLflow store, or a folder, cannot be written or read
    Stopped               a person stopped it: a KeyboardInterrupt, and no error

The command line and notebooks print these without a traceback; the command line ends with exit code 2.
Programming mistakes stay `TypeError` and `ValueError`; a system that fails on a case is no error here but a wrong answer.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PocError(Exception):
    """Say what was found and where; `fix` says what to type next."""

    def __init__(self, message: str, *, fix: str = "") -> None:
        self.message = message
        self.fix = fix
        super().__init__(f"{message}\n  fix: {fix}" if fix else message)

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython prints in place of a traceback: a notebook tells a person what the command line does."""
        return [printable(line) for line in f"{type(self).__name__}: {self}".split("\n")]


class Stopped(KeyboardInterrupt):
    """Ctrl-C, or a notebook's stop button: the message says what was kept. The cells that follow do not run."""

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython prints in place of a traceback."""
        return [printable(line) for line in str(self).split("\n")]


class InputError(PocError):
    """A file, a parameter or an argument is not what it should be."""


class FrozenError(PocError):
    """A frozen test set differs from its lock, or two reports come from different sets."""


class EndpointError(PocError):
    """A model endpoint cannot be used: no key, unreachable, or not an OpenAI-compatible API."""


class StoreError(PocError):
    """The MLflow store or a folder of the POC cannot be used."""


def told(error: BaseException | None) -> str:
    """Return the kind of an error and what it says, whatever it does when it is asked."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def refuse_unknown(found: Iterable[str], known: Iterable[str], *, where: str, what: str = "key") -> None:
    """Raise an `InputError` that names the first of `found` that is not in `known`, with the nearest valid name."""
    known = list(known)
    for name in found:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
            fix = f"did you mean {near[0]!r}?" if near else f"use one of: {', '.join(known)}"
            raise InputError(f"{where}: unknown {what} {name!r}", fix=fix)


def printable(text: str) -> str:
    """Return the text on one line with control characters escaped, so that no reply can drive a terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
