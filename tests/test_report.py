import dataclasses
import html.parser
import json
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import poclab
from poclab import redaction, scores
from poclab.errors import InputError
from poclab.files import digest
from poclab.report import OUTCOMES, CaseResult, Report
from poclab.scores import Score
from poclab.system import UNDER_WAY, Call, Passage, Prompt, Reply, Version

HOSTILE = """<script>alert(1)</script><img src=x onerror='alert("2")'> & \x1b[31m\x1b]0;title\x07\r\u202e"""
#: Odd but whole text: control characters, quotes, line and paragraph separators, emoji, no half characters.
ODD = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\x00\x1b\x7f\u2028\u202e"\\\r\n\ufeff😀'), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ODD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ODD, inner, max_size=3),
    max_leaves=6,
)


def result(case_id, score=1.0, *, repeat=0, failure=None, **more):
    """The result of a case: `score` is a value, or None for a score that does not apply."""
    values = {
        "case_id": case_id,
        "case_digest": f"digest of {case_id}",
        "repeat": repeat,
        "inputs": {"question": f"{case_id}?"},
        "expected": {"answers": ["yes"]},
        "tags": {},
        "cluster": None,
        "reply": Reply("" if failure else "yes"),
        "scores": {} if score is None else {"exact": Score(0.0 if failure else score, "yes", "equals 'yes'")},
        "latency_s": 1.0,
        "failure": failure,
    }
    return CaseResult(**{**values, **more})


def report(*results, **more):
    values = {
        "version": Version("plain", model="m-1"),
        "test_set": "animals",
        "lock_digest": "0123456789abcdef",
        "edition": 1,
        "split": "dev",
        "score_names": ("exact",),
        "results": results,
        "planned": len(results),
        "started_at": "2026-11-23T09:00:00+00:00",
    }
    return Report(**{**values, **more})


def call(status=200, **more):
    return Call(**{"model": "m-1", "path": "/chat/completions", "latency_s": 0.5, "status": status, **more})


class Elements(html.parser.HTMLParser):
    """The elements and attributes that a browser would see, and the text between them."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}

    def handle_data(self, data):
        self.text += data


def crashes_on(*bad):
    def system(inputs):
        if inputs["question"] in bad:
            raise RuntimeError("the system is down")
        return "yes"

    return system


@pytest.fixture
def ten_cases(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return [poclab.Case(f"q{number}", {"question": f"{number}?"}, {"answers": ["yes"]}) for number in range(10)]


def test_a_crashing_case_counts_as_wrong(ten_cases):
    """A system cannot raise its accuracy by failing to answer: 6 right of 10, not 6 of 6."""
    found = poclab.evaluate(crashes_on("0?", "1?", "2?", "3?"), ten_cases, [scores.exact()])

    assert found.mean("exact") == 0.6
    assert found.failed == 4
    assert found.metrics()["accuracy"] == 0.6
    assert found.metrics()["failed_share"] == 0.4
    assert [one.failure for one in found.results[:5]] == ["crashed"] * 4 + [None]
    assert "RuntimeError: the system is down" in found.results[0].error


@pytest.mark.parametrize("failure", ["crashed", "timeout", "malformed_output"])
def test_a_failed_case_never_leaves_the_denominator(failure):
    """Whatever the failure, the case is one of n, in the accuracy and in the share of failures."""
    found = report(result("q1"), result("q2", failure=failure))

    assert (found.mean("exact"), found.n, found.failed) == (0.5, 2, 1)
    assert found.estimates["failed_share"].value == 0.5
    assert found.estimates["latency_p95_s"].n == 2


def test_a_score_that_could_not_be_given_has_no_number():
    """The mean over the others would be a mean of other cases; the reader is told which cases are missing."""
    lost = {"exact": Score(None, "", "the scorer failed")}
    found = report(result("q1"), result("q2", scores=lost), result("q3"))

    assert found.unscored("exact") == ["q2"]
    assert "accuracy" not in found.metrics()
    assert "exact" not in found.estimates
    assert found.summary() == "no accuracy: exact is incomplete: 1 case(s) could not be scored: q2: the scorer failed"
    with pytest.raises(InputError, match="q2"):
        found.mean("exact")


def test_a_scorer_that_raises_makes_no_case_wrong(ten_cases):
    """Its score has no number; the other score, and the count of failures, are as they would be without it."""

    def picky(case, reply):
        return 1 / (case.id != "q3")

    found = poclab.evaluate(crashes_on(), ten_cases, [scores.exact(), picky])

    assert found.unscored("picky") == ["q3"]
    assert (found.mean("exact"), found.failed) == (1.0, 0)
    assert "ZeroDivisionError" in found.results[3].scores["picky"].reason


def test_an_unknown_score_is_refused_with_the_known_ones():
    """A misspelt name is no 0."""
    with pytest.raises(InputError, match="no score 'exakt'(.|\n)*use one of: exact"):
        report(result("q1")).mean("exakt")


def test_a_score_counts_only_the_cases_it_applies_to():
    """Its n says so; one that applies to none has no number, and says that too."""
    assert report(result("q1"), result("q2", None)).estimate("exact").n == 1
    nowhere = report(result("q1", None))
    assert nowhere.summary() == "no accuracy: exact applies to none of the 1 cases that were evaluated"
    assert "accuracy" not in nowhere.metrics()


def test_repeats_are_averaged_within_their_case():
    """Two cases asked three times are two cases: (2/3 + 0) / 2 = 1/3, n = 2; each repeat that failed is counted."""
    asked = [result("q1", value, repeat=index) for index, value in enumerate([1.0, 0.0, 1.0])]
    failed = [result("q2", repeat=index, failure="timeout") for index in range(3)]

    found = report(*asked, *failed, repeats=3)

    estimate = found.estimate("exact")
    assert (estimate.value, estimate.n) == (pytest.approx(1 / 3), 2)
    assert (found.n, found.failed, found.metrics()["cases"]) == (2, 3, 2)
    assert found.estimates["failed_share"].value == 0.5


def test_paraphrases_count_as_their_cluster():
    """Four right cases of two clusters are two observations, not four: a wider interval than without clusters."""
    apart = report(*(result(f"q{index}") for index in range(4))).estimate("exact")
    together = report(*(result(f"q{index}", cluster=f"c{index // 2}") for index in range(4))).estimate("exact")

    assert together.low < apart.low
    assert together.n == 4


def test_the_metrics_are_flat_rounded_and_finite():
    """MLflow gets numbers alone: six digits, and no open edge. One case of latency 1/3 has no upper edge of its p95."""
    known = call(tokens_in=10, tokens_out=2, cost_usd=0.25)
    metrics = report(result("q1", 1.0, latency_s=1 / 3, calls=(known,)), result("q2", 0.0), result("q3", 0.0, calls=(known,))).metrics()

    assert metrics["accuracy"] == metrics["exact"] == 0.333333
    assert metrics["latency_p50_s"] == 1.0
    assert "latency_p95_s_high" not in metrics
    assert {"accuracy_low", "accuracy_high", "failed_share_high"} <= set(metrics)
    assert (metrics["cost_usd"], metrics["cost_usd_per_case"], metrics["tokens_in"], metrics["tokens_out"]) == (0.5, 0.166667, 20, 4)
    assert (metrics["failed"], metrics["cases"]) == (0, 3)
    assert all(isinstance(value, (int, float)) and math.isfinite(value) for value in metrics.values())
    assert all(re.fullmatch(r"\w+", name, re.ASCII) for name in metrics)


@pytest.mark.parametrize("calls", [(), (call(),), (call(cost_usd=0.1, tokens_in=1), call())])
def test_an_unknown_cost_is_not_0(calls):
    """One call without a price, or no call that poclab saw, leaves the cost unknown: None in data, absent in metrics."""
    found = report(result("q1", calls=calls))

    assert found.total("cost_usd") is None
    assert "cost_usd" not in found.metrics()
    assert "cost_usd_per_case" not in found.metrics()
    assert found.to_json()["aggregates"]["cost_usd"] is None
    assert found.frame()["cost_usd"].isna().all()
    assert "cost: unknown" in repr(found)


def test_a_cost_of_0_is_known():
    """An offline model costs nothing; a call that was not answered is not billed, and does not make the rest unknown."""
    found = report(result("q1", calls=(call(cost_usd=0.0, tokens_in=3, tokens_out=0), call(status=500), call(status=0))))

    assert found.total("cost_usd") == 0
    assert found.total("tokens_in") == 3
    assert "cost: $0.0000" in repr(found)


def test_a_call_that_was_under_way_when_the_time_ran_out_makes_the_sums_unknown():
    """It may be billed: what it used is unknown, and unknown is not zero."""
    answered = result("q1", calls=(call(cost_usd=0.5, tokens_in=3, tokens_out=1),))
    found = report(answered, result("q2", failure="timeout", calls=(call(status=UNDER_WAY),)))

    assert [found.total(what) for what in ("cost_usd", "tokens_in", "tokens_out")] == [None] * 3


def test_the_failures_are_told_with_their_error():
    """The commonest first; of a traceback the last line, with the first case it happened to."""
    trace = "Traceback (most recent call last):\n  File x\nKeyError: 'n'"
    found = report(
        result("q1", failure="timeout", error="took longer than 1 s"), *(result(n, failure="crashed", error=trace) for n in ("q2", "q3"))
    )

    assert found.failures == ["2 crashed: KeyError: 'n' (first: case q2)", "1 timeout: took longer than 1 s (first: case q1)"]
    assert "failed: 2 crashed: KeyError: 'n' (first: case q2)" in repr(found)
    assert list(found.frame()["error"]) == ["took longer than 1 s", "KeyError: 'n'", "KeyError: 'n'"]


def test_the_frame_has_a_line_per_case_and_repeat():
    """Columns in the order a person reads: which case, what was asked, expected and answered, how it was scored, what it took."""
    one = result("q1", 1.0, tags={"kind": "lookup"}, calls=(call(tokens_in=5, tokens_out=1, cost_usd=0.0),), trace_id="tr-1")
    table = report(one, result("q2", failure="crashed", tags={"kind": "lookup"})).frame()

    assert list(table.columns) == [
        *("case", "repeat", "kind", "question", "expected", "reply", "exact", "failure", "error", "outcome", "latency_s"),
        *("cost_usd", "tokens_in", "tokens_out", "trace_id"),
    ]
    assert table.iloc[0].to_dict() | {"failure": None} == {
        **{"case": "q1", "repeat": 0, "kind": "lookup", "question": "q1?", "expected": "yes", "reply": "yes", "exact": 1.0},
        **{
            "failure": None,
            "error": None,
            "outcome": "ok",
            "latency_s": 1.0,
            "cost_usd": 0.0,
            "tokens_in": 5,
            "tokens_out": 1,
            "trace_id": "tr-1",
        },
    }
    assert table["failure"].tolist()[1] == "crashed"
    assert table["exact"].tolist() == [1.0, 0.0]


def test_an_input_cannot_take_the_place_of_a_column():
    """Inputs and tags are named by the user; one called `reply` or `case` stands beside the real one."""
    one = result("q1", inputs={"question": "?", "reply": "draft", "kind": "b"}, tags={"case": "x", "kind": "a", "exact": "t"})
    row = report(one).frame().iloc[0]

    assert (row["case"], row["reply"], row["exact"], row["kind"]) == ("q1", "yes", 1.0, "a")
    assert (row["tag:case"], row["input:reply"], row["tag:exact"], row["input:kind"]) == ("x", "draft", "t", "b")


def full_report():
    contexts = [Passage("a passage", "doc.md", 3, 12)]
    data = {"list": [1, 2.5, None, True], "deep": {"é": "😀"}}
    return report(
        result("q1", 1 / 3, reply=Reply("t", data, contexts, [{"sent": 1}]), calls=(call(tokens_in=1),), tags={"kind": "a"}, cluster="c"),
        result("q2", True, trace_id="tr-2", request_id="r"),
        result("q3", failure="timeout", error="no reply within 1 s"),
        result("q4", None),
        version=Version("v", prompt=Prompt("prompts/p.md", "{{question}}"), k=3, names=["a"]),
        corpus_digest="c0",
        charter_digest="ch",
        run_id="run",
        link="http://127.0.0.1/#/runs/run",
        warnings=("one", "two"),
        planned=9,
    )


def test_a_saved_report_comes_back_equal(tmp_path):
    """Every field, of every type that it can have: what was written is what is read."""
    written = full_report()

    read = Report.load(written.save(tmp_path / "report.json"))

    assert read == written
    assert read.content_digest() == written.content_digest()
    assert (read.partial, read.metrics()) == (True, written.metrics())
    assert [type(one.scores["exact"].value) for one in read.results[:2]] == [float, bool]


@settings(max_examples=60, deadline=None)
@given(text=ODD, data=JSON, reason=ODD, case_id=ODD, error=ODD)
def test_odd_texts_survive_the_file(tmp_path_factory, text, data, reason, case_id, error):
    """Control characters, separators, emoji, any JSON: a reply is kept as it was given."""
    scored = {"exact": Score(1.0, text, reason)}
    written = report(result(case_id, reply=Reply(text, data), scores=scored, error=error, inputs={"question": text, "more": data}))

    read = Report.load(written.save(tmp_path_factory.mktemp("odd") / "report.json"))

    assert read == written
    assert read.content_digest() == written.content_digest()
    repr(read), read._repr_html_(), read.frame()


@pytest.mark.parametrize("broken", ["\ud83d", "\ude00", "a\ud83d\ude00b"])
def test_half_a_character_does_not_lose_the_report(tmp_path, broken):
    """A reply with one is malformed output, but an error or the reason of a scorer can hold it: the report is still written and read."""
    written = report(result("q1", failure="crashed", error=broken, scores={"exact": Score(0.0, broken, broken)}))

    read = Report.load(written.save(tmp_path / "report.json"))

    assert read.results[0].failure == "crashed"
    assert read.mean("exact") == 0
    assert "\ud83d" not in repr(read)


def test_a_reply_with_half_a_character_is_malformed_output(ten_cases):
    """No store and no file can hold it, so it counts as wrong, and the run goes on."""
    found = poclab.evaluate(lambda inputs: "\ud83d" if inputs["question"] == "0?" else "yes", ten_cases, [scores.exact()])

    assert [one.failure for one in found.results] == ["malformed_output"] + [None] * 9
    assert found.mean("exact") == 0.9


def test_a_key_in_a_reply_is_not_written(tmp_path, monkeypatch):
    """What a model repeats of a key is removed from the file, the file is whole all the same, and its digest is the report's."""
    monkeypatch.setenv("SOME_API_KEY", "sk-0123456789")
    leaky = Version("leaky", header="sk-0123456789")
    written = report(result("q1", reply=Reply("my key is sk-0123456789")), version=leaky)

    path = written.save(tmp_path / "report.json")

    assert "sk-0123456789" not in path.read_text(encoding="utf-8")
    assert Report.load(path).results[0].reply.text == f"my key is {redaction.CONCEALED}"


def test_a_key_in_a_reply_does_not_change_the_content_digest(tmp_path, monkeypatch):
    """The run is tagged with the digest of the report in memory; the report that is loaded from it has the same."""
    monkeypatch.setenv("SOME_API_KEY", "sk-0123456789")
    written = report(result("q1", reply=Reply("my key is sk-0123456789")))

    assert Report.load(written.save(tmp_path / "report.json")).content_digest() == written.content_digest()


def edits():
    def reply(data):
        data["results"][1]["reply"]["text"] = "no"

    def score(data):
        data["results"][2]["scores"]["exact"]["value"] = 1.0

    def failure(data):
        data["results"][2]["failure"] = None

    def cluster(data):
        data["results"][0]["cluster"] = None

    def latency(data):
        data["results"][0]["latency_s"] = 0.001

    def planned(data):
        data["planned"] = 4

    def removed(data):
        del data["results"][3]

    def aggregate(data):
        data["aggregates"]["accuracy"]["value"] = 1.0

    def no_digest(data):
        del data["file_digest"]

    return [reply, score, failure, cluster, latency, planned, removed, aggregate, no_digest]


@pytest.mark.parametrize("edit", edits(), ids=lambda edit: edit.__name__)
def test_an_edited_report_is_refused(tmp_path, edit):
    """No number of a report can be improved afterwards, and no partial one made whole."""
    path = full_report().save(tmp_path / "report.json")
    data = json.loads(path.read_text(encoding="utf-8"))
    edit(data)
    path.write_text(json.dumps(data), encoding="utf-8")

    with pytest.raises(InputError, match="report.json: changed since it was written"):
        Report.load(path)


def test_a_report_laid_out_anew_is_the_same(tmp_path):
    """The digest is over what the file says, not over its white space or the order of its keys."""
    path = full_report().save(tmp_path / "report.json")
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=2, sort_keys=True), encoding="utf-8")

    assert Report.load(path) == full_report()


@pytest.mark.parametrize("text", ["", "[]", "null", '{"format": 99}', "{}", "not json", '{"format": 1, "format": 1}'])
def test_what_is_no_report_is_refused(tmp_path, text):
    """The error names the file."""
    path = tmp_path / "report.json"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(InputError, match="report.json"):
        Report.load(path)


def test_the_content_digest_leaves_out_what_differs_between_runs():
    """Times, ids, traces, reasons and the wording of an error are not what a repeated run must equal."""
    one = full_report()
    others = tuple(
        dataclasses.replace(
            item, latency_s=9.9, trace_id="tr-9", request_id="r9", error="other words", calls=(), scores=reworded(item.scores)
        )
        for item in one.results
    )
    other = dataclasses.replace(one, results=others, started_at="2027", wall_s=77.0, run_id="other", link=None, warnings=())

    assert other.content_digest() == one.content_digest()


def reworded(given_scores):
    return {name: dataclasses.replace(score, reason="because") for name, score in given_scores.items()}


CHANGES = {
    "reply": {"reply": Reply("no")},
    "data": {"reply": Reply("yes", {"a": 1})},
    "contexts": {"reply": Reply("yes", contexts=["passage"])},
    "score": {"scores": {"exact": Score(0.0, "yes")}},
    "bool": {"scores": {"exact": Score(True, "yes")}},
    "answer": {"scores": {"exact": Score(1.0, "no")}},
    "failure": {"failure": "timeout"},
    "case": {"case_digest": "another"},
    "repeat": {"repeat": 1},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_content_digest_covers_every_result(change):
    """One other reply, score, failure or case is another content."""
    one = result("q1")

    assert report(dataclasses.replace(one, **change)).content_digest() != report(one).content_digest()


@pytest.mark.parametrize(
    "change",
    [
        {"version": Version("plain", model="m-2")},
        {"lock_digest": "ff"},
        {"split": "test"},
        {"corpus_digest": "c1"},
        {"score_names": ("exact", "f1")},
        {"planned": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_content_digest_covers_what_was_evaluated(change):
    """Another version, set, split, corpus or list of scores is another content; a version's name is only a label."""
    assert report(result("q1"), **change).content_digest() != report(result("q1")).content_digest()
    assert report(result("q1"), version=Version("renamed", model="m-1")).content_digest() == report(result("q1")).content_digest()


def test_a_partial_report_says_so():
    """In text, in a notebook, and as data: nobody decides on it by mistake. Even when nothing was answered."""
    found = report(result("q1"), planned=3)

    assert found.partial
    assert not report(result("q1")).partial
    assert "PARTIAL: stopped after 1 of 3: not a result to decide on" in repr(found)
    assert "PARTIAL" in found._repr_html_()
    assert found.to_json()["partial"] is True
    nothing = report(planned=3)
    assert "PARTIAL: stopped after 0 of 3" in repr(nothing)
    assert nothing.metrics() == {"failed": 0, "cases": 0, "retried": 0, **{f"outcome_{name}": 0 for name in OUTCOMES}}
    assert "no accuracy" in nothing._repr_html_()


def test_the_summary_gives_the_number_with_its_interval_and_n():
    """41 of 50: Wilson's 0.692 to 0.902 (CONVENTIONS states it as 0.69 to 0.90)."""
    results = [result(f"q{index}", 1.0 if index < 41 else 0.0) for index in range(48)]
    failed = [result(f"f{index}", failure="crashed") for index in range(2)]

    assert report(*results, *failed).summary() == "0.820 (0.692 to 0.902, n = 50, 2 failed) by exact"


def test_the_text_form_names_what_a_reader_needs():
    """Accuracy first, then the set and its lock, the further numbers, an open edge as open, the cost, the run, the warnings."""
    found = report(result("q1"), run_id="run-1", warnings=("not frozen",), edition=None)

    assert repr(found).splitlines() == [
        "plain: 1.000 (0.207 to 1.000, n = 1, 0 failed) by exact",
        "  set: animals dev (lock 0123456789ab, not frozen)",
        "  failed_share: 0.000 (0.000 to 0.793, n = 1)",
        "  latency_p50_s: 1.000 (open to open, n = 1)",
        "  latency_p95_s: 1.000 (open to open, n = 1)",
        "  outcomes: ok 1",
        "  cost: unknown (no model call was seen)",
        "  run: run-1",
        "  note: not frozen",
    ]


def hostile_report():
    one = result(
        HOSTILE,
        0.0,
        inputs={"question": HOSTILE},
        expected={"answers": [HOSTILE]},
        tags={HOSTILE: HOSTILE},
        reply=Reply(HOSTILE),
        scores={"exact": Score(0.0, HOSTILE, HOSTILE)},
    )
    crashed = dataclasses.replace(one, case_id="q2", reply=Reply(), failure="crashed", error=HOSTILE)
    as_data = dataclasses.replace(one, case_id="q3", reply=Reply(data={HOSTILE: HOSTILE}), inputs={HOSTILE: HOSTILE})
    unscored = dataclasses.replace(one, case_id="q4", scores={"f1": Score(None, HOSTILE, HOSTILE)})
    names = {"test_set": HOSTILE, "split": HOSTILE, "warnings": (HOSTILE,), "run_id": "r", "link": HOSTILE, "lock_digest": HOSTILE}
    return report(one, crashed, as_data, unscored, version=Version(HOSTILE), score_names=("exact", "f1"), **names)


def test_nothing_that_somebody_wrote_is_markup():
    """Case ids, inputs, labels, names, replies, reasons, errors, warnings, links: a browser sees them as text alone."""
    seen = Elements(hostile_report()._repr_html_())

    assert seen.tags <= {"div", "p", "b", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "code"}
    assert seen.attributes <= {"class", "style"}
    # The name of the version, set, split, run and warning; then case, input, expected, reply, reason of four rows.
    assert seen.text.count("<script>alert(1)</script>") >= 20
    assert not re.search(r"<script|<img", hostile_report()._repr_html_())
    unscored = report(result(HOSTILE, scores={"exact": Score(None)}))
    assert not re.search(r"<script|<img", unscored._repr_html_())  # the summary names the case


def test_nothing_that_somebody_wrote_drives_a_terminal():
    """Of control characters only the line ends of the form itself reach the terminal; no reply can rewrite a line, or turn it round."""
    shown = repr(hostile_report())

    assert all(char.isprintable() for line in shown.split("\n") for char in line)
    assert r"\x1b[31m\x1b]0;title\x07\r\u202e" in shown


def test_a_notebook_shows_the_worst_cases_first_and_not_all():
    """Failed before wrong before right; from the 41st on the frame has them, and the page says how many."""
    results = [result(f"q{index:02}", 1.0) for index in range(41)]
    results += [result("wrong", 0.0), result("failed", failure="timeout"), result("unlabelled", None)]

    page = report(*results)._repr_html_()

    assert page.index("failed</td>") < page.index(">wrong</td>") < page.index(">q00</td>")
    assert "4 more in report.frame()" in page
    assert ">unlabelled</td>" not in page


def test_a_notebook_page_has_no_colours_and_no_formulas():
    """It is read on dark and on light, and two prices in it are no mathematics."""
    page = full_report()._repr_html_()

    assert "color" not in page.replace("var(--jp-border-color1,#888)", "")  # a line in the theme's colour, else in grey
    assert "background" not in page
    assert page.startswith("<div class='tex2jax_ignore mathjax_ignore'")


def test_the_values_are_one_per_case_by_its_id():
    """Repeats averaged, a case that a score does not apply to left out; `accuracy` is the first score."""
    asked = [result("q1", value, repeat=index) for index, value in enumerate([1.0, 0.0, 0.5])]
    found = report(*asked, result("q2", failure="crashed"), result("q3", None))

    assert found.values("exact") == found.values("accuracy") == {"q1": 0.5, "q2": 0.0}
    assert found.values("failed_share") == {"q1": 0.0, "q2": 1.0, "q3": 0.0}


def test_values_keep_the_order_of_the_cases():
    """Whoever lines up two reports does so by id; the order is still the one that a person knows."""
    assert list(report(result("q2"), result("q1")).values("exact")) == ["q2", "q1"]


@pytest.mark.parametrize("metric", ["exakt", "latency_p95_s", "cost_usd", "failed"])
def test_what_has_no_value_per_case_is_refused_with_what_has(metric):
    """A quantile and a sum are of all cases; a misspelt name is no 0."""
    with pytest.raises(InputError, match=f"no score '{metric}'(.|\n)*exact, accuracy, failed_share, cost_usd_per_case"):
        report(result("q1")).values(metric)


def test_the_cost_per_case_is_the_mean_of_what_each_was_billed():
    """Two calls of one case add up, a case without a call cost nothing, repeats are averaged: (0.03 + 0 + 0.015) / 3."""
    cents = [call(cost_usd=value) for value in (0.01, 0.02)]
    repeats = [result("q3", repeat=index, calls=(call(cost_usd=value),)) for index, value in enumerate((0.01, 0.02))]
    found = report(result("q1", calls=tuple(cents)), result("q2"), *repeats)

    assert found.values("cost_usd_per_case") == {"q1": pytest.approx(0.03), "q2": 0.0, "q3": pytest.approx(0.015)}
    assert found.mean("cost_usd_per_case") == pytest.approx(0.015)


def test_a_call_that_nobody_bills_does_not_change_what_a_case_cost():
    """An attempt that was refused, before one that was answered: the case cost what the answer cost."""
    assert report(result("q1", calls=(call(status=500), call(cost_usd=0.01)))).values("cost_usd_per_case") == {"q1": 0.01}


def test_the_cost_per_case_has_an_interval():
    """Twenty cases of 0.01: Wilson of a half over 20 is 0.2993 to 0.7007, of twice the largest cost 0.005986 to 0.014014."""
    found = report(*(result(f"q{place}", calls=(call(cost_usd=0.01),)) for place in range(20))).estimates["cost_usd_per_case"]

    assert (found.value, found.low, found.high, found.n) == (
        *(pytest.approx(0.01), pytest.approx(0.005986, abs=1e-6), pytest.approx(0.014014, abs=1e-6), 20),
    )


def test_a_model_that_is_free_costs_nothing_for_certain():
    """Nothing but zeros is no sample of prices: 0 to 0. One unknown price is no 0, and says so."""
    free = report(*(result(f"q{place}", calls=(call(cost_usd=0.0),)) for place in range(3)))
    unknown = report(result("q1", calls=(call(cost_usd=0.0),)), result("q2", calls=(call(),)))

    assert (free.estimates["cost_usd_per_case"].low, free.estimates["cost_usd_per_case"].high) == (0.0, 0.0)
    assert "cost_usd_per_case" not in unknown.estimates
    with pytest.raises(InputError, match="the cost is unknown"):
        unknown.values("cost_usd_per_case")


def test_a_small_cost_is_not_rounded_to_nothing():
    """A case may cost a millionth of a dollar: costs keep six digits, whatever their size; a rate has six places."""
    metrics = report(*(result(f"q{place}", 1 / 3, calls=(call(cost_usd=1.23456789e-06),)) for place in range(2))).metrics()

    assert (metrics["cost_usd_per_case"], metrics["cost_usd"]) == (1.23457e-06, 2.46914e-06)
    assert 0 < metrics["cost_usd_per_case_low"] < metrics["cost_usd_per_case"] < metrics["cost_usd_per_case_high"]
    assert metrics["accuracy"] == 0.333333


def test_a_brief_report_holds_what_a_comparison_reads(tmp_path):
    """Every value, failure and number; replies are cut, passages and tracebacks left out, and data is there as text."""
    long = Reply("x" * 2000, {"k": 1}, [Passage("p" * 2000)], ["sent"])
    trace = "Traceback (most recent call last):\n  File x\nKeyError: 'n'"
    whole = report(
        result("q1", 1 / 3, reply=long, cluster="c", tags={"kind": "a"}, calls=(call(cost_usd=0.5),)),
        result("q2", reply=Reply(data={"é": [1]}), scores={"exact": Score(1.0, "y" * 2000, "r" * 2000)}),
        result("q3", failure="crashed", error=trace),
    )

    brief = whole.shortened()

    assert (brief.brief, whole.brief) == (True, False)
    assert brief.results[0].reply == Reply("x" * 500)
    assert brief.results[1].reply == Reply('{"é": [1]}')
    assert (brief.results[1].scores["exact"].reason, brief.results[1].scores["exact"].answer) == ("r" * 500, "")
    assert (brief.results[2].failure, brief.results[2].error) == ("crashed", "KeyError: 'n'")
    assert brief.metrics() == whole.metrics()
    assert brief.failures == whole.failures
    assert len(brief.save(tmp_path / "b.json").read_bytes()) < len(whole.save(tmp_path / "w.json").read_bytes()) / 2


def test_a_saved_brief_report_comes_back_equal(tmp_path):
    """With its numbers as they were worked out, open edges included; they can be worked out again from the results."""
    brief = full_report().shortened()

    read = Report.load(brief.save(tmp_path / "brief.json"))

    assert read == brief
    assert read.estimates == full_report().estimates
    assert math.isinf(read.estimates["latency_p95_s"].high)
    assert read.afresh().estimates == read.estimates
    assert "estimates" not in vars(read.afresh())


def test_a_brief_report_has_no_content_digest(tmp_path):
    """Its replies are cut: a digest of them would be taken for that of the run."""
    brief = full_report().shortened()

    assert brief.to_json()["content_digest"] is None
    assert full_report().to_json()["content_digest"] == full_report().content_digest()
    assert json.loads(brief.save(tmp_path / "brief.json").read_text(encoding="utf-8"))["content_digest"] is None


@pytest.mark.parametrize("edit", edits()[:2] + edits()[-2:], ids=lambda edit: edit.__name__)
def test_an_edited_brief_report_is_refused(tmp_path, edit):
    """Its numbers are taken from the file as they stand, so no digit of it may have changed."""
    path = full_report().shortened().save(tmp_path / "brief.json")
    data = json.loads(path.read_text(encoding="utf-8"))
    edit(data)
    path.write_text(json.dumps(data), encoding="utf-8")

    with pytest.raises(InputError, match="brief.json: changed since it was written"):
        Report.load(path)


def test_a_report_from_before_there_were_brief_ones_is_read(tmp_path):
    """A run that was recorded earlier is still compared; what does not say `brief` is whole."""
    path = full_report().save(tmp_path / "report.json")
    data = json.loads(path.read_text(encoding="utf-8"))
    del data["file_digest"], data["brief"]
    path.write_text(json.dumps({**data, "file_digest": digest(data)}), encoding="utf-8")

    assert Report.load(path) == full_report()


def test_a_failed_request_keeps_no_latency_bound():
    """A system that raises on its slow cases does not become a fast one: what failed counts as the slowest request."""
    answers = [result(f"q{number}", latency_s=1.0) for number in range(99)]
    found = report(
        *answers, result("slow", latency_s=9.0), *(result(f"x{number}", failure="crashed", latency_s=0.1) for number in range(10))
    )

    assert found.estimates["latency_p95_s"].value == 9.0
    assert found.results[-1].latency_s == 0.1


@pytest.mark.parametrize(
    ("calls", "why"),
    [
        ((), "no model call was seen"),
        (({"cost_usd": None, "tokens_in": 5, "tokens_out": 5},), "'m' has no price: add it to `prices` of charter.yaml"),
        (({"cost_usd": None},), "the endpoint did not say how many tokens an answer took"),
    ],
)
def test_an_unknown_cost_says_why(calls, why):
    """So that whoever reads it knows what to do about it."""
    found = report(result("q1", calls=[Call("m", "/chat/completions", 0.1, 200, **one) for one in calls]))

    assert f"cost: unknown ({why}" in repr(found)
    with pytest.raises(InputError, match=re.escape(why)):
        found.estimate("cost_usd_per_case")


def test_a_case_that_was_never_answered_shows_no_cost():
    """One answer of a dollar and one connection that broke: an answered case costs a dollar, not half of one."""
    paid = result("q1", calls=[Call("m", "/chat/completions", 0.1, 200, cost_usd=1.0)])
    broken = result("q2", failure="connection", calls=[Call("m", "/chat/completions", 0.1, 0, lost=1)])

    assert report(paid, broken).estimate("cost_usd_per_case").value == 1.0
    assert "1 request(s) without an answer may be billed besides" in repr(report(paid, broken))
