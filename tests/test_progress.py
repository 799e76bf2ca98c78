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

    assert text == "2 running, 1 failed; best accuracy 0.750 (0.650 to 0.850); $1.5000 spent, about $3.5000 to come"
    assert said == [
        "[1/10] a: accuracy 0.500 (0.400 to 0.600, n = 8)",
        "[2/10] b: accuracy 0.750 (0.650 to 0.850, n = 8)",
        "[3/10] c: failed: ",
    ]


def test_what_is_unknown_or_free_is_not_foreseen(poc):
    """One cost that nobody knows makes the sum unknown; what cost nothing costs nothing more."""
    assert taken(poc, record("a", 0.5, spent=None), record("b", 0.5))[0].endswith("; cost unknown")
    assert taken(poc, record("a", 0.5))[0].endswith("; $0.0000 spent")
    assert taken(poc)[0] == "2 running, 0 failed"


def test_the_best_is_the_smallest_where_that_is_the_goal(poc):
    """The sweep file says which metric, and which way."""
    (poc / "sweep.yaml").write_text((poc / "sweep.yaml").read_text().replace("goal: maximize", "goal: minimize"))

    assert taken(poc, record("a", 0.5), record("b", 0.75))[2].name == "a"


def test_a_terminal_shows_it_and_a_file_does_not(poc):
    """On a terminal the bar stands below the lines of the trials, and is gone at the end; into a file go the lines alone."""
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
    assert re.search(r"sweep 0/3 \[.*2 running, 0 failed", text)
    assert re.search(r"sweep 2/3 \[.*best accuracy 1\.000 \(0\.676 to 1\.000\); \$0\.0000 spent", text)
    assert text.index("[1/3]") < text.index("[3/3]") < text.index("rank  ")
    assert again.stderr == ""
