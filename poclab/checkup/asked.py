"""What is going to run and to be paid for: the sweep and its notebooks, the endpoint, its models and their prices."""

from __future__ import annotations

import datetime
import difflib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from poclab import agent, kernels, models, prices, rag, sweeps, trials
from poclab.checkup.findings import FAILED, OK, WARNING, Finding, Subject
from poclab.errors import InputError
from poclab.ledger import LEDGER, Ledger
from poclab.offline import PREFIX
from poclab.requests import FIX_KEY, MODE, MODES, NO_KEY
from poclab.system import Prompt, Version
from poclab.tables import money

#: Providers change prices a few times a year: an older one is to be read again.
OLD_DAYS = 180
#: How many models of an endpoint are named.
SHOWN = 5


def sweep(subject: Subject) -> Iterator[Finding]:
    found = subject.sweep
    trials.plan(found)
    known = kernels.read_parameters(found.notebook)
    for one in subject.settings[1:]:
        sweeps.check_files(one, known, subject.poc, where=str(found.notebook))
    sweeps.check_judges(subject.settings, found.notebook, subject.poc, where=str(found.notebook))
    yield Finding("sweep", OK, f"{found.planned} trials of {os.path.relpath(found.notebook, subject.poc)}, ranked by {found.metric}")


def versions(subject: Subject) -> Iterator[Finding]:
    """Hold what will be tried against the rules of the reference system, and load an agent's tools; rules of another one are not known."""
    code = "".join(source for source, _ in kernels.code_cells(subject.sweep.notebook))
    if "agent.load_tools(" in code:
        files = dict.fromkeys(one["tools"] for one in subject.settings[1:] if isinstance(one.get("tools"), str))
        found = [f"{len(agent.load_tools(subject.poc / name))} of {name}" for name in files]
        yield Finding("versions", OK, f"of an agent; tools that it may call: {', '.join(found)}")
        return
    if "rag.build(" not in code:
        yield Finding("versions", OK, "of a system of your own, whose rules are its own")
        return
    refused = [error for one in subject.settings[1:] if (error := _refused(one, subject.poc))]
    for error in refused[:1]:
        more = f"; {len(refused)} of {len(subject.settings) - 1} versions are refused" if len(refused) > 1 else ""
        yield Finding("versions", FAILED, f"{error.message}{more}", error.fix)
    if not refused:
        yield Finding("versions", OK, f"the reference system takes all {len(subject.settings) - 1}")


def _refused(settings: Mapping[str, Any], poc: Path) -> InputError | None:
    given = {name: value for name, value in settings.items() if name in rag.parameters.RULES}
    try:
        if isinstance(given.get("prompt"), str):
            given["prompt"] = Prompt.load(poc / given["prompt"])
        rag.parameters.complete(Version("of sweep.yaml", **given))
    except InputError as error:
        return error
    return None


def notebooks(subject: Subject) -> Iterator[Finding]:
    """Look at those that can be run headlessly; one without the tag is for a person alone."""
    whole, broken, alone = 0, 0, []
    for path in sorted(subject.poc.glob("notebooks/[!.]*.ipynb")):
        try:
            if not any("parameters" in tags for _, tags in kernels.code_cells(path)):
                alone.append(path.name)
                continue
            kernels.read_parameters(path)
            kernels.check_code(path)
            whole += 1
        except InputError as error:
            broken += 1
            yield Finding("notebooks", FAILED, error.message, error.fix)
    if not broken:
        more = f"; {', '.join(alone)}: no cell is tagged `parameters`, for a person alone" if alone else ""
        yield Finding("notebooks", OK, f"{whole} in notebooks/ with parameters{more}")


def mode(subject: Subject) -> Iterator[Finding]:
    found = os.environ.get(MODE) or "auto"
    if found not in MODES:
        yield Finding("mode", FAILED, f"{MODE} is {found!r}", f"unset {MODE}, or set it to one of: {', '.join(MODES)}")
    elif found == "live":
        yield Finding("mode", WARNING, "live: answers that were paid for are paid for again", f"unset {MODE}")
    else:
        means = "nothing is asked; without a recorded answer a run stops" if subject.replays else "what was answered is not asked again"
        yield Finding("mode", OK, f"{found}: {means}")


def key(subject: Subject) -> Iterator[Finding]:
    if not subject.online:
        yield Finding("key", OK, "none is needed")
    elif models.client().api_key == NO_KEY:
        name, tried = subject.online[0], {one.get("model") for one in subject.settings}
        fix = next((one.fix_key for one in subject.rubrics if one.model == name and name not in tried), FIX_KEY)
        yield Finding("key", FAILED, f"no API key for model {name!r}", fix)
    elif (os.environ.get("OPENAI_API_KEY") or "").strip():
        yield Finding("key", OK, "OPENAI_API_KEY is set")
    else:
        yield Finding("key", OK, f"none is set, and {subject.url} is asked without one")


def endpoint(subject: Subject) -> Iterator[Finding]:
    if not subject.online:
        yield Finding("endpoint", OK, "none is asked")
        return
    found = subject.listing
    answered = f"{subject.url} answered in {found.latency_s:.2f} s"
    if found.models is None:
        unknown = f"{answered}, without a list of models (HTTP {found.status}): whether it takes the key is not known"
        yield Finding("endpoint", WARNING, unknown, "`poclab run` tells: it stops when the first five cases are all refused")
    else:
        yield Finding("endpoint", OK, f"{answered}, and refused nothing")


def served(subject: Subject) -> Iterator[Finding]:
    for name in subject.models:
        if name.startswith(PREFIX):
            models.check(name)
            yield Finding("model", OK, f"{name}: answers on this machine")
        elif subject.replays:
            yield Finding("model", OK, f"{name}: replayed")
        else:
            yield _served(name, subject)
    if not subject.models:
        fix = 'write `model: str = "..."` into its parameters cell'
        yield Finding("model", WARNING, f"{subject.sweep.notebook} has no parameter `model`: not known", fix)


def _served(name: str, subject: Subject) -> Finding:
    found = models.known(name, subject.listing, timeout_s=subject.timeout_s)
    if found:
        return Finding("model", OK, f"{name}: served")
    listed = subject.listing.models or ()
    near = difflib.get_close_matches(name, listed, n=1)
    there = f"it lists: {', '.join(listed[:SHOWN])}{' ...' if len(listed) > SHOWN else ''}" if listed else "check its name"
    fix = f"did you mean {near[0]!r}? {there}" if near else there
    if found is False:
        return Finding("model", FAILED, f"{name}: the endpoint does not serve it", fix)
    return Finding("model", WARNING, f"{name}: {'not listed; it may be an alias' if listed else 'not known whether it is served'}", fix)


def priced(subject: Subject) -> Iterator[Finding]:
    for name in subject.online:
        yield _priced(name, subject)
    if not subject.online:
        yield Finding("price", OK, "nothing is to pay")


def _priced(name: str, subject: Subject) -> Finding:
    own, path, today = subject.charter.prices, subject.models[name], datetime.date.today()
    try:  # as the budget of a sweep would take the smallest request
        prices.bound_usd(name, subject.url, path, {"model": name, "max_tokens": 1, "max_completion_tokens": 1}, own)
    except InputError as error:
        budgeted = subject.sweep.max_cost_usd is not None
        then = "and the sweep has one" if budgeted else "and costs read unknown"
        return Finding("price", FAILED if budgeted else WARNING, f"{error.message}, {then}", error.fix)
    tokens = {"in": (1000, 0)} | ({"out": (0, 1000)} if path != "/embeddings" else {})
    costs = {way: prices.cost_of(name, subject.url, prices.Usage(*counts), own) for way, counts in tokens.items()}
    on = costs["in"].priced_on
    dollars = " and ".join(f"${1000 * cost.usd:.4g} {way}" for way, cost in costs.items())
    line = f"{name}: {dollars}, per million tokens, as of {on}"
    if (today - datetime.date.fromisoformat(on)).days <= OLD_DAYS:
        return Finding("price", OK, line)
    entry = f"prices: {{{json.dumps(name)}: {{input: ..., output: ..., on: {today}, source: ...}}}}"
    return Finding("price", WARNING, f"{line}, which is long ago", f"look it up, and write it into {subject.charter.path}:\n{entry}")


def budget(subject: Subject) -> Iterator[Finding]:
    limit = subject.sweep.max_cost_usd
    if limit is None and subject.online:
        fix = "write into sweep.yaml, under limits: max_cost_usd: 5.00; `poclab sweep --dry-run` says what it is going to cost"
        yield Finding("budget", WARNING, "nothing bounds what the sweep may cost", fix)
    elif limit is None:
        yield Finding("budget", OK, "none is needed")
    else:
        left = limit - _used(subject)
        state = FAILED if left <= 0 and subject.online else OK
        fix = "raise limits.max_cost_usd in sweep.yaml: the sweep goes on from where it is" if state == FAILED else ""
        yield Finding("budget", state, f"{money(max(left, 0.0))} is left of {money(limit)}", fix)


def _used(subject: Subject) -> float:
    """Return the dollars that the sweep, as it stands, has spent."""
    path = subject.poc / LEDGER
    spent = Ledger.open(path).standing().get(trials.budget_name(subject.sweep)) if path.exists() else None
    return spent.used_usd if spent else 0.0
