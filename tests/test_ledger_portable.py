"""What a ledger holds can be read, carried to another machine, and saved from a damaged file."""

import io
import json
import random
import sqlite3
import subprocess
import sys

import pytest

from conftest import invoke
from poclab.errors import InputError, StoreError
from poclab.ledger import LEDGER, Entry, Ledger, entries, export, import_, recover, summary, summary_table

HOSTILE = "\x1b[2J \u2028 \ud800 \x00 <b>'\""


def entry(number, **changes):
    values = {
        "key": f"{number:064x}",
        "endpoint": "https://api.example.org/v1",
        "path": "/chat/completions",
        "model": "any-model",
        "body": {"messages": [{"content": HOSTILE}]},
        "status": 200,
        "headers": {"content-type": "application/json"},
        "content": b'{"choices": []}',
        "latency_s": 0.25,
        "at": "2026-11-25T18:00:00+00:00",
        "tokens_in": 10,
        "tokens_out": 2,
        "cost_usd": 0.5,
        "priced_on": "2026-11-01",
        "case_id": f"q{number}",
        "request_id": f"r{number}",
    }
    return Entry(**{**values, **changes})


def filled(path, *found):
    ledger = Ledger.open(path)
    for one in found:
        ledger.record(ledger.claim(one.key, again=True), one)
    return ledger


def exported(path):
    file = io.StringIO()
    export(path, file)
    return [f"{line}\n".encode() for line in file.getvalue().split("\n") if line]


@pytest.fixture
def path(tmp_path):
    return tmp_path / LEDGER


@pytest.fixture
def elsewhere(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere" / LEDGER


def test_a_ledger_goes_elsewhere_and_comes_back(path, elsewhere):
    """Bytes that are no text, hostile text, unknown numbers and generations: the copy holds the same entries."""
    odd = [
        entry(1),
        entry(1, content=bytes(range(256)), cost_usd=None, tokens_in=None),
        entry(2, content=HOSTILE.encode("utf-8", "replace")),
    ]
    ledger = filled(path, *odd, entry(3, model=HOSTILE, case_id="\u202e\n", purpose="judge", body=None))
    lines = exported(path)

    assert import_(elsewhere, lines, where="export.jsonl") == (4, 0)
    assert list(entries(Ledger.open(elsewhere))) == list(entries(ledger))
    assert Ledger.open(elsewhere).find(odd[1].key, 1).content == bytes(range(256))
    assert all(line.isascii() and line[:-1].decode().isprintable() for line in lines)
    assert exported(elsewhere) == lines


def test_what_is_there_is_not_imported_again(path, elsewhere):
    """An import that is repeated changes nothing; another answer to a key becomes its next generation."""
    filled(path, entry(1), entry(2))
    filled(elsewhere, entry(1, content=b'{"other": 1}'), entry(2))

    assert import_(elsewhere, exported(path), where="export.jsonl") == (1, 1)
    assert import_(elsewhere, exported(path), where="export.jsonl") == (0, 2)
    assert Ledger.open(elsewhere).find(entry(1).key).content == b'{"other": 1}'
    assert Ledger.open(elsewhere).find(entry(1).key, 1).content == b'{"choices": []}'


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": "A" * 64}, "'key' is 'AAAA.*expected 64 hexadecimal digits"),
        ({"latency_s": -1}, "'latency_s' is -1: expected a number of seconds"),
        ({"tokens_in": True}, "'tokens_in' is True: expected a whole number from 0, or null"),
        ({"status": 2**70}, "'status' is 1180591620717411303424"),
        ({"at": "yesterday"}, "'at' is 'yesterday': expected a time in UTC"),
        ({"at": "2026-11-25T18:00:00"}, "'at' is .*expected a time in UTC"),
        ({"headers": {"a": 1}}, "'headers' is {'a': 1}: expected an object of texts"),
        ({"cost_usd": "0.5"}, "'cost_usd' is '0.5': expected a number of dollars, or null"),
        ({"content": 5}, "'content' is 5: expected a text"),
        ({"content_base64": "AAAA"}, "either 'content' or 'content_base64'"),
        ({"modell": "x"}, "unknown key 'modell'\n.*did you mean 'model'"),
        ({"model": ...}, "'model' is missing"),
    ],
)
def test_a_line_that_is_no_entry_is_named(path, elsewhere, change, said):
    """An export that somebody edited or cut adds nothing at all, and the error says which line it is."""
    filled(path, entry(1), entry(2))
    first, second = exported(path)
    values = {name: value for name, value in {**json.loads(second), **change}.items() if value is not ...}

    with pytest.raises(InputError, match=f"(?s)export.jsonl, line 2: .*{said}"):
        import_(elsewhere, [first, json.dumps(values).encode()], where="export.jsonl")
    assert list(entries(Ledger.open(elsewhere))) == []


@pytest.mark.parametrize("line", [b"[]", b"{", b"\xff", b'"text"', b'{"key": 1, "key": 2}', b'{"content_base64": "?"}', b"[" * 100_000])
def test_a_line_that_is_no_object_is_named(elsewhere, line):
    """What is no JSON, no text, or cut short is refused like any other wrong line."""
    with pytest.raises(InputError, match=r"export\.jsonl, line 3: "):
        import_(elsewhere, [b"\n", b"  \n", line], where="export.jsonl")


def test_answers_are_recorded_while_an_import_is_read(path, elsewhere, monkeypatch):
    """A long import must not keep a run from an answer that is paid for: others wait for the adding alone."""
    filled(elsewhere, entry(1), entry(2))
    monkeypatch.setattr("poclab.ledger.store.BUSY_S", 0.0)
    Ledger.open(path)
    other = Ledger(path)  # a connection of its own, as another process has

    def lines():
        for number, line in enumerate(exported(elsewhere)):
            yield line
            live = entry(8 + number)
            other.record(other.claim(live.key), live)

    assert import_(path, lines(), where="x") == (2, 0)
    other.store.close()
    assert len(list(entries(Ledger.open(path)))) == 4


def test_a_ledger_that_is_not_there_has_no_export(path):
    """An export makes no empty ledger."""
    with pytest.raises(InputError, match="there is no ledger"):
        export(path, io.StringIO())
    assert not path.exists()


def test_no_key_comes_in_with_an_import(path, elsewhere, monkeypatch):
    """A colleague's export is cleared of the keys that this machine knows."""
    filled(path, entry(1, content=b"the key sk-1234567890-x"))
    lines = exported(path)
    monkeypatch.setenv("SOME_API_KEY", "sk-1234567890-x")
    import_(elsewhere, lines, where="export.jsonl")

    assert Ledger.open(elsewhere).find(entry(1).key).content == b"the key (key removed)"


def test_sums_are_by_day_model_and_purpose(path):
    """Judges are apart, and a cost that nobody knows is counted as that and not as nothing."""
    found = [
        entry(1),
        entry(2, cost_usd=None, tokens_in=None),
        entry(3, purpose="judge", cost_usd=0.25),
        entry(4, model="other", at="2026-11-26T00:00:00+00:00", cost_usd=None),
    ]
    ledger = filled(path, *found)
    lines = [line.split() for line in summary_table(ledger).splitlines()]

    assert [(one.day, one.model, one.purpose, one.entries, one.tokens_in, one.cost_usd, one.unknown_cost) for one in summary(ledger)] == [
        ("2026-11-25", "any-model", "judge", 1, 10, 0.25, 0),
        ("2026-11-25", "any-model", "system", 2, 10, 0.5, 1),
        ("2026-11-26", "other", "system", 1, 10, 0.0, 1),
    ]
    assert lines[0] == ["day", "model", "purpose", "entries", "tokens_in", "tokens_out", "cost_usd"]
    assert lines[2][3:] == ["2", "10", "4", "0.500000", "and", "1", "unknown"]
    assert lines[3][3:] == ["1", "10", "2", "unknown"]
    assert lines[4] == ["all", "4", "30", "8", "0.750000", "and", "2", "unknown"]


def test_an_empty_ledger_has_a_table(path):
    """A POC in which nothing was asked yet is no error."""
    ledger = Ledger.open(path)

    assert summary_table(ledger).splitlines()[1].split() == ["all", "0", "0", "0", "0.000000"]


def test_entries_are_listed_in_their_order(path):
    """More of them than are read at once, each once."""
    found = [entry(number) for number in range(250)]

    assert list(entries(filled(path, *found))) == found


FILL = """
import random, sys
from poclab.ledger import Entry, Ledger
ledger = Ledger.open(sys.argv[1])
for number in range(100):
    key, text = f"{number:064x}", random.Random(number).randbytes(600)
    entry = Entry(key, "http://e", "/responses", "m", {"n": number}, 200, {}, text, 0.1, "2026-11-25T18:00:00+00:00", cost_usd=0.01)
    ledger.record(ledger.claim(key), entry)
ledger.open_budget("b", 5.0)
ledger.release(ledger.claim("f" * 64), ledger.reserve("b", 2.0), billed=True)
"""


HOLD = """
import sys
from poclab.ledger import Entry, Ledger
ledger = Ledger.open(sys.argv[1])
claim = ledger.claim("a" * 64)
print("claimed", flush=True)
sys.stdin.readline()
ledger.record(claim, Entry("a" * 64, "http://e", "/responses", "m", {}, 200, {}, b"x", 0.1, "2026-11-25T18:00:00+00:00"))
"""


@pytest.fixture
def whole(path):
    """A ledger of 100 entries whose process has ended."""
    subprocess.run([sys.executable, "-c", FILL, path], check=True, timeout=60)
    return path.read_bytes()


def answer_of(number):
    return random.Random(number).randbytes(600)  # does not get shorter when it is compressed, so it can be found in the file


def kept_of(path):
    return [one for one in path.parent.iterdir() if one.name.startswith("ledger.db.damaged-")]


def test_what_can_be_read_of_a_damaged_ledger_is_saved(path, whole):
    """A page that is lost costs what stood on it; the rest, and what was spent, is in the new ledger, and the old file is kept."""
    at = whole.index(answer_of(50)[100:200]) // 4096 * 4096
    damaged = whole[:at] + bytes(4096) + whole[at + 4096 :]
    path.write_bytes(damaged)
    said = recover(path)
    saved = list(entries(Ledger.open(path)))

    assert 80 <= len(saved) < 100
    assert said.startswith(
        f"{len(saved)} entries saved, {100 - len(saved)} could not be read; 1 budget saved; the damaged file is kept as "
    )
    assert [one.read_bytes() for one in kept_of(path)] == [damaged]
    assert Ledger.open(path).spent("b").unanswered_usd == 2.0
    assert all(one.body == {"n": int(one.key, 16)} for one in saved)
    assert {one.name for one in path.parent.iterdir()} <= {LEDGER, f"{LEDGER}-wal", f"{LEDGER}-shm", kept_of(path)[0].name}


def test_a_torn_first_page_loses_nothing(path, whole):
    """The first page says the same in every ledger."""
    path.write_bytes(b"x" * 4096 + whole[4096:])

    assert recover(path).startswith("100 entries saved; 1 budget saved; ")


def test_a_ledger_that_was_cut_off_is_saved_up_to_there(path, whole):
    """Of half a file, about half of the entries."""
    path.write_bytes(whole[: len(whole) // 2])
    said = recover(path)

    assert 20 <= len(list(entries(Ledger.open(path)))) < 80, said


def test_an_answer_whose_bytes_changed_is_left_out(path, whole):
    """A wrong answer is worse than none: it would be replayed for ever."""
    at = whole.index(answer_of(7)[100:200])
    path.write_bytes(whole[:at] + b"\x00\x01\x02" + whole[at + 3 :])

    assert recover(path).startswith("99 entries saved, 1 could not be read; ")
    assert Ledger.open(path).find(f"{7:064x}") is None


def test_what_is_not_yet_in_the_main_file_is_saved_too(path):
    """After `kill -9` the last entries are in the log beside the file."""
    killed = FILL + "import os; os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", killed, path], check=False, timeout=60)
    assert path.with_name(f"{LEDGER}-wal").stat().st_size > 0

    assert recover(path).startswith("100 entries saved; 1 budget saved; ")
    assert len(list(entries(Ledger.open(path)))) == 100


def test_a_ledger_in_use_is_not_recovered(path, whole):
    """An answer that is under way would have no file to go to; when the run has ended, recovery goes on."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD, path], **pipes) as running:
        assert running.stdout.readline() == "claimed\n"
        with pytest.raises(StoreError, match="another process has the ledger open"):
            recover(path)
        running.communicate("go\n", timeout=60)
    assert running.returncode == 0
    assert kept_of(path) == []

    assert recover(path).startswith("101 entries saved; 1 budget saved; ")


def test_a_ledger_that_this_process_uses_is_not_recovered(path, whole):
    """A notebook that reads it cannot lose it either."""
    ledger = Ledger.open(path)

    with pytest.raises(StoreError, match="this process has the ledger open"):
        recover(path)
    assert ledger.claim("a" * 64)


def test_an_empty_ledger_has_lost_nothing(path):
    """Where there never was an entry, none is reported as lost."""
    create = "import sys; from poclab.ledger import Ledger; Ledger.open(sys.argv[1])"
    subprocess.run([sys.executable, "-c", create, path], check=True, timeout=60)

    assert recover(path).startswith("0 entries saved; 0 budgets saved; ")


def test_nothing_can_be_saved_of_a_text(path):
    """The way to a ledger that works again is open whatever the file was; it is kept."""
    path.write_text("no database at all\n" * 1000, encoding="utf-8")
    said = recover(path)

    assert said.startswith("0 entries saved")
    assert Ledger.open(path).claim("a" * 64)
    assert kept_of(path)[0].read_text(encoding="utf-8").startswith("no database")


def test_a_database_of_somebody_else_is_not_recovered(path):
    """It is moved away by hand, or stays where it is."""
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE runs (name TEXT)")
    other.close()
    before = path.read_bytes()

    with pytest.raises(InputError, match="this database is no ledger"):
        recover(path)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == [LEDGER]


def said(done, *, code=0):
    """Return what a command printed, which ended as expected and without a traceback."""
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if code else done.stdout


def test_the_command_prints_sums_and_budgets(poc, run_poclab):
    """One look says what was paid, what is unknown, and what is left; a name cannot drive the terminal."""
    ledger = filled(poc / LEDGER, entry(1), entry(2, cost_usd=None, model="odd\x1b[2J"))
    ledger.open_budget("sweep s", 5.0)
    ledger.release(ledger.claim("f" * 64), ledger.reserve("sweep s", 0.75), billed=True)
    ledger.record(ledger.claim(entry(3).key), entry(3), ledger.reserve("sweep s", 1.0))
    held = ledger.reserve("sweep s", 2.0)
    table = said(run_poclab("ledger", cwd=poc / "prompts"))
    lines = [line.split() for line in table.splitlines()]

    assert lines[1] == ["2026-11-25", "any-model", "system", "2", "20", "4", "1.000000"]
    assert lines[2] == ["2026-11-25", "odd\\x1b[2J", "system", "1", "10", "2", "unknown"]
    assert lines[3] == ["all", "3", "30", "6", "1.000000", "and", "1", "unknown"]
    assert lines[5] == ["budget", "limit_usd", "spent_usd", "in_flight_usd", "unanswered_usd"]
    assert lines[6] == ["sweep", "s", "5.000000", "0.500000", "2.000000", "0.750000"]
    ledger.release(ledger.claim("e" * 64), held, billed=False)


def test_the_command_carries_answers_to_another_poc(poc, make_poc, tmp_path, run_poclab):
    """What one machine paid, another one replays; a second import adds nothing, and no file is overwritten."""
    other, file = make_poc(tmp_path / "other"), tmp_path / "answers.jsonl"
    filled(poc / LEDGER, entry(1), entry(2, content=b"\xff\x00"))

    assert said(run_poclab("ledger", poc, "--export", file)) == f"{file}: 2 answers written\n"
    assert said(run_poclab("ledger", other, "--import", file)) == f"{other / LEDGER}: 2 answers added, 0 were there already\n"
    assert said(run_poclab("ledger", other, "--import", file)) == f"{other / LEDGER}: 0 answers added, 2 were there already\n"
    assert list(entries(Ledger.open(other / LEDGER))) == [entry(1), entry(2, content=b"\xff\x00")]
    assert f"{file}: is there already" in said(run_poclab("ledger", poc, "--export", file), code=2)


def test_the_command_refuses_what_it_cannot_use(poc, tmp_path):
    """Errors as of every verb: what was found, and what to type next; nothing is made on the way."""
    (tmp_path / "broken.jsonl").write_text('{"key": 1}\n', encoding="utf-8")

    assert f"{poc / LEDGER}: there is no ledger" in said(invoke("ledger", poc), code=2)
    assert "there is no ledger" in said(invoke("ledger", poc, "--export", tmp_path / "x"), code=2)
    assert "there is no ledger" in said(invoke("ledger", poc, "--recover"), code=2)
    assert "typo: no such folder" in said(invoke("ledger", tmp_path / "typo"), code=2)
    assert "give one of them" in said(invoke("ledger", poc, "--recover", "--export", "x"), code=2)
    assert not (poc / LEDGER).exists()
    assert "missing.jsonl: cannot be read" in said(invoke("ledger", poc, "--import", tmp_path / "missing.jsonl"), code=2)
    assert "broken.jsonl, line 1: " in said(invoke("ledger", poc, "--import", tmp_path / "broken.jsonl"), code=2)
    filled(poc / LEDGER, entry(1))
    assert "cannot be written" in said(invoke("ledger", poc, "--export", tmp_path / "no" / "x"), code=2)
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(["broken.jsonl", poc.name])


def test_the_command_recovers_a_damaged_ledger(poc, run_poclab):
    """It is refused with the very command that saves it; afterwards it works again."""
    subprocess.run([sys.executable, "-c", FILL, poc / LEDGER], check=True, timeout=60)
    data = (poc / LEDGER).read_bytes()
    (poc / LEDGER).write_bytes(b"x" * 4096 + data[4096:])

    assert "poclab ledger --recover" in said(run_poclab("ledger", poc), code=2)
    assert said(run_poclab("ledger", poc, "--recover")).startswith("100 entries saved; 1 budget saved; ")
    assert said(run_poclab("ledger", poc)).splitlines()[2].split() == ["all", "100", "0", "0", "1.000000"]
