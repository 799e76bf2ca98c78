"""The bench, driven as a browser drives it, but without one."""

import contextlib
import html
import re
import threading

import pytest

import poclab
from poclab import scores
from poclab.errors import InputError
from poclab.workbench import Workbench

WRONG_PROMPT = "From these passages.\n\n{{context}}\n\nQuestion: {{qestion}}\n"


def begun(poc, **more):
    """Return a bench that is shown, and has found where it starts."""
    bench = Workbench(poc, **more)
    assert bench.view is bench.view
    return done(bench)


def done(bench):
    bench._thread.join(60)
    assert not bench._thread.is_alive()
    return bench


def click(bench, button):
    button.click()
    return done(bench)


def text(widget):
    return html.unescape(re.sub("<[^>]+>", " ", widget.value))


@pytest.fixture
def bench(poc):
    return begun(poc, sample=3)


def test_it_starts_from_what_the_sweep_has_fixed(bench):
    """Without a run so far, the first version is the one that `poclab run` would evaluate."""
    version = bench.version()

    assert version.parameters["context_chars"] == 500
    assert version.parameters["prompt"].name == "prompts/abstain.md"
    assert version.parameters["prompt"].text == (bench.sitting.poc / "prompts" / "abstain.md").read_text()
    assert "no run yet" in text(bench._said)


def test_it_starts_from_the_best_run_so_far(swept):
    """Who opens it again goes on from the best version, with its answers beside the new ones."""
    folder, _ = swept
    bench = begun(folder)
    best = poclab.runs(folder)["accuracy"].max()

    assert bench.sitting.baseline.mean("accuracy") == pytest.approx(best)
    assert bench.version().digest == bench.sitting.baseline.version.digest
    assert f"baseline {bench.sitting.baseline.version.name}" in text(bench._head)


def test_a_wrong_placeholder_is_named_while_it_is_typed(bench):
    """A misspelt placeholder would reach the model as it stands."""
    bench._prompt.value = WRONG_PROMPT

    assert "unknown placeholder {{qestion}}" in text(bench._check)
    assert "{{question}}" in text(bench._check)
    click(bench, bench._sample)
    assert "unknown placeholder" in text(bench._said)
    assert bench.sitting.attempts == []


def test_a_parameter_that_does_not_fit_is_named_while_it_is_set(bench):
    """What would be refused at the run is said at once."""
    bench._inputs["chunk_size"].value, bench._inputs["overlap"].value = 100, 200

    assert "overlap 200 is not below chunk_size 100" in text(bench._check)


def test_from_a_sample_to_a_run_and_back(make_poc, tmp_path):
    """Edit, sample, run all, edit again: what was fixed and what was broken stands first, and a case opens."""
    bench = begun(make_poc(tmp_path / "animals", store=True), sample=3)
    click(bench, bench._sample)
    assert "3 of 3 cases" not in text(bench._result)
    assert bench._progress.description == "3/3"
    click(bench, bench._all)
    first = bench.sitting.baseline
    assert first.run_id
    bench._inputs["retrieval"].value = "none"
    click(bench, bench._all)

    # Without passages it abstains: right on the two cases without an answer alone.
    assert [row.partition(" ")[0] for row, _ in bench._list.options[:6]] == ["broken"] * 6
    assert bench._list.value == bench._list.options[0][1]
    assert "broken" in bench._list.options[0][0]
    assert "How many hours a day do cats sleep?" in text(bench._case)
    assert "baseline" in text(bench._case) and "its trace in MLflow" in text(bench._case)
    assert "retrieval bm25 -> none" in text(bench._history)
    assert "worse" in text(bench._result)
    click(bench, bench._base)
    done(bench)
    assert bench.sitting.baseline.run_id != first.run_id


def test_a_try_shows_the_case_alone(bench):
    """One question: one answer, no table and no list."""
    bench._question.value = "q01"
    click(bench, bench._try)

    assert "fifteen" in text(bench._case)
    assert bench._list.layout.display == "none"
    assert "none" in text(bench._said) or text(bench._said).strip() == ""


def test_a_kept_prompt_can_be_chosen(make_poc, tmp_path):
    """What was kept is in the list of files, and what it says is no edit any more."""
    bench = begun(make_poc(tmp_path / "animals", store=True))
    bench._prompt.value = bench._prompt.value + "Be brief.\n"
    assert bench.version().parameters["prompt"].name.startswith("prompts/abstain.md (edited ")
    bench._name.value = "brief.md"
    click(bench, bench._keep)

    assert "written to prompts/brief.md; registered as prompts:/animals-brief/1" in text(bench._said)
    assert bench._inputs["prompt"].value == "prompts/brief.md"
    assert bench.version().parameters["prompt"].name == "prompts/brief.md"


def test_what_was_typed_is_not_lost_when_another_file_is_chosen(bench):
    """An edit that was never tried stays in the list of prompts."""
    bench._prompt.value += "Be brief.\n"
    typed, name = bench._prompt.value, bench.version().parameters["prompt"].name
    bench._inputs["prompt"].value = "prompts/plain.md"
    assert "Be brief." not in bench._prompt.value
    bench._inputs["prompt"].value = name

    assert bench._prompt.value == typed
    assert bench.version().parameters["prompt"].name == name
    assert bench._name.value == "abstain_2.md"  # one click writes over no file


def test_an_earlier_version_can_be_taken_up_again(bench):
    """Whoever made it worse goes back to any version that was asked, its prompt and its parameters."""
    click(bench, bench._sample)
    bench._prompt.value += "Be brief.\n"
    edited = bench._prompt.value
    bench._inputs["retrieval"].value, bench._inputs["model"].value = "none", "offline/extractive"
    click(bench, bench._sample)
    bench._prompt.value = "{{question}}"
    bench._attempts.value = 1
    assert text(bench._result).strip().startswith("sample 1, abstain")
    bench._back.click()
    assert bench.version().digest == bench.sitting.attempts[0].report.version.digest
    bench._attempts.value = 2
    bench._back.click()

    assert (bench._prompt.value, bench._inputs["retrieval"].value) == (edited, "none")
    assert len([one for one in bench._inputs["prompt"].options if "edited" in one]) == 1


def test_a_run_of_an_edited_prompt_is_gone_on_with_in_its_file(make_poc, tmp_path):
    """The list shows the file that the best prompt was made from, not the first one."""
    poc = make_poc(tmp_path / "animals", store=True)
    first = begun(poc)
    first._inputs["prompt"].value = "prompts/plain.md"
    first._prompt.value += "Be brief.\n"
    click(first, first._all)
    second = begun(poc)

    assert second._inputs["prompt"].value == "prompts/plain.md"
    assert second.version().digest == first.sitting.baseline.version.digest
    assert second.version().parameters["prompt"].name == first.version().parameters["prompt"].name


def test_each_edit_has_a_name_of_its_own(bench):
    """Without a baseline a version is told by what it changes against the start; two edits are told apart, and shown."""
    for line in ("Be brief.", "Be kind."):
        bench._prompt.value = f"{bench._text}{line}\n"
        click(bench, bench._sample)
    names = [one.report.version.name for one in bench.sitting.attempts]

    assert len(set(names)) == 2
    assert all(name.startswith("prompt prompts/abstain.md -> prompts/abstain.md (edited ") for name in names)
    assert "+ Be brief." in text(bench._history) and "+ Be kind." in text(bench._history)


def test_a_case_that_is_opened_is_the_next_to_try(bench):
    """From a case that is wrong to another answer to it is one click; a question that was typed stays."""
    click(bench, bench._sample)
    assert bench._question.value == ""
    case = bench._list.options[1][1]
    bench._list.value = case
    assert bench._question.value == case
    bench._question.value = "Why?"
    bench._list.value = bench._list.options[0][1]

    assert bench._question.value == "Why?"


def test_enter_asks_the_question(bench):
    """Nobody has to reach for the button."""
    bench._question.value = "q01"
    bench._question._handle_custom_msg({"event": "submit"}, [])
    done(bench)

    assert [one.kind for one in bench.sitting.attempts] == ["try"]


def test_another_file_is_loaded_when_it_is_chosen(bench):
    """The editor shows what the file says."""
    bench._inputs["prompt"].value = "prompts/plain.md"

    assert bench._prompt.value == (bench.sitting.poc / "prompts" / "plain.md").read_text()


def test_cancel_frees_the_bench(poc):
    """A system that hangs keeps nobody from the next try."""
    began, release = threading.Event(), threading.Event()

    def build(version):
        return lambda inputs: (began.set(), release.wait(60))[0] or "night"

    bench = begun(poc, build=build, scores=[scores.contains()], controls={"top_k": range(1, 5)}, sample=3)
    bench._sample.click()
    assert bench._sample.disabled and not bench._cancel.disabled
    began.wait(60)
    bench._cancel.click()
    done(bench)
    release.set()

    assert "stopped after 0 of 3 cases" in text(bench._said)
    assert not bench._sample.disabled and bench._cancel.disabled


def test_a_system_of_ones_own_has_controls_of_its_own(poc):
    """A list is a choice, a range a slider, a pattern a choice of files, any other text a field."""
    seen = []

    def build(version):
        seen.append(version.parameters)
        return lambda inputs: "fifteen"

    controls = {"style": ["short", "long"], "top_k": range(1, 21, 2), "notes": "docs/*.md", "model": "mine"}
    bench = begun(poc, build=build, controls=controls, scores=[scores.contains()], sample=3)
    kinds = [type(one).__name__ for one in bench._inputs.values()]
    bench._inputs["top_k"].value = 5
    click(bench, bench._sample)

    assert kinds == ["Dropdown", "IntSlider", "Dropdown", "Text"]
    assert seen == [{"style": "short", "top_k": 5, "notes": "docs/bats.md", "model": "mine"}]


def test_an_error_of_ones_own_system_is_shown(poc):
    """Nobody sees what a thread raises, so the bench says it."""

    def build(version):
        raise RuntimeError("no <index> there")

    bench = begun(poc, build=build, controls={"top_k": range(1, 5)}, scores=[scores.contains()])
    click(bench, bench._sample)

    assert "RuntimeError: no <index> there" in text(bench._said)
    assert "<index>" not in bench._said.value


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), type("Mute", (Exception,), {"__str__": lambda self: 1 / 0})()])
def test_no_error_leaves_the_bench_stuck(poc, error):
    """Whatever a system raises, the next click works."""

    def build(version):
        raise error

    bench = begun(poc, build=build, controls={"top_k": range(1, 5)}, scores=[scores.contains()])
    click(bench, bench._sample)

    assert type(error).__name__ in text(bench._said)
    assert not bench._sample.disabled and bench._cancel.disabled


def test_a_damaged_ledger_leaves_the_bench_usable(poc):
    """The head line, too, reads the ledger: what it meets is said, and the buttons come back."""
    bench = begun(poc, sample=3, max_cost_usd=1)
    click(bench, bench._sample)
    for one in poc.glob("ledger.db*"):
        one.unlink()
    (poc / "ledger.db").write_bytes(b"junk" * 2000)
    bench._prompt.value += "x"
    click(bench, bench._sample)

    assert "the ledger is damaged" in text(bench._said)
    assert not bench._sample.disabled and bench._cancel.disabled


def test_a_store_that_cannot_be_read_does_not_empty_the_editor(poc):
    """Tries and samples need no store."""
    (poc / "mlflow.db").write_bytes(b"junk" * 1000)
    bench = begun(poc, sample=3)

    assert "not an SQLite database" in text(bench._said)
    assert bench._prompt.value == (poc / "prompts" / "abstain.md").read_text()
    click(bench, bench._sample)
    assert len(bench.sitting.attempts) == 1


def test_a_file_that_cannot_be_read_is_not_shown_as_chosen(bench):
    """The list says what the editor holds."""
    (bench.sitting.poc / "prompts" / "plain.md").write_bytes(b"\xff\xfe")
    bench._prompt.value += "mine"
    bench._inputs["prompt"].value = "prompts/plain.md"

    assert "not UTF-8" in text(bench._said)
    assert bench._inputs["prompt"].value == "prompts/abstain.md"
    assert bench._prompt.value.endswith("mine")


def test_what_was_not_answered_is_no_baseline(poc):
    """A run in which every case failed would make any other one look better."""

    def build(version):
        def fail(inputs):
            raise RuntimeError("no")

        return fail

    bench = begun(poc, build=build, controls={"top_k": range(1, 5)}, scores=[scores.contains()], sample=3)
    click(bench, bench._base)
    assert "no baseline" in text(bench._said)
    click(bench, bench._all)
    assert bench.sitting.attempts[0].report.failed == 8
    assert "RuntimeError: no" in text(bench._case)
    click(bench, bench._base)

    assert bench.sitting.baseline is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"controls": {"top_k": 5}}, "'top_k' is 5"),
        ({"build": lambda version: None}, "nothing to change"),
        ({"sample": 0}, "sample=0"),
        ({"max_cost_usd": -1}, "max_cost_usd=-1"),
    ],
)
def test_wrong_arguments_are_refused(poc, wrong, message):
    """A mistake is told where it was typed, not in a thread."""
    with pytest.raises(InputError, match=message):
        Workbench(poc, **wrong)


def test_a_report_of_held_out_cases_is_no_baseline(decided_copy):
    """Prompts are not tuned on what the decision is made on."""
    given = poclab.load_run(next(row.run_id for row in poclab.runs(decided_copy).itertuples() if row.split == "test"), decided_copy)
    bench = begun(decided_copy, baseline=given)

    assert "is no baseline here" in text(bench._said)
    assert bench.sitting.baseline.split == "dev"


def test_a_trial_has_no_bench(poc, monkeypatch):
    """In a headless run nobody looks: no widget is made, and nothing is read."""
    monkeypatch.setenv("POCLAB_RUN_ID", "1")
    bench = Workbench(poc / "not there")

    assert bench._repr_mimebundle_() == {"text/plain": "the bench opens in JupyterLab"}
    with contextlib.suppress(AttributeError):
        pytest.fail(str(bench.sitting))
