"""`evaluate` without a store: how replies become results. What it records is in test_tracking_*.py."""

import asyncio
import contextvars
import dataclasses
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import poclab
from poclab import scores
from poclab.cases import Case
from poclab.errors import FrozenError, InputError
from poclab.evaluation import LONGEST_ERROR
from poclab.system import Reply, Version, step

TEN = [Case(f"q{n}", {"n": n}, {"answers": [str(n)]}) for n in range(10)]


@pytest.fixture(autouse=True)
def _nowhere(tmp_path, monkeypatch):
    # A folder without a POC, so that nothing is recorded.
    monkeypatch.chdir(tmp_path)


def right(inputs):
    return str(inputs["n"])


def test_a_crashing_case_counts_as_wrong():
    """A system cannot raise its accuracy by failing to answer."""

    def answers_six_crashes_four(inputs):
        if inputs["n"] >= 6:
            raise RuntimeError("no")
        return str(inputs["n"])

    report = poclab.evaluate(answers_six_crashes_four, TEN, [scores.exact()])

    assert report.mean("exact") == 0.6
    assert report.failed == 4
    assert report.n == 10
    assert {one.failure for one in report.results[6:]} == {"crashed"}
    assert "RuntimeError: no" in report.results[6].error
    assert "answers_six_crashes_four" in report.results[6].error


def test_a_case_without_a_reply_in_time_counts_as_wrong():
    """Its class is timeout; the others are not held up."""
    free = threading.Event()

    def hangs_on_three(inputs):
        if inputs["n"] == 3:
            free.wait()
        return str(inputs["n"])

    report = poclab.evaluate(hangs_on_three, TEN, [scores.exact()], timeout_s=0.3)
    free.set()

    assert report.mean("exact") == 0.9
    assert [one.case_id for one in report.results if one.failure == "timeout"] == ["q3"]
    assert report.results[3].error == "took longer than 0.3 s"
    assert report.results[3].latency_s >= 0.3


@pytest.mark.parametrize("value", [None, 7, ["a"], {"a": float("nan")}, {"a": {1, 2}}, Reply(data=(1, 2))])
def test_a_reply_that_is_none_counts_as_wrong(value):
    """A system that returns nothing, or what no report can hold, has not answered."""
    report = poclab.evaluate(lambda inputs: value, TEN[:1], [scores.exact()])

    assert (report.failed, report.results[0].failure) == (1, "malformed_output")
    assert report.mean("exact") == 0


def test_text_data_and_replies_are_replies():
    """Any callable is a system."""
    values = {0: "0", 1: {"n": 1}, 2: Reply("2", contexts=["where it stood"])}
    report = poclab.evaluate(lambda inputs: values[inputs["n"]], TEN[:3], [scores.exact()])

    assert [one.reply for one in report.results] == [Reply("0"), Reply(data={"n": 1}), values[2]]
    assert report.failed == 0


def test_a_coroutine_function_is_a_system_also_where_a_loop_is_running():
    """Sync outside: a notebook's running event loop does not matter."""

    async def answer(inputs):
        await asyncio.sleep(0)
        return str(inputs["n"])

    async def notebook():
        return poclab.evaluate(answer, TEN, [scores.exact()])

    assert asyncio.run(notebook()).mean("exact") == 1


def test_coroutines_of_all_cases_share_one_event_loop():
    """A client with a connection pool belongs to the loop it was first used in: in another one it fails."""
    loops = []

    async def answer(inputs):
        loops.append(asyncio.get_running_loop())
        if inputs["n"] == 5:
            raise SystemExit(1)
        return str(inputs["n"])

    reports = [poclab.evaluate(answer, TEN, [scores.exact()], workers=4) for _ in range(2)]

    assert len(set(loops)) == 1
    assert [report.mean("exact") for report in reports] == [0.9, 0.9]


def test_a_slow_scorer_makes_no_answer_late():
    """Scoring has as much time of its own; a scorer that takes longer leaves its score without a number, and the reply stays."""

    def slow(case, reply):
        time.sleep(0.3 if case.id == "q0" else 0.7)
        return reply.text == "0"

    report = poclab.evaluate(lambda inputs: time.sleep(0.3) or "0", TEN[:2], [scores.exact(), slow], timeout_s=0.5)

    assert [(one.failure, one.reply.text) for one in report.results] == [(None, "0"), (None, "0")]
    assert report.results[0].scores["exact"].value == 1
    assert report.unscored("exact") == report.unscored("slow") == ["q1"]
    assert "took longer than 0.5 s" in report.results[1].scores["slow"].reason


def test_a_reply_is_kept_as_it_was_given():
    """A system may use one dict for all its replies."""
    data = {}

    def answer(inputs):
        data["n"] = inputs["n"]
        return data

    report = poclab.evaluate(answer, TEN, [scores.exact()], workers=1)

    assert [one.reply.data["n"] for one in report.results] == list(range(10))


def test_results_stand_in_the_order_of_the_cases_with_their_repeats_together():
    """However the answers come in."""

    def slow_at_first(inputs):
        time.sleep(0.02 * (10 - inputs["n"]))
        return str(inputs["n"])

    report = poclab.evaluate(slow_at_first, TEN, [scores.exact()], repeats=2, workers=20)

    assert [(one.case_id, one.repeat) for one in report.results] == [(f"q{n}", repeat) for n in range(10) for repeat in (0, 1)]
    assert (report.n, report.repeats, report.planned, report.partial) == (10, 2, 20, False)


def test_repeats_are_averaged_within_a_case():
    """Right once of two is half a case: (9 + 0.5) / 10, over 10 cases, not 20."""
    asked = []

    def forgets_once(inputs):
        asked.append(inputs["n"])
        return "?" if inputs["n"] == 4 and asked.count(4) == 1 else str(inputs["n"])

    report = poclab.evaluate(forgets_once, TEN, [scores.exact()], repeats=2, workers=1)

    assert report.mean("exact") == 0.95
    assert report.estimates["accuracy"].n == 10


@given(st.lists(st.sampled_from(["right", "wrong", "crash", "nothing"]), min_size=1, max_size=10), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_accuracy_is_the_share_of_right_replies_whatever_else_happens(ways, workers):
    """No way to fail takes a case out of the denominator."""

    def answer(inputs):
        way = ways[inputs["n"]]
        if way == "crash":
            raise ValueError(way)
        return {"right": str(inputs["n"]), "wrong": "no", "nothing": None}[way]

    report = poclab.evaluate(answer, TEN[: len(ways)], [scores.exact()], workers=workers)

    assert report.estimates["accuracy"].value == pytest.approx(ways.count("right") / len(ways))
    assert report.failed == ways.count("crash") + ways.count("nothing")
    assert report.n == len(ways)


def test_the_content_digest_is_the_same_when_the_same_is_done_again():
    """Times and ids differ from run to run; what was answered does not."""
    one, two = (poclab.evaluate(right, TEN, [scores.exact()], version=Version("v", a=1)) for _ in range(2))
    other = poclab.evaluate(lambda inputs: "no", TEN, [scores.exact()], version=Version("v", a=1))

    assert one.content_digest() == two.content_digest() != other.content_digest()


def test_a_scorer_that_raises_leaves_its_score_without_a_number():
    """It makes no case right or wrong, and no average is given."""

    def fussy(case, reply):
        if case.id == "q5":
            raise KeyError("unforeseen")
        return True

    report = poclab.evaluate(right, TEN, [scores.exact(), fussy])

    assert report.unscored("fussy") == ["q5"]
    assert "fussy" not in report.metrics()
    assert report.mean("exact") == 1
    with pytest.raises(InputError):
        report.mean("fussy")


def test_a_scorer_of_ones_own_is_a_function():
    """`True`, a number, or None where it does not apply; its name is its score's."""

    def is_even(case, reply):
        return None if case.id == "q9" else int(reply.text) % 2 == 0

    report = poclab.evaluate(right, TEN, [is_even])

    assert report.estimates["is_even"].n == 9
    assert report.mean("is_even") == pytest.approx(5 / 9)


def test_steps_and_context_variables_reach_the_system():
    """What the caller set is seen in the workers; what one case sets is not seen by the next."""
    setting = contextvars.ContextVar("setting", default="none")
    setting.set("the caller's")
    seen = []

    def answer(inputs):
        with step("look", "TOOL"):
            seen.append(setting.get())
        return str(inputs["n"])

    poclab.evaluate(answer, TEN, [scores.exact()])

    assert seen == ["the caller's"] * 10


def test_a_system_cannot_change_the_cases():
    """It gets a copy of the inputs."""

    def spoils(inputs):
        inputs["n"] = "spoiled"
        return "x"

    report = poclab.evaluate(spoils, TEN, [scores.exact()])

    assert [one.inputs for one in report.results] == [{"n": n} for n in range(10)]


def test_the_version_is_the_one_that_the_system_was_built_from():
    """Parameters as used, never as wished."""

    class Built:
        version = Version("built", chunk_size=400, overlap=0)

        def __call__(self, inputs):
            return str(inputs["n"])

    report = poclab.evaluate(Built(), TEN, [scores.exact()], version=Version("mine", chunk_size=400))

    assert (report.version.name, report.version.parameters) == ("mine", {"chunk_size": 400, "overlap": 0})
    assert poclab.evaluate(Built(), TEN, [scores.exact()]).version.name == "built"
    with pytest.raises(InputError, match="'mine' says chunk_size = 800, but the system uses 400"):
        poclab.evaluate(Built(), TEN, [scores.exact()], version=Version("mine", chunk_size=800))


def test_a_prompt_counts_by_its_text_and_is_called_what_it_is_called_now():
    """The bench keeps a prompt in a file: a system that was built from its text before is still the same."""

    class Built:
        version = Version("built", prompt=poclab.Prompt("edited", "Say {{n}}."))

        def __call__(self, inputs):
            return str(inputs["n"])

    kept = poclab.Prompt("prompts/kept.md", "Say {{n}}.")

    assert poclab.evaluate(Built(), TEN, [scores.exact()], version=Version("mine", prompt=kept)).version.parameters == {"prompt": kept}
    with pytest.raises(InputError, match="but the system uses"):
        poclab.evaluate(Built(), TEN, [scores.exact()], version=Version("mine", prompt=poclab.Prompt("edited", "Sing {{n}}.")))


def test_a_system_without_a_version_is_named_after_itself():
    """A first look needs no version."""
    assert poclab.evaluate(right, TEN, [scores.exact()]).version == Version("right")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cases": []}, "no cases to evaluate"),
        ({"scores": []}, "no scores"),
        ({"scores": [scores.exact(), scores.exact()]}, "two scores have one name"),
        ({"scores": ["exact"]}, "'exact' is not a scorer"),
        ({"scores": scores.exact()}, r"scores is a list"),
        ({"cases": "cases.jsonl"}, r"cases='cases.jsonl' is a path\n.*TestSet.load"),
        ({"version": "v1"}, r"version='v1' is a str\n.*Version"),
        ({"system": "answer"}, "the system is a str"),
        ({"scores": [lambda case, reply: 1]}, "is not a scorer"),
        ({"cases": [TEN[0], TEN[0]]}, "two cases have the id 'q0'"),
        ({"repeats": 0}, "repeats=0"),
        ({"repeats": True}, "repeats=True"),
        ({"repeats": 1.5}, "repeats=1.5"),
        ({"workers": 0}, "workers=0"),
        ({"workers": "8"}, "workers='8'"),
        ({"timeout_s": 0}, "timeout_s=0"),
        ({"timeout_s": float("nan")}, "timeout_s=nan"),
        ({"traces": "some"}, "traces='some'\n.*all, failed, none"),
    ],
)
def test_wrong_arguments_are_refused_before_a_case_is_asked(change, message):
    """Nothing is paid for a call that cannot work."""
    asked = []
    arguments = {"system": asked.append, "cases": TEN, "scores": [scores.exact()], **change}
    with pytest.raises(InputError, match=message):
        poclab.evaluate(**arguments)
    assert asked == []


def test_a_set_in_memory_is_reported_and_not_recorded(tmp_path):
    """Tracked only where a tracking URI is set; nothing is left behind. And it says that it is not frozen."""
    report = poclab.evaluate(right, TEN, [scores.exact()])

    assert (report.run_id, report.link, report.edition) == (None, None, None)
    assert any("not frozen" in warning for warning in report.warnings)
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_that_changed_since_freezing_is_told(poc, monkeypatch, recorded):
    """Evidence was checked against other documents."""
    from poclab.tracking import tracking_uri

    class Answers:
        version = Version("v")
        corpus_digest = "0" * 64

        def __call__(self, inputs):
            return "fifteen"

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(recorded[0]))
    moved = poc.rename(poc.with_name("moved"))
    report = poclab.evaluate(Answers(), poclab.TestSet.load(moved / "cases.jsonl").split("test"), [scores.contains()])

    assert report.warnings == ("the corpus is not the one that the evidence was checked against when the set was frozen",)


def test_an_unknown_price_is_unknown_and_never_zero(tmp_path):
    """A model that is not offline: its cost reads `unknown`, and no metric says 0."""
    from poclab.system import Call, current_case

    def answer(inputs):
        current_case.get().add_call(Call("big-1", "/chat/completions", 0.1, 200, 10, 5, None))
        return str(inputs["n"])

    report = poclab.evaluate(answer, TEN, [scores.exact()])

    assert "cost_usd" not in report.metrics()
    assert report.metrics()["tokens_in"] == 100
    assert "cost: unknown" in repr(report)


def test_late_calls_of_an_abandoned_case_are_discarded():
    """A worker cannot be killed; what it still does belongs to no case."""
    from poclab.system import Call, current_case

    free, called = threading.Event(), threading.Event()

    def late(inputs):
        context = current_case.get()
        free.wait()
        context.add_call(Call("m", "/chat/completions", 0.1, 200, 1, 1, 0.0))
        called.set()
        return "late"

    report = poclab.evaluate(late, TEN[:1], [scores.exact()], timeout_s=0.1)
    free.set()

    assert called.wait(10)
    assert report.results[0].calls == ()
    assert report.results[0].reply == Reply()


def test_no_half_of_a_key_is_left_where_an_error_is_cut(monkeypatch):
    """A long error is kept from its end: what is cut is what was concealed before."""
    monkeypatch.setenv("ZOO_API_KEY", "sk-0123456789abcdefghij")

    def answer(inputs):
        raise RuntimeError("sk-0123456789abcdefghij" + "." * (LONGEST_ERROR - 12))

    (result,) = poclab.evaluate(answer, TEN[:1], [scores.exact()]).results

    assert "ghij" not in result.error
    assert len(result.error) == LONGEST_ERROR


def test_keys_are_in_no_part_of_a_report(monkeypatch):
    """In a version, a reply, a score or an error: each is concealed, and the report can still be read back."""
    key = "sk-report-5d1e8a7c3b90f264"
    monkeypatch.setenv("ZOO_API_KEY", key)

    def answer(inputs):
        if inputs["n"] == 0:
            raise RuntimeError(key)
        return Reply(f"the key is {key}", data={"key": key}, contexts=[key])

    def says_it(case, reply):
        return scores.Score(True, key, f"found {key}")

    report = poclab.evaluate(answer, TEN[:2], [says_it], version=Version("v", hint=key))
    path = report.save("report.json")

    assert key not in path.read_text()
    assert report.results[1].reply.text == "the key is (key removed)"
    assert poclab.Report.load(path) == report


class TestWhatIsFrozenIsWhatIsAsked:
    def test_a_part_of_a_split_is_refused(self, poc):
        """The easy half of the held-out cases is not the test set, whatever lock it carries."""
        held_out = poclab.TestSet.load(poc / "cases.jsonl").split("test")
        easy = dataclasses.replace(held_out, cases=held_out.cases[:2])

        with pytest.raises(FrozenError, match="1 removed: q11"):
            poclab.evaluate(lambda inputs: "?", easy, [scores.contains()])

    def test_a_label_that_was_changed_in_memory_is_refused(self, poc):
        """The digest of a case is worked out again from what it says now."""
        cases = poclab.TestSet.load(poc / "cases.jsonl").split("dev")
        cases.cases[0].expected["answers"].append("?")

        with pytest.raises(FrozenError, match="1 changed: q01"):
            poclab.evaluate(lambda inputs: "?", cases, [scores.contains()])

    def test_a_scorer_that_changes_a_label_changes_it_for_nobody_else(self):
        """A later score, a repeat and the report see the label that was frozen."""

        def spoils(case, reply):
            case.expected["answers"].append("no")
            return 1.0

        cases = [poclab.Case("q1", {"question": "?"}, {"answers": ["yes"]})]
        report = poclab.evaluate(lambda inputs: "no", cases, [spoils, scores.exact()])

        assert report.mean("exact") == 0.0
        assert report.results[0].expected == {"answers": ["yes"]}


def test_a_score_that_a_reply_switches_off_is_incomplete():
    """A case cannot leave the mean because its reply abstained; one that has nothing to score may, by the case alone."""

    def lazy(case, reply):
        return None if not reply.text or reply.text.startswith("I don't know") else reply.text == "yes"

    def honest(case, reply):
        return None if "evidence" not in case.expected else 1.0

    cases = [poclab.Case(f"q{number}", {"question": f"{number}?"}, {"answers": ["yes"]}) for number in range(4)]
    report = poclab.evaluate(lambda inputs: "yes" if inputs["question"] < "2" else "I don't know.", cases, [lazy, honest])

    assert report.unscored("lazy") == ["q2", "q3"]
    assert "let it apply by the case alone" in report.results[2].scores["lazy"].reason
    assert "honest" not in report.results[0].scores


def test_held_out_cases_in_memory_are_named_in_the_report(poc):
    """A list of them is scored without a run that counts it: the report says so."""
    held_out = [case for case in poclab.TestSet.load(poc / "cases.jsonl") if case.split == "test"]

    assert any(
        "held-out cases are among these" in note for note in poclab.evaluate(lambda inputs: "?", held_out, [scores.contains()]).warnings
    )
