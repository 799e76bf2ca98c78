"""What the tests of judges share: a POC, a run of it with given replies, and labels of people."""

import json
import threading

from conftest import CHARTER, PRICES
from poclab import TestSet, freezing
from poclab.judging import Rubric, draw
from poclab.judging import labels as judging_labels
from poclab.report import CaseResult, Report
from poclab.system import Reply, Version

#: The judge that counts words: a reply is correct when it holds the one word of the reference.
RUBRIC = Rubric("correctness", 1, {"correct": 1, "wrong": 0}, "Is it correct?", "offline/overlap-judge")
#: The same, judged by the tests' endpoint, which says what a reply tells it to: `ANSWER:{wrong}`.
ASKED = Rubric("correctness", 1, {"correct": 1, "wrong": 0}, "Is it correct?", "m")


def poc_of(folder, count=12, clusters=(), inputs=(), **more):
    """Make a POC with so many cases, each of which expects the word `alpha`; the first ones may be in clusters."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "charter.yaml").write_text(CHARTER + PRICES)
    lines = [
        {
            "id": f"q{i:02}",
            "inputs": {"question": f"case {i:02}", **dict(inputs)},
            "expected": {"answers": ["alpha"]},
            "split": "dev",
            **more,
        }
        for i in range(count)
    ]
    for line, cluster in zip(lines, clusters, strict=False):
        line["cluster"] = cluster
    (folder / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    freezing.freeze(folder / "cases.jsonl")
    return folder


def report_of(poc, replies=None, *, name="baseline", failed=()):
    """Return a run of a POC; a reply is a text or a `Reply`, `alpha` where none is given."""
    cases = TestSet.load(poc / "cases.jsonl")
    results = []
    for place, case in enumerate(cases):
        reply = (replies or {}).get(case.id, "alpha") if isinstance(replies or {}, dict) else replies[place]
        reply = reply if isinstance(reply, Reply) else Reply(reply)
        failure = "crashed" if case.id in failed else None
        common = {"inputs": case.inputs, "expected": case.expected, "tags": case.tags, "cluster": case.cluster}
        results.append(CaseResult(case.id, case.digest, 0, **common, reply=reply, scores={}, latency_s=0.0, failure=failure))
    return Report(Version(name), "cases.jsonl", cases.digest, 1, "dev", (), tuple(results), planned=len(results), run_id="r1")


def fill(path, says):
    """Label each reply of a sample with what `says` makes of its line, as a person does in an editor."""
    head, *lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [{**one, "label": says(one), "by": "Ada", "on": "2026-11-27"} if one["sampled"] else one for one in lines]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in (head, *lines)))


def labelled(poc, rubric, replies, says, *, sample=None):
    """Draw a sample of a run with these replies, all of them if no number is given, and have it labelled."""
    report = report_of(poc, replies)
    draw(poc, rubric, report, sample=sample or len(report.results), seed=0)
    fill(judging_labels.labels_path(poc, rubric), says)
    return poc


def wait_for_workers():
    """Return when nobody of this process asks any more: what an error left under way would draw pauses by chance while other tests run."""
    for worker in (one for one in threading.enumerate() if one.name == "poclab-worker"):
        worker.join(10)
