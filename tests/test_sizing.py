import math

import pytest

from poclab.charter import Criterion
from poclab.errors import InputError
from poclab.sizing import plan
from test_report import HOSTILE, Elements

Z = 1.959963984540054  # the 97.5% point of the normal distribution


def wilson_low(right, n):
    """Wilson (1927), by its formula."""
    share = right / n
    centre, half = share + Z * Z / (2 * n), Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return (centre - half) / (1 + Z * Z / n)


def chance_to_meet(bound, truth, n):
    """The chance of so many right that Wilson's lower edge reaches the bound: a plain sum over all outcomes."""
    return math.fsum(math.comb(n, k) * truth**k * (1 - truth) ** (n - k) for k in range(n + 1) if wilson_low(k, n) >= bound - 1e-12)


def first_from_which_on(chances, power):
    """The n from which on the chance stays at the power, `chances` being those of 1, 2, 3, ... cases."""
    return max((n for n, chance in enumerate(chances, 1) if chance < power), default=0) + 1


def by_truth(sizing):
    return {row["if in truth"]: (row["cases needed"], row["cases at hand"], row["power with those"]) for row in sizing.rows}


ACCURACY = Criterion("accuracy", at_least=0.8)


@pytest.mark.parametrize("expected", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("power", [0.8, 0.9])
def test_the_cases_needed_are_those_of_a_brute_force_over_all_outcomes(expected, power):
    """Binomial by hand: from that number on, the criterion comes out as met with the power that was asked for."""
    needed = by_truth(plan([ACCURACY], {}, expected=expected, power=power))[f"{expected:.3g}"][0]

    assert needed == first_from_which_on([chance_to_meet(0.8, expected, n) for n in range(1, 400)], power)


def test_the_power_of_the_cases_at_hand_is_that_of_a_brute_force():
    """What 50 held-out cases would show, at three guesses of the truth."""
    rows = by_truth(plan([ACCURACY], {"test": 50}))

    assert list(rows) == ["0.85", "0.9", "1"]
    for truth, (_, at_hand, power) in rows.items():
        assert (at_hand, power) == (50, f"{chance_to_meet(0.8, float(truth), 50):.0%}")


def test_sixteen_of_sixteen_are_the_least_that_show_four_of_five():
    """Wilson's lower edge of n of n is n / (n + 3.8415): 0.796 for 15, 0.806 for 16."""
    assert by_truth(plan([ACCURACY], {"test": 20}))["1"] == (16, 20, "100%")
    assert by_truth(plan([ACCURACY], {"test": 15}))["1"] == (16, 15, "0%")


def test_a_share_of_failures_of_2_percent_takes_189_cases_without_one():
    """3.8415 / (n + 3.8415) is 0.02 at n = 188.2."""
    rows = by_truth(plan([Criterion("failed_share", at_most=0.02)], {}))

    assert list(rows) == ["0.015", "0.01", "0"]
    assert rows["0"] == (189, None, None)


def test_a_p95_takes_59_requests_that_all_keep_the_bound():
    """0.95 ** 59 = 0.0485 is the first power below 0.05, 0.95 ** 45 = 0.0994 the first below 0.1."""
    p95 = Criterion("latency_p95_s", at_most=5)

    assert by_truth(plan([p95], {}))["100% of requests within"][0] == 59
    assert 0.95**44 > 0.1 > 0.95**45
    assert by_truth(plan([Criterion("latency_p95_s", at_most=5, confidence=0.9)], {}))["100% of requests within"][0] == 45


def test_a_cost_is_not_planned_before_a_first_run():
    """Nobody knows how much it varies; cases at hand are named all the same."""
    sizing = plan([Criterion("cost_usd_per_case", at_most=0.01), Criterion("failed", at_most=0)], {"test": 40})

    assert [(row["if in truth"], row["cases needed"], row["cases at hand"]) for row in sizing.rows] == [
        ("not known before a first run", None, 40)
    ] * 2
    assert sizing.sentence == "What the cases at hand can show of this is not known before a first run."


def test_the_sentence_says_what_the_cases_at_hand_can_show():
    """Sixteen cases meet 0.8 only when all are right: a truth of 0.8^(1/16) = 0.986 does that in four of five.

    Six changed cases all one way are the least that McNemar tells: 0.8^(1/6) = 0.963 of 6.
    """
    sizing = plan([ACCURACY], {"dev": 6, "test": 16})

    assert sizing.sentence == (
        "With 80% power, 16 test cases show accuracy as met when it is at least 0.986 in truth; "
        "6 dev cases tell a change from its baseline when it gains 0.963 while it breaks 0%."
    )


def test_too_few_cases_are_told_and_how_many_it_takes():
    """Whatever comes out of 15 cases, 0.8 is not met; five cases tell no change; 58 requests no p95."""
    sizing = plan([ACCURACY, Criterion("latency_p95_s", at_most=5)], {"dev": 5, "test": 15})

    assert sizing.sentence == (
        "With 80% power, 15 test cases cannot show accuracy as met whatever comes out (it takes 16); "
        "15 test cases cannot show latency_p95_s as met when all keep the bound (it takes 59); "
        "5 dev cases are too few to tell any change from its baseline."
    )
    assert "59 test cases can show latency_p95_s" in plan([Criterion("latency_p95_s", at_most=5)], {"test": 59}).sentence


def test_a_criterion_from_above_is_planned_downwards():
    """At most 0.2 wrong is at least 0.8 right, mirrored."""
    above, below = plan([Criterion("failed_share", at_most=0.2)], {"test": 30}), plan([ACCURACY], {"test": 30})

    assert list(by_truth(above)) == ["0.15", "0.1", "0"]
    assert list(by_truth(above).values()) == list(by_truth(below).values())
    assert "failed_share as met when it is at most 0." in above.sentence


@pytest.mark.parametrize(
    ("bound", "words"),
    [
        (Criterion("accuracy", at_least=1.0), "30 test cases cannot show accuracy as met whatever comes out (no number of cases can)"),
        (
            Criterion("failed_share", at_most=0.0),
            "30 test cases cannot show failed_share as met whatever comes out (no number of cases can)",
        ),
    ],
)
def test_perfection_is_shown_by_no_number_of_cases(bound, words):
    """An interval never ends at the best there is: such a criterion can never be met, and that is said once, without a `None`."""
    sizing = plan([bound], {"test": 30})

    assert words in sizing.sentence
    assert "None" not in repr(sizing)
    assert len(sizing.rows) == 1


def test_the_expectation_is_about_the_first_criterion():
    """The others keep their three guesses."""
    sizing = plan([ACCURACY, Criterion("exact", at_least=0.5)], {}, expected=0.95)

    assert [row["if in truth"] for row in sizing.rows] == ["0.95", "0.625", "0.75", "1"]


def test_without_cases_there_is_nothing_at_hand():
    """The table still says how many to label."""
    sizing = plan([ACCURACY], {})

    assert sizing.sentence == "There are no cases yet: label as many as needed."
    assert {(row["cases at hand"], row["power with those"]) for row in sizing.rows} == {(None, None)}
    assert "None" not in repr(sizing)


@pytest.mark.parametrize(
    ("criteria", "options", "words"),
    [
        (
            [],
            {},
            r"no number to reach: there is nothing to plan for\n  fix: write into charter.yaml `criteria: \[\{metric: accuracy, at_least",
        ),
        ([ACCURACY], {"power": 0.0}, "power 0: expected more than 0 and less than 1"),
        ([ACCURACY], {"power": 1.0}, "power 1: expected"),
        ([ACCURACY], {"power": math.nan}, "power nan: expected"),
        ([ACCURACY], {"expected": 0.8}, r"expected 0.8 is not beyond the bound of accuracy >= 0.8 on test"),
        ([ACCURACY], {"expected": 0.5}, "expected 0.5 is not beyond the bound"),
        ([ACCURACY], {"expected": 1.5}, "expected 1.5: accuracy lies between 0 and 1"),
        ([ACCURACY], {"expected": math.nan}, "expected nan: accuracy lies between 0 and 1"),
        ([Criterion("failed_share", at_most=0.1)], {"expected": 0.2}, "expected 0.2 is not beyond the bound of failed_share <= 0.1"),
        ([Criterion("latency_p95_s", at_most=5)], {"expected": 0.9}, "latency_p95_s is not planned by an expected share"),
    ],
)
def test_what_no_number_of_cases_would_show_is_refused(criteria, options, words):
    """A plan for it would be a number nobody can use."""
    with pytest.raises(InputError, match=words):
        plan(criteria, {"test": 30}, **options)


def test_the_fix_lies_beyond_the_bound():
    """What to type instead would be taken: an expectation below a bound from above, and above one from below."""
    with pytest.raises(InputError, match="fix: --expect 0.9"):
        plan([ACCURACY], {}, expected=0.5)
    with pytest.raises(InputError, match="fix: --expect 0.05"):
        plan([Criterion("failed_share", at_most=0.1)], {}, expected=0.2)
    with pytest.raises(InputError, match="fix: --expect 0.975"):
        plan([Criterion("accuracy", at_least=0.95)], {}, expected=0.5)


def test_a_plan_is_a_table_and_a_sentence():
    """As a frame, in a terminal and in a notebook: the same columns; what is not known is empty."""
    sizing = plan([ACCURACY], {"test": 50})

    assert list(sizing.frame().columns) == ["criterion", "if in truth", "cases needed", "cases at hand", "power with those"]
    assert len(sizing.frame()) == 3
    assert repr(sizing).splitlines()[0].split("  ")[0] == "criterion"
    assert repr(sizing).endswith(sizing.sentence)
    assert sizing._repr_html_().endswith(f"{sizing.sentence}</p></div>")


def test_the_name_of_a_score_is_only_text():
    """It comes from a file: a browser and a terminal see it as text."""
    sizing = plan([Criterion(HOSTILE, at_least=0.8)], {"dev": 20, "test": 20})

    assert Elements(sizing._repr_html_()).tags <= {"table", "thead", "tbody", "tr", "th", "td", "p", "div"}
    assert all(char.isprintable() for line in repr(sizing).split("\n") for char in line)
