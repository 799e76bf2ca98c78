"""Ledgers of hosts: they begin with the POC's answers, and the POC's takes over what they have, once."""

import contextlib
import dataclasses
import signal
import subprocess
import sys

import pytest

from poclab.errors import StoreError
from poclab.ledger import LEDGER, Ledger, entries, hosts
from test_ledger import entry


@pytest.fixture
def ledger(tmp_path):
    """A POC's ledger with one answer, and a budget of a dollar."""
    ledger = Ledger.open(tmp_path / LEDGER)
    _record(ledger, "a")
    ledger.open_budget("sweep", 1.0)
    return ledger


@pytest.fixture
def folder(tmp_path, ledger):
    folder = tmp_path / "hosts"
    folder.mkdir()
    hosts.seed(ledger, folder)
    return folder


def _record(ledger, letter, cost_usd=0.25, reservation=None):
    one = dataclasses.replace(entry(letter), cost_usd=cost_usd)
    return ledger.record(ledger.claim(one.key), one, reservation)


def test_a_host_begins_with_the_answers_and_without_the_budgets(ledger, folder):
    """What was paid is not paid there again; a claim or a budget of this machine means nothing there."""
    ledger.claim(entry("b").key)
    hosts.seed(ledger, folder)
    with hosts.opened(folder) as host:
        assert [one.key for one in entries(host)] == [entry("a").key]
        assert host.standing() == {}
        assert host.claim(entry("b").key) is not None
    assert host.path.name == f"{hosts.this_host()}.db"


def test_what_a_host_has_is_taken_over_once(ledger, folder):
    """The new answer comes, the old one stays one, the share is settled at what was spent of it, and the file is gone."""
    number = ledger.reserve("sweep", 0.5).number
    with hosts.opened(folder) as host:
        host.open_budget(number, 0.5)
        _record(host, "b", 0.125, host.reserve(number, 0.25))

    assert hosts.take_over(ledger, folder) == hosts.take_over(ledger, folder) == []
    assert sorted(one.key for one in entries(ledger)) == sorted(entry(letter).key for letter in "ab")
    assert (ledger.spent("sweep").settled_usd, ledger.spent("sweep").used_usd) == (0.125, 0.125)
    assert not list(folder.glob("*.db*"))


def test_a_call_that_was_under_way_on_a_host_stays_paid(ledger, folder):
    """Nobody knows whether it is billed: what was reserved for it counts, and no more of the share."""
    number = ledger.reserve("sweep", 0.5).number
    with hosts.opened(folder) as host:
        host.open_budget(number, 0.5)
        host.reserve(number, 0.25)
    hosts.take_over(ledger, folder)

    assert ledger.spent("sweep").used_usd == 0.25


def test_a_share_that_was_settled_is_not_settled_again(ledger, folder):
    """A worker told what it spent, and its host's ledger says it, too."""
    reservation = ledger.reserve("sweep", 0.5)
    with hosts.opened(folder) as host:
        host.open_budget(reservation.number, 0.5)
        _record(host, "b", 0.125, host.reserve(reservation.number, 0.25))
    ledger.settle(reservation.number, 0.125)
    hosts.take_over(ledger, folder)

    assert ledger.spent("sweep").used_usd == 0.125


def test_a_ledger_that_is_in_use_or_damaged_is_left_for_later(ledger, folder):
    """The next time takes it, when the kernel has ended; what cannot be read is kept, and named."""
    with hosts.opened(folder) as host:
        _record(host, "b")
        path = host.path
    holds = f"import time; from poclab.ledger import Ledger; Ledger.open({str(path)!r}); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holds], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        (told,) = hosts.take_over(ledger, folder)
        process.send_signal(signal.SIGKILL)
    (folder / "torn.db").write_bytes(b"no database, though it is long enough to be one" * 100)
    (torn,) = hosts.take_over(ledger, folder)

    assert "another process has the ledger open" in told
    assert "torn.db" in torn and (folder / "torn.db").exists()
    assert entry("b").key in [one.key for one in entries(ledger)]


def test_what_a_lost_share_was_spent_on_is_read_once_nobody_spends_any_more(ledger, folder):
    """While the file is in use nobody can tell; then it is told, and the file is as it was. Of a share that no host knows nothing was."""
    with hosts.opened(folder) as host:
        host.open_budget("share", 0.5)
        _record(host, "b", 0.125, host.reserve("share", 0.25))
        host.reserve("share", 0.0625)
        path = host.path
    holds = f"import time; from poclab.ledger import Ledger; Ledger.open({str(path)!r}); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holds], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert hosts.spent_of("share", folder) is None
        process.send_signal(signal.SIGKILL)

    assert hosts.spent_of("share", folder) == 0.1875
    assert hosts.spent_of("other", folder) == 0
    with hosts.opened(folder) as host:
        assert len(list(entries(host))) == 2


def test_several_who_begin_at_once_share_one(folder):
    """Two workers of a host: who is first makes the file, and nobody's answers are lost."""
    with contextlib.ExitStack() as stack:
        code = f"from pathlib import Path; from poclab.ledger import hosts\nwith hosts.opened(Path({str(folder)!r})) as one: print(one.path.stat().st_ino)"
        all_ = [stack.enter_context(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)) for _ in range(4)]
        assert len({process.stdout.read() for process in all_}) == 1


def test_a_host_without_anything_to_begin_with_is_told(folder):
    """The driver has gone, and what it laid out with it."""
    (folder / hosts.SEED).unlink()
    with pytest.raises(StoreError, match="nothing can be written: No such file"), hosts.opened(folder):
        pass
    assert list(folder.iterdir()) == []


ABANDON = """
import sys
from pathlib import Path
from poclab.ledger import Ledger, hosts
number = Ledger.open(Path(sys.argv[1])).reserve("sweep", 0.5).number
hosts.note_share(number, Path(sys.argv[2]))
print(number, flush=True)
sys.stdin.read()
"""


def test_a_share_that_no_worker_began_with_is_given_back_once_its_driver_is_dead(ledger, folder):
    """Queued trials of a killed sweep have spent nothing; those of one that still runs keep what they were given."""
    driver = subprocess.Popen(
        [sys.executable, "-c", ABANDON, str(ledger.path), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    driver.stdout.readline()
    hosts.take_over(ledger, folder)
    while_it_lives = ledger.spent("sweep").used_usd
    driver.communicate()
    hosts.take_over(ledger, folder)

    assert (while_it_lives, ledger.spent("sweep").used_usd) == (0.5, 0.0)
    assert list(folder.glob("*.share")) == []
