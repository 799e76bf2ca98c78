import datetime
import json

import pytest

from poclab.charter import Charter, Criterion
from poclab.errors import InputError
from poclab.tables import block
from poclab.timeline import changes, of_runs
from test_report import HOSTILE, Elements

METRICS = {"accuracy": 0.5, "accuracy_low": 0.25, "accuracy_high": 0.75, "cases": 8.0, "failed": 1.0, "latency_p95_s": 2.0}


def run(number, *, params=None, metrics=METRICS, **tags):
    """A recorded run as the archive lists it; the runs of a test are an hour apart."""
    known = {"split": "dev", "lock": "1f" * 32, "edition": "1", "version": f"{number:064}", "name": f"v{number}", "repeats": "1", **tags}
    return {
        "run_id": f"{number:08}{'f' * 24}",
        "name": f"run {number}",
        "started": datetime.datetime(2026, 11, 23, 9 + number),
        "tags": {key: value for key, value in known.items() if value is not None},
        "params": {"k": "3"} if params is None else params,
        "metrics": metrics,
    }


def changed(*runs):
    return [row["changed"] for row in of_runs(runs).rows]


def test_the_first_run_has_nothing_before_it():
    """It is where the history begins."""
    assert changed(run(1)) == ["(the first)"]


def test_a_run_is_told_by_the_parameters_that_changed():
    """Old and new value; one that is new or gone had its default. The same once more is said to be that."""
    versions = {"one": {"k": "3", "chunk": "400"}, "other": {"k": "5", "chunk": "400", "overlap": "50"}}

    assert changed(run(1, params=versions["one"]), run(2, params=versions["other"]), run(3, params=versions["one"]))[1:] == [
        "k 3 -> 5, overlap (not set) -> 50",
        "k 5 -> 3, overlap 50 -> (not set)",
    ]
    assert changed(run(1, version="v"), run(2, version="v"))[1] == "nothing: the same version again"


def test_a_run_is_told_by_its_judges():
    """One that came, went, or goes by another rubric; a run of before judges were recorded says nothing of it."""
    one, other, two = '{"tone": "aa"}', '{"tone": "bb"}', '{"tone": "aa", "depth": "cc"}'
    runs = [run(place, version="v", judges=judges) for place, judges in enumerate(("{}", one, other, two, one, None))]

    assert changed(*runs)[1:] == [
        "judge tone added",
        "judge tone of another rubric or model",
        "judge tone of another rubric or model, judge depth added",
        "judge depth left out",
        "nothing: the same version again",
    ]


def test_what_judges_gave_has_a_column_where_there_are_any():
    """A judge's score with its interval; none where it has no number."""
    scored = run(2, metrics={**METRICS, "tone": 0.25, "tone_low": 0.1, "tone_high": 0.5}, judges='{"tone": "aa", "depth": "bb"}')
    found = of_runs([run(1), scored])
    lines = repr(found).splitlines()

    assert lines[0].split() == ["on", "split", "version", "accuracy", "interval", "n", "failed", "judges", "changed", "run"]
    assert "tone 0.250 (0.100 to 0.500), depth none" in lines[2]
    assert "<th" in found._repr_html_() and "depth none" in found._repr_html_()
    assert "judges" not in repr(of_runs([run(1)]))


def test_an_edited_prompt_is_a_change_although_its_name_is_not():
    """The parameter holds the file's name; that the version differs all the same can only be a text."""
    params = {"prompt": "prompts/plain.md"}

    assert changed(run(1, params=params), run(2, params=params))[1] == "the text of a prompt"


def test_an_edited_prompt_is_named_when_its_registered_version_is_known():
    """Also where something else changed at the same time: two changes are two."""
    tag = "prompt.prompt"
    one = run(1, params={"prompt": "plain.md", "k": "3"}, **{tag: "prompts:/animals-plain/1"})
    two = run(2, params={"prompt": "plain.md", "k": "5"}, **{tag: "prompts:/animals-plain/2"})
    three = run(3, params={"prompt": "other.md", "k": "5"}, **{tag: "prompts:/animals-other/1"})

    assert changed(one, two, three)[1:] == ["k 3 -> 5, the text of prompt", "prompt plain.md -> other.md"]


def test_a_prompt_that_could_not_be_registered_is_no_change():
    """Its tag says why not, in words of the store."""
    tag = "prompt.prompt"
    one = run(1, version="v", params={"prompt": "plain.md"}, **{tag: "not registered: a name with /"})
    two = run(2, version="v", params={"prompt": "plain.md"}, **{tag: "prompts:/animals-plain/1"})

    assert changed(one, two)[1] == "nothing: the same version again"


@pytest.mark.parametrize(
    ("tag", "old", "new", "words"),
    [
        ("corpus", "c1" * 32, "d2" * 32, "corpus c1c1c1c1 -> d2d2d2d2"),
        ("repeats", "1", "3", "repeats 1 -> 3"),
        ("git_commit", "0123456789abcdef", "fedcba9876543210", "commit 01234567 -> fedcba98"),
    ],
)
def test_what_changed_besides_the_version_is_told_too(tag, old, new, words):
    """Documents, repeats and code are no parameters, and move the number. Where one run does not know, nothing is said."""
    before, after = run(1, version="v", **{tag: old}), run(2, version="v", **{tag: new})

    assert changed(before, after)[1] == words
    assert changed(run(1, version="v", **{tag: None}), after)[1] == "nothing: the same version again"


def test_several_changes_are_all_told():
    """Nobody can tell which of them moved the number, so all are there."""
    before, after = run(1, corpus="c1" * 8), run(2, params={"k": "5"}, corpus="d2" * 8, repeats="2")

    assert changes(before, after) == "k 3 -> 5, corpus c1c1c1c1 -> d2d2d2d2, repeats 1 -> 2"


def test_splits_and_editions_are_apart():
    """A run is held against the one before it on the same cases, whatever was run in between."""
    runs = [
        run(1, params={"k": "1"}),
        run(2, params={"k": "9"}, split="test"),
        run(3, params={"k": "2"}),
        run(4, params={"k": "7"}, lock="2e" * 32, edition="2"),
        run(5, params={"k": "8"}, split="test"),
    ]

    assert changed(*runs) == ["(the first)", "(the first)", "k 1 -> 2", "(the first)", "k 9 -> 8"]


def test_no_runs_are_no_history():
    """The error says how to make one."""
    with pytest.raises(InputError, match="no runs yet\n  fix: `poclab run`, or `poclab sweep`"):
        of_runs([])


def test_the_table_has_a_line_per_run():
    """When, split, version, number with interval, n, failed, what changed, and the id to type. The edition is named once there are two."""
    history = of_runs([run(1), run(2, params={"k": "5"}, split="test")])
    editions = of_runs([run(1), run(2, lock="2e" * 32, edition="2")])

    lines = repr(history).splitlines()
    assert lines[0].split() == ["on", "split", "version", "accuracy", "interval", "n", "failed", "changed", "run"]
    assert lines[1].split() == [*"2026-11-23 10:00 dev v1 0.500 0.250 to 0.750 8 1 (the first) 00000001".split()]
    assert "dev (edition 2)" in repr(editions)
    assert "edition" not in repr(history)


def test_the_frame_has_a_line_per_run():
    """For whoever draws or sorts it: numbers as numbers, identities whole."""
    table = of_runs([run(1), run(2, split=None, name=None)]).frame()

    assert list(table.columns) == [
        *(
            "run",
            "started",
            "split",
            "edition",
            "changed",
            "score",
            "judges",
            "accuracy",
            "accuracy_low",
            "accuracy_high",
            "cases",
            "failed",
        ),
        *("latency_p95_s", "cost_usd_per_case", "lock", "sweep", "version", "run_id"),
    ]
    assert table["run"].tolist() == ["v1", "run 2"]
    assert table["split"].tolist() == ["dev", "all"]
    assert table["cases"].tolist() == [8, 8]


def test_a_run_without_an_accuracy_is_listed():
    """Its scorer failed: it has no number, and is not left out of the table; the chart shows the others."""
    history = of_runs([run(1), run(2, metrics={"cases": 8.0, "failed": 0.0})])

    assert repr(history).splitlines()[2].split()[:5] == ["2026-11-23", "11:00", "dev", "v2", "none"]
    assert "data:image/png;base64," in history._repr_html_()


def test_a_history_without_any_accuracy_is_shown_without_a_chart():
    """An empty pair of axes would look like a result, and an error would hide the table."""
    page = of_runs([run(1, metrics={"cases": 8.0, "failed": 0.0})])._repr_html_()

    assert "none" in page
    assert "<img" not in page


def test_a_notebook_shows_chart_and_table():
    """The charter's target is in the chart."""
    charter = Charter("d", "o", "s", (Criterion("accuracy", at_least=0.8),), {})
    history = of_runs([run(1), run(2)], charter)

    assert history._repr_html_().startswith(block("<img alt='accuracy over time' src='data:image/png").removesuffix("</div>"))
    assert "target on test: 0.8" in {line.get_label() for line in history.figure().axes[0].get_lines()}


def hostile():
    params = {HOSTILE: HOSTILE}
    return of_runs(
        [
            run(1, params={HOSTILE: "x"}, name=HOSTILE, split=HOSTILE, edition=HOSTILE, corpus=HOSTILE),
            run(2, params=params, name=HOSTILE, split=HOSTILE, edition="2", corpus="c", metrics={}),
        ]
    )


def test_nothing_that_somebody_wrote_is_markup():
    """Names, splits, parameters: a browser sees them as text alone, beside the one picture of the chart."""
    seen = Elements(hostile()._repr_html_())

    assert seen.tags <= {"div", "img", "table", "thead", "tbody", "tr", "th", "td"}
    assert seen.attributes <= {"class", "style", "alt", "src"}
    assert "<script>alert(1)</script>" in seen.text
    assert hostile()._repr_html_().count("<img") == 1


def test_nothing_that_somebody_wrote_drives_a_terminal():
    """Of control characters only the line ends of the form itself reach the terminal."""
    assert all(char.isprintable() for line in repr(hostile()).split("\n") for char in line)


def test_the_rows_are_json_but_for_their_time():
    """They are kept with a handoff."""
    rows = [{**row, "started": row["started"].isoformat()} for row in of_runs([run(1), run(2, metrics={})]).rows]

    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_runs_by_different_scores_are_not_one_line():
    """An accuracy by `exact` is not held against one by `contains`: each has a first run of its own, and is named."""
    history = of_runs([run(1, score="contains"), run(2, score="exact", params={"k": "5"})])

    assert [row["changed"] for row in history.rows] == ["(the first)", "(the first)"]
    assert "dev (score exact)" in repr(history)
    assert [bars.get_label() for bars in history.figure().axes[0].containers] == [
        "dev, by contains (95% interval)",
        "dev, by exact (95% interval)",
    ]


def test_a_trial_is_told_by_its_place_in_the_sweep():
    """Trials run side by side: which one started before another says nothing of what was changed."""
    trials = [{**run(1), "parent": "p", "name": "retrieval none -> bm25"}, {**run(2), "parent": "p", "name": "baseline"}]

    assert changed(*trials) == ["sweep: retrieval none -> bm25", "sweep: baseline"]
