"""The difference of two databases is all of the difference, whoever made it, and fast where nothing differs."""

import contextlib
import sqlite3

import pytest

from poclab.agent.rows import LISTED, LONGEST_TEXT
from poclab.agent.sqlite import Sqlite
from poclab.changes import Change
from poclab.errors import InputError, StoreError

SCRIPT = """
CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE, score REAL, photo BLOB);
CREATE TABLE seats (room TEXT, number INTEGER, taken TEXT, PRIMARY KEY (room, number)) WITHOUT ROWID;
CREATE TABLE codes (code TEXT PRIMARY KEY, note TEXT);
CREATE TABLE "odd ""name" ("a b" TEXT, c, rowid);
CREATE TABLE log (at INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT);
CREATE TRIGGER noted AFTER UPDATE ON people BEGIN INSERT INTO log (what) VALUES (new.name); END;
INSERT INTO people VALUES (1, 'Ada', 1.5, x'00ff'), (2, 'Ben', NULL, NULL), (3, 'Chen', 0, NULL);
INSERT INTO seats VALUES ('A', 1, NULL), ('A', 2, 'Ben');
INSERT INTO codes VALUES ('x', 'one'), (NULL, 'first'), (NULL, 'second');
INSERT INTO "odd ""name" VALUES ('p', 1, 0), ('q', 2, 0);
"""


@pytest.fixture
def base(tmp_path):
    (tmp_path / "world.sql").write_text(SCRIPT)
    return Sqlite.of(tmp_path / "world.sql", tmp_path / "base", scratch=tmp_path / "scratch")


@pytest.fixture
def change(base, tmp_path):
    """Return a function that runs statements on a copy and tells what is different, as JSON."""

    def run(*statements):
        copy = base.copy(tmp_path)
        for one in statements:
            copy.connection.execute(one)
        copy.connection.commit()
        found = copy.difference()
        copy.close()
        return [one.to_json() for one in found]

    return run


def test_nothing_changed_is_no_difference(change):
    """A look changes nothing, and neither does what was undone."""
    assert change() == []
    assert change("SELECT * FROM people") == []
    assert change("UPDATE codes SET note = 'two' WHERE code = 'x'", "UPDATE codes SET note = 'one' WHERE code = 'x'") == []


def test_added_changed_and_removed_rows_have_their_key(change):
    """Of a changed row the columns that differ, of the others all."""
    found = change(
        "INSERT INTO seats VALUES ('B', 1, 'Eve')",
        "UPDATE seats SET taken = 'Ada' WHERE number = 1 AND room = 'A'",
        "DELETE FROM seats WHERE number = 2",
    )

    assert found == [
        {"table": "seats", "key": {"room": "A", "number": 1}, "before": {"taken": None}, "after": {"taken": "Ada"}},
        {"table": "seats", "key": {"room": "B", "number": 1}, "after": {"room": "B", "number": 1, "taken": "Eve"}},
        {"table": "seats", "key": {"room": "A", "number": 2}, "before": {"room": "A", "number": 2, "taken": "Ben"}},
    ]


def test_what_a_trigger_writes_is_a_change_like_any_other(change):
    """The difference is of the file, not of the statements."""
    found = change("UPDATE people SET score = 2 WHERE id = 2")

    assert found == [
        {"table": "log", "key": {"at": 1}, "after": {"at": 1, "what": "Ben"}},
        {"table": "people", "key": {"id": 2}, "before": {"score": None}, "after": {"score": 2.0}},
    ]


def test_a_change_of_case_is_seen_where_the_column_compares_without(change):
    """`COLLATE NOCASE` must not hide what a person sees."""
    found = [one for one in change("UPDATE people SET name = 'ADA' WHERE id = 1") if one["table"] == "people"]

    assert found == [{"table": "people", "key": {"id": 1}, "before": {"name": "Ada"}, "after": {"name": "ADA"}}]


def test_a_replaced_row_and_a_moved_key_are_seen(change):
    """REPLACE fires no delete trigger; another key is another row."""
    assert [one["after"] for one in change("REPLACE INTO seats VALUES ('A', 2, 'Eve')")] == [{"taken": "Eve"}]
    moved = change("UPDATE seats SET number = 9 WHERE number = 2")
    assert [(one["key"]["number"], "after" in one) for one in moved] == [(9, True), (2, False)]


def test_rows_whose_key_is_null_are_told_apart_by_their_place(change):
    """sqlite lets a text key be NULL, many times."""
    assert change("UPDATE codes SET note = 'third' WHERE note = 'second'") == [
        {"table": "codes", "key": {"rowid": 3}, "before": {"note": "second"}, "after": {"note": "third"}}
    ]


def test_tables_without_a_key_and_with_odd_names(change):
    """Their rows are known by their place; names are quoted."""
    assert change('UPDATE "odd ""name" SET "a b" = NULL WHERE c = 2', 'INSERT INTO "odd ""name" VALUES (\'r\', 3, 0)') == [
        {"table": 'odd "name', "key": {"_rowid_": 2}, "before": {"a b": "q"}, "after": {"a b": None}},
        {"table": 'odd "name', "key": {"_rowid_": 3}, "after": {"a b": "r", "c": 3, "rowid": 0}},
    ]


def test_values_that_json_does_not_have_are_told_by_digest(change):
    """Bytes and long texts by their length and digest, infinity by its name, half a character replaced; a change of them is seen."""
    found = change(
        "UPDATE people SET photo = x'0100' WHERE id = 1",
        "UPDATE codes SET note = 9e999 WHERE code = 'x'",
        f"INSERT INTO seats VALUES ('Z', 1, '{'y' * (LONGEST_TEXT + 1)}')",
        "INSERT INTO seats VALUES ('Y', 1, CAST(x'ff41' AS TEXT))",
    )
    rows = {(one["table"], *one["key"].values()): one.get("after") for one in found}

    assert rows["people", 1]["photo"]["bytes"] == 2
    assert rows["codes", 1]["note"] == "Inf"  # in a column of texts it is one
    assert rows["seats", "Z", 1]["taken"]["characters"] == LONGEST_TEXT + 1
    assert rows["seats", "Y", 1]["taken"] == "\ufffdA"


def test_definitions_are_part_of_the_difference(change):
    """A dropped, a new and an altered table, an index and a trigger; of the new one its rows as well."""
    found = change(
        "DROP TABLE seats", "CREATE TABLE fresh (id INTEGER PRIMARY KEY)", "INSERT INTO fresh VALUES (1)", "ALTER TABLE codes ADD COLUMN more", "DROP TRIGGER noted",
        "CREATE INDEX by_name ON people (name)",
    )  # fmt: skip
    definitions = {one["key"]["name"]: (one.get("before"), one.get("after")) for one in found if one["table"] == "sqlite_schema"}

    assert set(definitions) == {"seats", "fresh", "codes", "noted", "by_name"}
    assert definitions["seats"][1] is None and definitions["fresh"][0] is None
    assert [one for one in found if one["table"] != "sqlite_schema"] == [{"table": "fresh", "key": {"id": 1}, "after": {"id": 1}}]


def test_a_change_after_the_file_was_rebuilt_is_still_the_only_one(change):
    """VACUUM writes every page anew."""
    assert change("DELETE FROM seats WHERE number = 2", "COMMIT", "VACUUM")[0]["key"] == {"room": "A", "number": 2}


def test_many_changes_are_counted(base, tmp_path):
    """A tool that fills a table does not fill the report; how many there are is told."""
    copy = base.copy(tmp_path)
    copy.connection.executemany("INSERT INTO log (what) VALUES (?)", [("x",)] * (LISTED + 5))
    copy.connection.commit()
    found = copy.difference()
    copy.close()

    assert len(found) == LISTED + 1
    assert found[-1] == Change("log", more=5)


def test_what_was_not_committed_is_no_change(base, tmp_path):
    """A tool that fails half way has changed nothing."""
    copy = base.copy(tmp_path)
    copy.connection.execute("DELETE FROM people")

    assert copy.difference() == []
    copy.close()


def test_another_connection_and_its_log_are_seen(base, tmp_path):
    """An agent may open the file itself, in another mode of writing."""
    copy = base.copy(tmp_path)
    copy.connection.close()
    with contextlib.closing(sqlite3.connect(copy.path)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("DELETE FROM codes WHERE code = 'x'")
        other.commit()
        assert [one.kind for one in copy.difference()] == ["removed"]


def test_what_is_no_database_any_more_is_an_error(base, tmp_path):
    """Nobody knows what was changed then: the case has failed."""
    copy = base.copy(tmp_path)
    copy.close()
    copy.path.write_bytes(b"overwritten" * 1000)

    with pytest.raises(StoreError, match="cannot be read as a database"):
        copy.difference()


def test_a_database_that_is_locked_is_an_error(base, tmp_path):
    """What holds the lock may have written, or not: nobody knows, and the error says so."""
    copy = base.copy(tmp_path)
    with contextlib.closing(sqlite3.connect(copy.path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("DELETE FROM codes")
        with pytest.raises(StoreError, match="locked"):
            copy.difference()
    copy.close()


def of(tmp_path, script):
    (tmp_path / "own.sql").write_text(script)
    return Sqlite.of(tmp_path / "own.sql", tmp_path / "base", scratch=tmp_path / "scratch")


def left(base, tmp_path, *statements):
    """Return the difference that statements leave in a copy of a base."""
    copy = base.copy(tmp_path)
    for one in statements:
        copy.connection.execute(one)
    copy.connection.commit()
    found = copy.difference()
    copy.close()
    return found


def test_a_full_text_table_changes_row_by_row(tmp_path):
    """What is told is what was written, not the pages of the index; and the table can be asked afterwards."""
    base = of(tmp_path, "CREATE VIRTUAL TABLE docs USING fts5(title, body); INSERT INTO docs VALUES ('a', 'lamp'), ('b', 'kettle');")
    found = left(base, tmp_path, "UPDATE docs SET body = 'chair' WHERE title = 'a'", "INSERT INTO docs VALUES ('c', 'rug')")

    assert [str(one) for one in found] == ['docs 1: body "lamp" -> "chair"', 'docs: + title "c", body "rug"']
    with contextlib.closing(base.after(found)) as after:
        assert [tuple(row) for row in after.execute("SELECT title FROM docs WHERE docs MATCH 'chair OR rug' ORDER BY title")] == [
            ("a",),
            ("c",),
        ]
    assert left(base, tmp_path, "INSERT INTO docs (docs) VALUES ('optimize')") == []


def test_a_column_that_sqlite_works_out_is_neither_told_nor_written(tmp_path):
    """It follows from the others; the database afterwards has it all the same."""
    base = of(
        tmp_path, "CREATE TABLE t (id INTEGER PRIMARY KEY, a, twice AS (a * 2), half AS (a / 2.0) STORED); INSERT INTO t (a) VALUES (1);"
    )
    found = left(base, tmp_path, "UPDATE t SET a = 5")

    assert [one.after for one in found] == [{"a": 5}]
    with contextlib.closing(base.after(found)) as after:
        assert [tuple(row) for row in after.execute("SELECT * FROM t")] == [(1, 5, 10, 2.5)]


def test_rows_without_a_key_are_told_apart_though_a_column_has_its_name(tmp_path):
    """Names count whatever the case of their letters; a table that takes all three of them cannot be compared, and says so."""
    base = of(tmp_path, "CREATE TABLE t (ROWID, v); INSERT INTO t VALUES (1, 'a'), (1, 'b');")

    assert [one.to_json() for one in left(base, tmp_path, "UPDATE t SET v = 'c' WHERE v = 'b'")] == [
        {"table": "t", "key": {"_rowid_": 2}, "before": {"v": "b"}, "after": {"v": "c"}}
    ]
    with pytest.raises(InputError, match="'t' cannot be told apart"):
        left(of(tmp_path, "CREATE TABLE t (rowid, _rowid_, oid);"), tmp_path, "INSERT INTO t VALUES (1, 2, 3)")


def test_the_base_is_private_and_made_once(tmp_path):
    """A database in use, with its log, is copied as it stands; what is written to it later does not reach the cases."""
    source = tmp_path / "live.db"
    with contextlib.closing(sqlite3.connect(source)) as live:
        live.execute("PRAGMA journal_mode = WAL")
        live.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
        live.execute("INSERT INTO t VALUES (1)")
        live.commit()
        base = Sqlite.of(source, tmp_path / "base", scratch=tmp_path / "scratch")
        live.execute("INSERT INTO t VALUES (2)")
        live.commit()
        copy = base.copy(tmp_path)
        assert [tuple(row) for row in copy.connection.execute("SELECT id FROM t")] == [(1,)]
        copy.close()
        assert Sqlite.of(source, tmp_path / "base", scratch=tmp_path / "scratch").digest != base.digest
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("w.sql", "CREATE TABEL t", "syntax error"),
        ("w.sql", "CREATE TABLE t (a); \0", "embedded null character"),
        ("w.db", "not a database, surely", "no database can be made"),
        ("none.db", None, "no such database"),
    ],
)
def test_a_source_that_is_none_is_refused(tmp_path, name, content, found):
    """Before a case is asked, with the file's name."""
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=found) as refused:
        Sqlite.of(tmp_path / name, tmp_path / "base", scratch=tmp_path / "scratch")

    assert name in str(refused.value)
    assert list(tmp_path.glob("base/*")) == []


def test_a_database_that_somebody_has_locked_is_refused(tmp_path):
    """And not waited for without end: an application that runs may never let go of it."""
    with contextlib.closing(sqlite3.connect(tmp_path / "live.db")) as live:
        live.execute("CREATE TABLE t (a)")
        live.execute("BEGIN EXCLUSIVE")
        with pytest.raises(InputError, match="live.db: no database can be made of it: database is locked"):
            Sqlite.of(tmp_path / "live.db", tmp_path / "base", scratch=tmp_path / "scratch")


def test_the_database_afterwards_is_the_base_with_its_changes(base, tmp_path):
    """A report alone tells how it stood: added, changed, removed, swapped and trigger-made rows are there once; it can only be read."""
    copy = base.copy(tmp_path)
    for statement in (
        "UPDATE people SET name = 'Bo' WHERE id = 2",
        "DELETE FROM people WHERE id = 3",
        "INSERT INTO codes VALUES ('y', 'two')",
        "UPDATE seats SET taken = 'Zoe'",
    ):
        copy.connection.execute(statement)
    copy.connection.commit()
    changes = [Change.from_json(one.to_json()) for one in copy.difference()]
    wanted = {
        table: [tuple(row) for row in copy.connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2")]
        for table in ("people", "seats", "codes", "log")
    }
    copy.close()
    with contextlib.closing(base.after(changes)) as after:
        assert {table: [tuple(row) for row in after.execute(f"SELECT * FROM {table} ORDER BY 1, 2")] for table in wanted} == wanted
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            after.execute("DELETE FROM people")


@pytest.mark.parametrize(
    "change",
    [
        Change("sqlite_schema", key={"name": "t"}, after={"sql": "..."}),
        Change("log", more=3),
        Change("people", key={"id": 1}, before={"photo": None}, after={"photo": {"bytes": 2, "sha256": "..."}}),
    ],
)
def test_a_difference_that_does_not_say_all_is_not_made_up(base, change):
    """What was cut cannot be put back."""
    with pytest.raises(InputError, match="cannot be made again"):
        base.after([change])
