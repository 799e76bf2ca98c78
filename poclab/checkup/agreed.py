"""What was agreed and is measured on: the charter, personal data, the frozen cases and their evidence, and judges."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from pathlib import Path

from poclab import agent, decision, freezing, sweeps, tracking
from poclab.archive import Archive
from poclab.cases import SPLITS, TestSet
from poclab.charter import METRICS, PII
from poclab.checkup.findings import FAILED, OK, WARNING, Finding, Subject
from poclab.errors import InputError
from poclab.files import read_text
from poclab.judging import Calibration, calibration_path, labels_path
from poclab.judging.calibration import FIX_THRESHOLD
from poclab.redaction import conceal
from poclab.report import ALL_OF

#: How many hints at personal data are shown.
SHOWN = 5


def charter(subject: Subject) -> Iterator[Finding]:
    found = subject.charter
    try:
        decision.refuse_unfinished(found)
    except InputError as error:
        questions = "\n".join(decision.QUESTIONS[name] for name in found.missing)
        lacks = f"lacks {', '.join(found.missing)}: `poclab decide` and `poclab handoff` refuse it"
        yield Finding("charter", FAILED, lacks, f"{error.fix}:\n{questions}")
    else:
        signed = found.text["signed"]
        yield Finding("charter", OK, f"complete, and signed by {signed['by']} on {signed['on']}")


def personal_data(subject: Subject) -> Iterator[Finding]:
    agreed = (subject.charter.text.get("data") or {}).get("pii") or {}
    if all(agreed.get(key) for key in PII):
        yield Finding("personal data", OK, f"agreed by {agreed['agreed_by']} on {agreed['on']}: {agreed['where']}")
    else:
        line = f"data: {{source: ..., pii: {{agreed_by: ..., on: {datetime.date.today()}, where: ...}}}}"
        nobody = "the charter names nobody who agreed to what is done with them"
        yield Finding("personal data", WARNING, nobody, f"write into {subject.charter.path}, also when there are none:\n{line}")
    if hints := freezing.may_hold(TestSet.read(subject.poc)):
        more = f"; and {len(hints) - SHOWN} more" if len(hints) > SHOWN else ""
        fix = "look at them; if it is so, take it out, and `poclab freeze --new-edition`"
        yield Finding("personal data", WARNING, f"{'; '.join(hints[:SHOWN])}{more}", fix)


def frozen_cases(subject: Subject) -> Iterator[Finding]:
    found = subject.test_set
    sizes = " and ".join(f"{len(found.split(name))} {name}" for name in SPLITS)
    if conceal(text := read_text(found.path)) != text:
        fix = "take it out, and `poclab freeze --new-edition`; or unset the variable if it is no key"
        yield Finding("test set", FAILED, f"{found.path} holds the value of a key: `poclab handoff` refuses it", fix)
    verified = f"{sizes} cases, as they were frozen on {found.lock.frozen_on} (edition {found.lock.edition})"
    if len(found) < freezing.FEW:
        fix = "`poclab plan` says how many it takes; write them, and `poclab freeze --new-edition`"
        yield Finding("test set", WARNING, f"{verified}; under {freezing.FEW} few changes can be told apart", fix)
    else:
        yield Finding("test set", OK, verified)


def criteria(subject: Subject) -> Iterator[Finding]:
    """Hold the criteria against the run that would be decided on; a store that is no file here is left alone, since it may be slow."""
    uri, lock = tracking.tracking_uri(subject.poc), subject.test_set.digest
    begun = subject.charter.criteria and uri.startswith(tracking.SQLITE) and Path(uri.removeprefix(tracking.SQLITE)).exists()
    archive = Archive.told(subject.poc) if begun else None
    if archive is None or all(row["tags"].get("lock") != lock for row in archive.finished):
        yield from _foreseen(subject)
        return
    (report,) = archive.reports([archive.candidate()])
    found = [one for split in SPLITS for one in decision.unready(subject.charter, report, lambda *_: decision.Judged(""), split)]
    for problem in dict.fromkeys(found):
        fix = f"mend it in {subject.charter.path}; or give it in the notebook (repeats: in sweep.yaml), and `poclab sweep {subject.folder}`"
        yield Finding("criteria", FAILED, f"cannot be decided by run {report.run_id}: {problem}", fix)
    if not found:
        yield Finding("criteria", OK, f"each is on a number that run {report.run_id} has")


def _foreseen(subject: Subject) -> Iterator[Finding]:
    """Hold the criteria against the source of the notebook, where there is no run yet."""
    unknown: list[str] = []
    with contextlib.suppress(InputError):  # the check of the sweep says so
        known = (*METRICS, *sweeps.scores_of(subject.sweep))
        unknown = [one.metric for one in subject.charter.criteria if one.metric not in known and not ALL_OF.fullmatch(one.metric)]
    if not unknown:
        yield Finding("criteria", OK, "whether each has a number, a first run on these cases shows")
        return
    fix = f"mend it in {subject.charter.path}; or score by it in the notebook: a judge is `judge: NAME` under `fixed` in sweep.yaml"
    yield Finding("criteria", WARNING, f"{subject.sweep.notebook.name} scores nothing by the name {', '.join(unknown)}", fix)


def documents(subject: Subject) -> Iterator[Finding]:
    corpus = subject.corpus
    if corpus is None and (subject.poc / agent.WORLD).is_file():
        agent.check_labels(TestSet.read(subject.poc), agent.Sandbox(subject.poc / agent.WORLD))
        yield Finding("documents", OK, f"none; each task finds {agent.WORLD}, and what the cases expect can come about there")
        return
    if corpus is None:
        fix = 'where answers come from documents, write into corpus.yaml:\nsource: files\nglob: "docs/**/*.md"'
        yield Finding("documents", WARNING, "there is no corpus.yaml, which the reference system and the check of evidence need", fix)
        return
    these = f"{len(corpus.documents)} documents, digest {corpus.digest[:12]}"
    then = subject.test_set.lock.corpus_digest
    if then in (None, corpus.digest):
        yield Finding("documents", OK, these)
        return
    back = "run the Python that they come with" if corpus.source.get("source") == "pydoc" else f"git -C {subject.folder} log --stat -- ."
    yield Finding("documents", WARNING, f"{these}; the cases were frozen on others ({then[:12]})", f"unless that is meant: {back}")


def evidence(subject: Subject) -> Iterator[Finding]:
    cases, corpus = TestSet.read(subject.poc), subject.corpus
    freezing.validate(cases, corpus.find if corpus else None)
    phrases = sum(len(case.expected.get("evidence", ())) for case in cases)
    if phrases and corpus is None:
        yield Finding("evidence", WARNING, f"{phrases} phrases, which nobody looked up", "write corpus.yaml")
    else:
        yield Finding("evidence", OK, f"{phrases} phrases, each found in the documents" if phrases else "the cases name none")


def judges(subject: Subject) -> Iterator[Finding]:
    for rubric in subject.rubrics:
        path, how = calibration_path(subject.poc, rubric.name), f"poclab calibrate {subject.folder} {rubric.name}"
        if not path.is_file():
            undecided = f"{rubric.name} is not calibrated: no criterion on its score is decided"
            labels = labels_path(subject.poc, rubric)
            first = f"label {labels}" if labels.is_file() else f"`{how} --sample {_sample(subject)}`, label"
            yield Finding("judges", WARNING, undecided, f"{first}, and `{how}`")
            continue
        found = Calibration.load(path)
        other = f"{rubric.name} was calibrated with another rubric or model" if found.rubric != rubric.digest else ""
        if changed := other or found.stale(subject.folder):
            yield Finding("judges", WARNING, changed, f"`{how}`")
        elif refused := found.refusal(subject.charter.kappa_at_least):
            yield Finding("judges", WARNING, refused, _mend(found, subject))
        else:
            yield Finding("judges", OK, f"{rubric.name}: kappa {found.kappa_text}, with {', '.join(found.answered)}")
    if not subject.rubrics:
        yield Finding("judges", OK, "the POC has no rubric of its own")


def _mend(found: Calibration, subject: Subject) -> str:
    """Return what to do about a judge that is calibrated, and not to be decided by."""
    larger = f"poclab calibrate {subject.folder} {found.name} --sample"
    if found.kappa is None:
        return f"draw more replies, of which people do not say the same throughout: `{larger} N`, label, and calibrate"
    at_least = subject.charter.kappa_at_least
    if at_least is None:
        return f"write into {subject.charter.path}: {FIX_THRESHOLD}"
    needed = found.labels_needed(at_least)
    more = f"`{larger} {needed}` draws more to label; or " if needed and needed <= found.sampled["of"] else ""
    return f"{more}read what people and judge disagree on, in {found.path}; then mend the rubric, or take another model"


def _sample(subject: Subject) -> int:
    """Return how many replies to label: as many as tell something, if there are so many."""
    return max(2, min(60, sum(one.split == "dev" for one in TestSet.read(subject.poc))))
