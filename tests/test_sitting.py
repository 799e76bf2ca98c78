"""What a person tries at one sitting, without widgets."""

import threading

import pytest

import poclab
from conftest import PRICES
from poclab import scores
from poclab.errors import FrozenError, InputError
from poclab.experiment import Interrupted
from poclab.sitting import OWN, Sitting, Stop
from poclab.system import Prompt, Version
from poclab.tables import money

TEXT = "From these passages.\n\n{{context}}\n\nQuestion: {{question}}\n"
SILENT = {"show": lambda done, total: None}


def version(**more):
    return Version("first", **{"prompt": Prompt("prompts/new.md", TEXT), "retrieval": "bm25", "context_chars": 500, **more})


def echo(version):
    """A system that answers with what its version says, and none that a model is asked by."""
    return lambda inputs: version.parameters["answer"]


def own(poc, **more):
    return Sitting(poc, build=echo, scorers=[scores.contains()], **more)


@pytest.fixture
def sitting(poc):
    return Sitting(poc)


def run_of(sitting, given):
    return sitting.run(given, **SILENT, stop=Stop())


def test_only_a_whole_run_is_a_run(make_poc, tmp_path):
    """Tries and samples are shown, and are in no history: nobody compares with them later."""
    sitting = Sitting(make_poc(tmp_path / "animals", store=True))
    tried = sitting.ask("q01", version(), **SILENT, stop=Stop())
    sample = sitting.sample(3, version(), **SILENT, stop=Stop())
    whole = run_of(sitting, version())

    assert [one.report.n for one in (tried, sample, whole)] == [1, 3, 8]
    assert [bool(one.report.run_id) for one in (tried, sample, whole)] == [False, False, True]
    assert list(poclab.runs(sitting.poc)["run_id"]) == [whole.report.run_id]
    assert whole.trace("q01").endswith(whole.report.by_case["q01"][0].trace_id)
    assert sample.trace(next(iter(sample.became))) == tried.trace("q01") == ""
    assert sitting.best_so_far(lambda names: "prompt" in names).run_id == whole.report.run_id
    assert sitting.best_so_far(lambda names: "style" in names) is None


def test_a_sample_is_always_the_same_cases(poc):
    """Two versions meet the same cases, at another sitting too."""
    first, second = (own(poc).sample(3, version(answer=answer), **SILENT, stop=Stop()) for answer in ("night", "dams"))

    assert list(first.report.by_case) == list(second.report.by_case)
    assert first.report.n == 3


def test_the_held_out_cases_cannot_be_asked(sitting):
    """What the decision is made on is not looked at while prompts are tuned."""
    for asked in ("q07", " Q07", "When do  cats purr?", "when do cats purr?\n"):
        with pytest.raises(InputError, match="is held out"):
            sitting.ask(asked, version(), **SILENT, stop=Stop())

    assert {case.split for case in sitting.cases} == {"dev"}


def test_answers_of_the_ledger_are_not_asked_again(sitting):
    """A try, a sample and a run share their answers, and say so."""
    sample = sitting.sample(3, version(), **SILENT, stop=Stop())
    again = sitting.sample(3, version(), **SILENT, stop=Stop())

    assert sample.paid == "0 of 3 answers from the ledger, 3 asked now, for $0.0000"
    assert again.paid == "3 of 3 answers from the ledger, none asked now"


def test_fixed_and_broken_cases_come_first(poc):
    """What changed is what one looks for: fixed, then broken, then what is wrong still, then the rest."""
    sitting = own(poc)
    sitting.baseline = sitting.sample(8, version(answer="It is night on chimneys."), **SILENT, stop=Stop()).report
    attempt = sitting.sample(8, version(answer="It is night among dams."), **SILENT, stop=Stop())

    # q03 asks for night, q02 for chimneys, q04 for dams.
    assert list(attempt.became.items())[:2] == [("q04", "fixed"), ("q02", "broken")]
    assert list(attempt.became)[-1] == "q03"
    assert [one.reply.text for one in attempt.before("q02")] == ["It is night on chimneys."]
    assert attempt.report.version.name == "answer It is night on chimneys. -> It is night among dams."
    assert attempt.candidate.scores[0].word.startswith("cannot tell")


def test_a_sample_is_held_against_the_same_cases_of_a_whole_run(poc):
    """The baseline answered eight cases, the sample three: only those three are compared."""
    sitting = own(poc)
    sitting.baseline = sitting.sample(8, version(answer="night"), **SILENT, stop=Stop()).report
    attempt = sitting.sample(3, version(answer="dams"), **SILENT, stop=Stop())

    assert attempt.baseline.n == attempt.candidate.report.n == 3
    assert sitting.baseline.n == 8


def test_a_question_of_ones_own_has_no_score(sitting):
    """Nothing is expected of it, so nothing is right or wrong, and no baseline is beside it."""
    attempt = sitting.ask(" How long do cats sleep? ", version(), **SILENT, stop=Stop())

    assert list(attempt.report.by_case) == [OWN]
    assert attempt.question(OWN) == "How long do cats sleep?"
    assert attempt.candidate is None and attempt.note == ""


@pytest.mark.parametrize("asked", ["", "  \n"])
def test_no_question_is_refused(sitting, asked):
    """An empty field costs nothing."""
    with pytest.raises(InputError, match="no question"):
        sitting.ask(asked, version(), **SILENT, stop=Stop())


def test_a_run_that_is_stopped_is_no_attempt(make_poc, tmp_path):
    """Nothing half done is in the history, of the sitting or of the POC."""
    release, stop = threading.Event(), Stop()
    poc = make_poc(tmp_path / "animals", store=True)
    sitting = Sitting(
        poc, build=lambda version: lambda inputs: "cats" in inputs["question"] or release.wait(60) or "", scorers=[scores.contains()]
    )

    with pytest.raises(Interrupted, match="stopped after 1 of 8 cases"):
        sitting.run(version(), show=lambda done, total: stop() if done == 1 else None, stop=stop)
    release.set()
    assert sitting.attempts == []
    assert len(poclab.runs(sitting.poc)) == 0


def test_what_a_stopped_run_paid_is_counted(poc, endpoint, monkeypatch):
    """Money is spent whether or not somebody waited for all answers."""
    charter = poc / "charter.yaml"
    charter.write_text(charter.read_text() + PRICES)
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    sitting, stop = Sitting(poc), Stop()
    assert sitting.spent == "$0.0000 spent, no limit set"

    with pytest.raises(Interrupted) as stopped:
        sitting.sample(8, version(model="m"), show=lambda done, total: stop() if done == 3 else None, stop=stop)
    assert stopped.value.report.spent_usd > 0
    assert not sitting.spent.startswith("$0.0000")


def test_a_stop_that_comes_too_late_changes_nothing(make_poc, tmp_path):
    """When every case was answered, the run is whole and stands in the history."""
    sitting, stop = own(make_poc(tmp_path / "animals", store=True)), Stop()
    attempt = sitting.run(version(answer="night"), show=lambda done, total: stop() if done == 7 else None, stop=stop)

    assert sitting.attempts == [attempt]
    assert list(poclab.runs(sitting.poc)["run_id"]) == [attempt.report.run_id]


def test_what_hangs_can_be_stopped(poc):
    """Cancel does not wait for a case that does not answer."""
    began, release = threading.Event(), threading.Event()

    def build(version):
        return lambda inputs: (began.set(), release.wait(60))[0] or "night"

    sitting, stop = Sitting(poc, build=build, scorers=[scores.contains()]), Stop()
    raised = []

    def sample():
        try:
            sitting.sample(3, version(), **SILENT, stop=stop)
        except Interrupted as error:
            raised.append(error)

    thread = threading.Thread(target=sample)
    thread.start()
    began.wait(60)
    stop()
    thread.join(10)
    release.set()

    assert not thread.is_alive()
    assert len(raised[0].report.results) == 0


def test_what_was_stopped_before_it_began_asks_nothing(poc):
    """A click on Cancel counts also while an index is still built."""
    asked, stop = [], Stop()
    sitting = Sitting(poc, build=lambda version: asked.append, scorers=[scores.contains()])
    stop()

    with pytest.raises(Interrupted):
        sitting.sample(3, version(), **SILENT, stop=stop)
    assert asked == []


def test_a_budget_is_that_of_the_whole_sitting(poc, endpoint, monkeypatch):
    """Tries and runs are paid from one amount, and what does not fit is not asked."""
    (poc / "charter.yaml").write_text((poc / "charter.yaml").read_text() + PRICES)
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    sitting = Sitting(poc, max_cost_usd=0.005)
    attempt = sitting.sample(3, version(model="m"), **SILENT, stop=Stop())
    stopped = sitting.sample(8, version(model="m", max_tokens=2000), **SILENT, stop=Stop())

    assert 0 < attempt.report.spent_usd < 0.005
    assert "budget" in stopped.report.stopped
    assert sitting.spent == f"{money(attempt.report.spent_usd)} of $0.005 spent"


def test_a_prompt_is_written_and_registered(make_poc, tmp_path):
    """What is kept is a file of the POC, and a version of the registry."""
    sitting = Sitting(make_poc(tmp_path / "animals", store=True))
    path, registered = sitting.keep("short", TEXT)

    assert path == sitting.poc / "prompts" / "short.md"
    assert path.read_text() == TEXT
    assert registered == "prompts:/animals-short/1"
    assert sitting.keep("short.md", TEXT)[1] == "prompts:/animals-short/1"


def test_a_name_with_a_point_gets_its_ending(sitting):
    """A file without `.md` would not be in the list of prompts the next time."""
    assert sitting.keep("v1.2", TEXT)[0].name == "v1.2.md"


def test_a_prompt_that_somebody_changed_is_not_written_over(sitting):
    """An edit made elsewhere, since the bench read the file, is not lost."""
    path = sitting.poc / "prompts" / "plain.md"
    read = path.read_text()
    path.write_text("Mine.\n")

    with pytest.raises(InputError, match="plain.md is there, and says something else"):
        sitting.keep("plain.md", TEXT, over=read)
    assert path.read_text() == "Mine.\n"


@pytest.mark.parametrize(
    "name", ["", "../charter.yaml", "a/b.md", ".hidden", "/etc/passwd", "a\0b", "a\nb.md", "a" * 300, "gnp\u202e.md", "\ud800"]
)
def test_a_prompt_is_written_nowhere_else(sitting, name):
    """A name is a name in the folder of prompts, and no way out of it."""
    with pytest.raises(InputError, match="is no name for a prompt file"):
        sitting.keep(name, TEXT)


def test_cases_that_are_not_frozen_are_refused(poc):
    """The evaluation comes before the system, at the bench too."""
    (poc / "cases.lock.json").unlink()

    with pytest.raises(FrozenError):
        Sitting(poc)


def test_a_text_does_not_fill_two_inputs(poc):
    """A question of one's own is given to the one input that the cases have; with more, which one is not guessed."""
    case = poclab.Case("a", {"question": "?", "language": "en"}, {"answers": ["x"]}, split="dev")
    sitting = own(poc)
    sitting.cases = poclab.TestSet((case,), path=poc / "cases.jsonl", part="dev")

    with pytest.raises(InputError, match="several inputs"):
        sitting.ask("What?", version(answer="x"), **SILENT, stop=Stop())
