"""A label that cannot come about in its world is refused when the set is frozen, with the case and the slip."""

import json
import shutil
from pathlib import Path

import pytest

from conftest import invoke
from poclab.agent import Sandbox, check_labels
from poclab.cases import Case, TestSet
from poclab.errors import InputError

DESK = Path(__file__).parents[1] / "experiments" / "ticket_desk"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    return Sandbox(DESK / "world.sql", folder=tmp_path_factory.mktemp("worlds"))


def check(sandbox, **expected):
    check_labels([Case("t01", {"task": "x"}, expected)], sandbox)


def test_the_labels_of_the_ticket_desk_can_come_about(sandbox):
    """All thirty."""
    check_labels(TestSet.load(DESK), sandbox)


@pytest.mark.parametrize(
    ("effect", "found", "fix"),
    [
        ({"table": "refund", "added": {"order_id": 1}}, "case 't01', effect 1: no table 'refund'", "did you mean 'refunds'?"),
        ({"table": "refunds", "added": {"orderid": 1}}, "refunds has no column 'orderid'", "did you mean 'order_id'?"),
        (
            {"table": "refunds", "added": {"order_id": 1}, "ignore": ["at"]},
            "refunds has no column 'at'",
            "there are: id, order_id, cents, reason",
        ),
        ({"table": "tickets", "key": {"id": 99}, "changed": {"status": "closed"}}, "no row of tickets has {'id': 99}", "look at the world"),
        ({"table": "tickets", "removed": {"id": 99}}, "no row of tickets has {'id': 99}", "look at the world"),
        ({"table": "tickets", "key": {"id": 99}, "removed": {}}, "no row of tickets has {'id': 99}", "look at the world"),
        (
            {"table": "tickets", "key": {"order_id": 3}, "changed": {"status": "closed"}},
            "rows of tickets are not known by 'order_id'",
            "there are: id",
        ),
        ({"table": "tickets", "key": {"id": "3"}, "changed": {"status": "closed"}}, "tickets.id holds 3, never '3'", "write 3"),
        ({"table": "refunds", "added": {"cents": {"one_of": [1, "2"]}}}, "refunds.cents holds 2, never '2'", "write 2"),
        ({"table": "refunds", "added": {"cents": True}}, "refunds.cents holds 1, never True", "write 1"),
        (
            {"table": "refunds", "added": {"reason": {"contain": "x"}}},
            "refunds.reason: no value is {'contain': 'x'}",
            '{"contains": "..."}',
        ),
        ({"table": "refunds", "added": {"reason": {"one_of": [["x"]]}}}, "refunds.reason: no value is ['x']", "a text"),
        ({"table": "tickets", "key": {"id": 2**63}, "removed": {}}, f"tickets.id: no value is {2**63}", "of 64 bits"),
        ({"table": "tickets", "added": {"id": 3}}, "a row of tickets has {'id': 3}", "look at the world"),
        ({"table": "tickets", "key": {"id": 10}, "changed": {"status": "closed"}}, "is so already: {'status': 'closed'}", '"effects": []'),
    ],
)
def test_a_slip_is_named_with_what_was_meant(sandbox, effect, found, fix):
    """An unknown table or column, a row that is not there, and a change that is none."""
    with pytest.raises(InputError) as refused:
        check(sandbox, effects=[effect])

    assert found in refused.value.message
    assert fix in refused.value.fix


REFUND = {"table": "refunds", "added": {"order_id": 1001, "cents": 4990}, "ignore": ["id", "reason"]}


@pytest.mark.parametrize(
    ("effect", "found", "fix"),
    [
        (
            {"table": "tickets", "key": {"id": 3}, "changed": {"priority": "hihg"}},
            "CHECK constraint failed: priority IN",
            "how the world defines",
        ),
        ({**REFUND, "added": {"order_id": 1001, "cents": -5}}, "CHECK constraint failed: cents > 0", "how the world defines refunds"),
        (
            {**REFUND, "added": {"order_id": 9999, "cents": 5}},
            "FOREIGN KEY constraint failed: no row of orders has {'order_id': 9999}",
            "refunds",
        ),
        ({**REFUND, "added": {"order_id": 1001}}, "NOT NULL constraint failed: refunds.cents", 'or name it in "ignore"'),
        ({**REFUND, "added": {"order_id": 1001, "cents": 49.9}}, "refunds.cents holds whole numbers, never 49.9", "in the column's unit"),
        (
            {**REFUND, "added": {"order_id": 1001, "cents": "49.90"}},
            "refunds.cents holds whole numbers, never '49.90'",
            "in the column's unit",
        ),
        ({"table": "orders", "key": {"id": 1001}, "changed": {"customer_id": 99}}, "no row of customers has {'customer_id': 99}", "orders"),
        (
            {"table": "customers", "key": {"id": 2}, "changed": {"email": "ada@example.com"}},
            "UNIQUE constraint failed: customers.email",
            "how the world defines customers",
        ),
        (
            {"table": "customers", "key": {"id": 2}, "changed": {"city": None}},
            "NOT NULL constraint failed: customers.city",
            "how the world",
        ),
    ],
)
def test_what_the_constraints_of_the_world_forbid_is_refused(sandbox, effect, found, fix):
    """A value that a column never holds, in sqlite's own words: no version could ever be right."""
    with pytest.raises(InputError) as refused:
        check(sandbox, effects=[effect])

    assert "case 't01', effect 1: " in refused.value.message and found in refused.value.message
    assert fix in refused.value.fix


SHOP = """
CREATE TABLE people (id INTEGER PRIMARY KEY, mail TEXT UNIQUE, CONSTRAINT written CHECK (mail LIKE '%@%'));
CREATE TABLE jobs (
  id INTEGER PRIMARY KEY, person INTEGER NOT NULL REFERENCES people (id), state TEXT NOT NULL DEFAULT 'new', ended TEXT, size INTEGER,
  CHECK (state <> 'done' OR ended IS NOT NULL)
);
CREATE TRIGGER none BEFORE DELETE ON jobs BEGIN SELECT RAISE(ABORT, 'no'); END;
INSERT INTO people VALUES (1, 'a@x'), (2, 'b@x');
INSERT INTO jobs VALUES (1, 1, 'new', NULL, 'large');
"""


@pytest.mark.parametrize(
    "effects",
    [
        [{"table": "jobs", "key": {"id": 1}, "changed": {"state": "done"}, "ignore": ["ended"]}],
        [{"table": "jobs", "key": {"id": 1}, "changed": {"state": "done", "ended": {"contains": "2026"}}}],
        [{"table": "jobs", "added": {"person": 3, "size": 1.5}}, {"table": "people", "added": {"mail": "c@x"}}],
        [{"table": "people", "key": {"id": one}, "changed": {"mail": mail}} for one, mail in ((1, "b@x"), (2, "a@x"))],
        [{"table": "people", "removed": {"id": 2}}, {"table": "people", "added": {"id": 3, "mail": "b@x"}}],
        [{"table": "jobs", "removed": {"id": 1}}, {"table": "people", "removed": {"id": 1}}],
    ],
    ids=["a check on what is ignored", "or matched", "a new row's key", "two that swap", "one in place of another", "triggers"],
)
def test_nothing_is_refused_that_is_not_certain(tmp_path, effects):
    """What is ignored or matched may be anything, changes of one case come in any order, and sqlite itself lets a column be of any type."""
    (tmp_path / "w.sql").write_text(SHOP)
    sandbox = Sandbox(tmp_path / "w.sql", folder=tmp_path / "worlds")
    check(sandbox, effects=effects)
    with pytest.raises(InputError, match="CHECK constraint failed: written"):
        check(sandbox, effects=[{"table": "people", "added": {"mail": "c"}, "ignore": ["id"]}])


@pytest.mark.parametrize(
    ("effects", "found"),
    [
        (
            [{"table": "tickets", "key": {"id": 3}, "changed": one} for one in ({"status": "closed"}, {"priority": "high"})],
            "effects 1 and 2 are of one row of tickets: {'id': 3}",
        ),
        (
            [{"table": "tickets", "removed": {"id": 3}}, {"table": "tickets", "key": {"id": 3}, "changed": {"status": "closed"}}],
            "effects 1 and 2 are of one row of tickets",
        ),
        ([{"file": "a.txt", "added": {"text": {"contains": one}}} for one in "xy"], "effects 1 and 2 are of one file: 'a.txt'"),
    ],
)
def test_two_effects_on_one_row_or_file_are_refused(sandbox, effects, found):
    """A difference tells each row and file once, so the second effect would be missing in every run."""
    with pytest.raises(InputError) as refused:
        check(sandbox, effects=effects)
    assert found in str(refused.value) and "write one effect" in str(refused.value)


@pytest.mark.parametrize(
    "done",
    [
        "SELEKT 1",
        "SELECT 1 FROM nowhere",
        "SELECT 1; SELECT 2",
        "DELETE FROM tickets",
        "DELETE FROM tickets RETURNING 1",
        "ATTACH 'x.db' AS x",
        "QUERY PLAN SELECT 1",
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(sandbox, done):
    """It would leave a score without a value on every run. It is not run here."""
    with pytest.raises(InputError, match="case 't01': done is no question"):
        check(sandbox, done=done)


@pytest.mark.parametrize(
    "expected",
    [
        {"effects": [{"table": "tickets", "key": {"id": 3}, "changed": {"status": {"one_of": ["closed"]}}}]},
        {"effects": [{"table": "notes", "added": {"text": {"one_of": [{"contains": "x"}]}}, "ignore": ["id", "ticket_id"]}] * 2},
        {"effects": [{"file": "nowhere.txt", "removed": {}}]},
        {"effects": [{"table": "refunds", "added": {"id": {"one_of": [7, 8]}, "cents": 1}, "ignore": ["order_id", "reason"]}]},
        {"effects": [{"table": "tickets", "key": {"id": 3}, "changed": {"order_id": None, "text": {"contains": "x"}}}]},
        {"effects": [], "done": "SELECT count(*) FROM tickets"},
        {"effects": [], "done": "WITH a AS (SELECT id FROM tickets) SELECT max(id) FROM a ORDER BY 1 -- so"},
        {"effects": [], "done": "PRAGMA table_info(tickets)"},
        {"answers": ["x"]},
    ],
)
def test_what_can_come_about_is_let_through(sandbox, expected):
    """Files and values that are matched are not looked up."""
    check(sandbox, **expected)


def test_files_are_looked_up_where_there_are_some(tmp_path):
    """One that is to be changed or removed is there, one that is to be added is not; a row without a key is known by its place."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a.txt").touch()
    (tmp_path / "w.sql").write_text("CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 2);")
    sandbox = Sandbox(tmp_path / "w.sql", files=tmp_path / "files", folder=tmp_path / "worlds")
    check(sandbox, effects=[{"file": "a.txt", "removed": {}}, {"file": "b.txt", "added": {"text": ""}}])
    check(sandbox, effects=[{"table": "t", "key": {"rowid": 1}, "changed": {"b": 3}}])
    for wrong in ({"file": "b.txt", "removed": {}}, {"file": "b.txt", "changed": {"text": "x"}}, {"file": "a.txt", "added": {"text": ""}}):
        with pytest.raises(InputError, match=r"effect 1: file '[ab].txt' is .*there"):
            check(sandbox, effects=[wrong])
    with pytest.raises(InputError, match="no row of t has"):
        check(sandbox, effects=[{"table": "t", "key": {"rowid": 2}, "changed": {"b": 3}}])


def test_freeze_and_doctor_look_at_the_world(tmp_path):
    """A misspelt table stops the freeze with exit code 2, and no lock is written; the doctor tells it, too."""
    folder = shutil.copytree(DESK, tmp_path / "desk", ignore=shutil.ignore_patterns(".poclab", "*.db*", "mlartifacts"))
    (folder / "cases.lock.json").unlink()
    assert invoke("freeze", folder).returncode == 0
    assert "none; each task finds world.sql, and what the cases expect can come about there" in invoke("doctor", folder).stdout
    (folder / "cases.lock.json").unlink()
    first, *rest = (folder / "cases.jsonl").read_text().splitlines()
    case = json.loads(first)
    case["expected"]["effects"][0]["table"] = "ticket"
    (folder / "cases.jsonl").write_text("\n".join([json.dumps(case), *rest]) + "\n")
    refused = invoke("freeze", folder)

    told = invoke("doctor", folder).stdout
    assert "failed   documents" in told and "no table 'ticket'" in told
    assert refused.returncode == 2
    assert "no table 'ticket' (cases.jsonl, line 1)" in refused.stderr and "did you mean 'tickets'?" in refused.stderr
    assert not (folder / "cases.lock.json").exists()
