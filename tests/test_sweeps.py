import datetime
import json
import math
import shutil

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from conftest import SWEEP, notebook_of
from poclab import sweeps
from poclab.errors import InputError
from poclab.sweeps import find_notebook, load_sweep, parse_pairs, single

GRID = """\
notebook: notebooks/02_evaluate.ipynb
include:
  - {retrieval: none, prompt: prompts/abstain.md}
parameters:
  retrieval: {values: [bm25, dense]}
  chunk_size: {values: [100, 200, 400]}
  overlap: {values: [0, 50]}
where: ["overlap * 4 <= chunk_size"]
limits: {jobs: 2}
"""


@pytest.fixture(scope="module")
def folder(make_poc, tmp_path_factory):
    return make_poc(tmp_path_factory.mktemp("sweeps") / "animals")


@pytest.fixture
def load(folder, tmp_path):
    """Return a function that loads a sweep file of this text beside the POC's."""

    def load_text(text):
        path = folder / f"{tmp_path.name[-40:]}.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            return load_sweep(path)
        finally:
            path.unlink()

    return load_text


def _values(sweep, *names):
    return [tuple(trial.parameters.get(name) for name in names) for trial in sweep.trials]


class TestTrials:
    def test_are_the_included_ones_and_the_points_of_the_grid_that_hold(self, load):
        """An overlap of 50 needs a chunk of at least 200: 2 retrievals x (3 + 2) points, after the baseline."""
        sweep = load(GRID)

        assert _values(sweep, "retrieval", "chunk_size", "overlap") == [("none", None, None)] + [
            (retrieval, size, overlap)
            for retrieval in ("bm25", "dense")
            for size, overlap in ((100, 0), (200, 0), (200, 50), (400, 0), (400, 50))
        ]
        assert (sweep.has_baseline, sweep.jobs, sweep.metric, sweep.maximize) == (True, 2, "accuracy", True)

    def test_may_stand_in_a_dict(self, load, folder):
        """What a file would hold; its name is made of what it says."""
        given = yaml.safe_load(GRID)
        sweep = load_sweep(given, folder)

        assert sweep.trials == load(GRID).trials
        assert sweep.name == load_sweep(given, folder).name != load_sweep({**given, "limits": {"jobs": 3}}, folder).name
        for wrong, said in (
            ({"notebok": "x"}, "sweep: unknown key 'notebok'"),
            ({"parameters": {"chunk_size": {"values": [100, math.nan]}}}, "nan"),
            ({"parameters": {"chunk_size": {"values": (100, 200)}}}, "tuple"),
            ({"fixed": {"prompt": datetime.date(2026, 1, 1)}}, "date"),
            ({"fixed": {"x; import os": 1}}, "x; import os"),
        ):
            with pytest.raises(InputError, match=said):
                load_sweep({**given, **wrong}, folder)

    def test_may_be_drawn_by_chance_and_are_the_same_each_time(self, load):
        """Five points of the ten, after the baseline, which is not drawn."""
        drawn = GRID + "method: random\nrun_cap: 5\nseed: 3\n"
        sweep = load(drawn)

        assert len(sweep.trials) == 6 and sweep.has_baseline
        assert set(_values(sweep, "retrieval", "chunk_size", "overlap")) <= set(_values(load(GRID), "retrieval", "chunk_size", "overlap"))
        assert load(drawn).trials == sweep.trials

    def test_may_be_a_part_of_those_of_the_file(self, load):
        """By an expression over their parameters, the notebook's defaults included (here an overlap of 0); the baseline may be missing."""
        whole = load(GRID)

        assert _values(whole.only("overlap == 0 and chunk_size == 400"), "retrieval", "chunk_size", "overlap") == [
            ("none", None, None), ("bm25", 400, 0), ("dense", 400, 0),
        ]  # fmt: skip
        assert [whole.only(one).has_baseline for one in ("overlap == 0", "overlap == 50")] == [True, False]
        assert whole.only("overlap == 0").only("chunk_size == 100").whole == whole.trials
        with pytest.raises(InputError, match="--only 'chunk_size == 7': true of none of 11 trials"):
            whole.only("chunk_size == 7")

    def test_are_named_by_what_differs_from_the_baseline(self, load):
        """A parameter that the baseline does not name has the notebook's default there: chunk_size 400, overlap 0."""
        names = [trial.name for trial in load(GRID).trials]

        assert names[0] == "baseline"
        assert names[1] == "retrieval none -> bm25, chunk_size 400 -> 100"
        assert names[4] == "retrieval none -> bm25"
        assert names[5] == "retrieval none -> bm25, overlap 0 -> 50"

    def test_that_are_the_same_run_once(self, load):
        """The baseline stands in the grid too; a value is given twice; 1.0 and 1 are different values."""
        text = "notebook: notebooks/02_evaluate.ipynb\ninclude: [{chunk_size: 200}, {chunk_size: 400}]\n"
        sweep = load(text + "parameters: {chunk_size: {values: [400, 200, 200, 800]}}\n")

        assert _values(sweep, "chunk_size") == [(200,), (400,), (800,)]

    def test_get_the_fixed_parameters(self, load):
        """`fixed` is the same for all, the included ones too; a trial's own value comes first."""
        text = "notebook: notebooks/02_evaluate.ipynb\nfixed: {split: dev, overlap: 10}\ninclude: [{overlap: 0}]\n"
        sweep = load(text + "parameters: {chunk_size: {values: [200]}}\n")

        assert _values(sweep, "split", "overlap", "chunk_size") == [("dev", 0, None), ("dev", 10, 200)]

    def test_run_in_the_poc_wherever_the_notebook_lies(self, load):
        """The kernel's folder is the POC's, so `poc` is "." for a notebook that takes it."""
        assert {trial.parameters["poc"] for trial in load(SWEEP).trials} == {"."}

    def test_what_varies_is_what_the_table_shows(self, load):
        """`split` is the same everywhere and not shown."""
        assert load(SWEEP).varied == ("retrieval", "prompt")

    def test_ask_each_case_as_often_as_is_repeated(self, load, folder):
        """`repeat` is the notebook's `repeats` in every trial, the baseline included; a notebook without it is told what to write."""
        assert _values(load(SWEEP + "repeat: 3\n"), "repeats") == [(3,)] * len(load(SWEEP).trials)
        assert load(SWEEP + "repeat: 3\n").fixed["repeats"] == 3

        once = notebook_of(('retrieval: str = "bm25"', "parameters"))
        (folder / "notebooks/once.ipynb").write_text(json.dumps(once))
        with pytest.raises(InputError, match="no parameter `repeats`\n.*repeats: int = 1"):
            load(SWEEP.replace("02_evaluate", "once") + "repeat: 3\n")

    @given(st.lists(st.sampled_from([100, 200, 400, 800]), min_size=1, max_size=8), st.booleans())
    def test_are_as_many_as_there_are_different_points(self, folder, sizes, included):
        """Whatever is repeated, each point runs once and none is lost."""
        data = {"notebook": "notebooks/02_evaluate.ipynb", "parameters": {"chunk_size": {"values": sizes}, "repeats": {"values": [1, 2]}}}
        data |= {"include": [{"chunk_size": sizes[-1], "repeats": 2}]} if included else {}
        path = folder / "property.yaml"
        path.write_text(json.dumps(data))

        found = _values(load_sweep(path), "chunk_size", "repeats")

        assert len(found) == len(set(found)) == 2 * len(set(sizes))
        assert set(found) == {(size, repeats) for size in sizes for repeats in (1, 2)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("chunk_sise: {values: [1]}", "unknown parameter 'chunk_sise'\n.*did you mean 'chunk_size'"),
        ("chunk_size: {values: ['400']}", r"chunk_size is '400' \(str\), but the notebook takes int"),
        ("chunk_size: {values: [400.5]}", r"chunk_size is 400.5 \(float\), but the notebook takes int"),
        ("chunk_size: {values: [true]}", r"chunk_size is True \(bool\), but the notebook takes int"),
        ("chunk_size: {values: [null]}", r"chunk_size is None \(NoneType\), but the notebook takes int"),
        ("chunk_size: {values: [0400]}", r"chunk_size is '0400' \(str\), but the notebook takes int"),
        ("chunk_size: {values: [.nan]}", r"chunk_size: nan \(float\) is not a JSON value"),
        ("chunk_size: {values: [.inf]}", r"chunk_size: inf \(float\) is not a JSON value"),
        ("prompt: {values: [2026-11-23]}", r"prompt: datetime.date\(2026, 11, 23\) \(date\) is not a JSON value"),
        ("prompt: {values: [!!python/tuple [1, 2]]}", "not YAML"),
        ("prompt: {values: [prompts/abstian.md]}", "prompt: no file 'prompts/abstian.md' in .*\n.*prompts/abstain.md, prompts/plain.md"),
        ("prompt: {values: [/nowhere/missing.md]}", "no file '/nowhere/missing.md' in .*\n.*prompts/abstain.md, prompts/plain.md"),
        ("prompt: {values: [nope.md]}", "no file 'nope.md' in .*\n.*use one of: prompts/abstain.md, prompts/plain.md$"),
        (f"prompt: {{values: [{'é' * 190}.md]}}", "prompt: no file"),
        ('prompt: {values: ["a\\0.md"]}', "prompt: no file"),
        ("retrieval: {values: [bats.md]}", "retrieval: no file 'bats.md' in .*\n.*use one of: docs/bats.md, .*, prompts/plain.md$"),
        ("chunk_size: 400", "parameters.chunk_size: found 400\n.*values"),
        ("chunk_size: {values: []}", "parameters.chunk_size: found"),
        ("chunk_size: {value: [1]}", "parameters.chunk_size: found"),
        ("'x = 1; import os': {values: [1]}", "unknown parameter 'x = 1; import os'"),
    ],
)
def test_a_wrong_parameter_is_refused_before_a_kernel_starts(load, change, message):
    """papermill only warns, and then runs the default."""
    with pytest.raises(InputError, match=message):
        load(f"notebook: notebooks/02_evaluate.ipynb\nparameters:\n  {change}\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("parametres: {}", "unknown key 'parametres'\n.*did you mean 'parameters'"),
        ("metric: {name: acuracy}", "unknown metric 'acuracy'\n.*did you mean 'accuracy'"),
        ("metric: {name: token_f1}", "unknown metric 'token_f1'"),
        ("metric: {name: print}", "unknown metric 'print'\n.*use one of: accuracy, .*, contains, evidence_recall, abstains$"),
        ("metric: {name: accuracy, goal: maximise}", "unknown goal 'maximise'\n.*maximize"),
        ("metric: accuracy", "metric: found 'accuracy'\n.*metric: {name: accuracy"),
        ("method: bayes", "unknown method 'bayes'\n.*use one of: grid, random, tpe"),
        ("method: [grid]", r"unknown method \['grid'\]"),
        ("method: random", "run_cap is None\n.*run_cap: 20"),
        ("run_cap: 3", "run_cap is for method: random"),
        ("fixed: [1]", "fixed holds"),
        ("repeat: 0", "repeat is 0\n.*repeat: 3"),
        ("repeat: true", "repeat is True"),
        ("repeat: 2\nfixed: {repeats: 2}", "both `repeat` and the parameter `repeats`"),
        ("repeat: 2\ninclude: [{repeats: 2}]", "both `repeat` and the parameter `repeats`"),
        ("repeat: 2\nfixed: [1]", "fixed holds"),
        ("repeat: 2\ninclude: 1", "include is a list"),
        ("fixed: {chunk_sise: 1}", "unknown parameter 'chunk_sise'"),
        ("include: {chunk_size: 1}", "include is a list"),
        ("include: [{chunk_sise: 1}]", "unknown parameter 'chunk_sise'"),
        ("where: chunk_size > 1", "where is a list"),
        ("where: [chunk_size > 9999]", "no trial is left"),
        (f"parameters: {{chunk_size: {{values: {list(range(101))}}}, overlap: {{values: {list(range(100))}}}}}", "span 10,100 points"),
        ("limits: {jobs: 0}", "limits.jobs is 0"),
        ("limits: {jobs: true}", "limits.jobs is True"),
        ("limits: {timeout_s: 0}", "limits.timeout_s is 0\n.*timeout_s: 900"),
        ("limits: {timeout_s: .inf}", "limits.timeout_s is inf"),
        ("limits: {retries: -1}", "limits.retries is -1"),
        ("limits: {stop_after_failures: 0}", "limits.stop_after_failures is 0"),
        ("limits: {max_cost_usd: true}", "limits.max_cost_usd is True"),
        ("limits: {job: 2}", "unknown key 'job'\n.*did you mean 'jobs'"),
        ("limits: 2", "limits: found 2"),
        ("notebook: notebooks/02_evalute.ipynb", "02_evalute.ipynb: no such file"),
        ('notebook: "a\\0b"', "no such file in "),
        ("notebook: cases.jsonl", "not JSON"),
        ("notebook: cases.lock.json", "not a notebook"),
        ("notebook: 7", "names no notebook"),
    ],
)
def test_a_wrong_sweep_file_is_refused(load, line, message):
    """The message names the file, what was found, and what to write."""
    base = {"notebook": "notebook: notebooks/02_evaluate.ipynb", "parameters": "parameters: {chunk_size: {values: [200, 400]}}"}
    base[line.partition(":")[0]] = line
    with pytest.raises(InputError, match=message):
        load("\n".join(base.values()))


def test_a_file_without_parameters_has_no_trial(load):
    """Nothing to run is an error, not an empty table."""
    with pytest.raises(InputError, match="no trial is left"):
        load("notebook: notebooks/02_evaluate.ipynb\n")


def test_a_metric_of_the_notebook_may_be_ranked_by(load):
    """The scores that the notebook computes are named in it."""
    sweep = load(SWEEP.replace("accuracy, goal: maximize", "evidence_recall"))
    assert (sweep.metric, sweep.maximize) == ("evidence_recall", True)


def test_the_score_of_a_judge_may_be_ranked_by(load):
    """By the name of its rubric, which is a parameter of notebook 02; where no trial has a judge there is no such score."""
    judged = SWEEP.replace("accuracy, goal: maximize", "correctness")
    assert load(judged.replace("split: dev", "split: dev, judge: correctness")).metric == "correctness"
    with pytest.raises(InputError, match="unknown metric 'correctness'"):
        load(judged)


@pytest.mark.parametrize(
    ("name", "fits"),
    [("exact", True), ("brief", True), ("kind", True), ("polite", True), ("number", False), ("scores", False), ("loud", False)],
)
def test_a_score_is_what_the_notebook_gives_evaluate_or_defines(load, folder, name, fits):
    """Called or by name in a list, a function or a Scorer of its own; not any word of the notebook, nor one of a comment."""
    cells = (
        "a: int = 1",
        "%matplotlib inline\nfrom poclab import evaluate, scores",
        'def brief(case, reply):\n    return "number" in reply.text  # loud()\n\n\ngiven = [scores.Scorer("kind", brief)]',
        "evaluate(print, [], [scores.exact(), polite, *given])",
    )
    path = folder / "notebooks" / "scored.ipynb"
    path.write_text(json.dumps(notebook_of((cells[0], "parameters"), *cells[1:])))
    text = f"notebook: notebooks/scored.ipynb\nmetric: {{name: {name}}}\ninclude: [{{a: 2}}]\n"
    if fits:
        assert load(text).metric == name
    else:
        with pytest.raises(InputError, match=f"unknown metric '{name}'"):
            load(text)


def test_latency_may_be_minimised(load):
    """The other direction."""
    sweep = load(SWEEP.replace("accuracy, goal: maximize", "latency_p95_s, goal: minimize"))
    assert (sweep.metric, sweep.maximize) == ("latency_p95_s", False)


def test_an_empty_sweep_file_is_refused(load):
    """It was never written."""
    with pytest.raises(InputError, match="expected `key: value` lines, found nothing"):
        load("")


class TestSingle:
    def test_is_one_trial_of_the_notebook(self, folder):
        """`poclab run -p chunk_size=200`."""
        sweep = single(folder, folder / "notebooks/02_evaluate.ipynb", {"chunk_size": 200})

        assert _values(sweep, "chunk_size", "poc") == [(200, ".")]
        assert sweep.trials[0].name == "chunk_size 400 -> 200"
        assert not sweep.has_baseline

    def test_starts_from_what_the_sweep_has_fixed(self, folder):
        """So that it can be compared with the sweep's trials; `-p` comes first."""
        notebook, fixed = folder / "notebooks/02_evaluate.ipynb", load_sweep(folder).fixed
        given, plain = single(folder, notebook, {"split": "test"}, fixed=fixed), single(folder, notebook, {}, fixed=fixed)

        assert _values(given, "split", "context_chars") == [("test", 500)]
        assert _values(plain, "split", "context_chars") == [("dev", 500)]

    def test_is_named_by_what_differs_from_where_it_starts(self, folder):
        """The run's name in MLflow says what changed; where nothing did, what was given, and it is nobody's baseline."""
        notebook, fixed = folder / "notebooks/02_evaluate.ipynb", load_sweep(folder).fixed
        pairs = ({"split": "test", "context_chars": 500}, {"context_chars": 700}, {"context_chars": 500}, {})
        names = [single(folder, notebook, pair, fixed=fixed).trials[0].name for pair in pairs]

        assert names == ["split dev -> test", "context_chars 500 -> 700", "context_chars = 500", "defaults"]

    def test_takes_a_notebook_from_the_current_folder_then_from_the_poc(self, folder, tmp_path):
        """As it is typed where one stands; the message names both places."""
        copy = shutil.copy(folder / "notebooks/02_evaluate.ipynb", tmp_path)

        assert str(find_notebook("02_evaluate.ipynb", tmp_path, folder)) == copy
        assert find_notebook("notebooks/02_evaluate.ipynb", tmp_path, folder) == folder / "notebooks/02_evaluate.ipynb"
        with pytest.raises(InputError, match=f"x.ipynb: no such file in {tmp_path} or {folder}"):
            find_notebook("x.ipynb", tmp_path, folder)

    def test_refuses_what_a_sweep_refuses(self, folder):
        """Unknown names, wrong types, missing files."""
        notebook = folder / "notebooks/02_evaluate.ipynb"
        for parameters, message in (
            ({"chunk_sise": 1}, "did you mean"),
            ({"chunk_size": "x"}, "takes int"),
            ({"prompt": "no.md"}, "no file"),
        ):
            with pytest.raises(InputError, match=message):
                single(folder, notebook, parameters)


class TestParsePairs:
    def test_reads_values_as_in_the_sweep_file(self):
        """Numbers, booleans, null, lists, texts; an empty value is an empty text."""
        pairs = ["a=1", "b=1.5", "c=true", "d=null", "e=[1, x]", "f=two words", "g=", "h=x=y", " i =1"]
        assert parse_pairs(pairs) == {
            "a": 1, "b": 1.5, "c": True, "d": None, "e": [1, "x"], "f": "two words", "g": "", "h": "x=y", "i": 1,
        }  # fmt: skip

    @pytest.mark.parametrize("text", ["{question", "2026-02-30", "no", "On", "0400", "*x", "[" * 3_000])
    def test_what_is_no_value_is_a_text(self, text):
        """A prompt in brackets, a day that no calendar has; and `no` and `0400` are texts, as in the sweep file."""
        assert parse_pairs([f"a={text}"]) == {"a": text}

    def test_refuses_a_name_that_is_given_twice(self):
        """One of the two would be dropped in silence."""
        with pytest.raises(InputError, match="-p ' e=2': e is given twice"):
            parse_pairs(["e=1", " e=2"])

    def test_refuses_a_pair_without_equals(self):
        """The message shows the form."""
        with pytest.raises(InputError, match="-p 'chunk_size': expected NAME=VALUE"):
            parse_pairs(["chunk_size"])


def test_an_edited_file_is_another_input(folder):
    """A trial is known by the text of the prompt it names, not by its path."""
    parameters = {"prompt": "prompts/plain.md", "model": "offline/extractive", "text": "a sentence that ends in .md\n.md"}
    before = sweeps.file_digests(parameters, folder)
    prompt = folder / "prompts/plain.md"
    text = prompt.read_text()
    prompt.write_text(text + "More.")
    try:
        after = sweeps.file_digests(parameters, folder)
    finally:
        prompt.write_text(text)

    assert set(before) == set(after) == {"prompts/plain.md"}
    assert before != after


def test_an_edited_world_is_another_input(tmp_path):
    """A database counts with the log beside it, `files` with all in it, a file beside the POC, too; a folder to write to does not."""
    (tmp_path / "poc/files/deep").mkdir(parents=True)
    (tmp_path / "poc/results").mkdir()
    (tmp_path / "outside.db").touch()
    parameters = {
        "world": "shop.db",
        "files": "files",
        "poc": ".",
        "other": "../outside.db",
        "out": "results",
        "model": "\0",
        "split": "dev",
        "n": 3,
    }
    seen = []
    for written in ("shop.db", "shop.db-wal", "files/deep/a.bin", "files/b.txt"):
        (tmp_path / "poc" / written).write_bytes(b"\xff\x00")
        seen.append(sweeps.file_digests(parameters, tmp_path / "poc"))

    assert [set(one) for one in seen] == [{"shop.db", "files", "../outside.db"}] * 4
    assert len({str(one) for one in seen}) == 4
