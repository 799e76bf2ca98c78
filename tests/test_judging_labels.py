import json
import random
import threading
from collections import Counter
from dataclasses import replace

import pytest
from filelock import FileLock

from judged import RUBRIC, fill, poc_of, report_of
from poclab import Judge, freezing
from poclab.errors import InputError, StoreError
from poclab.judging import Rubric, calibrate, draw, extend, labels, labels_path, read_labels
from poclab.judging.labels import label
from poclab.judging.rubric import TEMPLATES
from poclab.system import Reply

HOSTILE = "\x1b[2J<b>\0 </reply>\n\ud83d"


@pytest.fixture
def folder(tmp_path):
    return poc_of(tmp_path / "poc")


@pytest.fixture
def drawn(folder):
    """A POC with a sample of 5 of 12 replies, and its file."""
    draw(folder, RUBRIC, report_of(folder), sample=5, seed=0)
    return folder


def lines_of(poc):
    return [json.loads(line) for line in labels_path(poc, RUBRIC).read_text().splitlines()]


def put(poc, lines):
    labels_path(poc, RUBRIC).write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))


def sampled(found):
    return [one.case.id for one in found.sample]


# --- drawing


def test_a_sample_is_drawn_by_chance_and_again_the_same(folder):
    """The seed decides it, and another seed another one; each reply has the same chance."""
    found = draw(folder, RUBRIC, report_of(folder), sample=5, seed=0)
    expected = sorted(random.Random(f"0 {found.head['lock']}").sample(range(12), 5))
    assert sampled(found) == [f"q{place:02}" for place in expected]

    samples = []
    for seed in range(40):
        labels_path(folder, RUBRIC).unlink()
        samples.append(sampled(draw(folder, RUBRIC, report_of(folder), sample=5, seed=seed)))
    assert samples[0] == sampled(found)
    times = [sum(f"q{place:02}" in one for one in samples) for place in range(12)]
    # 40 samples of 5 of 12: each reply is in 16.7 of them, give or take 3.1; four times that is one run in a thousand.
    assert all(4 <= count <= 30 for count in times)


def test_the_file_holds_all_replies_and_no_verdict(folder):
    """The sample first, with what people fill in; the rest, for the correction, without; what was drawn from what, in the first line."""
    found = draw(folder, RUBRIC, report_of(folder, {"q03": "beta"}), sample=5, seed=7)
    head, *lines = lines_of(folder)
    assert {name: head[name] for name in ("rubric", "run", "name", "split", "seed", "sample", "of")} == {
        "rubric": "correctness", "run": "r1", "name": "baseline", "split": "dev", "seed": 7, "sample": 5, "of": 12,
    }  # fmt: skip
    assert [one["sampled"] for one in lines] == [True] * 5 + [False] * 7
    assert {one["case"] for one in lines} == {f"q{place:02}" for place in range(12)}
    assert {tuple(one) for one in lines[:5]} == {
        ("case", "digest", "question", "reference", "reply", "sampled", "label", "by", "on", "note")
    }
    assert {tuple(one) for one in lines[5:]} == {("case", "digest", "question", "reference", "reply", "sampled")}
    assert next(one for one in lines if one["case"] == "q03")["reply"] == "beta"
    assert found.missing == sampled(found)
    assert repr(found).endswith("5 of 12 replies of baseline, seed 7; 5 to label: fill in label, by and on")


def test_what_is_written_is_read_back(folder):
    """Replies of data, without a word, with passages where the rubric shows them, hostile ones, and a megabyte."""
    shows = replace(RUBRIC, shows=("question", "reference", "passages", "reply"))
    replies = {
        "q00": Reply("a", contexts=["p1", HOSTILE]), "q01": HOSTILE, "q02": "", "q03": "x" * 1_000_000, "q04": Reply(data={"a": [1]}),
    }  # fmt: skip
    found = draw(folder, shows, report_of(folder, replies), sample=12, seed=0)
    assert read_labels(folder, shows) == found
    by_case = {one.case.id: one.reply for one in found.lines}
    assert [by_case[f"q{place:02}"].text for place in range(5)] == ["a", HOSTILE, "", "x" * 1_000_000, '{"a": [1]}']
    assert [one.text for one in by_case["q00"].contexts] == ["p1", HOSTILE]

    labels_path(folder, RUBRIC).unlink()
    found = draw(folder, RUBRIC, report_of(folder, replies), sample=12, seed=0)
    assert {one.reply.contexts for one in found.lines} == {()}


def test_people_are_shown_all_inputs_that_the_judge_is(tmp_path):
    """Not the question alone."""
    poc = poc_of(tmp_path / "poc", inputs={"page": 3})
    draw(poc, RUBRIC, report_of(poc), sample=2, seed=0)
    assert {one["question"] for one in lines_of(poc)[1:]} == {f"question: case {place:02}\npage: 3" for place in range(12)}


def test_only_replies_to_what_the_rubric_applies_to_are_drawn(folder, tmp_path):
    """Not a case that failed, nor a second try, nor one without a reference."""
    report = report_of(folder, failed=("q00", "q01"))
    again = replace(report, results=(*report.results, *(replace(one, repeat=1) for one in report.results)))
    assert draw(folder, RUBRIC, again, sample=10, seed=0).head["of"] == 10

    bare = poc_of(tmp_path / "bare", expected={"data": {"a": 1}})
    with pytest.raises(
        InputError,
        match="the run has 0 replies to draw from; 12 cases failed, or expect nothing .* compare with\n  fix: draw from another run",
    ):
        draw(bare, RUBRIC, report_of(bare), sample=2, seed=0)


@pytest.mark.parametrize(("sample", "fix"), [(1, 12), (13, 12), (0, 12), (-1, 12)])
def test_a_sample_of_one_or_of_more_than_there_are_is_refused(folder, sample, fix):
    """With the number to type."""
    with pytest.raises(InputError, match=rf"--sample {sample}: the run has 12 replies to draw from\n  fix: --sample {fix}"):
        draw(folder, RUBRIC, report_of(folder), sample=sample, seed=0)
    assert not labels_path(folder, RUBRIC).exists()


def test_a_sample_is_not_drawn_over_another(drawn):
    """Labels are work; and to draw until one fits is no sample."""
    before = labels_path(drawn, RUBRIC).read_bytes()
    with pytest.raises(
        InputError,
        match="there is a sample already\n  fix: label it; a larger --sample draws more of its run; another one takes: mv .*labels.jsonl .*labels.jsonl.old$",
    ):
        draw(drawn, RUBRIC, report_of(drawn), sample=5, seed=1)
    assert labels_path(drawn, RUBRIC).read_bytes() == before


def test_a_sample_is_drawn_further(drawn):
    """Labels that are there stay, and the seal holds."""
    path, first = labels_path(drawn, RUBRIC), [one.case.id for one in read_labels(drawn, RUBRIC).sample]
    head, *lines = lines_of(drawn)
    lines[0] |= {"label": "correct", "by": "Ada"}
    path.write_text("".join(json.dumps(one) + "\n" for one in (head, *lines)))
    found = extend(drawn, RUBRIC, sample=len(first) + 3)

    assert [one.case.id for one in found.sample][: len(first)] == first
    assert (found.sample[0].label, found.sample[0].by, len(found.sample), len(found.lines)) == ("correct", "Ada", len(first) + 3, 12)
    assert read_labels(drawn, RUBRIC).lines == found.lines
    assert read_labels(drawn, RUBRIC).head["further"] == [len(first)]
    with pytest.raises(InputError, match="there is a sample already\n  fix: label it; a larger --sample"):
        extend(drawn, RUBRIC, sample=len(first) + 3)
    with pytest.raises(InputError, match="--sample 13: the run has 12 replies to draw from\n  fix: --sample 12"):
        extend(drawn, RUBRIC, sample=13)


def test_each_of_the_others_may_be_drawn_further(folder):
    """Over 60 seeds each reply is about as often in the sample as the next: 5 and then 4 of 12, so 45 times, give or take 5 standard errors."""
    often = Counter()
    for seed in range(60):
        draw(folder, RUBRIC, report_of(folder), sample=5, seed=seed)
        often.update(one.case.id for one in extend(folder, RUBRIC, sample=9).sample)
        labels_path(folder, RUBRIC).unlink()

    assert len(often) == 12
    assert all(abs(count - 45) <= 5 * (60 * 0.75 * 0.25) ** 0.5 for count in often.values())


def test_replies_that_were_cut_are_not_drawn(folder):
    """A brief report holds the beginnings."""
    with pytest.raises(InputError, match="the replies of a brief report are cut"):
        draw(folder, RUBRIC, replace(report_of(folder), brief=True), sample=5, seed=0)


def test_the_rubric_is_kept_beside_its_labels(folder):
    """From then on it is the POC's own; one that is there already stays."""
    own = folder / "rubrics" / "tone.yaml"
    draw(folder, Rubric.named("tone"), report_of(folder), sample=2, seed=0)
    assert own.read_bytes() == (TEMPLATES / "tone.yaml").read_bytes()
    assert Rubric.named("tone", folder).path == own

    labels_path(folder, Rubric.named("tone")).unlink()
    own.write_text(own.read_text() + "# mine\n")
    draw(folder, Rubric.named("tone"), report_of(folder), sample=2, seed=0)
    assert own.read_text().endswith("# mine\n")


# --- reading


def test_labels_are_read(drawn):
    """With who said so and when, a note and `unscored`."""
    fill(labels_path(drawn, RUBRIC), lambda line: "unscored" if line["case"] < "q05" else "wrong")
    found = read_labels(drawn, RUBRIC)
    assert found.missing == []
    assert {(one.label, one.by, one.on) for one in found.sample} <= {("unscored", "Ada", "2026-11-27"), ("wrong", "Ada", "2026-11-27")}
    assert {one.label for one in found.others} == {None}


def test_no_labels_say_how_to_draw_them(folder):
    """The command is there to be copied."""
    with pytest.raises(
        InputError, match=r"no labels for the rubric 'correctness'\n  fix: poclab calibrate .* correctness --sample 60 --seed 0"
    ):
        read_labels(folder, RUBRIC)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": "Correct"}, "line 2: label 'Correct'\n  fix: use one of: correct, wrong, unscored"),
        ({"label": "yes"}, "line 2: label 'yes'"),
        ({"label": ""}, "line 2: label ''"),
        ({"label": True}, "line 2: label True"),
        ({"label": 1}, "line 2: label 1"),
        ({"label": ["correct"]}, r"line 2: label \['correct'\]"),
        ({"label": "correct", "by": " "}, 'line 2: a label without a name\n  fix: "by": "..."'),
        ({"label": "correct", "by": 5}, "line 2: by, on and note are texts"),
        ({"label": "correct", "by": "Ada", "on": 2026}, "line 2: by, on and note are texts"),
        ({"label": "correct", "by": "Ada", "note": None}, "line 2: by, on and note are texts"),
        ({"lable": "correct"}, "line 2: unknown key 'lable'\n  fix: did you mean 'label'"),
        ({"reply": "alpha!"}, "not the replies as they were drawn.*\n  fix: put the file back"),
        ({"reply": None}, "not the replies as they were drawn"),
        ({"digest": "0"}, "not the replies as they were drawn"),
        ({"case": "q99"}, "not the replies as they were drawn"),
        ({"sampled": False}, "not the replies as they were drawn"),
        ({"sampled": "yes"}, "not the replies as they were drawn"),
        ({"passages": ["p"]}, "not the replies as they were drawn"),
    ],
)
def test_a_line_that_was_filled_in_wrongly_is_refused(drawn, change, words):
    """With the line, and what to type; only label, by, on and note are people's."""
    head, first, *lines = lines_of(drawn)
    put(drawn, [head, {**first, **change}, *lines])
    with pytest.raises(InputError, match=words):
        read_labels(drawn, RUBRIC)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda head, lines: [head, *lines[1:]], "not the replies as they were drawn"),
        (lambda head, lines: [head, *lines[:-1]], "not the replies as they were drawn"),
        (lambda head, lines: [head, lines[0], *lines], "not the replies as they were drawn"),
        (lambda head, lines: [head, *reversed(lines)], "not the replies as they were drawn"),
        (lambda head, lines: [head, {**lines[0], "sampled": False}, *lines[1:-1], {**lines[-1], "sampled": True}], "not the replies as they were drawn"),
        (lambda head, lines: [{**head, "sample": 4}, *lines], "not the replies as they were drawn"),
        (lambda head, lines: [{**head, "seed": 1}, *lines], "not the replies as they were drawn"),
        (lambda head, lines: [{**head, "seal": None}, *lines], "not the replies as they were drawn"),
        (lambda head, lines: [{"sample": 5}, *lines], "not the replies as they were drawn"),
        (lambda head, lines: [{**head, "why": 1}, *lines], "line 1: unknown key 'why'"),
        (lambda head, lines: lines, "line 1: unknown key 'case'"),
        (lambda head, lines: [], "not the replies as they were drawn"),
        (lambda head, lines: [head, 5, *lines], "line 2: expected a JSON object, found int"),
        (lambda head, lines: [[head], *lines], "line 1: expected a JSON object, found list"),
        (lambda head, lines: [head, "{", *lines], "line 2: not JSON"),
        (lambda head, lines: [head, '{"label": "correct", "label": "wrong"}', *lines], "line 2: not JSON: the key 'label' is there twice"),
    ],
)  # fmt: skip
def test_a_sample_that_was_picked_from_is_refused(drawn, edit, words):
    """Lines that are gone, doubled, swapped or made up, another seed: what is found on it would not hold for the rest."""
    head, *lines = lines_of(drawn)
    put(drawn, edit(head, lines))
    with pytest.raises(InputError, match=words):
        read_labels(drawn, RUBRIC)


def test_labels_of_another_rubric_are_refused(drawn):
    """A file that was renamed."""
    other = replace(RUBRIC, name="tone")
    labels_path(drawn, RUBRIC).rename(labels_path(drawn, other))
    with pytest.raises(InputError, match="not the replies as they were drawn"):
        read_labels(drawn, other)


def test_a_menu_that_has_changed_is_told(drawn):
    """A label that an edited rubric does not have any more."""
    fill(labels_path(drawn, RUBRIC), lambda line: "wrong")
    with pytest.raises(InputError, match="label 'wrong'\n  fix: use one of: correct, false, unscored"):
        read_labels(drawn, replace(RUBRIC, labels={"correct": 1, "false": 0}))


def test_a_case_that_was_edited_since_is_told(drawn):
    """Its reply answered another question; neither is it drawn."""
    report = report_of(drawn)
    path = drawn / "cases.jsonl"
    path.write_text(path.read_text().replace("case 00", "another"))
    freezing.freeze(path, new_edition=True)
    words = "case 'q00' is not what it was when it was answered\n  fix: evaluate again, and draw another sample"
    with pytest.raises(InputError, match=words):
        read_labels(drawn, RUBRIC)
    labels_path(drawn, RUBRIC).unlink()
    with pytest.raises(InputError, match=words):
        draw(drawn, RUBRIC, report, sample=5, seed=0)


def test_an_example_of_the_sample_is_refused(folder):
    """A judge would be held against what it was shown: by the reply, whatever its spaces; with the question where the example shows one."""
    report = report_of(folder, {f"q{place:02}": f"reply {place:02}" for place in range(12)})
    first = draw(folder, RUBRIC, report, sample=5, seed=0).sample[0]
    text = f" {first.reply.text.replace(' ', '  ')}\n"

    for example in ({"reply": text}, {"reply": text, "question": first.case.inputs["question"]}):
        with pytest.raises(InputError, match=f"has the reply to {first.case.id} as an example.*\n  fix: take another example"):
            read_labels(folder, replace(RUBRIC, examples=({**example, "label": "correct"},)))
    for example in ({"reply": "reply 99"}, {"reply": text, "question": "Something else?"}):
        assert read_labels(folder, replace(RUBRIC, examples=({**example, "label": "correct"},))).missing


def test_an_example_of_the_rest_is_no_harm(folder):
    """Only what the judge is held against must be new to it."""
    report = report_of(folder, {f"q{place:02}": f"reply {place:02}" for place in range(12)})
    rest = draw(folder, RUBRIC, report, sample=5, seed=0).others[0]
    assert read_labels(folder, replace(RUBRIC, examples=({"reply": rest.reply.text, "label": "correct"},)))


# --- labelling, side by side


def test_people_at_once_lose_nothing(drawn):
    """Each label goes into the file as it is then."""
    lines = read_labels(drawn, RUBRIC).sample
    errors = []

    def work(one, name):
        try:
            label(drawn, RUBRIC, one, label="correct", by=name, on="2026-11-27", note="")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(one, f"P{place}")) for place, one in enumerate(lines)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert errors == []
    assert [one.by for one in read_labels(drawn, RUBRIC).sample] == [f"P{place}" for place in range(5)]


def test_a_label_of_another_is_not_replaced_unseen(drawn):
    """Whoever saw the reply without it is told what was said."""
    first = read_labels(drawn, RUBRIC).sample[0]
    given = {"on": "2026-11-27", "note": ""}
    now = label(drawn, RUBRIC, first, label="correct", by="Ada", **given)
    with pytest.raises(InputError, match="Ada said correct of this reply meanwhile\n  fix: look at it again"):
        label(drawn, RUBRIC, first, label="wrong", by="Grace", **given)
    assert label(drawn, RUBRIC, now.sample[0], label="wrong", by="Grace", **given).sample[0].by == "Grace"


def test_who_never_ends_writing_is_told(drawn, monkeypatch):
    """Instead of waiting for ever, whatever it is that needs the file."""
    monkeypatch.setattr(labels, "PATIENCE_S", 0)
    first = read_labels(drawn, RUBRIC).sample[0]
    waiting = (
        lambda: draw(drawn, RUBRIC, report_of(drawn), sample=5, seed=0),
        lambda: label(drawn, RUBRIC, first, label="wrong", by="Grace", on="", note=""),
        lambda: extend(drawn, RUBRIC, sample=6),
        lambda: calibrate(drawn, Judge(RUBRIC)),  # what is read, and its digest, are of one moment
    )
    with FileLock(drawn / ".poclab" / "judging.lock"):
        for one in waiting:
            with pytest.raises(StoreError, match="another process has been writing labels"):
                one()


def test_a_folder_that_is_none_stays_so(tmp_path):
    """A slip in its name is told, and no lock is left there."""
    with pytest.raises(InputError, match="no POC at .*nowhere or above"):
        extend(tmp_path / "nowhere", RUBRIC, sample=6)
    assert list(tmp_path.iterdir()) == []
