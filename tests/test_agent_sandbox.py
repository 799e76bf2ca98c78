"""Each case has a world of its own, which is gone afterwards, whatever happens in it."""

import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import poclab
from conftest import until
from poclab.agent import Sandbox, effects
from poclab.cases import Case
from poclab.changes import Change
from poclab.errors import InputError, StoreError
from poclab.system import Reply

SCRIPT = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); INSERT INTO t VALUES (1, 'a'), (2, 'b');"


@pytest.fixture
def sandbox(tmp_path):
    return make(tmp_path)


def make(tmp_path, **more):
    (tmp_path / "world.sql").write_text(SCRIPT)
    (tmp_path / "files/deep").mkdir(parents=True, exist_ok=True)
    (tmp_path / "files/deep/one.txt").write_text("one")
    (tmp_path / "files/two.bin").write_bytes(b"\xff\x00")
    return Sandbox(tmp_path / "world.sql", files=tmp_path / "files", folder=tmp_path / "worlds", **more)


def worlds(tmp_path):
    return sorted((tmp_path / "worlds").glob("of-*"))


def test_a_world_is_as_it_was_made_whatever_was_done_to_the_one_before(sandbox):
    """Fresh for each case and repeat."""
    for _ in range(2):
        with sandbox.open() as world:
            assert world.rows("SELECT * FROM t") == [{"id": 1, "v": "a"}, {"id": 2, "v": "b"}]
            assert (world.files / "deep/one.txt").read_text() == "one"
            world.db.execute("DELETE FROM t")
            world.db.commit()
            (world.files / "deep/one.txt").unlink()


def test_nothing_is_left_when_a_case_ends_or_fails(sandbox, tmp_path):
    """The folder is removed with the case, also by an error within."""
    with sandbox.open():
        assert len(worlds(tmp_path)) == 1
    with pytest.raises(ZeroDivisionError), sandbox.open():
        raise ZeroDivisionError
    assert worlds(tmp_path) == []


def test_files_are_part_of_the_difference(sandbox):
    """Added, changed and removed ones by their path; texts as texts, others by their digest; an empty file is one."""
    with sandbox.open() as world:
        (world.files / "new/deep").mkdir(parents=True)
        (world.files / "new/deep/mail.txt").write_text("Dear Ann")
        (world.files / "empty").touch()
        (world.files / "deep/one.txt").write_text("eno")  # as long as before
        (world.files / "two.bin").unlink()
        found = {one.file: one for one in world.difference()}

    assert found["new/deep/mail.txt"] == Change(file="new/deep/mail.txt", after={"text": "Dear Ann"})
    assert found["empty"].after == {"text": ""}
    assert str(found["deep/one.txt"]) == 'deep/one.txt: text "one" -> "eno"'
    assert found["two.bin"].kind == "removed" and found["two.bin"].before["bytes"] == 2
    assert len(found) == 4


def test_files_beyond_a_thousand_are_counted(sandbox):
    """An agent that fills a folder must not fill the report."""
    with sandbox.open() as world:
        for number in range(1003):
            (world.files / f"{number:04}.txt").touch()
        *listed, more = world.difference()

    assert len(listed) == 1000 and str(more) == "files: 3 more changes"


def test_a_link_is_told_and_not_followed(sandbox, tmp_path):
    """A file of the machine that a link leads to is neither read nor removed."""
    secret = tmp_path / "secret.txt"
    secret.write_text("the machine's own")
    with sandbox.open() as world:
        (world.files / "link").symlink_to(secret)
        (world.files / "folder").symlink_to(tmp_path, target_is_directory=True)
        found = {one.file: one.after for one in world.difference()}

    assert found == {"link": {"link": str(secret)}, "folder": {"link": str(tmp_path)}}
    assert secret.exists()


def test_a_link_in_place_of_the_folder_is_not_followed(sandbox, tmp_path):
    """What stands elsewhere on the machine does not get into reports."""
    with sandbox.open() as world:
        shutil.rmtree(world.files)
        world.files.symlink_to("/etc", target_is_directory=True)
        found = {one.file: one.after for one in world.difference()}

    assert found == {"deep/one.txt": None, "two.bin": None, ".": {"link": "/etc"}}
    assert worlds(tmp_path) == []


def test_what_is_no_file_and_what_fills_memory_is_told_as_what_it_is(sandbox):
    """A pipe is not waited for, and a file of any size is read in pieces."""
    with sandbox.open() as world:
        os.mkfifo(world.files / "pipe")
        with (world.files / "large").open("wb") as file:
            file.truncate(300_000_000)
        tracemalloc.start()
        found = {one.file: one.after for one in world.difference()}
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert found["pipe"] == {"other": "no regular file"}
    assert found["large"]["bytes"] == 300_000_000 and len(found) == 2
    assert most < 10_000_000


def test_what_is_written_to_the_original_folder_reaches_no_case(tmp_path):
    """A tool that takes the wrong path spoils the POC's own file, and not the cases that come after it."""
    sandbox = make(tmp_path)
    (tmp_path / "files/two.bin").write_text("spoilt")
    (tmp_path / "files/new.txt").touch()
    with sandbox.open() as world:
        assert (world.files / "two.bin").read_bytes() == b"\xff\x00"
        assert world.difference() == []


def test_the_private_copy_may_be_made_by_several_at_once(tmp_path):
    """Trials of a sweep begin together; one of them makes it, and all have it."""
    make(tmp_path)
    shutil.rmtree(tmp_path / "worlds")
    for number in range(50):
        (tmp_path / f"files/{number}").touch()

    def one(_):
        with Sandbox(files=tmp_path / "files", folder=tmp_path / "worlds").open() as world:
            return len(list(world.files.iterdir())), world.difference()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(16))) == [(52, [])] * 16
    assert [path.name.endswith("-files") for path in (tmp_path / "worlds/base").iterdir()] == [True]
    assert worlds(tmp_path) == []


def test_an_empty_folder_of_the_original_is_there_for_a_case(tmp_path):
    """It is none of what is compared, and a tool may count on it: also where one without it was made before."""
    make(tmp_path)
    (tmp_path / "files/outbox").mkdir()
    with make(tmp_path).open() as world:
        (world.files / "outbox/1.txt").touch()
        assert [one.file for one in world.difference()] == ["outbox/1.txt"]


def test_a_world_that_cannot_be_made_ends_the_evaluation(sandbox, tmp_path):
    """A full disk is no wrong answer of the agent: no number comes out."""
    shutil.rmtree(tmp_path / "worlds/base")
    cases = [Case(f"q{number}", {"task": "x"}, {"effects": []}) for number in range(20)]

    def system(inputs):
        with sandbox.open():
            return "done"

    with pytest.raises(StoreError, match="cannot be written"):
        poclab.evaluate(system, cases, [effects()])
    assert worlds(tmp_path) == []


def test_a_disk_that_is_full_is_said_to_be_full(tmp_path):
    """Not that something is wrong with the database."""
    (tmp_path / "w.sql").write_text("PRAGMA max_page_count = 2; CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(100000));")
    with pytest.raises(StoreError, match="No space left"):
        Sandbox(tmp_path / "w.sql", folder=tmp_path / "worlds")
    assert worlds(tmp_path) == []


def test_two_hundred_worlds_side_by_side_do_not_meet(sandbox, tmp_path):
    """Each of 200 cases on 8 threads finds what it did itself, and nothing of the others."""

    def one(number):
        with sandbox.open() as world:
            world.db.execute("INSERT INTO t VALUES (?, ?)", (100 + number, str(number)))
            world.db.commit()
            return [change.after for change in world.difference()]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(200))) == [[{"id": 100 + number, "v": str(number)}] for number in range(200)]
    assert worlds(tmp_path) == []


def test_worlds_are_kept_on_request_by_the_names_of_their_cases(tmp_path):
    """What an agent left can be opened; a case's id cannot lead out of the folder."""
    sandbox = make(tmp_path, keep=True)

    def system(inputs):
        with sandbox.open() as world:
            world.db.execute("DELETE FROM t WHERE id = 1")
            world.db.commit()
            return Reply("done", effects=world.difference())

    case = Case("../../q 1", {"task": "x"}, {"effects": [{"table": "t", "removed": {"id": 1}}]})
    report = poclab.evaluate(system, [case], [effects()], repeats=2)
    kept = sorted(sandbox.kept.iterdir())

    assert report.mean("effects") == 1.0
    assert [one.name.rpartition("-")[0] for one in kept] == [".._.._q_1-0", ".._.._q_1-1"]
    assert all((one / "world.db").is_file() and one.parent == sandbox.kept for one in kept)
    assert worlds(tmp_path) == []


def test_the_folder_of_another_user_is_not_taken(tmp_path, monkeypatch):
    """In the machine's folder for temporary files anybody may have made it first, or a link, and could read and replace the worlds."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert Sandbox().kept.parent.parent == tmp_path
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)

    with pytest.raises(StoreError, match="belongs to another user\n  fix: name another one"):
        Sandbox()


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    """`kill -9` in the middle of a case leaves its world, which the next process removes; a world of one that lives stays."""
    sandbox = make(tmp_path)
    code = (
        "import sys, time; from poclab.agent import Sandbox\n"
        f"sandbox = Sandbox({str(tmp_path / 'world.sql')!r}, folder={str(tmp_path / 'worlds')!r})\n"
        "with sandbox.open() as world:\n    print('open', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "open\n"
        (of_the_other,) = worlds(tmp_path)
        make(tmp_path)  # the first of a process looks for what others left
        with sandbox.open():
            assert of_the_other in worlds(tmp_path)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(20)
    finally:
        process.kill()
        process.stdout.close()
    with make(tmp_path).open():
        until(lambda: of_the_other not in worlds(tmp_path), "the dead one's world is gone")
    assert worlds(tmp_path) == []


LATE = """
import sys, threading, time
from poclab.agent import Sandbox
sandbox = Sandbox({world!r}, folder={worlds!r})
opened = threading.Event()
def hang():
    with sandbox.open() as world:
        opened.folder = world.folder
        opened.set()
        {then}
thread = threading.Thread(target=hang, daemon=True)
thread.start()
opened.wait()
"""


def run_late(tmp_path, then, after=""):
    """Run a process with a case in a thread, and return what it prints."""
    make(tmp_path)
    code = LATE.format(world=str(tmp_path / "world.sql"), worlds=str(tmp_path / "worlds"), then=then) + after
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_a_case_that_nobody_waits_for_is_removed_with_its_process(tmp_path):
    """A thread that hangs for ever leaves nothing once the process ends."""
    run_late(tmp_path, "threading.Event().wait()")
    assert worlds(tmp_path) == []


def test_what_a_tool_writes_after_its_case_is_removed_with_the_process(tmp_path):
    """A tool that hung and wakes up may make the folder again."""
    told = run_late(tmp_path, "pass", "thread.join()\nopened.folder.mkdir()\nprint(opened.folder.is_dir())")
    assert told == "True\n"
    assert worlds(tmp_path) == []


def test_a_fork_does_not_remove_the_worlds_of_its_parent(tmp_path):
    """It inherits what the parent does at its end."""
    forked = "pid = os.fork()\nif not pid: sys.exit()\nos.waitpid(pid, 0)\nprint(opened.folder.is_dir())"
    assert run_late(tmp_path, "threading.Event().wait()", f"import os\n{forked}") == "True\n"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody who has no rights")
def test_rights_that_a_tool_took_away_do_not_keep_a_world():
    """A folder that can no longer be entered is removed like any other."""
    taken = "(world.files / 'shut').mkdir(); (world.files / 'shut/x').touch(); (world.files / 'shut').chmod(0)"
    with tempfile.TemporaryDirectory() as folder:  # one that is its owner's all the way up could not be entered by anybody else
        make(Path(folder))
        shutil.rmtree(f"{folder}/worlds")
        os.chown(folder, 65534, 65534)
        code = LATE.format(world=f"{folder}/world.sql", worlds=f"{folder}/worlds", then=taken) + "thread.join()"
        code = code.replace("sandbox = ", "import os; os.setgid(65534); os.setuid(65534)\nsandbox = ", 1)
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
        assert Path(folder, "worlds/base").is_dir() and worlds(Path(folder)) == []


def test_a_folder_deeper_than_python_goes_is_removed(sandbox, tmp_path):
    """It must neither end the case in Python's words nor stop whoever opens the next world."""
    with sandbox.open() as world:
        subprocess.run(["mkdir", "-p", world.files / ("d/" * 1500)], check=True, timeout=60)
    assert worlds(tmp_path) == []


def test_worlds_of_other_machines_are_left_alone(tmp_path):
    """A folder may be shared; whether a process of another machine lives cannot be seen from here."""
    this = platform.node() or "here"
    names = [f"of-another.host-123_456_abc-{32 * '0'}", f"of-{this}-2-123_456_abc-{32 * '0'}", f"of-{this}-notes"]
    for name in names:
        (tmp_path / "worlds" / name).mkdir(parents=True)
    (tmp_path / f"worlds/of-{this}-1_2_abc-{32 * '0'}").mkdir()
    with make(tmp_path).open():
        pass

    assert [one.name for one in worlds(tmp_path)] == sorted(names)


def test_a_tool_that_hangs_in_a_query_does_not_hold_the_world(sandbox, tmp_path):
    """An endless query is ended when its case is."""
    ended = threading.Event()

    def endless(world):
        with pytest.raises(Exception, match="interrupted"):
            world.db.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n").fetchall()
        ended.set()

    with sandbox.open() as world:
        threading.Thread(target=endless, args=(world,), daemon=True).start()
        until(lambda: interrupted(world, ended), "the query ends")
        assert world.difference() == []
    assert worlds(tmp_path) == []


def interrupted(world, ended):
    world.difference()
    return ended.is_set()


WRITING = """
import threading, time
from poclab.agent import Sandbox
sandbox = Sandbox({world!r}, folder={worlds!r})
many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000) INSERT INTO t (v) SELECT i FROM n"
def write(world):
    try:
        while True:
            world.db.execute(many)
            world.db.commit()
    except Exception as error:
        ended.append(str(error))
ended, threads = [], []
def case():
    with sandbox.open() as world:
        threads.append(threading.Thread(target=write, args=(world,), daemon=True))
        threads[-1].start()
        time.sleep(0.02)
for _ in range(20):
    cases = [threading.Thread(target=case) for _ in range(4)]
    for one in cases: one.start()
    for one in cases: one.join()
for one in threads: one.join(10)
print(len(ended))
"""


def test_a_tool_that_goes_on_writing_does_not_bring_the_process_down(tmp_path):
    """Python crashes when a database is closed under a thread that uses it. Each of 80 such threads ends, by an error of its own."""
    make(tmp_path)
    code = WRITING.format(world=str(tmp_path / "world.sql"), worlds=str(tmp_path / "worlds"))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)

    assert (ended.returncode, ended.stdout) == (0, "80\n"), ended.stderr
    assert worlds(tmp_path) == []


def test_a_database_is_gone_when_its_case_is_over(sandbox):
    """Who kept the world is told so, and not that something is wrong with Python."""
    with sandbox.open() as world:
        pass
    with pytest.raises(InputError, match="the case is over"):
        world.rows("SELECT 1")


def test_a_sandbox_of_a_poc_lies_in_its_work_folder(poc):
    """Git ignores it there."""
    (poc / "world.sql").write_text(SCRIPT)
    with Sandbox(poc / "world.sql").open() as world:
        assert world.folder.parent == poc / ".poclab/worlds"


def test_a_sandbox_needs_neither_database_nor_files(tmp_path):
    """An agent without a world changes nothing; a tool that wants a database is told that there is none."""
    with Sandbox(folder=tmp_path / "worlds").open() as world:
        assert world.difference() == []
        with pytest.raises(InputError, match="no database"):
            world.rows("SELECT 1")


def test_a_world_has_a_digest_of_all_that_a_case_finds(tmp_path):
    """An edited script or file is another world."""
    first = make(tmp_path).digest
    assert make(tmp_path).digest == first
    (tmp_path / "files/deep/one.txt").write_text("other")
    assert Sandbox(tmp_path / "world.sql", files=tmp_path / "files", folder=tmp_path / "worlds").digest != first


def test_another_database_fits(tmp_path):
    """Whatever can be copied, and tells its difference, is a database: here a list in memory."""

    class Copy:
        def __init__(self):
            self.connection = self
            self.done, self.kept, self.closed = [], [], False

        def commit(self):
            self.kept += self.done
            self.done = []

        def rollback(self):
            self.done = []

        def difference(self):
            return [Change("things", after={"name": one}) for one in self.kept]

        def close(self):
            self.closed = True

    class Things:
        digest = "things"

        def copy(self, folder: Path):
            return Copy()

    with Sandbox(Things(), folder=tmp_path / "worlds").open() as world:
        with world.transaction():
            world.db.done.append("lamp")
        with pytest.raises(ValueError), world.transaction():
            world.db.done.append("chair")
            raise ValueError
        copy = world.db
        assert [str(one) for one in world.difference()] == ['things: + name "lamp"']
    assert copy.closed


def test_a_world_of_five_megabytes_costs_a_case_few_milliseconds(tmp_path):
    """The short form of `tests/benchmarks/sandbox.py`, in processor time, which other programs do not lengthen: copy, change, difference, end."""
    path = Path(__file__).parent / "benchmarks/sandbox.py"
    spec = importlib.util.spec_from_file_location("sandbox_benchmark", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)

    assert benchmark.measure(tmp_path, cases=20, rounds=1)["few rows"]["processor"] < benchmark.MOST_MS


@pytest.mark.parametrize("more", [{"files": "nowhere"}, {"database": "nowhere.db"}])
def test_what_is_not_there_is_refused(tmp_path, more):
    """Before a case is asked."""
    with pytest.raises(InputError, match="no such"):
        Sandbox(folder=tmp_path, **more)
