"""What a run was made with: the commit and what differs from it, the packages, Python and the platform.

Never environment variables. An untracked file is recorded by its name and digest, not by its content.
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from poclab.files import digest
from poclab.ledger import LEDGER
from poclab.redaction import conceal, conceal_json

#: A larger difference is recorded by its digest alone.
LARGEST_DIFF = 1_000_000


@dataclass(frozen=True)
class Surroundings:
    """What there was when a run began; written at its end, when every key that must not be written is known."""

    environment: Mapping[str, Any]
    git: Mapping[str, Any]

    @classmethod
    def look(cls, poc: Path | None) -> Surroundings:
        environment = {"python": platform.python_version(), "platform": platform.platform(), "packages": packages()}
        return cls(environment, _git_state(poc) if poc else {})

    def write(self, folder: Path) -> dict[str, str]:
        """Write `environment.json`, and `git.diff` when something differs from the commit; return the run's tags."""
        git = dict(self.git)
        diff = conceal(git.pop("diff", ""))
        if diff:
            (folder / "git.diff").write_text(diff if len(diff) <= LARGEST_DIFF else f"sha256 {digest(diff)}\n", encoding="utf-8")
        (folder / "environment.json").write_text(json.dumps(conceal_json({**self.environment, "git": git}), indent=1), encoding="utf-8")
        tags = {"poclab.environment": digest(self.environment), "poclab.python": self.environment["python"]}
        if not git:
            return {**tags, "poclab.git_commit": "none: not in a git repository"}
        return {**tags, "poclab.git_commit": git["commit"], "poclab.git_dirty": str(bool(diff or git["untracked"])).lower()}


@lru_cache(maxsize=1)
def packages() -> dict[str, str]:
    """Return the version of each package that is installed."""
    read = (one.metadata for one in metadata.distributions())  # once each: every access parses the file again
    found = {one["Name"]: one["Version"] for one in read if one["Name"]}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _git_state(poc: Path) -> dict[str, Any]:
    """Return commit, diff and untracked files of the repository around a POC; nothing when there is none."""
    commit = _git(poc, "rev-parse", "HEAD")
    if commit is None:
        return {}
    top = Path((_git(poc, "rev-parse", "--show-toplevel") or "").strip() or poc)
    names = (_git(poc, "ls-files", "--others", "--exclude-standard", "--full-name", "-z", ":/") or "").split("\0")
    # The ledger changes with every answer, and an older POC does not ignore it.
    others = (name for name in names if name and not Path(name).name.startswith(LEDGER) and (top / name).is_file())
    untracked = {name: digest((top / name).read_bytes()) for name in others}
    return {"commit": commit.strip(), "diff": _git(poc, "diff", "HEAD", "--no-ext-diff", "--no-color") or "", "untracked": untracked}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None
