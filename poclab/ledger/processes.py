"""Who holds a claim or a reservation, and whether that process is still there."""

from __future__ import annotations

import functools
import os
from pathlib import Path


def me() -> str:
    """Return what identifies this process: its number, and when it began, since numbers are given again."""
    return _named(os.getpid())


@functools.cache
def _named(process: int) -> str:  # by its number, so that a fork is another one
    return f"{process} {_began(process)}"


def lives(owner: str) -> bool:
    """Tell whether the process that `me` named is still there. Where no system says when it began, its number must do."""
    if not owner:
        return False
    process, _, began = owner.partition(" ")
    if began:
        return _began(int(process)) == began
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is there, and somebody else's
        pass
    return True


def _began(process: int) -> str:
    """Return when a process began, in ticks since the start of the machine, and which start; empty where nobody says, or it has ended."""
    try:
        # The name of the program, in brackets, may hold spaces and brackets.
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        state, *rest = stat.rpartition(")")[2].split()
        return "" if state in "ZX" else f"{rest[18]} {boot()}"
    except (OSError, IndexError):
        return ""


@functools.cache
def boot() -> str:
    """Return which start of the machine this is: after the next one, the same number may begin at the same tick."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()[:8]
    except OSError:
        return ""
