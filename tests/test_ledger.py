"""The ledger: an answer is kept once it is paid for, by whatever thread or process, and a file that is not sound is never used."""

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from poclab.errors import StoreError
from poclab.ledger import LEDGER, Claim, Entry, Ledger
from poclab.ledger import store as stores
from poclab.redaction import CONCEALED

KEY, OTHER = "a1" * 32, "b2" * 32


def entry(key=KEY, **changes):
    values = {
        "key": key,
        "endpoint": "https://api.example.org/v1",
        "path": "/chat/completions",
        "model": "any-model",
        "body": {"model": "any-model", "messages": [{"role": "user", "content": "Why?"}]},
        "status": 200,
        "headers": {"content-type": "application/json"},
        "content": b'{"choices": []}',
        "latency_s": 0.25,
        "at": "2026-11-25T18:00:00+00:00",
    }
    return Entry(**{**values, **changes})


def recorded(ledger, one):
    return ledger.record(ledger.claim(one.key, again=True), one)


def other_process(code, *arguments, **options):
    """Start Python on `code`, which has what it needs of the ledger."""
    start = "import sys\nfrom poclab.ledger import BudgetError, Claim, Entry, Ledger\n"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", start + code, *map(str, arguments)], **pipes, **options)


def said_by(code, *arguments, **options):
    with other_process(code, *arguments, **options) as process:
        try:
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()  # else what came to no end by then is waited for, for ever
    assert process.returncode == 0, err
    return out


@pytest.fixture
def path(tmp_path):
    return tmp_path / LEDGER


def test_an_answer_comes_back_as_it_went_in(path):
    """Body, headers, bytes that are no text, numbers and unknown numbers: all of it is replayed, by another process too."""
    one = entry(content=bytes(range(256)), tokens_in=7, cost_usd=0.0012, priced_on="2026-11-01", case_id="q1", repeat=2, request_id="r1")
    ledger = Ledger.open(path)

    assert recorded(ledger, one) == one
    assert ledger.find(KEY) == one
    assert ledger.find(OTHER) is None
    assert one.tokens_out is None
    assert said_by("print(Ledger.open(sys.argv[1]).find(sys.argv[2]))", path, KEY) == f"{one}\n"


def test_an_entry_is_found_by_name_case_and_request(path):
    """A report names an entry by the start of its key and its generation; a trace asks for those of a case or request."""
    ledger = Ledger.open(path)
    first = recorded(ledger, entry(case_id="q1", request_id="r1"))
    second = recorded(ledger, entry(OTHER, case_id="q1", request_id="r2"))

    assert second.name == "b2b2b2b2b2b2b2b2/0"
    assert ledger.named(second.name) == second
    assert [ledger.named(name) for name in ("b2b2b2b2b2b2b2b2/1", "b2b2b2b2b2b2b2b2", "", f"b2/{'9' * 40}", "x/-1")] == [None] * 5
    assert ledger.of_case("q1") == [first, second]
    assert ledger.of_case(request_id="r2") == [second]
    assert ledger.of_case("q2") == []


def test_an_answer_asked_for_again_is_the_next_generation(path):
    """Live mode adds to the ledger; what was replayed before stays what is replayed, unless the newest is asked for."""
    ledger = Ledger.open(path)
    generations = [recorded(ledger, entry(content=text)) for text in (b"one", b"two", b"three")]

    assert [one.generation for one in generations] == [0, 1, 2]
    assert ledger.claim(KEY) == generations[0]
    assert ledger.find(KEY) == generations[0]
    assert ledger.find(KEY, 2) == generations[2]
    assert ledger.find(KEY, 3) is None
    assert ledger.find(KEY, newest=True) == ledger.claim(KEY, newest=True) == generations[2]


def test_who_asks_first_holds_the_claim(path):
    """Two threads with the same request make one call: the second waits, and has the answer of the first."""
    ledger = Ledger.open(path)
    claim = ledger.claim(KEY)

    assert isinstance(claim, Claim)
    assert ledger.claim(KEY) is None
    assert ledger.claim(KEY, again=True) is None
    assert isinstance(ledger.claim(OTHER), Claim)
    assert ledger.claim(KEY) is None
    kept = ledger.record(claim, entry())
    assert ledger.claim(KEY) == kept


def test_a_claim_that_is_given_back_can_be_had(path):
    """After an error somebody else may ask. A claim that is given back late takes nothing from who holds the key by then."""
    ledger = Ledger.open(path)
    claim = ledger.claim(KEY)
    ledger.release(claim, billed=False)
    second = ledger.claim(KEY)
    ledger.release(claim, billed=True)

    assert second.number != claim.number
    assert ledger.claim(KEY) is None


def test_processes_and_threads_that_ask_one_key_make_one_call(path):
    """Whatever process or thread comes first, the others have its answer."""
    code = """
import threading
from poclab.ledger import Entry
ledger, keys = Ledger.open(sys.argv[1]), [f"{number:064x}" for number in range(25)]
def ask(key):
    while True:
        found = ledger.claim(key)
        if isinstance(found, Claim):
            sys.stdout.write(f"called {key}\\n")  # in one piece
            ledger.record(found, Entry(key, "http://e", "/chat/completions", "m", {}, 200, {}, key.encode(), 0.1, "2026-11-25T18:00:00+00:00"))
        elif found:
            assert found.content == key.encode() and found.generation == 0
            return
sys.stdin.readline()
threads = [threading.Thread(target=lambda: [ask(key) for key in keys]) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
    Ledger.open(path)
    processes = [other_process(code, path) for _ in range(2)]
    outputs = [process.communicate("go\n", timeout=60) for process in processes]

    assert [error for _, error in outputs if error] == []
    called = [line for out, _ in outputs for line in out.splitlines()]
    assert sorted(called) == [f"called {number:064x}" for number in range(25)]


def test_a_claim_dies_with_its_process(path):
    """After `kill -9` the rerun asks at once for what was in flight, and for nothing else."""
    code = "ledger = Ledger.open(sys.argv[1]); print(ledger.claim(sys.argv[2]).number, flush=True); sys.stdin.readline()"
    ledger = Ledger.open(path)
    with other_process(code, path, KEY) as process:
        number = process.stdout.readline()
        held = ledger.claim(KEY)
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its parent has not looked yet
        after = ledger.claim(KEY)

    assert number
    assert held is None
    assert isinstance(after, Claim)


def test_a_number_that_was_given_again_is_another_process(path):
    """The process that has the number of one that died does not hold its claims."""
    ledger = Ledger.open(path)
    ledger.claim(KEY)
    with sqlite3.connect(path) as other:
        other.execute("UPDATE claims SET owner = ?", [f"{os.getpid()} 1"])  # this process did not begin in the first tick
    other.close()

    assert isinstance(ledger.claim(KEY), Claim)


def test_a_fork_in_the_middle_harms_nobody(path):
    """Parent and child go on with the ledger that was open, and neither has the other's claims, while threads write through the fork."""
    code = """
import os, threading
from poclab.ledger import Entry
ledger, stop, counts = Ledger.open(sys.argv[1]), threading.Event(), []
def one(key):
    return Entry(key, "http://e", "/chat/completions", "m", {}, 200, {}, b"x", 0.1, "2026-11-25T18:00:00+00:00")
def keep(start):
    count = 0
    while not stop.is_set():
        key = f"{start + count:064x}"
        ledger.record(ledger.claim(key), one(key))
        count += 1
    counts.append(count)
threads = [threading.Thread(target=keep, args=[number << 32]) for number in (1, 2)]
[thread.start() for thread in threads]
held = ledger.claim("f" * 64)
for number in range(10, 15):
    if os.fork() == 0:
        assert ledger.claim("f" * 64) is None
        for count in range(20):
            key = f"{(number << 32) + count:064x}"
            ledger.record(ledger.claim(key), one(key))
        os._exit(0)
    assert os.wait()[1] == 0
stop.set()
[thread.join() for thread in threads]
ledger.record(held, one("f" * 64))
print(*counts)
"""
    counts = [int(count) for count in said_by(code, path).split()]

    connection = sqlite3.connect(path)
    found = connection.execute("SELECT count(*) FROM entries").fetchone()[0]
    problem = connection.execute("PRAGMA integrity_check").fetchone()[0]
    connection.close()
    assert min(counts) > 0
    assert found == sum(counts) + 5 * 20 + 1
    assert problem == "ok"


def test_an_answer_is_on_the_disk_before_it_is_used(path, monkeypatch):
    """A power cut loses no answer that somebody has: what was recorded is in the log, and the log is synced, before `record` returns."""
    synced = []

    def sync(file):
        synced.append(Path(f"{path}-wal").read_bytes())
        os.fsync(file)

    ledger = Ledger.open(path)
    claim = ledger.claim(KEY)
    monkeypatch.setattr(stores, "sync", sync)
    ledger.record(claim, entry(case_id="the case that is kept"))

    assert len(synced) == 1
    assert b"the case that is kept" in synced[0]


def test_an_answer_survives_kill_9(path):
    """What a process recorded is there when it dies in the next moment."""
    code = """
import os, signal
from poclab.ledger import Entry
ledger = Ledger.open(sys.argv[1])
ledger.record(ledger.claim(sys.argv[2]), Entry(sys.argv[2], "http://e", "/responses", "m", {}, 200, {}, b"kept", 0.1, "2026-11-25T18:00:00+00:00"))
os.kill(os.getpid(), signal.SIGKILL)
"""
    with other_process(code, path, KEY) as process:
        assert process.wait() == -signal.SIGKILL

    assert Ledger.open(path).find(KEY).content == b"kept"


def test_a_program_that_ends_leaves_one_file(path):
    """Who copies `ledger.db` after a run has all of it."""
    said_by("Ledger.open(sys.argv[1]).open_budget('b', 1)", path)

    assert [one.name for one in path.parent.iterdir()] == [LEDGER]


def test_no_key_is_kept(path, monkeypatch):
    """A key that a prompt, a name, a header or an answer holds is not written, as text, as JSON or between bytes that are no text."""
    secret = 'sk-live-"quoted"-1234'
    monkeypatch.setenv("SOME_API_KEY", secret)
    body = {"messages": [{"content": f"my key is {secret}"}], secret: 1, "model": "any-model"}
    content = b"\xff\x00 " + secret.encode() + b" \xfe"
    ledger = Ledger.open(path)
    recorded(ledger, entry(body=body, content=content, headers={"x-request-id": secret}, model=secret, case_id=secret))
    kept = ledger.find(KEY)

    assert kept.body == {"messages": [{"content": f"my key is {CONCEALED}"}], CONCEALED: 1, "model": "any-model"}
    assert kept.content == b"\xff\x00 " + CONCEALED.encode() + b" \xfe"
    assert (kept.headers, kept.model, kept.case_id) == ({"x-request-id": CONCEALED}, CONCEALED, CONCEALED)
    assert b"sk-live" not in b"".join(file.read_bytes() for file in path.parent.iterdir())


def test_a_number_that_is_also_a_key_does_not_break_a_request(path, monkeypatch):
    """A request with such a number can be read again; only its texts are without it."""
    monkeypatch.setenv("PIN_TOKEN", "12345678")
    ledger = Ledger.open(path)
    recorded(ledger, entry(body={"seed": 12345678, "user": "12345678"}))

    assert ledger.find(KEY).body == {"seed": 12345678, "user": CONCEALED}


def test_hostile_text_is_kept_as_text(path):
    """Half characters, zero bytes and quotes in a prompt or a name break nothing."""
    hostile = "\ud800 \x00 '; DROP TABLE entries; -- \u202e"
    ledger = Ledger.open(path)
    recorded(ledger, entry(body={"content": hostile}, model=hostile, content=hostile.encode("utf-8", "surrogatepass")))
    kept = ledger.find(KEY)

    assert kept.body == {"content": hostile}
    assert kept.model == "\\ud800 \x00 '; DROP TABLE entries; -- \u202e"


def test_one_file_is_one_ledger(path, tmp_path):
    """However it is named, a file is opened once per process."""
    (tmp_path / "link").symlink_to(tmp_path)

    assert Ledger.open(path) is Ledger.open(str(tmp_path / "link" / LEDGER))


def test_threads_that_open_a_new_ledger_at_once_share_it(path):
    """The file is made once, whole."""
    found = []
    threads = [threading.Thread(target=lambda: found.append(Ledger.open(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({id(one) for one in found}) == 1
    assert [one.name for one in path.parent.iterdir() if one.suffix == ".tmp"] == []


def test_a_ledger_that_is_taken_away_is_missed_before_the_call(path):
    """No answer goes into a file that nobody will find; the next run has a new ledger."""
    ledger = Ledger.open(path)
    path.rename(path.with_name("elsewhere.db"))

    with pytest.raises(StoreError, match="moved or replaced"):
        ledger.claim(KEY)
    assert isinstance(Ledger.open(path).claim(KEY), Claim)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    """A ledger is made in a POC, and no folder is made for it."""
    with pytest.raises(StoreError, match="no folder for the ledger"):
        Ledger.open(tmp_path / "missing" / LEDGER)


@pytest.mark.parametrize("there", [True, False])
def test_a_ledger_that_cannot_be_written_is_refused_at_once(there):
    """A read-only file or folder is an error before the first call. The superuser, whom no mode stops, becomes somebody else for it."""
    code = """
import os, sqlite3, urllib.parse
from poclab.errors import StoreError
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
try:
    Ledger.open(sys.argv[1])
except StoreError as error:
    print(error)
"""
    with tempfile.TemporaryDirectory() as folder:  # the folders above tmp_path are closed to others
        path = Path(folder) / LEDGER
        if there:
            said_by("Ledger.open(sys.argv[1])", path)
            path.chmod(0o444)
        Path(folder).chmod(0o555)
        said = said_by(code, path)
        Path(folder).chmod(0o755)

    assert said.startswith(f"{path}: nothing can be written: ")
    assert "chmod u+w" in said


def test_a_full_disk_is_an_error_that_names_what_is_lost(path):
    """The answer that came and found no room is named; the ledger is sound, and the next call is refused before it is made."""
    code = """
import resource
from poclab.errors import StoreError
from poclab.ledger import Entry
ledger = Ledger.open(sys.argv[1])
def one(key, content):
    return Entry(key, "http://e", "/responses", "any-model", {}, 200, {}, content, 0.1, "2026-11-25T18:00:00+00:00", case_id="q17")
ledger.record(ledger.claim("a" * 64), one("a" * 64, b"kept"))
claim = ledger.claim("b" * 64)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    ledger.record(claim, one("b" * 64, __import__("random").randbytes(200_000)))
except StoreError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (1, 100_000))
try:
    ledger.claim("c" * 64)
except StoreError as error:
    print(error)
"""
    first, fix, second, again = said_by(code, path).splitlines()

    assert "nothing can be written" in first
    assert "the answer bbbbbbbbbbbbbbbb of 'any-model' to case 'q17' came and could not be kept" in first
    assert "nothing can be written" in second
    assert "could not be kept" not in second
    assert "free some space" in fix
    assert fix == again
    assert Ledger.open(path).find("a" * 64).content == b"kept"
    assert Ledger.open(path).find("b" * 64) is None


def torn(data):
    return data[: len(data) // 2]


def holed(data):
    return data[:8192] + bytes(4096) + data[12288:]


@pytest.mark.parametrize("harm", [torn, holed, lambda data: b"", lambda data: b"not a database, but a text of some length " * 9])
def test_a_damaged_ledger_is_refused_and_not_touched(path, harm):
    """A file that is cut, overwritten or empty is never taken for a new one."""
    said_by("Ledger.open(sys.argv[1]).open_budget('b', 1)", path)
    path.write_bytes(harm(path.read_bytes()))
    before = path.read_bytes()

    with pytest.raises(StoreError, match="ledger is damaged: .*\n.*`poclab ledger --recover`"):
        Ledger.open(path)
    assert path.read_bytes() == before


def test_an_answer_whose_bytes_changed_is_not_replayed(path):
    """What only the answer's own checksum can tell is told when it is read."""
    content = bytes(range(256))
    recorded(Ledger.open(path), entry(content=content))
    with sqlite3.connect(path) as other:
        other.execute("UPDATE entries SET content = CAST(substr(content, 1, 100) || x'00' || substr(content, 102) AS BLOB)")
    other.close()

    for ask in (lambda: Ledger.open(path).find(KEY), lambda: Ledger.open(path).claim(KEY), lambda: Ledger.open(path).page()):
        with pytest.raises(StoreError, match="ledger is damaged: .*\n.*`poclab ledger --recover`"):
            ask()


def test_a_database_of_somebody_else_is_refused(path):
    """The store of MLflow, say, is not made a ledger."""
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE runs (name TEXT)")
    other.close()
    before = path.read_bytes()

    with pytest.raises(StoreError, match="this database is no ledger"):
        Ledger.open(path)
    assert path.read_bytes() == before


def test_a_ledger_of_a_newer_poclab_is_refused(path):
    """What this version does not understand it does not change."""
    said_by("Ledger.open(sys.argv[1])", path)
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 99")
    other.close()

    with pytest.raises(StoreError, match="newer poclab .format 99.*\n.*upgrade poclab"):
        Ledger.open(path)


def test_what_differs_in_a_field_is_another_entry(path):
    """Entries are equal only in all of their fields."""
    one = recorded(Ledger.open(path), entry())

    assert one == entry()
    assert replace(one, latency_s=0.26) != one


def test_a_fork_while_the_ledger_is_opened_waits_for_it(path):
    """SQLite's own locks would be held in the child by a thread that it does not have: twenty forks during as many first openings."""
    code = """
import os, signal, threading
folder = os.path.dirname(sys.argv[1])
def opening(number):
    Ledger.open(os.path.join(folder, f"{number}.db")).claim("a" * 64)
for number in range(20):
    thread = threading.Thread(target=opening, args=[number])
    thread.start()
    if os.fork() == 0:
        signal.alarm(20)
        Ledger.open(os.path.join(folder, "child.db")).claim(f"{number:064x}")
        os._exit(0)
    assert os.wait()[1] == 0
    thread.join()
print("done")
"""
    assert said_by(code, path).strip() == "done"


def test_a_ledger_whose_journal_was_changed_is_a_log_again(path):
    """A program that looks into databases may have changed it: the ledger needs its write-ahead log."""
    Ledger.open(path).store.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    connection.close()

    assert said_by("ledger = Ledger.open(sys.argv[1]); print(ledger.claim('a' * 64) is not None)", path).strip() == "True"
    assert Ledger.open(path).claim("b" * 64)


def test_nothing_is_asked_while_the_disk_is_nearly_full(path, monkeypatch):
    """An answer that might find no room is not paid for; what is there is still found."""
    ledger = Ledger.open(path)
    claim = ledger.claim(KEY)
    found = os.statvfs(path.parent)
    monkeypatch.setattr(os, "statvfs", lambda folder: os.statvfs_result((*found[:4], stores.LEAST_FREE // found.f_frsize - 1, *found[5:])))

    with pytest.raises(StoreError, match="MB are free, and an answer might not be kept.*\n.*free some space"):
        ledger.claim("b" * 64)
    kept = ledger.record(claim, entry())
    assert ledger.find(KEY) == kept
