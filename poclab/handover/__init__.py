"""The handoff: one folder from which another team can decide, take over, and check every number.

handoff.md handoff.html     the document, to edit from and to print
evidence/                   what it is made of
digests.json                the SHA-256 of every file, and of all of them together

blocks     a document as blocks, written twice        evidence    the folder it is made from
document   its sections                               __init__    write it, and verify it
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poclab import tracking
from poclab.archive import BASELINE, Archive
from poclab.cases import TestSet
from poclab.errors import InputError, PocError, StoreError, printable
from poclab.experiment import compare, decide
from poclab.files import HANDOFF, digest, plain, read_json
from poclab.handover.blocks import markdown, page
from poclab.handover.document import blocks
from poclab.handover.evidence import Evidence, collect
from poclab.redaction import as_written, conceal
from poclab.system import Version

MANIFEST, EVIDENCE = "digests.json", "evidence"
DOCUMENTS = ("handoff.md", "handoff.html")
PROBLEMS_SHOWN = 8
#: Bytes; a report of 5,000 cases has a hundredth of it.
LARGEST = 2_000_000_000
#: Numbers that were written and are worked out again may differ in the last digit of another processor's arithmetic.
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Handoff:
    """A handoff folder that was written: its digest is also on the run, as a tag of its own."""

    folder: Path
    digest: str
    run_id: str

    def __repr__(self) -> str:
        return f"handoff: {self.folder / DOCUMENTS[1]}\nfolder digest {self.digest}, kept on run {self.run_id} (tag {tag_of(self.digest)})"


def tag_of(folder_digest: str) -> str:
    """Return the tag that a run keeps a handoff by: each its own, so that a later one leaves an earlier one valid."""
    return f"poclab.handoff.{folder_digest[:12]}"


def handoff(poc: Path | str | None = None, *runs: Any, out: Path | str | None = None) -> Handoff:
    """Write the handoff of a POC into a folder (`handoff` in the POC, unless `out` names another) and keep its digest on the run.

    `poc` and `runs` are as for `decide`. An earlier handoff there is replaced, unless something was added to it.

    Raises:
        InputError: the charter cannot decide, there is no run to decide on, or the folder holds something else.
        FrozenError: the cases are not those that the run was scored on.
    """
    archive = Archive.open(poc)
    decision = decide(archive.poc, *runs)
    out = Path(os.path.realpath(out or archive.poc / HANDOFF))
    refuse_others(out)
    swept = archive.swept
    compared = compare(poc=archive.poc) if len(swept) > 1 and any(row["name"] == BASELINE for row in swept) else None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".handoff-") as temporary:
            folder = Path(temporary) / "new"
            (folder / EVIDENCE).mkdir(parents=True)
            _write_documents(collect(folder / EVIDENCE, decision, archive, compared), folder)
            whole = _write_manifest(folder)
            _refuse_keys(folder)
            run_id = decision.report.run_id
            # The tag first: a folder without one could not be vouched for, while a tag without its folder harms nobody.
            tracking.recorder().send("annotate", uri=archive.uri, run_id=run_id, tags={tag_of(whole): whole}).result()
            _put(folder, out, aside=Path(temporary) / "old")
    except OSError as error:
        raise StoreError(f"{out}: cannot be written: {error.strerror}", fix="--out FOLDER, one that you may write") from None
    return Handoff(out, whole, run_id)


def _refuse_keys(folder: Path) -> None:
    """Refuse to hand over a key that was not known yet when a run or a case was written."""
    texts = {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8", errors="replace")
        for path in _regular(folder)
        if path.suffix != ".png"
    }
    if held := [name for name, text in texts.items() if conceal(text) != text]:
        raise InputError(
            f"the value of a key that is known now stands in {', '.join(held[:5])}: it was written before the key was known",
            fix="take it out of the cases and run again; or unset the variable if it is no key",
        )


def refuse_others(out: Path) -> None:
    """Refuse to replace what no handoff wrote.

    Raises:
        InputError: names what is there.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).is_file():
        raise InputError(f"{out}: holds something that is no handoff", fix="--out FOLDER, a new one")
    listed = read_json(out / MANIFEST)
    said, found = listed.get("files", {}) if isinstance(listed, dict) else {}, _digests(out)
    if others := sorted(name for name in found if said.get(name) != found[name]):
        raise InputError(
            f"{out}: something was added to the handoff there, or changed: {', '.join(others[:5])}",
            fix="move it away, or --out FOLDER, a new one",
        )


def _put(folder: Path, out: Path, *, aside: Path) -> None:
    """Move a folder to `out`, and what is there out of the way; it comes back when that fails, or Ctrl-C stops it."""
    try:
        if out.exists():
            os.replace(out, aside)
        os.replace(folder, out)
    except BaseException:
        if aside.exists() and not out.exists():
            os.replace(aside, out)
        raise


def _write_documents(evidence: Evidence, folder: Path) -> None:
    made = blocks(evidence)
    texts = (markdown(made), page(f"Handoff: {evidence.facts['poc']}", made))
    for name, text in zip(DOCUMENTS, texts, strict=True):
        (folder / name).write_text(text, encoding="utf-8")


def _write_manifest(folder: Path) -> str:
    files = _digests(folder)
    text = json.dumps({"folder": digest(files), "files": files}, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return digest(files)


def _digests(folder: Path) -> dict[str, str]:
    """Return the digest of each file; what is no regular file has a word instead, and is not read."""
    names = {path.relative_to(folder).as_posix(): _digest(path) for path in _entries(folder)}
    return {name: names[name] for name in sorted(names) if name != MANIFEST}


def _entries(folder: Path) -> Iterator[Path]:
    """Yield everything in a folder but the folders that hold something; links are not followed."""
    for root, folders, files in os.walk(folder):
        yield from (Path(root, name) for name in files)
        yield from (path for name in folders if (path := Path(root, name)).is_symlink() or not os.listdir(path))


def _regular(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_file() and not path.is_symlink()]


def _digest(path: Path) -> str:
    if path.is_symlink() or not path.is_file():
        return "not a regular file"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Verification:
    """What was checked, and what does not hold. The folder digest is to be held against the run's own."""

    folder_digest: str
    run_id: str
    checks: tuple[tuple[str, str], ...]

    @property
    def holds(self) -> bool:
        return not any(problem for _, problem in self.checks)

    def __repr__(self) -> str:
        lines = [f"{'NO ' if problem else 'ok '} {what}{f': {printable(problem)}' if problem else ''}" for what, problem in self.checks]
        lines.append("not checked, since only the store of runs can tell: the history, the looks at test, the edits of the criteria")
        told = f"folder digest {self.folder_digest}\nhold it against the tag {tag_of(self.folder_digest)} of run {printable(self.run_id)}"
        return "\n".join([*lines, told])


def verify(folder: Path | str) -> Verification:
    """Check a handoff folder by itself: no store, no network, and none of its numbers taken on trust.

    Every file is held against its digest, every aggregate and verdict is worked out again from the results of the cases,
    and both documents are written again from the evidence.

    Raises:
        InputError: there is no handoff in the folder.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise InputError(
            f"{folder}: no handoff there: there is no {MANIFEST}", fix="`poclab handoff --verify FOLDER`, with handoff.html in it"
        )
    evidence, found = Evidence(folder / EVIDENCE), _digests(folder)
    if odd := [name for name, told in found.items() if told == "not a regular file" or (folder / name).stat().st_size > LARGEST]:
        # Not read: a link may lead anywhere, a pipe never ends, and no handoff holds such a thing.
        named = f"{', '.join(odd[:PROBLEMS_SHOWN])}: no regular file, or larger than any evidence; nothing was read"
        return Verification(digest(found), "(not known)", ((next(iter(CHECKS)), named),))
    with as_written():
        checks = tuple((what, _problem(check, folder, evidence)) for what, check in CHECKS.items())
    try:
        run_id = evidence.facts["runs"][evidence.facts["splits"][0]]
    except (PocError, LookupError, TypeError):
        run_id = "(not known)"
    return Verification(digest(found), str(run_id), checks)


def _problem(check: Any, folder: Path, evidence: Evidence) -> str:
    try:
        return "; ".join(check(folder, evidence))
    except PocError as error:
        return error.message
    except Exception as error:  # whatever a folder that somebody made up does to a check, the check does not hold
        return f"cannot be read: {type(error).__name__}: {error}"


def _files(folder: Path, evidence: Evidence) -> Iterator[str]:
    said, found = read_json(folder / MANIFEST), _digests(folder)
    wrong = [name for name in sorted({*said["files"], *found}) if said["files"].get(name) != found.get(name)]
    for name in wrong[:PROBLEMS_SHOWN]:
        yield f"{name} {'is missing' if name not in found else 'was added' if name not in said['files'] else 'was changed'}"
    if len(wrong) > PROBLEMS_SHOWN:
        yield f"and {len(wrong) - PROBLEMS_SHOWN} more"
    if said["folder"] != digest(said["files"]):
        yield f"the folder digest in {MANIFEST} is not that of its list"


def _cases(folder: Path, evidence: Evidence) -> Iterator[str]:
    cases = TestSet.load(folder / EVIDENCE / "cases.jsonl")
    for split, report in evidence.reports.items():
        wanted = {case.id: case.digest for case in cases.split(split)}
        if report.lock_digest != cases.digest:
            yield f"the report on {split} is of other cases: lock {report.lock_digest[:12]}"
        frozen = {case.id: (case.inputs, case.expected, case.tags, case.cluster) for case in cases}
        for one in report.results:
            if frozen.get(one.case_id) != (one.inputs, one.expected, one.tags, one.cluster):
                yield f"{split}/report.json says something else about case {one.case_id!r} than the frozen cases"
        if {one.case_id: one.case_digest for one in report.results} != wanted or len(report.results) != len(wanted) * report.repeats:
            yield f"the report on {split} does not hold each of its {len(wanted)} cases {report.repeats} time(s)"


def _aggregates(folder: Path, evidence: Evidence) -> Iterator[str]:
    for split, report in evidence.reports.items():
        said, again = read_json(evidence.folder / split / "report.json"), report.to_json()
        for name in sorted({*said["aggregates"], *again["aggregates"]}):
            if not _close(said["aggregates"].get(name), again["aggregates"].get(name)):
                yield f"{name} on {split} is {again['aggregates'].get(name)}, the report says {said['aggregates'].get(name)}"
        if said["content_digest"] != again["content_digest"]:
            yield f"the content digest of the report on {split} is not that of its results"
        if Version.from_json(read_json(evidence.folder / split / "version.json")).digest != report.version.digest:
            yield f"{split}/version.json is of another version than the report"
        if report.run_id != evidence.facts["runs"][split] or (report.split or "all") != split:
            yield f"{split}/report.json is of run {report.run_id} on {report.split or 'all'}"


def _decision(folder: Path, evidence: Evidence) -> Iterator[str]:
    if not _close(evidence.recorded_decision, json.loads(json.dumps(evidence.decision.to_json()))):
        said, again = evidence.recorded_decision, evidence.decision.to_json()
        differ = ", ".join(key for key in again if not _close(said.get(key), plain(again[key])))
        verdicts = "; ".join(map(str, evidence.decision.verdicts))
        yield f"the criteria give {evidence.decision.word} ({verdicts}), decision.json says something else: {differ}"


def _comparison(folder: Path, evidence: Evidence) -> Iterator[str]:
    if evidence.facts["compared"] != (evidence.comparison is not None):
        yield "facts.json and comparison.json do not agree on whether trials were compared"
    elif evidence.comparison and not _close(evidence.recorded_comparison, json.loads(json.dumps(evidence.comparison.to_json()))):
        yield "the results of the trials give another comparison than comparison.json"


def _documents(folder: Path, evidence: Evidence) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as again:
        _write_documents(evidence, Path(again))
        for name in DOCUMENTS:
            if not (folder / name).is_file() or (folder / name).read_bytes() != (Path(again) / name).read_bytes():
                yield f"{name} is not what the evidence says"


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, (int, float)):
        return abs(one - other) <= TOLERANCE * max(1.0, abs(one))
    if isinstance(one, dict) and isinstance(other, dict):
        return set(one) == set(other) and all(_close(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_close, one, other))
    return one == other


CHECKS = {
    "every file is what its digest says": _files,
    "the reports hold every frozen case": _cases,
    "every aggregate follows from the results of the cases": _aggregates,
    "the verdicts follow from the charter and the reports": _decision,
    "the comparison of the trials follows from their results": _comparison,
    "the documents say what the evidence says": _documents,
}

__all__ = ["Handoff", "Verification", "handoff", "verify"]
