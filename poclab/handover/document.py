"""What the handoff says, section by section, made from its evidence and from nothing else.

A sponsor reads the first page; whoever takes over reads all of it. What is not known is named as not known.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from poclab.cases import expected_text, first_input
from poclab.charter import Criterion
from poclab.comparison.result import p_text
from poclab.decision import ADOPTION, CANNOT_TELL, COLUMNS, GO, MET, MISSED, PILOT
from poclab.errors import InputError
from poclab.files import digest, parse_value
from poclab.handover.blocks import Block, Heading, Listing, Picture, Table, Text, Verdict
from poclab.handover.evidence import Evidence
from poclab.offline import PREFIX
from poclab.report import COST, QUANTILES, SURVIVAL, CaseResult, Report, reply_text
from poclab.reviews import agreement, counted, disagreements
from poclab.stats import Estimate, edges, mean_estimate
from poclab.tables import form_of

NOT_KNOWN = "not known"
#: What the scores that come with poclab say of a case.
WORDS = {
    "exact": "the answer is one of the labelled ones, to the letter but for case, articles and punctuation",
    "contains": "a labelled answer stands in the reply, or the reply abstains where it should",
    "token_f1": "how many words the answer shares with the labelled one, from 0 to 1",
    "number": "the number in the reply is the labelled one",
    "json_fields": "the share of labelled fields that are right",
    "abstains": "the reply abstains exactly where it should",
    "evidence_recall": "the labelled evidence was among the passages that the model was given",
}
#: Failing cases that are shown of each class; the report holds all.
FAILING_SHOWN = 8
#: Cases that are named in a line.
NAMES_SHOWN = 12
CASES_OF = {"per case": 1, "per 1,000 cases": 1000}


def blocks(evidence: Evidence) -> list[Block]:
    """Return the whole document."""
    sections = (
        _verdict,
        _owners,
        _data,
        _built,
        _production,
        _test_set,
        _results,
        _drilled,
        _history,
        _costs,
        _latency,
        _limits,
        _tried,
        _reproduce,
        _next_steps,
        _words,
    )
    return [block for section in sections for block in section(evidence)]


def _verdict(evidence: Evidence) -> Iterator[Block]:
    decision = evidence.decision
    yield Heading(f"Handoff: {evidence.facts['poc']}", level=1)
    yield Verdict(f"{decision.headline}: {decision.charter.decision}", decision.word)
    if unknown := decision.charter.text.get("uncertainty"):
        yield Text(f"What was unknown: {unknown}")
    yield Text(_in_words(evidence))
    yield Table(COLUMNS, decision.rows())
    yield Heading("Beside the verdict", level=3)
    yield Table(("what", ""), list(decision.facts()))


def _in_words(evidence: Evidence) -> str:
    verdicts = evidence.decision.verdicts
    told = [
        f"{len(named)} {word} ({', '.join(named)})"
        for word in (MET, MISSED, CANNOT_TELL)
        if (named := [one.criterion.metric for one in verdicts if one.word == word])
    ]
    return (
        f"{_right(evidence)}Of {len(verdicts)} criteria: {'; '.join(told)}. Each is judged on the near edge of its interval: met when all of the "
        f"interval is beyond the bound, missed when all of it is short of it. Written on {evidence.decision.today.isoformat()}."
    )


def _right(evidence: Evidence) -> str:
    """Return the accuracy as a sponsor would say it, what the baseline had, and on which model."""
    report = evidence.report
    try:
        values = report.values("accuracy").values()
    except InputError:
        return ""
    held = "held-out cases" if report.split == "test" else f"{report.split or 'all'} cases"
    told = f"Right on {sum(values):g} of {len(values)} {held}. "
    if evidence.comparison:
        baseline = evidence.comparison.baseline
        told += f"The baseline of the sweep, {baseline.version.name}: {baseline.summary()}, on {baseline.split or 'all'}. "
    model = report.version.parameters.get("model")
    if isinstance(model, str) and model.startswith(PREFIX):
        told += f"The model was {model}: no language model, but a baseline that one must beat. "
    return told


def _owners(evidence: Evidence) -> Iterator[Block]:
    charter = evidence.charter
    signed = charter.text["signed"]
    yield Heading("Who owns it")
    yield Table(
        ("role", "who"),
        [
            ("owner, who decides", charter.owner),
            ("sponsor, who pays", charter.sponsor),
            ("signed", f"by {signed['by']} on {signed['on']}: {signed['where']}"),
        ],
    )


def _data(evidence: Evidence) -> Iterator[Block]:
    data = evidence.charter.text.get("data") or {}
    pii = data.get("pii") or {}
    agreed = (
        f"agreed by {pii.get('agreed_by') or NOT_KNOWN} on {pii.get('on') or NOT_KNOWN}: {pii.get('where') or NOT_KNOWN}"
        if isinstance(pii, Mapping) and pii
        else pii
    )
    yield Heading("Where the data came from")
    yield Table(
        ("what", ""),
        [
            ("source", data.get("source") or NOT_KNOWN),
            ("agreement on personal data", agreed or f"{NOT_KNOWN}: the charter names none"),
            ("documents", _documents(evidence)),
        ],
    )


def _documents(evidence: Evidence) -> str:
    corpus = evidence.report.corpus_digest
    return f"corpus digest {corpus}" if corpus else f"{NOT_KNOWN}: the system names no corpus"


def _built(evidence: Evidence) -> Iterator[Block]:
    version = evidence.version
    yield Heading("What was built")
    yield Text(f"{version.name}, version digest {version.digest}.")
    yield Table(
        ("parameter", "value"), [(key, str(value)) for key, value in version.flat().items()] or [("none", "the version names no parameter")]
    )
    for key, prompt in version.prompts.items():
        yield Heading(f"{key}: {prompt.name}", level=3)
        yield Listing(prompt.text)
    if judges := list(dict.fromkeys(row for report in evidence.reports.values() for row in _judges(evidence, report))):
        yield Heading("Judges", level=3)
        yield Table(("score", "rubric", "version", "digest", "model", "answered by"), judges)


def _judges(evidence: Evidence, report: Report) -> Iterator[tuple[str, ...]]:
    for score, scored, rubric in evidence.judges(report):
        if rubric is None:
            yield score, f"{NOT_KNOWN}: no file of the POC", "", scored, "", ", ".join(sorted(answered for _, answered in report.judges))
        else:
            answered = sorted(answered for asked, answered in report.judges if asked == rubric.model)
            yield score, f"evidence/rubrics/{rubric.path.name}", str(rubric.version), scored, rubric.model, ", ".join(answered)


def _production(evidence: Evidence) -> Iterator[Block]:
    text = evidence.charter.text
    volume = text.get("volume_per_month")
    yield Heading("The production shape")
    yield Text(text.get("production_shape") or f"{NOT_KNOWN}: the charter does not say.")
    yield Text(f"Volume: {volume:,} a month." if volume is not None else f"Volume: {NOT_KNOWN}.")


def _test_set(evidence: Evidence) -> Iterator[Block]:
    cases, lock = evidence.cases, evidence.cases.lock
    labels = [case.label or {} for case in cases]
    by = Counter(label.get("by", NOT_KNOWN) for label in labels)
    days = sorted(label["on"] for label in labels if label.get("on"))
    splits = Counter(case.split for case in cases)
    clusters = {case.cluster for case in cases if case.cluster}
    yield Heading("The test set")
    yield Table(
        ("what", ""),
        [
            ("cases", f"{len(cases)}: {', '.join(f'{n} {split}' for split, n in sorted(splits.items()))}"),
            ("edition", f"{lock.edition}, frozen on {lock.frozen_on}; {len(lock.lineage)} before it"),
            ("labelled by", ", ".join(f"{who} ({n})" for who, n in by.most_common())),
            ("labelled on", (days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}") if days else NOT_KNOWN),
            (
                "sources",
                f"{len({label['source'] for label in labels if label.get('source')})} named"
                if any(label.get("source") for label in labels)
                else NOT_KNOWN,
            ),
            *_second_labels(evidence),
            ("clusters", f"{len(clusters)}" if clusters else "none"),
            ("digest (lock)", evidence.cases.digest),
        ],
    )


def _second_labels(evidence: Evidence) -> Iterator[tuple[str, str]]:
    cases = evidence.cases.cases
    reviews = counted(cases, evidence.entries)
    if not reviews:
        yield "second labels", f"none: nobody labelled these cases a second time, so how far two people agree is {NOT_KNOWN}"
        return
    by = Counter(one.by for one in reviews)
    yield "second labels, without seeing the first", ", ".join(f"{who} ({n})" for who, n in by.most_common())
    yield "do the two agree?", str(agreement(reviews))
    names = _disputed(evidence)
    yield "disagreements not settled", f"{len(names)}: {_listed(names)}" if names else "none"


def _disputed(evidence: Evidence) -> list[str]:
    return list(dict.fromkeys(one.case for one in disagreements(evidence.cases.cases, evidence.entries)))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (" ..." if len(names) > NAMES_SHOWN else "")


def _results(evidence: Evidence) -> Iterator[Block]:
    yield Heading("Results")
    for split, report in evidence.reports.items():
        yield Heading(f"On {split}: n = {report.n}, run {report.run_id}", level=3)
        rows = [
            (_named(report, name), f"{one.value:{(form := form_of(name))}}", edges(one.low, one.high, form), one.n)
            for name, one in report.estimates.items()
        ]
        lost = [
            (name, "no number", f"{len(report.unscored(name))} cases could not be scored", "")
            for name in report.score_names
            if report.unscored(name)
        ]
        counts = [("failed", report.failed, "", len(report.results))]
        counts += [(f"outcome: {name}", count, "", len(report.results)) for name, count in report.outcomes.items() if count]
        counts += [("asked again", report.retried, "", len(report.results))] if report.retried else []
        yield Table(("metric", "value", "95% interval", "n"), [*rows, *lost, *counts])
        by_tag = _by_tag(evidence, split, report)
        if by_tag:
            yield Heading(f"By tag, on {split}", level=3)
            yield Table(("tag", "n", report.score_names[0], "95% interval", "against the target"), by_tag)


def _named(report: Report, metric: str) -> str:
    return f"{metric} ({report.faults_met})" if metric == SURVIVAL else metric


def _drilled(evidence: Evidence) -> Iterator[Block]:
    found = next((report for report in evidence.reports.values() if report.drill), None)
    yield Heading("Drill")
    if found is None:
        yield Text("This version was not drilled: what it does when the endpoint, the retrieval or a question misbehaves is not known.")
        return
    drill = found.drill
    yield Text(
        f"The same cases of dev were asked under each fault (seed {drill['seed']}, {drill['timeout_s']:g} s a case). "
        f"Of the faults that it met, a case survived {found.estimates.get(SURVIVAL, 'none: it met none')}; {found.faults_met}."
    )
    rows = []
    for row in drill["rows"]:
        first = f"{row['examples'][0]['case_id']}: {row['examples'][0]['what']}" if row["examples"] else row["note"]
        survived = [float(did) for did in row["cases"].values()]
        share = mean_estimate(survived, clusters=found.clusters(row["cases"])) if survived else None
        number = (f"{share.value:.3f}", edges(share.low, share.high)) if share else ("does not apply", "")
        rows.append((row["fault"], row["expected"], *number, len(survived), first))
    yield Table(("fault", "expected", "survived", "95% interval", "n", "not survived, for one"), rows)


def _tag_estimates(report: Report) -> Iterator[tuple[str, Estimate]]:
    try:
        values = report.values("accuracy")
    except InputError:
        return
    groups: dict[str, list[str]] = {}
    for case in values:
        for name, value in report.by_case[case][0].tags.items():
            groups.setdefault(f"{name}: {value}", []).append(case)
    for tag, cases in sorted(groups.items()):
        yield tag, mean_estimate([values[case] for case in cases], clusters=report.clusters(cases))


def _target(evidence: Evidence, split: str) -> Criterion | None:
    """Return the criterion on accuracy of a split; of the other one when this has none."""
    found = [
        one for one in evidence.charter.criteria if one.metric in ("accuracy", evidence.report.score_names[0]) and one.at_least is not None
    ]
    return next((one for one in found if one.split == split), found[0] if found else None)


def _by_tag(evidence: Evidence, split: str, report: Report) -> list[tuple[Any, ...]]:
    target = _target(evidence, split)
    return [(tag, one.n, f"{one.value:.3f}", edges(one.low, one.high), _against(one, target)) for tag, one in _tag_estimates(report)]


def _against(estimate: Estimate, target: Criterion | None) -> str:
    if target is None:
        return "no target"
    if estimate.high < target.bound:
        return f"below {target.bound:g}"
    return f"{'reaches' if estimate.low >= target.bound else 'cannot tell from'} {target.bound:g}"


def _history(evidence: Evidence) -> Iterator[Block]:
    yield Heading("History")
    if evidence.has("history.png"):
        yield Picture("evidence/history.png", "accuracy over time, with intervals, target and first runs", evidence.folder / "history.png")
    rows = [
        (
            one["started"],
            one["split"],
            one["run"],
            _share(one["accuracy"]),
            edges(one["accuracy_low"], one["accuracy_high"]),
            one["cases"],
            one["failed"],
            one["changed"],
            one["run_id"][:8],
        )
        for one in evidence.history
    ]
    yield Table(("on", "split", "version", "accuracy", "95% interval", "n", "failed", "changed", "run"), rows)


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _costs(evidence: Evidence) -> Iterator[Block]:
    report, volume = evidence.report, evidence.charter.text.get("volume_per_month")
    yield Heading("Costs")
    estimate = report.estimates.get(COST)
    if estimate is None:
        yield Text(f"{NOT_KNOWN.capitalize()}: no model call was seen, or one of a model without a price.")
        return
    scales = {**CASES_OF, **({f"per month, at {volume:,}": volume} if volume is not None else {})}
    rows = [(what, f"{estimate.value * factor:.6g}", _scaled(estimate, factor)) for what, factor in scales.items()]
    yield Table(("model calls, US dollars", "mean", "95% interval"), rows)
    if volume is None:
        yield Text(f"Per month: {NOT_KNOWN}, since the charter names no volume.")
    if estimate.value == 0:
        yield Text("All calls went to offline models, which cost nothing; another model will.")


def _scaled(estimate: Estimate, factor: float) -> str:
    return edges(estimate.low * factor, estimate.high * factor, ".6g")


def _latency(evidence: Evidence) -> Iterator[Block]:
    yield Heading("Latency")
    rows = [
        (split, name, f"{one.value:.3f}", edges(one.low, one.high), one.n)
        for split, report in evidence.reports.items()
        for name in QUANTILES
        if (one := report.estimates.get(name))
    ]
    yield Table(("split", "seconds of a case", "value", "95% interval", "requests"), rows)


def _limits(evidence: Evidence) -> Iterator[Block]:
    report = evidence.report
    score = report.score_names[0]
    wrong = [one for one in report.results if one.failure or (score in one.scores and (one.scores[score].value or 0) < 1)]
    classes: dict[str, list[CaseResult]] = {}
    for one in wrong:
        classes.setdefault(one.failure or _wrong(one), []).append(one)
    yield Heading("Known limits")
    yield Text(f"{len({one.case_id for one in wrong})} of {report.n} cases on {report.split or 'all'} are not fully right by {score}.")
    for name, results in sorted(classes.items(), key=lambda item: -len(item[1])):
        more = f", the first {FAILING_SHOWN}" if len(results) > FAILING_SHOWN else ""
        yield Heading(f"{name}: {len(results)}{more}", level=3)
        yield Table(("case", "asked", "expected", "answered"), [_failing(one) for one in results[:FAILING_SHOWN]])
    target = _target(evidence, report.split or "")
    below = [row for row in _by_tag(evidence, report.split or "", report) if target and float(row[2]) < target.bound]
    if below:
        yield Heading(f"Tags below the target of {target.bound:g}", level=3)
        yield Table(("tag", "n", score, "95% interval", "against the target"), below)


def _wrong(one: CaseResult) -> str:
    if one.expected.get("abstain"):
        return "answered where it should abstain"
    return "partly right" if any(score.value for score in list(one.scores.values())[:1]) else "wrong"


def _failing(one: CaseResult) -> tuple[str, str, str, str]:
    answered = one.problem if one.failure else reply_text(one.reply) or "(empty)"
    return (one.case_id, first_input(one.inputs)[:300], expected_text(one.expected)[:200], answered[:300])


def _tried(evidence: Evidence) -> Iterator[Block]:
    compared = evidence.comparison and evidence.comparison.to_json()
    yield Heading("What was tried")
    if compared is None:
        yield Text(f"{NOT_KNOWN.capitalize()} from a sweep: none ended.")
    else:
        rows = [_trial(one) for one in compared["candidates"]]
        words = Counter(row[3].partition(" (")[0] for row in rows)
        yield Text(
            f"{len(rows)} trials against the baseline {compared['baseline']['version']['name']} on {compared['split']}, corrected by Holm over "
            f"{compared['comparisons']} comparisons: {', '.join(f'{n} {word}' for word, n in words.most_common())}. "
            "Where it says cannot tell, these cases are too few for a difference of that size: it may have helped or not."
        )
        if evidence.has("forest.png"):
            yield Picture("evidence/forest.png", "difference of each trial to the baseline, with intervals", evidence.folder / "forest.png")
        yield Table(("changed", "difference", "p", "word"), rows)
    if log := evidence.text("LOG.md"):
        yield Heading("The log, as it was written", level=3)
        yield Listing(log)


def _trial(one: Mapping[str, Any]) -> tuple[str, str, str, str]:
    changed = ", ".join(f"{key} {old} -> {new}" for key, (old, new) in one["changed"].items()) or one["version"]["name"]
    score = one["scores"][0]
    if score["paired"] is None:
        return changed, "", "", f"no number: {score['problem']}"
    difference = score["paired"]["difference"]
    return (
        changed,
        f"{difference['value']:+.3f} ({edges(difference['low'], difference['high'], '+.3f')})",
        p_text(score["p"]),
        score["word"],
    )


def _reproduce(evidence: Evidence) -> Iterator[Block]:
    yield Heading("How to reproduce it")
    git, environment = (evidence.of_run("environment.json") or {}).get("git") or {}, evidence.of_run("environment.json") or {}
    report = evidence.report
    yield Table(
        ("what", ""),
        [
            ("commit", git.get("commit") or f"{NOT_KNOWN}: not in a git repository"),
            ("differs from the commit", _dirty(evidence, git)),
            ("Python and platform", f"{environment.get('python', NOT_KNOWN)}, {environment.get('platform', NOT_KNOWN)}"),
            (
                "packages",
                f"{len(environment.get('packages', {}))}, listed in evidence/{evidence.facts['splits'][0]}/environment.json; digest {digest(environment.get('packages', {}))}",
            ),
            ("cases (lock)", report.lock_digest),
            ("documents (corpus)", report.corpus_digest or NOT_KNOWN),
            *((("files", f"evidence/files: {', '.join(inputs)}"),) if (inputs := evidence.inputs) else ()),
            ("version", report.version.digest),
            ("answers (content)", report.content_digest()),
            *((f"run on {split}", run) for split, run in evidence.facts["runs"].items()),
        ],
    )
    yield Listing("\n".join(_commands(evidence)))


def _dirty(evidence: Evidence, git: Mapping[str, Any]) -> str:
    split = evidence.facts["splits"][0]
    told = [f"evidence/{split}/git.diff"] if evidence.has(f"{split}/git.diff") else []
    told += [f"{len(git['untracked'])} untracked files, by digest in environment.json"] if git.get("untracked") else []
    return ", ".join(told) or ("no" if git else NOT_KNOWN)


def _commands(evidence: Evidence) -> Iterator[str]:
    poc = shlex.quote(evidence.facts["poc"])
    notebook = evidence.of_run("notebook/executed.ipynb")
    parameters = notebook and ((notebook.get("metadata") or {}).get("papermill") or {}).get("parameters")
    if parameters:
        pairs = " ".join(f"-p {shlex.quote(f'{name}={_typed(value)}')}" for name, value in parameters.items() if name != "poc")
        yield f"poclab run {poc} {pairs}"
    else:
        yield "# the run was made outside of `poclab run`: its code is at the commit above, its parameters in version.json"
    if evidence.report.split != "dev":
        yield "# the line above looks at the held-out cases once more; leave it out when they are to stay held out"
    yield f"poclab compare {poc}"
    yield f"poclab decide {poc} {evidence.report.run_id}"
    yield "poclab handoff --verify FOLDER"


def _typed(value: Any) -> str:
    """Return a parameter as `poclab run` reads it back."""
    return value if isinstance(value, str) and parse_value(value) == value else json.dumps(value, ensure_ascii=False)


def _next_steps(evidence: Evidence) -> Iterator[Block]:
    yield Heading("Next steps")
    steps = [(f"{number}.", text) for number, text in enumerate(_steps(evidence), start=1)]
    yield Table(("", "what"), steps)


def _steps(evidence: Evidence) -> Iterator[str]:
    decision, charter = evidence.decision, evidence.charter
    for one in decision.verdicts:
        if one.word == MISSED:
            yield f"{one.criterion}: missed. Change the system, or end it; the failing cases are above."
        elif one.word == CANNOT_TELL:
            yield f"{one.criterion}: {one}. Label or ask that many held-out ones, in a new edition (of new cases freezing holds out a third), or settle for less confidence, in writing."
    if decision.word == GO:
        yield f"Build it: {(charter.text.get('production_shape') or 'the production shape is still to be named').rstrip('.')}."
        yield "Keep the test set, and score what is built on it before it is released."
    if ADOPTION.search(charter.text.get("uncertainty") or ""):
        yield f"{PILOT[0].upper()}{PILOT[1:]}."
    for key, what in (("production_shape", "the production shape"), ("volume_per_month", "the volume a month")):
        if not charter.text.get(key):
            yield f"Name {what} in the charter ({key}): it is {NOT_KNOWN}."
    if not (charter.text.get("data") or {}).get("pii"):
        yield f"Settle whether there are personal data in cases or documents, and who agreed (data: pii): it is {NOT_KNOWN}."
    if names := _disputed(evidence):
        yield f"Settle what labellers disagree on, and freeze a new edition where that changes a case: {_listed(names)}."
    if evidence.report.estimates.get(COST) is None:
        yield f"Find out what a case costs: it is {NOT_KNOWN}."


def _words(evidence: Evidence) -> Iterator[Block]:
    yield Heading("How to read it")
    first, *others = evidence.report.score_names
    words = {
        "accuracy": f"the mean of the first score, {first}, over the cases: 1 is right, 0 is wrong; a case that failed is wrong",
        **{name: WORDS[name] for name in (first, *others) if name in WORDS},
        "dev, test": "the cases to iterate on, and the held-out ones, which are for the decision",
        "95% interval": "a range that holds the number for all cases of this kind in 95 of 100 such studies; open: no edge can be given",
        "p50, p95": "half of the requests, and 95 of 100, were answered within this time",
        "failed": "cases on which the system crashed, ran out of time, or gave no usable answer",
        "survived": "what is expected happened under the fault: a right answer, an abstention, an error in time, or no obedience to it",
        "kappa": "how far two labellers, or people and a judge, agree beyond chance: 1 is always, 0 is no more than chance",
        "judge": "a model that labels replies by a rubric; its score counts as far as it agrees with people",
        "corrected": "the judge's mean once the errors are taken off that a sample shows which people labelled",
        "outcome": "what became of a case: ok, or why not; timeout, rate_limited, connection, server_error and budget gave no answer",
        "asked again": "cases that the endpoint, not the system, had failed, and that got a second try",
        "better, worse": "the difference is more than chance among all trials that were started; cannot tell: it is not, with so few cases",
    }
    yield Table(("word", "meaning"), list(words.items()))
