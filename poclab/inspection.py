"""Everything that happened on one request: its trace in the store, and its answers in the ledger.

Found by a request id, a trace id or a case id; of a case, the newest trace. Texts are shown whole, since that is what one looks for;
the tools that a model was given by name alone, and whole in `to_json`.
A call that was made outside of cases, or whose trace was not kept, is shown from the ledger alone.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poclab import tracking
from poclab.answers import Arrival
from poclab.errors import InputError, printable
from poclab.files import require_poc
from poclab.ledger import LEDGER, Entry, Ledger
from poclab.tables import money
from poclab.tracking import queries, routes
from poclab.tracking.server import base_of

REQUEST_ID = re.compile(r"(tr-)?[0-9a-f]{32}")


@dataclass(frozen=True)
class Inspection:
    """One request. `trace` is what the store holds, None without one; `others` counts further traces of the same case."""

    asked: str
    trace: Mapping[str, Any] | None
    entries: tuple[Entry, ...]
    others: int = 0
    link: str = ""

    def to_json(self) -> dict[str, Any]:
        entries = [
            {**vars(one), "content": one.content.decode("utf-8", "replace"), "name": one.name, "headers": dict(one.headers)}
            for one in self.entries
        ]
        return {"asked": self.asked, "trace": self.trace, "entries": entries, "others": self.others, "link": self.link}

    def __repr__(self) -> str:
        lines = list(self._trace_lines(self.trace)) if self.trace else [f"{self.asked}: no trace is stored; this is what the ledger holds"]
        lines += [] if self.trace else [line for one in self.entries for line in _entry_lines(one)]
        return "\n".join(printable(line) for line in lines)

    def _trace_lines(self, trace: Mapping[str, Any]) -> Iterator[str]:
        tags = trace["tags"]
        if judged := tags.get("poclab.judged_case"):
            yield f"judges of case {judged}, whose trace is {tags.get('poclab.judged_trace')}: {trace['state']}"
        else:
            yield f"case {tags.get('poclab.case')}, repeat {tags.get('poclab.repeat')}: {tags.get('poclab.outcome', trace['state'])}"
        yield f"version   {trace['name']} (run {trace['run_id']})"
        yield f"request   {trace['request_id']}"
        yield f"trace     {trace['trace_id']}"
        yield f"begun     {_time(trace['start_ns'])}, took {trace['took_s']:.3f} s"
        yield f"link      {self.link}"
        if self.others:
            yield f"others    {self.others} more trace(s) of this case: this is the newest; name a request id for another"
        for span in trace["spans"]:
            yield ""
            yield from _span_lines(span, trace["start_ns"])
        yield ""
        for name, value in trace["expected"].items():
            yield f"expected {name}: {_text(value)}"
        for score in trace["scores"]:
            label = f" ({score['label']})" if score.get("label") else ""
            yield f"score {score['name']} = {score['value']}{label}: {score['reason']}"
            if score.get("rubric"):
                yield f"  judged by the rubric {score['rubric'][:12]}, trace {score['judge_trace'] or '(none)'}"
        if self.entries:
            yield "ledger    " + ", ".join(f"{one.name} ({one.at}, {money(one.cost_usd)})" for one in self.entries)


def inspect(asked: str, poc: Path | str | None = None) -> Inspection:
    """Return what happened on the request or the case that is asked for.

    Raises:
        InputError: nothing is known of it.
    """
    folder = require_poc(poc)
    uri = tracking.tracking_uri(folder)
    tracking.check_store(uri)
    # What MLflow's filters call a trace's own id, and the request's; a case may have a name that looks like one.
    kinds = ["request_id" if asked.startswith("tr-") else "client_request_id"] if REQUEST_ID.fullmatch(asked) else []
    for kind in (*kinds, "case"):
        found, count = queries.trace(uri, folder.name, kind, asked)
        if found:
            break
    request_id = found["request_id"] if found else asked
    entries: list[Entry] = []
    if (folder / LEDGER).is_file():
        ledger = Ledger.open(folder / LEDGER)
        entries = ledger.of_case(request_id=request_id)
        named = [span["attributes"].get("entry") for span in found["spans"]] if found else []
        have = {one.name for one in entries}
        entries += [one for name in named if name and name not in have and (one := ledger.named(name))]
        entries = entries if found or entries else ledger.of_case(asked)
    if not found and not entries:
        raise InputError(
            f"{folder}: no trace and no answer of request or case {asked!r}",
            fix="a case id of cases.jsonl, or a request id, as a report's `request_id` and the trace show it",
        )
    link = f"{base_of(uri)}/{routes.trace(found['experiment_id'], found['trace_id'])}" if found else ""
    return Inspection(asked, found, tuple(entries), max(count - 1, 0), link)


def _span_lines(span: Mapping[str, Any], start_ns: int) -> Iterator[str]:
    after_s, took_s = (span["start_ns"] - start_ns) / 1e9, (span["end_ns"] - span["start_ns"]) / 1e9
    facts = ", ".join(f"{key} {_text(value)}" for key, value in span["attributes"].items() if value is not None)
    head = f"{'  ' * span['depth']}{span['kind']} {span['name']}: after {after_s:.3f} s, {took_s:.3f} s"
    yield f"{head}; {facts}" if facts else head
    margin = "  " * (span["depth"] + 1)
    for name in ("inputs", "outputs"):
        first, *rest = _text(span[name]).split("\n")
        yield f"{margin}{name[:-1]}: {first}".rstrip()
        yield from (f"{margin}        {line}".rstrip() for line in rest)
    if span["error"]:
        yield f"{margin}error: {span['error']}"


def _entry_lines(entry: Entry) -> Iterator[str]:
    tokens = f"{entry.tokens_in} tokens in, {entry.tokens_out} out"
    yield ""
    yield f"{entry.path} {entry.model} at {entry.endpoint}, {entry.at}: {tokens}, {money(entry.cost_usd)}, {entry.latency_s:.3f} s"
    yield f"ledger {entry.name}; case {entry.case_id or '(none)'}; request {entry.request_id}"
    yield f"  input: {_text(entry.body)}"
    answer = Arrival(entry.status, entry.headers, [entry.content], streams=True).reading.answer
    yield f"  output: {_text(answer)}"


def _text(value: Any) -> str:
    """Return a value as text; the messages of a chat, and its answer, as they would be read."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("messages"), list):
        rest = {key: one for key, one in value.items() if key != "messages"}
        if isinstance(rest.get("tools"), list):
            rest["tools"] = [_tool_name(one) for one in rest["tools"]]
        return "\n".join([json.dumps(rest, ensure_ascii=False), *map(_message, value["messages"])])
    if isinstance(value, Mapping) and isinstance(value.get("choices"), list):
        texts = [one.get("message") for one in value["choices"] if isinstance(one, Mapping)]
        return "\n".join(map(_message, texts))
    return json.dumps(value, ensure_ascii=False)


def _tool_name(tool: Any) -> Any:
    """Return a tool's name: what it says of itself is the same with every call, and longer than all the rest."""
    named = tool.get("function", tool) if isinstance(tool, Mapping) else tool
    return named.get("name", named) if isinstance(named, Mapping) else named


def _message(message: Any) -> str:
    if isinstance(message, Mapping) and isinstance(message.get("content"), str):
        more = {key: one for key, one in message.items() if key not in ("role", "content") and one}
        return f"[{message.get('role')}] {message['content']}{f' {json.dumps(more, ensure_ascii=False)}' if more else ''}"
    return json.dumps(message, ensure_ascii=False)


def _time(ns: int) -> str:
    return datetime.datetime.fromtimestamp(ns / 1e9).isoformat(sep=" ", timespec="seconds")
