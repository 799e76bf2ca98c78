import datetime
import json
from dataclasses import replace

import pytest

from judged import RUBRIC, poc_of, report_of
from poclab import Judge
from poclab.errors import InputError
from poclab.judging import ReplyLabeler, calibrate, draw, labels_path, read_labels
from poclab.system import Reply

TODAY = datetime.date.today().isoformat()
HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m\0</reply>\ud83d"


@pytest.fixture
def poc(tmp_path):
    """A POC with 4 of 6 replies to label."""
    folder = poc_of(tmp_path / "poc", 6)
    draw(folder, RUBRIC, report_of(folder), sample=4, seed=0)
    return folder


def labels_of(poc):
    return [(one.label, one.by) for one in read_labels(poc, RUBRIC).sample]


def shown(labeler):
    return labeler.state.value + labeler.notice.value + labeler.shown.value + labeler.passages.value


def test_a_label_is_saved_when_its_button_is_pressed(poc):
    """With the name, the day and the note; the next reply without a label comes, and at the end it says how to go on."""
    labeler = ReplyLabeler(poc, RUBRIC, by="Ada")
    assert list(labeler.buttons) == ["correct", "wrong", "unscored"]
    assert "0 of 4 labelled; this is 1, case " in labeler.state.value
    labeler.note.value = " says it "
    labeler.buttons["wrong"].click()

    first = read_labels(poc, RUBRIC).sample[0]
    assert (first.label, first.by, first.on, first.note) == ("wrong", "Ada", TODAY, "says it")
    assert (labeler.place, labeler.note.value) == (1, "")
    assert "1 of 4 labelled; this is 2, case " in labeler.state.value
    for name in ("correct", "unscored", "correct"):
        labeler.buttons[name].click()
    assert labels_of(poc) == [("wrong", "Ada"), ("correct", "Ada"), ("unscored", "Ada"), ("correct", "Ada")]
    assert f"all 4 are labelled: run the cells below, or `poclab calibrate {poc} correctness`; " in labeler.state.value
    assert repr(labeler).endswith("0 to label: fill in label, by and on")


def test_a_label_has_a_key(poc):
    """It stands on its button, and names the class by which the form finds it in the browser."""
    labeler = ReplyLabeler(poc, RUBRIC)

    assert [one.description for one in labeler.buttons.values()] == ["correct (Alt+1)", "wrong (Alt+2)", "cannot tell (Alt+0)"]
    assert [one._dom_classes for one in labeler.buttons.values()] == [("poclab-key-1",), ("poclab-key-2",), ("poclab-key-0",)]


def test_only_what_people_fill_in_changes_in_the_file(poc):
    """Every other line stays as it was, to the byte, so that a diff shows the label."""
    path = labels_path(poc, RUBRIC)
    before = path.read_text().splitlines()
    ReplyLabeler(poc, RUBRIC, by="Ada").buttons["wrong"].click()
    after = path.read_text().splitlines()
    assert [place for place, (one, other) in enumerate(zip(before, after, strict=True)) if one != other] == [1]
    assert {**json.loads(before[1]), "label": "wrong", "by": "Ada", "on": TODAY} == json.loads(after[1])


def test_nobody_labels_without_a_name(poc):
    """It is asked for, and what was typed waits for it."""
    labeler = ReplyLabeler(poc, RUBRIC, by="  ")
    labeler.note.value = "why"
    labeler.buttons["wrong"].click()
    assert "type your name first" in labeler.notice.value
    assert (labels_of(poc)[0], labeler.note.value) == ((None, ""), "why")

    labeler.by.value = "Ada"
    labeler.buttons["wrong"].click()
    assert read_labels(poc, RUBRIC).sample[0].note == "why"


def test_a_label_can_be_looked_at_again_and_changed(poc):
    """Back and forth around the ends; its button is marked."""
    labeler = ReplyLabeler(poc, RUBRIC, by="Ada")
    labeler.buttons["wrong"].click()
    labeler.step(-1)
    assert [name for name, button in labeler.buttons.items() if button.button_style] == ["wrong"]
    labeler.buttons["correct"].click()
    assert labels_of(poc)[0] == ("correct", "Ada")
    labeler.place = 0
    labeler.step(-1)
    assert labeler.place == 3
    labeler.step(1)
    assert labeler.place == 0


def test_labelling_goes_on_where_it_was_left(poc):
    """In another notebook, at the first reply without a label."""
    ReplyLabeler(poc, RUBRIC, by="Ada").buttons["wrong"].click()
    assert ReplyLabeler(poc, RUBRIC).place == 1


def test_two_people_at_once_lose_nothing(poc):
    """Each presses into the file as it is then."""
    mine, theirs = ReplyLabeler(poc, RUBRIC, by="Ada"), ReplyLabeler(poc, RUBRIC, by="Grace")
    theirs.step(2)
    theirs.buttons["correct"].click()
    mine.buttons["wrong"].click()
    assert labels_of(poc) == [("wrong", "Ada"), (None, ""), ("correct", "Grace"), (None, "")]
    assert "2 of 4 labelled" in mine.state.value


def test_a_label_of_another_is_not_replaced_unseen(poc):
    """Of the same reply: what they said is told and marked, the note stays typed, and a second press means it."""
    mine, theirs = ReplyLabeler(poc, RUBRIC, by="Ada"), ReplyLabeler(poc, RUBRIC, by="Grace")
    theirs.buttons["correct"].click()
    mine.note.value = "no"
    mine.buttons["wrong"].click()
    assert "Grace said correct of this reply meanwhile" in mine.notice.value
    assert mine.buttons["correct"].button_style == "primary"
    assert labels_of(poc)[0] == ("correct", "Grace")
    mine.buttons["wrong"].click()
    assert labels_of(poc)[0] == ("wrong", "Ada")
    assert read_labels(poc, RUBRIC).sample[0].note == "no"


def test_a_label_of_another_is_replaced_by_a_second_press_only(poc):
    """Also one that was there before: whose it is is told first, and again after a look at another reply; one's own is just changed."""
    ReplyLabeler(poc, RUBRIC, by="Ada").buttons["wrong"].click()
    labeler = ReplyLabeler(poc, RUBRIC, by="Grace")
    for _ in range(2):
        labeler.step(-labeler.place)
        labeler.buttons["correct"].click()
        assert "not saved: Ada said wrong of this reply; press once more to replace that" in labeler.notice.value
        assert labels_of(poc)[0] == ("wrong", "Ada")
        labeler.step(1)
    labeler.step(-1)
    labeler.buttons["correct"].click()
    labeler.buttons["correct"].click()
    assert labels_of(poc)[0] == ("correct", "Grace")


def test_a_label_that_voids_a_calibration_says_so(poc):
    """The judge was held against other labels; it says what to type. Before, and without a calibration, nothing is said of it."""
    labeler = ReplyLabeler(poc, RUBRIC, by="Ada")
    for _ in range(4):
        labeler.buttons["wrong"].click()
    assert "void" not in labeler.notice.value
    calibrate(poc, Judge(RUBRIC))
    labeler.buttons["correct"].click()
    assert f"the calibration is void now, since it was made with other labels: `poclab calibrate {poc} correctness`" in labeler.notice.value
    labeler.buttons["wrong"].click()
    assert "void" not in labeler.notice.value  # it was said before


def test_a_form_goes_on_with_another_sample_that_was_drawn_meanwhile(poc):
    """A smaller one of a run with other replies: what was shown is not labelled in it, and one of its own is shown."""
    labeler = ReplyLabeler(poc, RUBRIC, by="Ada")
    labeler.step(3)
    labels_path(poc, RUBRIC).unlink()
    draw(poc, RUBRIC, report_of(poc, ["beta"] * 6), sample=2, seed=1)
    labeler.buttons["wrong"].click()

    assert "not saved: another sample was drawn meanwhile, without this reply to q0" in labeler.notice.value
    assert labels_of(poc) == [(None, ""), (None, "")]
    labeler.buttons["wrong"].click()
    assert labels_of(poc) == [(None, ""), ("wrong", "Ada")]


def test_a_label_that_is_not_on_the_menu_is_not_saved(poc):
    """From a script too: the file stays as it is, and can be read."""
    labeler = ReplyLabeler(poc, RUBRIC, by="Ada")
    labeler.say("right")
    assert "not saved: the label: label &#x27;right&#x27;" in labeler.notice.value
    assert "use one of: correct, wrong, unscored" in labeler.notice.value
    assert labels_of(poc)[0] == (None, "")


def test_what_cannot_be_saved_is_said(poc):
    """The file was broken meanwhile: the reason, and the form stays."""
    labeler = ReplyLabeler(poc, RUBRIC, by="Ada")
    path = labels_path(poc, RUBRIC)
    whole = path.read_text()
    path.write_text(whole[:-20])
    labeler.buttons["wrong"].click()
    assert "not saved: " in labeler.notice.value
    path.write_text(whole)
    labeler.buttons["wrong"].click()
    assert labels_of(poc)[0] == ("wrong", "Ada")


def test_without_a_sample_there_is_no_form(tmp_path):
    """It says how to draw one."""
    with pytest.raises(InputError, match="no labels for the rubric 'correctness'\n  fix: poclab calibrate"):
        ReplyLabeler(poc_of(tmp_path / "poc"), RUBRIC)


def test_what_the_judge_is_shown_is_shown(tmp_path):
    """All inputs, the accepted answers, passages, the case's own rubric, the instructions; not what the rubric leaves out."""
    poc = poc_of(tmp_path / "poc", 2, inputs={"page": 3}, rubric="Be strict.")
    rubric = replace(RUBRIC, shows=("question", "reference", "passages", "reply"))
    draw(poc, rubric, report_of(poc, [Reply("beta", contexts=["p1", "p2"])] * 2), sample=2, seed=0)
    text = shown(ReplyLabeler(poc, rubric))
    for part in ("question: case 00\npage: 3", "alpha", "p1", "p2", "Be strict.", "Is it correct?", "beta"):
        assert part in text
    assert "Accepted" not in ReplyLabeler(poc, replace(rubric, shows=("question", "reply"))).shown.value


def test_passages_take_no_more_room_than_they_need(tmp_path):
    """Without empty lines, and a long one folded; below the buttons, which stay where they are."""
    poc = poc_of(tmp_path / "poc", 2)
    rubric = replace(RUBRIC, shows=("question", "passages", "reply"))
    draw(poc, rubric, report_of(poc, [Reply("beta", contexts=["one\n\n\n two\n", "long " * 300])] * 2), sample=2, seed=0)
    labeler = ReplyLabeler(poc, rubric)

    assert "</b>: one\n two</p>" in labeler.passages.value
    assert labeler.passages.value.count("<details>") == 2  # the rubric is the other one
    assert "long" not in labeler.shown.value
    assert labeler.shown.layout.height


def test_a_hostile_reply_is_shown_as_text(tmp_path):
    """Reply, passage and names: no markup, no control characters; a megabyte too."""
    poc = poc_of(tmp_path / "poc", 3, rubric=HOSTILE.replace("\ud83d", ""))
    rubric = replace(RUBRIC, shows=("question", "reference", "passages", "reply"), instructions=HOSTILE)
    replies = [Reply(HOSTILE, contexts=[HOSTILE]), "x" * 1_000_000, ""]
    draw(poc, rubric, report_of(poc, replies, name=HOSTILE), sample=3, seed=0)
    labeler = ReplyLabeler(poc, rubric, by=HOSTILE)
    for place in range(3):
        labeler.place = place
        labeler.show()
        assert not any(part in shown(labeler) for part in ("<img", "\x1b", "\0", "\ud83d"))
    labeler.place = 0
    labeler.show()
    assert "&lt;img src=x onerror=alert(1)&gt;" in labeler.shown.value
    labeler.buttons["wrong"].click()
    assert read_labels(poc, rubric).sample[0].label == "wrong"
    assert "\x1b" not in repr(labeler)


def test_no_verdict_of_a_judge_is_shown(poc):
    """Whoever labels is to be independent of it."""
    labeler = ReplyLabeler(poc, RUBRIC, by="Ada")
    before = shown(labeler)
    for _ in range(4):
        labeler.buttons["wrong"].click()
    calibrate(poc, Judge(RUBRIC))
    assert shown(ReplyLabeler(poc, RUBRIC)).split("</p>", 1)[1] == before.split("</p>", 1)[1]
