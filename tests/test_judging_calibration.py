import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, confusion_matrix, recall_score
from statsmodels.stats.proportion import proportion_confint

from judged import ASKED, RUBRIC, fill, labelled, poc_of, wait_for_workers
from poclab import Case, Judge, offline, stats
from poclab.errors import EndpointError, InputError
from poclab.judging import Calibration, Rubric, calibrate, calibration_path, labels_path, read_labels
from poclab.judging.asking import Asked, ask_all
from poclab.judging.calibration import Pair
from poclab.ledger import Ledger
from poclab.system import Reply

HOUSE = Path(__file__).parents[1]
HOSTILE = "<script>alert(1)</script>\x1b[2J\0"
#: Five of each by people; the judge errs once in each.
TEN = "cccccwwwww", "ccccwwwwwc"
#: What to do where another model answered.
STRANGER = "`POCLAB_MODE=live poclab calibrate a_poc correctness`; where that is newer than the run, run again with POCLAB_MODE=live"
NAMES = {"c": "correct", "w": "wrong", "u": "unscored"}


def calibration(people, judge, others="", **more):
    """Return the calibration that these labels make, a letter each."""
    sides = zip(people, judge, strict=True)
    pairs = tuple(Pair(f"q{place:02}", NAMES[one], NAMES[other], "so", "reply") for place, (one, other) in enumerate(sides))
    values = {
        "name": "correctness", "rubric": "d1" * 32, "rubric_version": 1, "model": "m", "answered": ("m (fp_tests)",),
        "labels": {"correct": 1, "wrong": 0}, "pairs": pairs, "others": tuple(NAMES[one] for one in others),
        "sampled": {"of": len(pairs) + len(others), "name": "baseline", "split": "dev", "seed": 0}, "labels_digest": "d2" * 32,
        "by": ("Ada",), "on": "2026-11-27",
    }  # fmt: skip
    return Calibration(**{**values, **more})


def numbers(estimate):
    return pytest.approx((estimate.value, estimate.low, estimate.high), abs=1e-9)


@pytest.fixture
def judging(endpoint, monkeypatch, tmp_path):
    """Return a function that labels a POC whose replies tell the endpoint what to say of them, a letter each, and gives its judge."""
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)

    def make(people, judge, *, sample=None, clusters=(), rubric=ASKED):
        poc = poc_of(tmp_path / f"poc{len(list(tmp_path.iterdir()))}", len(judge), clusters)
        replies = {f"q{place:02}": f"ANSWER:{{{NAMES[one]}}}" for place, one in enumerate(judge)}
        said = {f"q{place:02}": NAMES[one] for place, one in enumerate(people)}
        return labelled(poc, rubric, replies, lambda line: said[line["case"]], sample=sample), Judge(rubric)

    return make


# --- the numbers


def test_the_numbers_of_ten_cases_are_those_worked_by_hand():
    """Eight of ten agree; by chance five would, so that kappa is (0.8 - 0.5) / 0.5."""
    found = calibration(*TEN)
    assert (found.agreement.value, found.agreement.n) == (0.8, 10)
    assert found.kappa.value == pytest.approx(0.6)
    assert {name: one.value for name, one in found.recalls.items()} == {"correct": 0.8, "wrong": 0.8}
    assert {name: one.value for name, one in found.base_rates.items()} == {"correct": 0.5, "wrong": 0.5}
    assert (found.unscored.value, found.naive.value, found.consistency) == (0.0, 0.5, None)
    assert found.table() == (["people \\ judge", "correct", "wrong"], [["correct", "4", "1"], ["wrong", "1", "4"]])
    assert [(one.case, one.person, one.judge) for one in found.disagreements] == [("q04", "correct", "wrong"), ("q09", "wrong", "correct")]


def test_the_intervals_are_those_of_statsmodels():
    """Wilson's, of agreement, recall, base rate and the unscored share, each with its n."""
    found = calibration("cccccwwwww", "ccccuwwwwc")
    for estimate, right, n in (
        (found.agreement, 8, 10),
        (found.recalls["correct"], 4, 5),
        (found.recalls["wrong"], 4, 5),
        (found.base_rates["correct"], 5, 10),
        (found.unscored, 1, 10),
    ):
        low, high = proportion_confint(right, n, method="wilson")
        assert (right / n, low, high) == numbers(estimate)
        assert estimate.n == n


PAIRS = st.lists(st.tuples(st.sampled_from("cwu"), st.sampled_from("cwu")), min_size=2, max_size=40)


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.text("cwu", max_size=10))
@example([("c", "c")] * 5, "u")
@example([("u", "u"), ("u", "u")], "")
def test_all_numbers_are_those_of_scikit_learn(pairs, others):
    """What has no verdict is a category of its own: it stays in every denominator. Kappa without variance is none."""
    people, judge = ["".join(side) for side in zip(*pairs, strict=True)]
    found = calibration(people, judge, others)
    used = list("cwu")
    if len({*people, *judge}) == 1:
        assert found.kappa is None
        assert found.refusal(0.0)
    else:
        assert found.kappa.value == pytest.approx(cohen_kappa_score(list(people), list(judge)), abs=1e-12)
        assert -1 <= found.kappa.low <= found.kappa.value <= found.kappa.high <= 1
    matrix = confusion_matrix(list(people), list(judge), labels=used)
    assert {
        (NAMES[a], NAMES[b]): int(count) for a, row in zip(used, matrix, strict=True) for b, count in zip(used, row, strict=True) if count
    } == found.counts
    recalls = recall_score(list(people), list(judge), labels=used, average=None, zero_division=0)
    assert {name: one.value for name, one in found.recalls.items()} == pytest.approx(
        {NAMES[one]: value for one, value in zip(used, recalls, strict=True) if one in people}
    )
    assert sum(one.value for one in found.base_rates.values()) == pytest.approx(1)
    repr(found), found._repr_html_()


def test_a_judge_that_abstains_gains_nothing():
    """Verdicts that are left out are no agreement, and the others stay with their cases."""
    found = calibration("ccccc" + "wwwww", "cccuc" + "wwuww")
    assert [(one.case, one.judge) for one in found.disagreements] == [("q03", "unscored"), ("q07", "unscored")]
    assert (found.agreement.value, found.unscored.value) == (0.8, 0.2)
    assert {name: one.value for name, one in found.recalls.items()} == {"correct": 0.8, "wrong": 0.8}
    # By chance 0.5 * 0.4 twice: (0.8 - 0.4) / 0.6.
    assert found.kappa.value == pytest.approx(2 / 3)
    assert found.kappa.value < calibration("ccccwwww", "ccccwwww").kappa.value


def test_the_corrected_mean_takes_the_errors_of_the_sample_off():
    """Over all replies; the labelled ones are not among the others. A judge that says the same of all adds nothing: the people's mean stays."""
    found = calibration(*TEN, others="ccccw")
    people, judge = ([float(one == "c") for one in side] for side in TEN)
    assert found.corrected == stats.corrected_mean(people, judge, [1.0, 1.0, 1.0, 1.0, 0.0])
    assert (found.corrected.n, found.naive.n, found.naive.value) == (15, 15, pytest.approx(9 / 15))
    assert calibration("cwwww", "ccccc", others="ccccc").corrected.value == pytest.approx(0.2)


def test_what_has_no_verdict_counts_in_the_corrected_mean():
    """As a fixed half, which leaves it unbiased; in the judge's own mean it is left out."""
    found = calibration("cccw", "ccuw", others="cu")
    assert found.corrected == stats.corrected_mean([1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.5, 0.0], [1.0, 0.5])
    assert (found.naive.value, found.naive.n) == (0.75, 4)
    silent = calibration("cw", "uu", others="u")
    assert silent.naive is None
    assert silent.corrected.value == 0.5


def test_there_is_no_corrected_mean_where_people_could_not_tell_or_cases_hang_together():
    """It would say more than is known."""
    assert calibration("cuw", "ccw").corrected is None
    found = calibration(*TEN)
    pairs = tuple(replace(one, cluster="a") if place < 2 else one for place, one in enumerate(found.pairs))
    assert replace(found, clustered=True).corrected is None
    assert (
        replace(found, pairs=pairs).agreement.high - replace(found, pairs=pairs).agreement.low > found.agreement.high - found.agreement.low
    )
    assert "none: people could not tell of some, or cases are in clusters" in repr(replace(found, clustered=True))


def test_the_judges_mean_is_no_surer_than_its_clusters_allow(judging):
    """Twelve replies in four clusters of three, of which the judge says the same: they are worth four, by Wilson and t with 3 degrees of freedom."""
    poc, judge = judging("cccwwwcccwww", "cccwwwcccwww", sample=6, clusters=[name for name in "abcd" for _ in range(3)])
    found = calibrate(poc, judge)
    low, high = stats.wilson(0.5, 4, quantile=stats.t_quantile(3, 0.95))
    assert numbers(found.naive) == (0.5, low, high)
    assert Calibration.load(found.path).naive == found.naive


# --- whether it may decide


def test_the_lower_edge_of_kappa_decides():
    """Not kappa; and not without a bound."""
    found = calibration("c" * 50 + "w" * 50, "c" * 50 + "w" * 50)
    low = found.kappa.low
    assert (found.refusal(low), found.refusal(0.6)) == ("", "")
    assert found.refusal(low + 1e-6).startswith("the judge 'correctness' agrees too little with people: kappa 1.000")
    assert "the charter does not say how far" in found.refusal(None)


def test_a_refusal_says_how_many_labels_it_takes_and_whether_there_are_so_many():
    """Of two labels that are as frequent and always agreed on, 16 (n / (n + 3.84) is 0.8 there)."""
    told = "its lower edge is to be at least 0.6, which takes about 16 labels, if further ones agree like these"

    assert calibration("cccccwwwww", "cccccwwwww", others="c" * 10).refusal(0.6).endswith(told)
    assert calibration("cccccwwwww", "cccccwwwww").refusal(0.6).endswith(f"{told}: more than the 10 replies that the run has")
    assert "labels" not in calibration("cccccwwwww", "wwwwwccccc").refusal(0.6)


def test_a_sample_that_was_drawn_further_is_told():
    """Who labels on until a judge passes lets it pass too often."""
    further = {"of": 20, "name": "baseline", "split": "dev", "seed": 0, "further": [4, 6]}

    assert ", seed 0, drawn further after 4 and 6; labelled by Ada" in repr(calibration("cccccwwwww", "cccccwwwww", sampled=further))


@pytest.mark.parametrize("bound", [None, 0.0, -1.0])
def test_an_undefined_kappa_is_not_calibrated(bound):
    """Whatever the charter asks: people and judge say the same of all, and nothing is known of the other label."""
    found = calibration("ccccc", "ccccc")
    assert found.kappa is None
    assert found.refusal(bound) == (
        "the judge 'correctness' is not calibrated: kappa is undefined, since people and judge say correct of all: not calibrated"
    )
    assert "kappa: undefined" in repr(found)


@pytest.mark.parametrize(
    ("judges", "words"),
    [
        ({("m", "m (fp_tests)")}, ""),
        (set(), ""),
        ({("m", "m (fp_tests)"), ("embedder", "embedder (fp_9)")}, ""),
        ({("m", "m (fp_new)")}, "m (fp_new) answered as the judge 'correctness' in this run, and it was calibrated with m (fp_tests): " + STRANGER),
        ({("m", "m (fp_tests)"), ("m", "m-2")}, "m-2 answered as the judge 'correctness' in this run, and it was calibrated with m (fp_tests): " + STRANGER),
    ],
)  # fmt: skip
def test_another_model_or_fingerprint_that_answers_is_a_stranger(judges, words):
    """The calibration says nothing of it, and it says what to type; other models that scores call are none of it."""
    assert calibration(*TEN).stranger(judges, "a_poc") == words


# --- the file


def test_a_calibration_comes_back_from_its_file(tmp_path):
    """With everything that its numbers are made of."""
    found = replace(calibration(*TEN, others="cu"), repeats=2, cost_usd=0.25)
    found = replace(found, pairs=tuple(replace(one, again=("wrong",), cluster="a", reason=HOSTILE) for one in found.pairs))
    path = found.save(tmp_path / "a.json")
    again = Calibration.load(path)
    assert again == found
    assert again.path == path
    assert repr(again) == repr(found)
    data = json.loads(path.read_text())
    assert data["numbers"]["agreement"] == {"value": 0.8, "low": found.agreement.low, "high": found.agreement.high, "n": 10}


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: {**data, "pairs": [{**data["pairs"][0], "judge": "wrong"}, *data["pairs"][1:]]},
        lambda data: {**data, "pairs": data["pairs"][:4]},
        lambda data: {**data, "pairs": []},
        lambda data: {**data, "rubric": "d3" * 32},
        lambda data: {**data, "answered": ["m (fp_new)"]},
        lambda data: {**data, "labels": {"correct": "1"}},
        lambda data: {**data, "more": 1},
        lambda data: {**data, "seal": None},
        lambda data: {**data, "seal": 5},
        lambda data: {"format": 1},
        lambda data: {name: value for name, value in data.items() if name != "seal"},
    ],
)
def test_a_calibration_that_was_edited_is_refused(tmp_path, edit):
    """It is what a decision rests on."""
    path = calibration(*TEN).save(tmp_path / "a.calibration.json")
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    with pytest.raises(
        InputError, match=r"a.calibration.json: not as `poclab calibrate` wrote it\n  fix: `git checkout` it, or `poclab calibrate .* a`"
    ):
        Calibration.load(path)


@pytest.mark.parametrize("text", ["", "{}", "[]", "5", '{"format": 2}', '{"format": 1'])
def test_what_is_no_calibration_is_refused(tmp_path, text):
    """Also one that was cut."""
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a.json: not (JSON|a calibration of format 1)"):
        Calibration.load(tmp_path / "a.json")
    path = calibration(*TEN).save(tmp_path / "b.json")
    path.write_text(path.read_text()[:-100])
    with pytest.raises(InputError, match="b.json: not JSON"):
        Calibration.load(path)


def test_a_key_is_not_kept(tmp_path, monkeypatch):
    """Wherever a judge says it; the file is whole for those who never had the key."""
    found = calibration(*TEN)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-judge-0123456789abcdef")
    path = replace(found, pairs=(replace(found.pairs[0], reason="sk-judge-0123456789abcdef"), *found.pairs[1:])).save(tmp_path / "a.json")
    assert "sk-judge" not in path.read_text()
    monkeypatch.delenv("OPENAI_API_KEY")
    assert Calibration.load(path).pairs[0].reason == "(key removed)"


# --- asking


def test_a_judge_is_held_against_people(judging, endpoint):
    """Each label with the verdict on the same reply, the rest without labels; bound to rubric, model and fingerprint; kept in the POC."""
    poc, judge = judging("cccccwwwwwcw", "ccccwwwwwcww", sample=8)
    found = calibrate(poc, judge)
    lines = read_labels(poc, judge.rubric)
    verdicts = {f"q{place:02}": NAMES[one] for place, one in enumerate("ccccwwwwwcww")}
    assert [(one.case, one.person, one.judge) for one in found.pairs] == [
        (one.case.id, one.label, verdicts[one.case.id]) for one in lines.sample
    ]
    assert found.others == tuple(verdicts[one.case.id] for one in lines.others)
    assert (found.rubric, found.model, found.answered) == (ASKED.digest, "m", ("m (fp_tests)",))
    assert (found.stale("poc"), found.by) == ("", ("Ada",))
    assert found.cost_usd > 0
    assert Calibration.load(calibration_path(poc, "correctness")) == found
    assert endpoint.counts()["answered"] == 12


def test_a_label_that_is_changed_while_the_judge_is_asked_voids_the_calibration(judging):
    """The judge was held against the labels before: those are not what the file says now."""
    poc, judge = judging(*TEN)

    class Meanwhile(Judge):
        def verdict(self, case, reply):
            fill(labels_path(poc, self.rubric), lambda line: "wrong")
            return super().verdict(case, reply)

    found = calibrate(poc, Meanwhile(judge.rubric), workers=1)
    assert (found.agreement.value, "the labels are not those" in found.stale("poc")) == (0.8, True)


def test_a_verdict_that_is_missing_shifts_no_pair(judging, endpoint):
    """A judge that refuses to answer of one reply."""
    endpoint.configure(faults=[{"kind": "refusal", "match": "case 0[27]", "times": None}])
    found = calibrate(*judging(*TEN))
    assert [one.judge for one in found.pairs] == [NAMES[one] for one in "ccucwwwuwc"]
    assert found.pairs[2].reason == "the judge refused: I'm sorry, but I can't help with that."
    assert found.unscored.value == 0.2


def test_a_judge_that_is_asked_again_is_held_against_itself(judging, endpoint):
    """Each repeat is a request of its own, and the same calibration once more asks nothing."""
    poc, judge = judging(*TEN, sample=8)
    drawn = read_labels(poc, judge.rubric).sample[3].case
    endpoint.configure(faults=[{"kind": "refusal", "match": drawn.inputs["question"], "times": 1}])
    found = calibrate(poc, judge, repeats=3)
    assert [one.case for one in found.pairs if set(one.again) != {one.judge}] == [drawn.id]
    assert found.consistency.value == 7 / 8
    assert {len(one.again) for one in found.pairs} == {2}
    assert len(found.others) == 2
    asked = endpoint.counts()["answered"]
    assert asked == 3 * 8 + 2

    assert calibrate(poc, judge, repeats=3).pairs == found.pairs
    assert endpoint.counts()["answered"] == asked


def test_replayed_answers_are_told(judging, endpoint):
    """How many, of which day, and what they cost now and then; what was asked now says nothing. The file is the same either way."""
    poc, judge = judging(*TEN)
    first = calibrate(poc, judge)
    kept = first.path.read_bytes()
    again = calibrate(poc, judge)
    day = Ledger.of(poc).page()[0][0].at[:10]
    assert (first.origin, again.origin) == ("", f"10 of 10 are from the ledger, paid on {day}; paid now: $0.0000")
    assert f"answers: {again.origin}; POCLAB_MODE=live asks again\ncost: $" in repr(again)
    assert repr(again).count(" when they were paid") == 1 and "when they were paid" not in repr(first)
    assert again.path.read_bytes() == kept
    part = calibrate(poc, judge, repeats=2)
    assert part.origin.startswith(f"10 of 20 are from the ledger, paid on {day}; paid now: $0.0")
    assert part.origin != f"10 of 20 are from the ledger, paid on {day}; paid now: $0.0000"


def test_a_live_calibration_is_of_the_model_as_it_is_and_stays_so(judging, endpoint, monkeypatch):
    """Another fingerprint answers: a replay goes on saying what the old one said, until it is asked live; from then on the new one is replayed."""
    poc, judge = judging(*TEN)
    calibrate(poc, judge)
    endpoint.configure(fingerprint="fp_new")
    assert calibrate(poc, judge).answered == ("m (fp_tests)",)
    monkeypatch.setenv("POCLAB_MODE", "live")
    assert (calibrate(poc, judge).answered, endpoint.counts()["answered"]) == (("m (fp_new)",), 20)
    monkeypatch.delenv("POCLAB_MODE")
    again = calibrate(poc, judge)
    assert (again.answered, endpoint.counts()["answered"]) == (("m (fp_new)",), 20)
    assert again.origin.startswith("10 of 10 are from the ledger")


def test_replayed_answers_overwrite_no_calibration_of_another_model(judging, monkeypatch):
    """A ledger that has older answers, such as a colleague's: the file stays as it is, and what to type is said. An edited file counts for nothing."""
    poc, judge = judging(*TEN)
    path = replace(calibrate(poc, judge), answered=("m (fp_new)",)).save(calibration_path(poc, "correctness"))
    kept = path.read_bytes()
    said = r"calibrated with m \(fp_new\), and stays: the answers of m \(fp_tests\), 10 of 10 are from the ledger, .*\n  fix: POCLAB_MODE=live poclab calibrate "
    with pytest.raises(InputError, match=said + re.escape(f"{poc} correctness")):
        calibrate(poc, judge)
    assert path.read_bytes() == kept
    monkeypatch.setenv("POCLAB_MODE", "live")
    assert calibrate(poc, judge).answered == ("m (fp_tests)",)
    monkeypatch.delenv("POCLAB_MODE")
    path.write_bytes(kept.replace(b"fp_new", b"fp_old"))
    assert calibrate(poc, judge).answered == ("m (fp_tests)",)


def test_labels_that_are_missing_are_named(judging):
    """Before the judge is asked anything."""
    poc, judge = judging(*TEN)
    path = labels_path(poc, judge.rubric)
    path.write_text(path.read_text().replace('"label": "correct"', '"label": null', 2))
    with pytest.raises(
        InputError, match=r"2 of 10 replies have no label yet: q00, q01\n  fix: fill in label \(correct, wrong, unscored\), by and on"
    ):
        calibrate(poc, judge)


def test_a_judge_is_asked_once_or_more(judging):
    """With no verdicts of the sample, those of other replies would stand in their place."""
    poc, judge = judging(*TEN, sample=4)
    with pytest.raises(InputError, match="repeats is 0: the judge is asked once or more"):
        calibrate(poc, judge, repeats=0)


def test_what_every_question_would_meet_ends_a_calibration(judging, endpoint):
    """A refused key is not a judge that abstains: the calibration that was there stays, and no further question is asked."""
    poc, judge = judging("cw" * 20, "cw" * 20)
    before = calibrate(poc, judge).path.read_bytes()
    endpoint.configure(faults=[{"kind": "401", "match": "case", "times": None}])
    endpoint.reset()
    with pytest.raises(EndpointError, match=r"HTTP 401: the endpoint refuses the API key\n  fix: export OPENAI_API_KEY"):
        calibrate(poc, judge, repeats=2, workers=1)
    wait_for_workers()
    assert endpoint.counts()["requests"] <= 3
    assert calibration_path(poc, "correctness").read_bytes() == before


def test_a_judge_that_answers_nothing_replaces_no_calibration(tmp_path):
    """Each question meets the same refusal: that says nothing of how far the judge agrees."""
    poc = labelled(poc_of(tmp_path / "poc", 4), RUBRIC, {"q00": "beta"}, lambda line: "wrong" if line["case"] == "q00" else "correct")
    before = calibrate(poc, Judge(RUBRIC))
    with pytest.raises(EndpointError, match="'correctness' answered nothing, and is not calibrated anew: the judge failed: BadRequest"):
        calibrate(poc, Judge(replace(RUBRIC, parameters={"max_tokens": "many"})))
    assert Calibration.load(before.path) == before


def test_an_edited_rubric_is_a_stranger_to_its_calibration(judging):
    """And so is the same one with another model, while the labels hold for all of them."""
    poc, judge = judging(*TEN)
    found = calibrate(poc, judge)
    for other in (replace(ASKED, instructions="Is it?"), replace(ASKED, model="m-2"), replace(ASKED, parameters={"seed": 1})):
        again = calibrate(poc, Judge(other))
        assert (again.rubric, again.answered) == (other.digest, (f"{other.model} (fp_tests)",))
        assert found.rubric != again.rubric
        assert found.labels_digest == again.labels_digest


def test_the_offline_judge_is_calibrated_without_a_key(tmp_path):
    """What it is bound to is the digest of its source."""
    replies = {"q00": "beta", "q01": HOSTILE, "q02": "alpha " + HOSTILE}
    poc = labelled(poc_of(tmp_path / "poc"), RUBRIC, replies, lambda line: "correct" if line["case"] > "q01" else "wrong")
    found = calibrate(poc, Judge(RUBRIC))
    assert (found.kappa.value, found.agreement.value) == (1.0, 1.0)
    assert found.answered == (f"offline/overlap-judge (offline-{offline.fingerprint('offline/overlap-judge')[:12]})",)
    assert found.cost_usd == 0


def test_answers_stand_in_the_order_of_the_questions():
    """However long each takes; one whose time ran out is late, and not waited for, and none of the others is."""
    cases = [Case(f"q{place}", {"question": "Q?"}) for place in range(6)]
    held, ended = threading.Event(), []

    def function(one):
        if one.case.id == "q2":
            held.wait(60)
            ended.append(one.case.id)
        return one.case.id

    answers = ask_all([Asked(one, Reply("a")) for one in cases], function, late="late", workers=2, timeout_s=1)
    assert ended == []
    held.set()
    assert answers.found == ("q0", "q1", "late", "q3", "q4", "q5")
    assert (answers.answered, answers.cost_usd) == ((), None)


def test_an_error_of_ours_ends_the_asking():
    """It is raised, and no further question is begun than those that were under way."""
    begun, raised = [], threading.Event()

    def function(one):
        begun.append(one.case.id)
        if len(begun) > 1:
            raised.wait(5)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask_all([Asked(Case(f"q{place}", {"question": "Q?"}), Reply("a")) for place in range(100)], function, late=None, workers=1)
    raised.set()
    wait_for_workers()
    assert len(begun) <= 2


# --- how it is shown


def test_what_a_model_says_is_shown_as_text():
    """In a terminal and in a notebook, of replies and reasons, the disagreements to read among them."""
    found = calibration("c" * 12 + "w", "w" * 13)
    found = replace(found, pairs=tuple(replace(one, reason=HOSTILE, reply=HOSTILE) for one in found.pairs), path=Path("a.json"))
    assert "\x1b" not in repr(found) + found._repr_html_()
    assert "\0" not in repr(found) + found._repr_html_()
    assert "<script>" not in found._repr_html_()
    assert "&lt;script&gt;" in found._repr_html_()
    assert "disagreements to read: 12" in repr(found)
    assert "2 more in a.json" in repr(found)


# --- those that come along


@pytest.mark.parametrize("name", ["correctness", "abstention"])
def test_the_calibrations_of_the_example_are_of_its_judges_as_they_are(name):
    """Of this rubric, these labels and this model: else `poclab calibrate experiments/python_help NAME` is to be run again."""
    poc = HOUSE / "experiments" / "python_help"
    found, rubric = Calibration.load(calibration_path(poc, name)), Rubric.named(name, poc)
    model = f"{rubric.model} (offline-{offline.fingerprint(rubric.model)[:12]})"
    lines = read_labels(poc, rubric)
    assert rubric.path.parent == poc / "rubrics"
    assert (found.rubric, found.model, found.answered) == (rubric.digest, rubric.model, (model,))
    assert (found.stale("poc"), found.sampled, lines.missing) == ("", lines.head, [])
