import pytest

from poclab import scores
from poclab.charter import SCORES, Charter, Criterion, criterion
from poclab.errors import InputError

WHOLE = """
decision: Ship the assistant, or do not.
uncertainty: Whether it abstains.
owner: Ada
sponsor: Grace
signed: {by: Grace, on: 2026-11-23, where: the minutes}
data: {source: tickets, pii: {agreed_by: Grace, on: 2026-11-01, where: mail}}
timebox: {start: 2026-11-23, weeks: 6}
production_shape: One question in, one answer out.
volume_per_month: 1000
criteria:
  - {metric: accuracy, at_least: 0.8}
  - {metric: latency_p95_s, at_most: 5, confidence: 0.9, split: dev}
"""


def charter(folder, text):
    (folder / "charter.yaml").write_text(text, encoding="utf-8")
    return folder


def test_a_charter_is_loaded_from_its_folder_or_its_file(tmp_path):
    """Every key is there; dates are the text that was written; a criterion is about the held-out split at 95% unless it says so."""
    loaded = Charter.load(charter(tmp_path, WHOLE))

    assert (loaded.decision, loaded.owner, loaded.sponsor) == ("Ship the assistant, or do not.", "Ada", "Grace")
    assert loaded.criteria == (Criterion("accuracy", 0.8, None, 0.95, "test"), Criterion("latency_p95_s", None, 5, 0.9, "dev"))
    assert loaded.text["signed"] == {"by": "Grace", "on": "2026-11-23", "where": "the minutes"}
    assert loaded.missing == ()
    assert Charter.load(tmp_path / "charter.yaml") == loaded


def test_a_criterion_reads_as_a_sentence():
    """A table shows the bound, the split and the confidence."""
    assert str(Criterion("accuracy", at_least=0.8)) == "accuracy >= 0.8 on test (95% confidence)"
    assert str(Criterion("failed", at_most=0, split="dev", confidence=0.5)) == "failed <= 0 on dev (50% confidence)"


@pytest.mark.parametrize(
    ("old", "new", "missing"),
    [
        ("owner: Ada", "", ("owner",)),
        ("owner: Ada", "owner: ''", ("owner",)),
        ("signed: {by: Grace, on: 2026-11-23, where: the minutes}", "", ("signed",)),
        ("where: the minutes}", "}", ("signed",)),
        ("by: Grace, ", "by: '', ", ("signed",)),
    ],
)
def test_an_unfinished_charter_loads_and_says_what_is_missing(tmp_path, old, new, missing):
    """Work may begin before the signature; a decision may not."""
    assert Charter.load(charter(tmp_path, WHOLE.replace(old, new, 1))).missing == missing


def test_a_charter_of_one_line_lacks_the_rest(tmp_path):
    """The order is that of the file."""
    assert Charter.load(charter(tmp_path, "uncertainty: all")).missing == ("decision", "owner", "sponsor", "criteria", "signed")


def test_the_digest_follows_what_is_said_not_how_it_is_laid_out(tmp_path):
    """A comment, another order or block style is the same charter; one number is another."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    first = Charter.load(charter(tmp_path / "a", "owner: Ada\ntimebox: {start: 2026-11-23, weeks: 6}"))
    laid_out = Charter.load(charter(tmp_path / "b", "# ours\ntimebox:\n  weeks: 6\n  start: '2026-11-23'\nowner: Ada\n"))
    other = Charter.load(charter(tmp_path / "c", "owner: Ada\ntimebox: {start: 2026-11-23, weeks: 7}"))

    assert first.digest == laid_out.digest != other.digest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "charter.yaml: expected `key: value` lines, found nothing"),
        ("onwer: Ada", r"charter.yaml: unknown key 'onwer'\n  fix: did you mean 'owner'\?"),
        ("signed: {by: a, date: 2026-11-23}", "charter.yaml: signed: unknown key 'date'"),
        ("timebox: {week: 6}", r"charter.yaml: timebox: unknown key 'week'\n  fix: did you mean 'weeks'\?"),
        ("signed: yes", "signed holds `key: value` lines, found 'yes'"),
        ("signed: {by: a, on: 2026-02-30}", "not YAML: day is out of range for month"),
        ("owner: [Ada]", r"owner is a text, found \['Ada'\]"),
        ("decision: 7", "decision is a text, found 7"),
        ("volume_per_month: .inf", r"charter.yaml.volume_per_month: inf \(float\) is not a JSON value"),
        ("criteria: accuracy", "criteria is a list of metrics with a bound each, found 'accuracy'"),
        ("criteria: [accuracy]", "criterion 1: expected `metric: ...` and a bound, found 'accuracy'"),
        ("criteria: [{at_least: 0.8}]", "criterion 1: names no metric\n  fix: use the name of a score, or one of: accuracy, failed"),
        ("criteria: [{metric: a, at_leest: 0.8}]", r"criterion 1: unknown key 'at_leest'\n  fix: did you mean 'at_least'\?"),
        ("criteria: [{metric: a}]", "criterion 1: a needs exactly one of at_least and at_most\n  fix: at_least: 0.8"),
        ("criteria: [{metric: a, at_least: 0.1, at_most: 0.2}]", "needs exactly one of"),
        ("criteria: [{metric: a, at_least: 0.1}, {metric: b, at_most: high}]", "criterion 2: at_most is a number, found 'high'"),
        ("criteria: [{metric: a, at_least: true}]", "at_least is a number, found True"),
        ("criteria: [{metric: a, at_least: .nan}]", r"charter.yaml.criteria.at_least: nan \(float\) is not a JSON value"),
        ("criteria: [{metric: acuracy, at_least: 0.8}]", r"criterion 1: unknown metric 'acuracy'\n  fix: did you mean 'accuracy'\?"),
        ("criteria: [{metric: evidence_recal, at_least: 0.8}]", "unknown metric 'evidence_recal'"),
        ("criteria: [{metric: latency_p99_s, at_most: 5}]", "unknown metric 'latency_p99_s'"),
        ("criteria: [{metric: accuracy, at_least: 80}]", "at_least 80: accuracy lies between 0 and 1"),
        ("criteria: [{metric: failed_share, at_most: -0.1}]", "at_most -0.1: failed_share lies between 0 and 1"),
        ("criteria: [{metric: a, at_least: 0.8, confidence: 95}]", "confidence 95: expected at least 0.5 and at most 0.9999"),
        ("criteria: [{metric: a, at_least: 0.8, confidence: 1}]", "confidence 1: expected at least 0.5"),
        ("criteria: [{metric: a, at_least: 0.8, split: train}]", "split 'train'\n  fix: use dev or test"),
        ("owner: Ada\nowner: Eve", "line 2, column 1: not YAML: the key 'owner' is there twice"),
    ],
)
def test_a_charter_that_says_something_else_than_was_meant_is_refused(tmp_path, text, words):
    """The numbers that decide are not read with good will."""
    with pytest.raises(InputError, match=words):
        Charter.load(charter(tmp_path, text))


def test_a_criterion_may_be_about_a_score_of_ones_own(tmp_path):
    """The charter is written before the notebook: only what is nearly a known name is taken for a slip."""
    names = (*SCORES, "helpful", "exact_match", "contains_all", "cost_eur")
    text = "criteria:\n" + "".join(f"- {{metric: {name}, at_least: 0.5}}\n" for name in names)

    assert tuple(one.metric for one in Charter.load(charter(tmp_path, text)).criteria) == names


def test_the_scores_that_a_charter_knows_are_those_of_poclab():
    """Each is a function of `scores` that reports under its own name."""
    assert tuple(getattr(scores, name)().name for name in SCORES) == SCORES


def test_counts_seconds_and_dollars_may_lie_beyond_one(tmp_path):
    """Only rates and scores end at 1."""
    names = ("failed", "latency_p50_s", "latency_p95_s", "cost_usd_per_case", "cost_usd")
    text = "criteria:\n" + "".join(f"- {{metric: {name}, at_most: 20}}\n" for name in names)

    assert [one.at_most for one in Charter.load(charter(tmp_path, text)).criteria] == [20] * 5


def test_a_missing_charter_is_named(tmp_path):
    """Whether the file or its folder was given."""
    with pytest.raises(InputError, match="charter.yaml: no such file"):
        Charter.load(tmp_path)
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        Charter.load("x" * 300)


@pytest.mark.parametrize(
    ("timebox", "words"),
    [
        ("{start: soon}", "timebox.start is a day, found 'soon'\n  fix: write it as 2026-11-23"),
        ("{start: 7}", "timebox.start is a day, found 7"),
        ("{start: 2026-11-23 10:00:00}", "timebox.start is a day, found '2026-11-23T10:00:00'"),
        ("{start: '2026-02-30'}", "timebox.start is a day, found '2026-02-30'"),
        ("{weeks: six}", "timebox.weeks is a number of weeks, above 0 and up to 520, found 'six'"),
        ("{weeks: 0}", "timebox.weeks is a number of weeks, above 0 and up to 520, found 0"),
        ("{weeks: -1}", "found -1"),
        ("{weeks: true}", "found True"),
        ("{weeks: 521}", "found 521"),
    ],
)
def test_a_time_box_that_cannot_be_counted_is_refused(tmp_path, timebox, words):
    """A decision counts its days; a typing mistake is found when the charter is written, not when it ends."""
    with pytest.raises(InputError, match=words):
        Charter.load(charter(tmp_path, f"timebox: {timebox}"))


@pytest.mark.parametrize("timebox", ["", "{}", "{start: 2026-11-23}", "{weeks: 1.5}", "{start: '2026-11-23', weeks: 520}"])
def test_a_time_box_may_still_be_open(tmp_path, timebox):
    """Work may begin before the day is known; half a week is a number of weeks."""
    assert Charter.load(charter(tmp_path, f"timebox: {timebox}")).missing


@pytest.mark.parametrize("volume", ["-1", "many", "true", "[1000]"])
def test_a_volume_that_is_no_number_of_requests_is_refused(tmp_path, volume):
    """A handoff multiplies it by what a case costs."""
    with pytest.raises(
        InputError, match="volume_per_month is a number of requests of at least 0, found (.|\n)*fix: volume_per_month: 1000"
    ):
        Charter.load(charter(tmp_path, f"volume_per_month: {volume}"))


@pytest.mark.parametrize(("volume", "expected"), [("0", 0), ("1000", 1000), ("2.5e+3", 2500), ("", None)])
def test_a_volume_is_a_number_or_not_known(tmp_path, volume, expected):
    """Nothing is 0, and not known is not 0."""
    assert Charter.load(charter(tmp_path, f"volume_per_month: {volume}")).text["volume_per_month"] == expected


def test_the_bound_is_the_one_that_was_given():
    """Whichever side it is on, 0 included."""
    assert Criterion("accuracy", at_least=0.8).bound == 0.8
    assert Criterion("failed", at_most=0).bound == 0
    assert Criterion("accuracy", at_least=0.0).bound == 0.0


def test_the_criteria_are_told_as_they_are_shown(tmp_path):
    """Every run keeps these texts: an edit is found by them, in the order of the file."""
    assert Charter.load(charter(tmp_path, WHOLE)).criteria_texts == (
        "accuracy >= 0.8 on test (95% confidence)",
        "latency_p95_s <= 5 on dev (90% confidence)",
    )
    assert Charter.load(charter(tmp_path, "owner: Ada")).criteria_texts == ()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"at_least": 0.8}, {"at_most": 0.8}),
        ({"at_least": 0.8}, {"at_least": 0.81}),
        ({"at_least": 0.8}, {"at_least": 0.8000001}),
        ({"at_least": 0.8}, {"at_least": 0.8, "confidence": 0.949}),
        ({"at_least": 0.8}, {"at_least": 0.8, "split": "dev"}),
        ({"at_most": 1_000_000}, {"at_most": 1_000_001}),
    ],
)
def test_no_two_criteria_have_one_text(one, other):
    """An edit that the text does not show would not be found: a bound or a confidence is never rounded away."""
    assert str(Criterion("cost_usd", **one)) != str(Criterion("cost_usd", **other))


def test_a_criterion_is_read_from_a_mapping():
    """As from a line of the charter, or from the command line; errors name where it stands."""
    assert criterion({"metric": "accuracy", "at_least": 0.8}, "--target") == Criterion("accuracy", at_least=0.8)
    assert criterion({"metric": "failed", "at_most": 0, "confidence": 0.9, "split": "dev"}, "x").confidence == 0.9
    for data in ({"metric": "accuracy", "at_least": 80}, "accuracy", {"metric": "acuracy", "at_least": 0.8}, {"metric": "a"}):
        with pytest.raises(InputError, match="^--target: "):
            criterion(data, "--target")


@pytest.mark.parametrize("metric", ["failed", "latency_p50_s", "latency_p95_s", "cost_usd_per_case", "cost_usd"])
def test_no_count_and_no_amount_is_below_nothing(metric):
    """A bound that can never be kept is a slip, not a criterion."""
    with pytest.raises(InputError, match=f"at_most -1: {metric} is never below 0"):
        criterion({"metric": metric, "at_most": -1}, "charter.yaml")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("on: 2026-11-23, where: the minutes", "on: yesterday, where: the minutes", "signed.on is a day, found 'yesterday'"),
        ("on: 2026-11-01, where: mail", "on: 1.11., where: mail", "data.pii.on is a day, found '1.11.'"),
        ("{agreed_by: Grace, on: 2026-11-01, where: mail}", "yes", "data.pii says who agreed, when and where, found 'yes'"),
        ("{agreed_by: Grace,", "{agred_by: Grace,", "unknown key 'agred_by'\n  fix: did you mean 'agreed_by'"),
    ],
)
def test_a_signature_and_an_agreement_have_a_day(tmp_path, old, new, words):
    """A decision and a handoff show them as they stand: who, on which day, and where it is written."""
    with pytest.raises(InputError, match=words):
        Charter.load(charter(tmp_path, WHOLE.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("criterion", "words"),
    [
        ("metric: failed_share, at_least: 0.9", "at_least on failed_share asks for a bad result\n  fix: at_most: 0.9"),
        ("metric: latency_p95_s, at_least: 5", "at_least on latency_p95_s asks for a bad result"),
        ("metric: accuracy, at_most: 0.5", "at_most on accuracy asks for a bad result\n  fix: at_least: 0.5"),
    ],
)
def test_a_bound_on_the_wrong_side_is_refused(tmp_path, criterion, words):
    """A charter that is met by failing is a slip of the pen."""
    with pytest.raises(InputError, match=words):
        Charter.load(charter(tmp_path, f"criteria: [{{{criterion}}}]"))


PRICE = "input: 2.5, output: 10, cached_input: 1.25, on: 2026-11-23, source: the contract"


def test_a_charter_may_give_prices(tmp_path):
    """By model, in dollars per million tokens, with the day; they are part of what the digest is over."""
    loaded = Charter.load(
        charter(tmp_path, f"owner: Ada\nprices:\n  my-model: {{{PRICE}}}\n  'llama3:8b': {{input: 0, output: 0, on: '2026-11-01'}}\n")
    )

    assert loaded.prices == {
        "my-model": {"input": 2.5, "output": 10, "cached_input": 1.25, "on": "2026-11-23", "source": "the contract"},
        "llama3:8b": {"input": 0, "output": 0, "on": "2026-11-01"},
    }
    assert loaded.digest != Charter.load(charter(tmp_path, "owner: Ada")).digest
    assert Charter.load(tmp_path).prices == {}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("input: 2.5, ", "", "prices: my-model: input is missing\n  fix: prices: {my-model: {input: 1.0"),
        ("output: 10, ", "", "prices: my-model: output is missing"),
        ("on: 2026-11-23, ", "", "prices: my-model: on is missing"),
        ("on: 2026-11-23", "on: last week", "prices: my-model: on is a day, found 'last week'\n  fix: write it as 2026-11-23"),
        ("on: 2026-11-23", "on: 7", "prices: my-model: on is a day, found 7"),
        ("on: 2026-11-23", "on: '2026-02-30'", "prices: my-model: on is a day, found '2026-02-30'"),
        ("on: 2026-11-23", "on: 2026-W48-1", "prices: my-model: on is a day, found '2026-W48-1'"),
        ("on: 2026-11-23", "on: '20261123'", "prices: my-model: on is a day, found '20261123'"),
        ("on: 2026-11-23", "on: 2026-11-23 10:00:00", "prices: my-model: on is a day, found '2026-11-23T10:00:00'"),
        ("input: 2.5", "input: '2.5'", "input is dollars per million tokens, found '2.5'"),
        ("input: 2.5", "input: true", "input is dollars per million tokens, found True"),
        ("output: 10", "output: -1", "output is dollars per million tokens, found -1"),
        ("output: 10", "output: 1000001", "output is dollars per million tokens, found 1000001"),
        ("output: 10", "output: [10]", r"output is dollars per million tokens, found \[10\]"),
        ("cached_input: 1.25", "cached_input:", "cached_input is dollars per million tokens, found None"),
        ("output: 10", "output: .inf", "charter.yaml.prices.my-model.output: inf"),
        ("output: 10", "outptu: 10", r"prices: my-model: unknown key 'outptu'\n  fix: did you mean 'output'\?"),
        ("source: the contract", "source: [a]", r"prices: my-model: source is a text, found \['a'\]"),
        (f"{{{PRICE}}}", "2.5", "prices: my-model: found 2.5\n  fix: prices: {my-model: "),
        (f"{{{PRICE}}}", "", "prices: my-model: found None\n  fix: prices: {my-model: "),
        (f"{{my-model: {{{PRICE}}}}}", "[2.5]", r"prices are given by model, found \[2.5\]"),
    ],
)
def test_a_price_that_is_none_is_refused(tmp_path, old, new, words):
    """A budget is kept by it: it has a unit, both directions and a day."""
    with pytest.raises(InputError, match=words):
        Charter.load(charter(tmp_path, f"prices: {{my-model: {{{PRICE}}}}}".replace(old, new, 1)))


def test_the_prices_that_an_error_shows_can_be_pasted(tmp_path):
    """The fix is a charter that loads."""
    with pytest.raises(InputError) as caught:
        Charter.load(charter(tmp_path, "prices: 3"))

    assert Charter.load(charter(tmp_path, caught.value.fix)).prices["my-model"] | {"source": ""} == {
        "input": 1.0,
        "output": 4.0,
        "on": "2026-11-23",
        "source": "",
    }


@pytest.mark.parametrize("text", ["prices:", "prices: {}", "owner: Ada"])
def test_a_charter_needs_no_prices(tmp_path, text):
    """Those of the published lists hold then."""
    assert Charter.load(charter(tmp_path, text)).prices == {}
