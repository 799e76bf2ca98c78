"""What was changed is held against what was expected: exactly, once, and nothing else."""

import pytest

from poclab.cases import Case, expected_text
from poclab.changes import Change, expectations, hold
from poclab.errors import InputError

REFUND = Change("refunds", key={"id": 7}, after={"id": 7, "order_id": 12, "cents": 3000, "reason": "broken"})
CLOSED = Change("tickets", key={"id": 3}, before={"status": "open"}, after={"status": "closed"})
GONE = Change("orders", key={"id": 5}, before={"id": 5, "item": "lamp"})
MAIL = Change(file="outbox/3.txt", after={"text": "We refund the Lamp."})
EXPECTED = [
    {"table": "refunds", "added": {"order_id": 12, "cents": 3000}, "ignore": ["id", "reason"]},
    {"table": "tickets", "key": {"id": 3}, "changed": {"status": "closed"}},
    {"table": "orders", "removed": {"id": 5}},
    {"file": "outbox/3.txt", "added": {"text": {"contains": "refund the lamp"}}},
]


def held(expected, found, *ignored):
    return hold(expectations(expected, where="case"), found, ignored)


def test_each_kind_of_change_fits_its_expectation_in_any_order():
    """A row added, one changed, one gone, and a file: the order in which they are found does not matter."""
    assert held(EXPECTED, [MAIL, GONE, CLOSED, REFUND]).right
    assert held([], []).right and str(held([], [])) == "as expected: no change"


@pytest.mark.parametrize("place", range(4))
def test_a_missing_change_is_named(place):
    """Who says that it was done, and did not do it, is found out."""
    found = [one for number, one in enumerate([REFUND, CLOSED, GONE, MAIL]) if number != place]
    verdict = held(EXPECTED, found)

    assert not verdict.right
    assert verdict.unexpected == ()
    assert len(verdict.missing) == 1


def test_a_change_more_is_named():
    """A task that was done, with one row more, was not done right."""
    verdict = held(EXPECTED[:1], [REFUND, CLOSED])

    assert str(verdict) == 'not expected: tickets 3: status "open" -> "closed"'


def test_done_twice_is_once_too_often():
    """One expectation takes one change: the second refund is left over."""
    verdict = held(EXPECTED[:1], [REFUND, Change("refunds", key={"id": 8}, after={**REFUND.after, "id": 8})])

    assert str(verdict) == 'not expected: refunds: + id 8, order_id 12, cents 3000, reason "broken"'


def test_no_change_is_an_expectation():
    """Where the right thing is to change nothing, any change is wrong."""
    assert not held([], [CLOSED]).right


@pytest.mark.parametrize(
    ("expected", "why"),
    [
        ({"table": "refunds", "added": {"order_id": 12, "cents": 2500}, "ignore": ["id", "reason"]}, "cents 3000, expected 2500"),
        ({"table": "refunds", "added": {"order_id": 12}, "ignore": ["id", "reason"]}, "cents 3000, not expected"),
        (
            {"table": "refunds", "added": {"order_id": 12, "cents": 3000, "currency": "EUR"}, "ignore": ["id", "reason"]},
            'currency null, expected "EUR"',
        ),
        ({"table": "tickets", "key": {"id": 3}, "changed": {"priority": "high"}}, 'priority as it was, expected "high"'),
    ],
)
def test_a_row_that_is_nearly_right_says_in_which_column_it_is_not(expected, why):
    """A wrong value, a column that nobody expected, and one that is not there, each beside what was found."""
    verdict = held([expected], [CLOSED if expected["table"] == "tickets" else REFUND])

    assert why in str(verdict)
    assert verdict.unexpected == ()  # it is told once


def test_long_texts_are_shown_from_where_they_differ():
    """Two beginnings that are the same would tell nobody what was changed."""
    letter, expected = "Dear Ann, " * 30, {"file": "a.txt", "changed": {"text": f"{'Dear Ann, ' * 30}Yours, Bo"}}
    found = Change(file="a.txt", before={"text": f"{letter}Yours, Al"}, after={"text": f"{letter}Yours, Cy"})

    assert str(found) == 'a.txt: text "…n, Yours, Al" -> "…n, Yours, Cy"'
    assert '(text "…n, Yours, Cy", expected "…n, Yours, Bo")' in str(held([expected], [found]))


def test_a_changed_column_more_is_wrong():
    """Who closes a ticket and raises its priority has done something else."""
    found = Change("tickets", key={"id": 3}, before={"status": "open", "priority": "low"}, after={"status": "closed", "priority": "high"})

    assert str(held(EXPECTED[1:2], [found])) == (
        'not as expected: tickets 3: status "open" -> "closed", priority "low" -> "high" (priority was to stay as it was)'
    )


def test_columns_can_be_ignored_everywhere_in_one_table_or_with_it():
    """Times and numbers that a database gives need not be expected; a whole log may be passed over."""
    stamped = Change("tickets", key={"id": 3}, before={"status": "open", "at": 1}, after={"status": "closed", "at": 2})
    touched = Change("orders", key={"id": 1}, before={"at": 1}, after={"at": 2})
    logged = Change("log", key={"id": 1}, after={"id": 1, "what": "closed"})

    assert held(EXPECTED[1:2], [stamped, touched, logged], "at", "log.*").right
    assert held(EXPECTED[1:2], [stamped], "tickets.at").right
    assert not held(EXPECTED[1:2], [stamped], "orders.at").right
    assert not held([], [logged], "what").right  # a row more is a row more, whatever of its columns is ignored


def test_what_is_expected_by_name_is_looked_at_though_it_is_ignored():
    """An expectation is more than a general rule."""
    stamped = Change("tickets", key={"id": 3}, before={"at": 1}, after={"at": 2})

    assert held([{"table": "tickets", "key": {"id": 3}, "changed": {"at": 2}}], [stamped], "at").right
    assert not held([{"table": "tickets", "key": {"id": 3}, "changed": {"at": 3}}], [stamped], "at").right


def test_changes_go_to_the_expectations_that_can_take_them():
    """The first expectation fits both rows, the second only one: each still gets its own."""
    wide = {"table": "refunds", "added": {"cents": {"one_of": [3000, 4000]}}, "ignore": ["id", "order_id", "reason"]}
    narrow = {"table": "refunds", "added": {"cents": 3000}, "ignore": ["id", "order_id", "reason"]}
    other = Change("refunds", key={"id": 8}, after={**REFUND.after, "id": 8, "cents": 4000})

    for expected in ([wide, narrow], [narrow, wide]):
        for found in ([REFUND, other], [other, REFUND]):
            assert held(expected, found).right


def test_values_are_equal_as_json_has_them():
    """true is not 1, in a file as in a row; 30 and 30.0 are one number."""
    assert not held([{"table": "t", "added": {"n": True}}], [Change("t", after={"n": 1})]).right
    assert held([{"table": "t", "added": {"n": 30}}], [Change("t", after={"n": 30.0})]).right


def test_what_is_not_listed_fits_nothing():
    """Of a table with a thousand changes the others are counted, and no expectation takes that count."""
    more = Change("orders", more=49_000)

    assert str(held([{"table": "orders", "removed": {}}], [more])) == "missing: orders: -; not expected: orders: 49000 more changes"


@pytest.mark.parametrize("change", [REFUND, CLOSED, GONE, MAIL, Change("t", more=3), Change(file="empty", after={"text": ""})])
def test_a_change_comes_back_from_its_json(change):
    """Reports keep them, and they are scored again."""
    assert Change.from_json(change.to_json()) == change


@pytest.mark.parametrize(
    "data", ["sent a mail", {}, {"table": ""}, {"table": "t", "rows": 1}, None, {"table": "t", "after": 1}, {"table": "t"}]
)
def test_what_is_no_change_is_refused(data):
    """An effect in a form of one's own needs a score of one's own."""
    with pytest.raises(InputError, match="not a change"):
        Change.from_json(data)


@pytest.mark.parametrize(
    ("effect", "found"),
    [
        ("closed", "no expected change"),
        ({"table": "t"}, "says table: one table or file, and one of added, changed, removed"),
        ({"added": {}}, "says added"),
        ({"table": "t", "file": "f", "added": {}}, "says table, file, added"),
        ({"table": "t", "added": {}, "removed": {}}, "says table, added, removed"),
        ({"table": "t", "add": {}}, "unknown key 'add'"),
        ({"table": "t", "added": [1]}, "map columns to values"),
        ({"table": "t", "removed": True}, 'fix: {"table": "orders", "removed": {"id": 5}}'),
        ({"table": "t", "changed": {"a": 1}}, "which row of 't' is changed?"),
        ({"table": "t", "added": {"a": {"one_of": "xy"}}}, 'found {"one_of": "xy"}'),
        ({"table": "t", "added": {"a": {"contains": 5}}}, 'found {"contains": 5}'),
        ({"file": "f", "added": {"txt": "x"}}, "unknown key 'txt'"),
        ({"file": "f", "key": {"id": 1}, "removed": {}}, "a file has no key"),
        ({"file": "../f", "removed": {}}, "'../f' is no path within the folder"),
        ({"file": "./f", "removed": {}}, "'./f' is no path within the folder"),
        ({"table": "t", "added": {"a": {"contains": "x", "one_of": []}}}, 'a: {"contains": text} or {"one_of": [...]}'),
        ({"table": "t", "added": {"a": {"one_of": []}}}, 'found {"one_of": []}'),
        ({"table": "t", "added": {"a": {"one_of": [{"contains": 3}]}}}, 'found {"one_of": [{"contains": 3}]}'),
        ({"table": "t", "added": {}, "ignore": ["id", None]}, "ignore is a list of columns"),
    ],
)
def test_an_expectation_that_says_nothing_is_refused_when_cases_are_read(effect, found):
    """A slip in a label would be a wrong answer of every version."""
    with pytest.raises(InputError) as refused:
        Case("q1", {"task": "x"}, {"effects": [effect]})

    assert found in str(refused.value)
    assert "case 'q1', effect 1" in str(refused.value)


def test_what_is_expected_is_told_in_words():
    """A table of cases shows what each has to change."""
    assert expected_text({"effects": EXPECTED}) == (
        'refunds: + order_id 12, cents 3000; tickets 3: status -> "closed"; orders: - id 5; '
        'outbox/3.txt: + text {"contains": "refund the lamp"}'
    )
    assert expected_text({"effects": [], "answers": ["30 days"]}) == "(no change); says 30 days"
    assert expected_text({"done": "SELECT 1"}) == "SELECT 1"
