"""A search proposes what a sweep tries next, from the trials that the sweep has recorded."""

import json
from types import SimpleNamespace

import pytest

from conftest import notebook_of
from poclab import trials
from poclab.archive import Archive
from poclab.errors import InputError
from poclab.results import Record
from poclab.search import Search
from poclab.sweeps import load_sweep

#: Right on a case when `x` is near enough to 30: the best point is known.
CELLS = (
    ("poc: str = '.'\nsplit: str = 'dev'\nx: int = 0\nkind: str = 'a'\nrate: float = 0.5", "parameters"),
    "import poclab; from poclab import scores; cases = poclab.TestSet.load(f'{poc}/cases.jsonl').split(split)",
    "off = abs(x - 30) + (kind == 'b') * 20\n"
    "right = lambda case, reply: max(0.0, 1 - off / 100)\n"
    "version = poclab.Version('searched', x=x, kind=kind, rate=rate)\n"
    "poclab.evaluate(lambda inputs: 'a', cases, [scores.Scorer('near', right)], version=version)",
)
SWEEP = """\
notebook: notebooks/searched.ipynb
method: tpe
run_cap: 12
seed: 7
include: [{x: 100}]
parameters:
  x: {min: 0, max: 100}
  kind: {values: [a, b]}
  rate: {min: 0.001, max: 1.0, distribution: log_uniform_values}
where: ["x > 5 or kind == 'a'"]
"""


def make(poc, text=SWEEP):
    (poc / "notebooks/searched.ipynb").write_text(json.dumps(notebook_of(*CELLS)))
    (poc / "sweep.yaml").write_text(text)
    return load_sweep(poc)


def value(trial):
    return 1 - (abs(trial.parameters["x"] - 30) + (trial.parameters.get("kind") == "b") * 20) / 100


def proposed(search, count):
    """Return the next trials of a search that is told how each went before it proposes the next one."""
    found = []
    for _ in range(count):
        if (one := search.next()) is None:
            break
        search.tell(one[0], value(one[1]))
        found.append(one[1])
    return found


def identify(trial):
    return json.dumps(trial.parameters, sort_keys=True)


def test_what_it_proposes_follows_from_seed_and_history(poc):
    """The same again with the same seed, other trials with another one; each point once; where the expressions hold; not more than `run_cap`."""
    sweep = make(poc)
    first, again = (proposed(Search(sweep, identify), 99) for _ in range(2))
    other = proposed(Search(make(poc, SWEEP.replace("seed: 7", "seed: 8")), identify), 99)

    assert first == again != other
    assert len({identify(one) for one in first}) == len(first) == 12
    for one in first:
        assert 0 <= one.parameters["x"] <= 100 and isinstance(one.parameters["x"], int)
        assert 0.001 <= one.parameters["rate"] <= 1.0
        assert one.parameters["x"] > 5 or one.parameters["kind"] == "a"
    assert first[0].name.startswith("x 100 -> ")


def test_it_gets_nearer_than_chance(poc):
    """Of sixty trials of a search the last thirty are better on average than thirty by chance."""
    sweep = make(poc, SWEEP.replace("run_cap: 12", "run_cap: 60"))
    by_chance = make(poc, SWEEP.replace("method: tpe", "method: random").replace("run_cap: 12", "run_cap: 30")).trials[1:]
    late = proposed(Search(sweep, identify), 60)[30:]

    assert sum(map(value, late)) / 30 > sum(map(value, by_chance)) / 30 + 0.1


def records(trials, **more):
    return [Record(identify(one), one.name, one.parameters, "ok", estimates={"accuracy": {"value": value(one)}}, **more) for one in trials]


def test_it_remembers_the_trials_that_were_run_before(poc):
    """Those of the space, as they are now, count; others, what is outside, and what is given twice do not."""
    sweep = make(poc)
    ran = proposed(Search(sweep, identify), 8)
    search = Search(sweep, identify)
    search.include([("baseline", sweep.trials[0])])
    outside = [sweep.trial({"x": 101, "kind": "a", "rate": 0.5}), sweep.trial({"x": 50}), sweep.trial({"x": 3, "kind": "b", "rate": 0.5})]
    remembered = search.remember(records(ran + outside + ran[:2]), as_they_were=False)
    more = proposed(search, 99)

    assert [identify(one) for one in ran] == list(remembered)
    assert len(more) == 4
    assert not {identify(one) for one in more} & set(remembered)


def test_what_was_run_before_an_edit_counts_only_where_that_is_allowed(poc):
    """An edit gives every trial another id: then nothing is known of it, or it is taken as it was."""
    sweep = make(poc)
    ran = records(proposed(Search(sweep, identify), 5))
    edited = [Search(sweep, lambda trial: f"edited {identify(trial)}") for _ in range(2)]

    assert edited[0].remember(ran, as_they_were=False) == {}
    assert len(proposed(edited[0], 99)) == 12
    assert [one.trial_id for one in edited[1].remember(ran, as_they_were=True).values()] == [f"edited {one.trial_id}" for one in ran]
    assert len(proposed(edited[1], 99)) == 7


def test_an_included_trial_is_not_proposed_and_counts_for_nothing(poc):
    """It lies in a space of six points: the five others are proposed, and it is learned from."""
    text = SWEEP.replace("{min: 0, max: 100}", "{values: [0, 10, 20]}").replace("include: [{x: 100}]", "include: [{x: 10, kind: a}]")
    sweep = make(
        poc, text.replace("  rate: {min: 0.001, max: 1.0, distribution: log_uniform_values}\n", "").replace("x > 5 or", "x >= 0 or")
    )
    search = Search(sweep, identify)
    search.include([(identify(sweep.trials[0]), sweep.trials[0])])
    search.tell(identify(sweep.trials[0]), value(sweep.trials[0]))
    found = proposed(search, 99)

    assert sweep.space.count == 5
    assert sweep.planned == 1 + 5
    assert len({identify(one) for one in found}) == len(found) == 5
    assert sweep.trials[0].parameters not in [one.parameters for one in found]
    assert len(search.study.trials) >= 6


def test_equal_values_of_other_types_are_other_points(poc):
    """1, 1.0 and true are equal in Python alone."""
    sweep = make(poc, SWEEP.replace("{min: 0, max: 100}", "{values: [1, 2]}").replace("kind: {values: [a, b]}", "rate: {values: [1.0, 0.5]}").replace(
        "  rate: {min: 0.001, max: 1.0, distribution: log_uniform_values}\n", "").replace("where: [\"x > 5 or kind == 'a'\"]\n", ""))  # fmt: skip
    ran = proposed_all(Search(sweep, identify))
    search = Search(sweep, identify)

    assert len(search.remember(records_of(ran), as_they_were=False)) == len(ran) == 4
    assert search.next() is None


def proposed_all(search):
    found = []
    while one := search.next():
        search.tell(one[0], 0.5)
        found.append(one[1])
    return found


def records_of(trials):
    return [Record(identify(one), one.name, one.parameters, "ok", estimates={"accuracy": {"value": 0.5}}) for one in trials]


def test_a_small_space_is_searched_to_its_end(poc):
    """Two kinds and three numbers, of which an expression leaves five points: five trials, though ten were asked for."""
    text = SWEEP.replace("run_cap: 12", "run_cap: 10").replace("{min: 0, max: 100}", "{values: [0, 10, 20]}")
    text = text.replace("  rate: {min: 0.001, max: 1.0, distribution: log_uniform_values}\n", "")
    sweep = make(poc, text)

    assert sweep.planned == 1 + 5
    assert len({identify(one) for one in proposed(Search(sweep, identify), 99)}) == 5


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("run_cap: 12\n", "", "run_cap is None"),
        ("seed: 7", "seed: -1", "seed is -1"),
        ("  rate: {", "  rat: {", "unknown parameter 'rat'"),
        ("x: {min: 0, max: 100}", "x: {min: 0, max: 10.5}", r"x is 10.5 \(float\), but the notebook takes int"),
        ("x > 5 or", "z > 5 or", "unknown parameter 'z'"),
        ("method: tpe", "method: tpee", "did you mean 'tpe'"),
        (
            "x: {min: 0, max: 100}\n  kind: {values: [a, b]}\n  rate: {min: 0.001, max: 1.0, distribution: log_uniform_values}\nwhere: [\"x > 5 or kind == 'a'\"]",
            "x: {min: 0, max: 9}\nwhere: [x > 9]",
            "no trial is left",
        ),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_before_a_kernel_starts(poc, old, new, said):
    """Names, types and expressions are checked as for a grid."""
    with pytest.raises(InputError, match=said):
        make(poc, SWEEP.replace(old, new))


@pytest.fixture(scope="module")
def searched(make_poc, tmp_path_factory):
    """A search of five trials beside the baseline, stopped after its third trial; then gone on with, and asked for once more."""
    poc = make_poc(tmp_path_factory.mktemp("searched") / "animals", store=True)
    sweep, said = make(poc, SWEEP.replace("run_cap: 12", "run_cap: 5") + "limits: {jobs: 2}\n"), []

    def stop(line):
        said.append(line)
        if line.startswith("[3/6]"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trials.run_sweep(sweep, say=stop)
    recorded = (poc / ".poclab/sweeps/sweep/trials.jsonl").read_text().splitlines()
    before = sum(json.loads(line)["outcome"] == "ok" for line in recorded)
    resumed = trials.run_sweep(sweep, say=said.append)
    again = trials.run_sweep(sweep, say=said.append)
    return SimpleNamespace(poc=poc, before=before, resumed=resumed, again=again, said=said)


def test_a_search_that_was_stopped_goes_on_with_what_it_knows(searched):
    """Six trials in all, none of them twice; the baseline first; a third time nothing is run."""
    records = [json.loads(line) for line in (searched.poc / ".poclab/sweeps/sweep/trials.jsonl").read_text().splitlines()]
    fine = [one["trial_id"] for one in records if one["outcome"] == "ok"]

    assert len(fine) == len(set(fine)) == 6
    assert [one.outcome for one in searched.resumed.records] == ["ok"] * 6
    assert searched.resumed.records[0].name == "baseline"
    assert searched.before >= 3
    assert searched.resumed.ran == 6 - searched.before
    assert searched.again.ran == 0
    assert {one.trial_id for one in searched.again.records} == set(fine)


def test_the_trials_of_a_search_are_compared_and_won_like_others(searched):
    """The table ranks all of them, with what varied; the sweep is whole, and its winner the best."""
    rows = list(searched.again.rows())
    archive = Archive.open(searched.poc)

    assert len(rows) == 6 and {"x", "kind", "rate"} <= set(rows[0])
    assert archive.unfinished() == ""
    assert archive.winner()["metrics"]["accuracy"] == max(one.value("accuracy") for one in searched.again.records)


def test_a_search_with_nothing_left_says_so(searched, capsys):
    """Trials that were run before count among those that it may propose; the dry run has a column for all that is searched."""
    told = "all 5 trials that this search may propose were run before, by whatever method: raise run_cap for more"
    table = trials.planned_table(load_sweep(searched.poc)).splitlines()

    assert searched.said[-1] == capsys.readouterr().out.strip() == told
    assert {"x", "kind", "rate"} <= set(table[0].split())
    assert any(line.startswith("6 trials, 0 to run, 2 at a time") for line in table)


def test_a_dry_run_names_what_is_searched(poc):
    """Before anything is proposed there is the baseline alone, and the columns are there all the same."""
    table = trials.planned_table(make(poc, SWEEP)).splitlines()

    assert table[0].split()[-3:] == ["x", "kind", "rate"]
    assert table[2].startswith("1 trial, 1 to run, and up to 12 that are proposed as others end, ")


def test_a_search_without_a_baseline_gets_one(poc):
    """What is fixed, and the notebook's defaults: without it there would be nothing to compare with. `--only` has no list to choose from."""
    sweep = make(poc, SWEEP.replace("include: [{x: 100}]\n", "fixed: {rate: 0.25}\n").replace("  rate: {min", "  x: {min").replace("  x: {min: 0, max: 100}\n", "", 1).replace(
        "0.001, max: 1.0, distribution: log_uniform_values", "1, max: 9"))  # fmt: skip

    assert [(one.name, one.parameters["rate"]) for one in sweep.trials] == [("baseline", 0.25)]
    assert sweep.has_baseline
    with pytest.raises(InputError, match="this sweep searches"):
        sweep.only("x > 5")
