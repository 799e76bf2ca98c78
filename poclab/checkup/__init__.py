"""The doctor: what would fail later, looked for before money is spent.

Each check asks the module that would refuse, and yields findings with what to type. What a later verb refuses is `failed`; what only
weakens a result is a `warning`. A check that breaks is a finding itself, and the others go on.

findings   what is found, and the POC as the checks see it      machine    Python, packages, disk, git, ledger, store
agreed     charter, cases and judges                            asked      sweep, notebooks, endpoint, models, prices

No model is asked: an endpoint is asked for its list of models, which is free. Not covered: what only an answer shows, such as a quota that
is used up, or a gateway that shows its list to anybody.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from poclab.checkup import agreed, asked, machine
from poclab.checkup.findings import FAILED, OK, WARNING, Finding, Subject
from poclab.errors import PocError, printable, told
from poclab.files import require_poc
from poclab.redaction import conceal
from poclab.tables import block, cut, html_table, paragraph, text_table

COLUMNS = ("", "check", "found")
#: How long, in seconds, an endpoint may take to list its models.
TIMEOUT_S = 5.0
#: In a terminal a longer finding is cut; what there is to type never is.
LONGEST = 400
CHECKS: Mapping[str, Callable[[Subject], Iterator[Finding]]] = {
    "Python": machine.python,
    "packages": machine.packages,
    "disk": machine.disk,
    "folder": machine.folder,
    "git": machine.git,
    "ledger": machine.ledger,
    "store": machine.store,
    "charter": agreed.charter,
    "test set": agreed.frozen_cases,
    "criteria": agreed.criteria,
    "personal data": agreed.personal_data,
    "documents": agreed.documents,
    "evidence": agreed.evidence,
    "judges": agreed.judges,
    "sweep": asked.sweep,
    "versions": asked.versions,
    "notebooks": asked.notebooks,
    "mode": asked.mode,
    "key": asked.key,
    "endpoint": asked.endpoint,
    "model": asked.served,
    "price": asked.priced,
    "budget": asked.budget,
}


@dataclass(frozen=True)
class Checkup:
    """All findings on a POC, in the order of `CHECKS`."""

    poc: Path
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> bool:
        """Whether something would fail later."""
        return any(one.state == FAILED for one in self.findings)

    @property
    def sentence(self) -> str:
        states = [one.state for one in self.findings]
        would = f"{states.count(FAILED)} of {len(states)} would fail later" if self.failed else "nothing would fail later"
        return f"{would}; {states.count(WARNING)} to look at" if WARNING in states else would

    def __repr__(self) -> str:
        heads, *rows = text_table(COLUMNS, [(one.state, one.name, cut(one.told, LONGEST)) for one in self.findings]).split("\n")
        indent = " " * heads.index(COLUMNS[1])
        lines = [line for row, one in zip(rows, self.findings, strict=True) for line in (row, *_fix_lines(one, indent))]
        return "\n".join([f"checkup of {printable(str(self.poc))}", *lines, self.sentence])

    def _repr_html_(self) -> str:
        table = html_table((*COLUMNS, "fix"), [(one.state, one.name, one.told, one.fix) for one in self.findings])
        return block(table, paragraph(self.sentence))


def _fix_lines(finding: Finding, indent: str) -> Iterator[str]:
    for number, line in enumerate(finding.fix.splitlines()):
        yield f"{indent}{'     ' if number else 'fix: '}{printable(line)}"


def examine(poc: Path | str | None = None, *, timeout_s: float = TIMEOUT_S) -> Checkup:
    """Look for what would fail later in a POC; without its folder it is found as for the command line.

    `timeout_s` is how long an endpoint may take to list its models.

    Raises:
        InputError: there is no POC.
    """
    subject = Subject(require_poc(poc), timeout_s)
    found: list[Finding] = []
    for name, check in CHECKS.items():
        found += _findings(name, check, subject, found)
    return Checkup(subject.poc, tuple(found))


def _findings(name: str, check: Callable[[Subject], Iterator[Finding]], subject: Subject, earlier: Sequence[Finding]) -> Iterator[Finding]:
    """Yield what a check finds, without keys; an error that an earlier check met is told there."""
    causes = {one.told: one.name for one in earlier if one.state == FAILED}
    for one in _tried(name, check, subject):
        line = " ".join(conceal(one.told).replace(f"{subject.poc}{os.sep}", "").split())
        if line in causes:
            yield Finding(name, WARNING, "not looked at", f"mend this first: {causes[line]}")
        else:
            fix = one.fix or ("" if one.state == OK else f"mend it, and look again: poclab doctor {subject.folder}")
            yield Finding(one.name, one.state, line, conceal(fix))


def _tried(name: str, check: Callable[[Subject], Iterator[Finding]], subject: Subject) -> Iterator[Finding]:
    try:
        yield from check(subject)
    except PocError as error:
        yield Finding(name, FAILED, error.message, error.fix)
    except OSError as error:
        yield Finding(name, FAILED, str(error), f"let it be read and written: chmod -R u+rwX {subject.folder}")
    except Exception as error:  # whatever breaks a check, such as a package that is missing, must not hide the other findings
        yield Finding(name, FAILED, f"this check broke: {told(error)}", "mend `packages` first; if this stays, report it")
