"""The line that a sweep keeps up to date says what somebody who waits wants to know."""

import contextlib
import os
import pty
import re
import subprocess
import sys
import termios

from poclab.progress import Progress
from poclab.results import Record
from poclab.sweeps import load_sweep


def record(name, accuracy=None, *, outcome="ok", spent=0.0):
    found = {"accuracy": {"value": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.1, "n": 8}} if accuracy is not None else None
    return Record(name, name, {}, outcome, spent_usd=spent, estimates=found)


def taken(poc, *records, count=10, running=2):
    said = []
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(load_sweep(poc), count, said.append))
        for _ in range(running):
            stack.enter_context(progress.running())
        for one in records:
            progress.take(one)
        return progress.text(), said, progress.best()


def test_it_tells_what_runs_what_failed_the_best_and_the_money(poc):
    """Two of ten trials cost a dollar and half a dollar: eight more will cost about six."""
    text, said, _ = taken(poc, record("a", 0.5, spent=1.0), record("b", 0.75, spent=0.5), record("c", outcome="error"))

    assert text == "paid now $1.50 of ~$5.00; 2 running, 1 failed; best accuracy 0.750 (0.650 to 0.850)"
    assert said == [
        "[1/10] a: accuracy 0.500 (0.400 to 0.600, n = 8)",
        "[2/10] b: accuracy 0.750 (0.650 to 0.850, n = 8)",
        "[3/10] c: failed: ",
    ]


def test_what_is_unknown_or_free_is_not_foreseen(poc):
    """One cost that nobody knows makes the sum unknown; what cost nothing costs nothing more."""
    assert taken(poc, record("a", 0.5, spent=None), record("b", 0.5))[0].startswith("cost unknown; ")
    assert taken(poc, record("a", 0.5))[0].startswith("paid now $0.00; ")
    assert taken(poc)[0] == "2 running"


def test_what_there_is_no_room_for_is_left_out_the_money_last(poc):
    """On 80 columns dollars, what runs and the best stay; the interval goes first, then the name of the metric."""
    with Progress(load_sweep(poc), 10, print) as progress:
        progress.take(record("a", 0.5, spent=1.5))

    assert [progress.text(room) for room in (99, 60, 50, 40, 5)] == [
        "paid now $1.50 of ~$15.00; 0 running; best accuracy 0.500 (0.400 to 0.600)",
        "paid now $1.50 of ~$15.00; 0 running; best accuracy 0.500",
        "paid now $1.50 of ~$15.00; 0 running; best 0.500",
        "paid now $1.50 of ~$15.00; 0 running",
        "paid now $1.50 of ~$15.00",
    ]


def test_a_round_of_screening_has_a_name_of_its_own(poc):
    """Its time left and its dollars are those of the round."""
    assert Progress(load_sweep(poc), 10, print, screening=True).name == "sweep screening"


def test_the_best_is_the_smallest_where_that_is_the_goal(poc):
    """The sweep file says which metric, and which way."""
    (poc / "sweep.yaml").write_text((poc / "sweep.yaml").read_text().replace("goal: maximize", "goal: minimize"))

    assert taken(poc, record("a", 0.5), record("b", 0.75))[2].name == "a"


def test_a_terminal_shows_it_and_a_file_does_not(make_store, poc):
    """On a terminal the bar stands below the lines of the trials, and is gone at the end; into a file go the lines alone."""
    make_store(poc)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 150))
    command = [sys.executable, "-m", "poclab", "sweep", str(poc)]
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    screen = b""
    try:
        while piece := os.read(ours, 65536):
            screen += piece
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(ours)
        process.wait()
    text = screen.decode()
    again = subprocess.run(command, capture_output=True, text=True)

    assert process.returncode == again.returncode == 0, text
    assert re.search(r"sweep 0/3 \[.*2 running", text)
    assert re.search(r"sweep 2/3 \[.*paid now \$0\.00; . running; best accuracy 1\.000 \(0\.676 to 1\.000\)", text)
    assert text.index("[1/3]") < text.index("[3/3]") < text.index("rank  ")
    assert again.stderr == ""


def heard(client, until):
    """Return what a kernel tells, up to the message of which this holds."""
    told = []
    while not told or not until(told[-1]):
        told.append(client.get_iopub_msg(timeout=60))
    return told


def test_a_sweep_that_is_stopped_in_a_notebook_says_how_to_go_on(make_store, poc):
    """The stop button: no traceback but what is recorded, no bar that stays, and the cells that follow do not run."""
    make_store(poc)
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", cwd=str(poc))
    try:
        client.execute("import poclab; poclab.sweep('.', jobs=1)")
        next_cell = client.execute("print('the next cell')")
        first = heard(client, lambda one: "[1/3]" in one["content"].get("text", ""))
        manager.interrupt_kernel()
        rest = heard(client, lambda one: one["msg_type"] == "error")
        reply = client.get_shell_msg(timeout=60)
        while reply["parent_header"].get("msg_id") != next_cell:
            reply = client.get_shell_msg(timeout=60)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    opened, closed = (
        {one["content"]["comm_id"] for one in first + rest if one["msg_type"] == kind} for kind in ("comm_open", "comm_close")
    )

    assert (rest[-1]["content"]["ename"], reply["content"]["status"]) == ("Stopped", "aborted")
    said, on = rest[-1]["content"]["traceback"]
    assert re.fullmatch(r"stopped\. [12] of 3 trials that were to run are recorded", said)
    assert on == "  fix: run this cell again, which goes on from there"
    assert opened and closed
