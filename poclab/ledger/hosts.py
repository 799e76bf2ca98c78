"""A ledger for each host of a sweep that runs on several: SQLite's log works on one machine, and so does asking who still lives.

A host's ledger is a file in a folder that all hosts see, which no other host opens while trials run there. It begins as a copy of the POC's
answers (`seed`). What a trial may spend there is its share: a reservation in the POC's ledger, by whose number the budget in the host's is
named. When the trials have ended, the POC's ledger takes all of it over.

Not covered: two hosts that ask the same at the same time. Both are answered, and both are paid.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from poclab.errors import StoreError
from poclab.files import digest, read_text, write_atomic
from poclab.ledger import budgets
from poclab.ledger.book import Ledger
from poclab.ledger.listing import entries
from poclab.ledger.portable import transfer
from poclab.ledger.processes import boot, lives, me
from poclab.ledger.store import alone, connect, place, problem, remove

SEED = "seed"
#: The ending of a file that holds the number of a share, from when it is set aside until it is settled.
SHARE = ".share"
_opening = threading.Lock()


def this_host() -> str:
    """Return a name for this machine; two that are called alike have two."""
    return f"{socket.gethostname()}-{digest([socket.gethostname(), boot()])[:8]}"


def seed(ledger: Ledger, folder: Path) -> None:
    """Put the answers of a ledger where hosts begin with them.

    Raises:
        StoreError: they cannot be read, or not be written there.
    """
    made = folder / f"{uuid.uuid4().hex}.tmp"
    try:
        with ledger.store.reading() as connection:
            connection.execute("VACUUM INTO ?", [str(made)])
        with ledger.store.failing(), contextlib.closing(connect(made)) as copy:
            for table in ("claims", "reservations", "budgets"):  # those are this machine's
                copy.execute(f"DELETE FROM {table}")
        os.replace(made, folder / SEED)
    except OSError as error:
        raise problem(folder, error) from error
    finally:
        remove(made)


def _share_file(number: str, folder: Path) -> Path:
    return folder / f"{digest(number)[:16]}{SHARE}"


def note_share(number: str, folder: Path) -> None:
    """Remember a share, which is to be given back also when its driver dies before a worker begins with it."""
    write_atomic(_share_file(number, folder), number)


def settle_share(ledger: Ledger, number: str, folder: Path, used_usd: float) -> None:
    """Give back what was not spent of a share."""
    ledger.settle(number, used_usd)
    _share_file(number, folder).unlink(missing_ok=True)


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Ledger]:
    """Give the ledger of this host, which is made if there is none, and close it: it is a kernel's most of the time.

    Raises:
        StoreError: it cannot be used.
    """
    path = folder / f"{this_host()}.db"
    with _opening:
        if not path.exists():
            _begin(path)
        ledger = Ledger.open(path)
        try:
            yield ledger
        finally:
            ledger.close()


def _begin(path: Path) -> None:
    made = path.with_name(f"{uuid.uuid4().hex}.tmp")
    try:
        shutil.copyfile(path.with_name(SEED), made)
        place(made, path)
    except OSError as error:
        raise problem(path, error) from error
    finally:
        remove(made)


def spent_of(share: str, folder: Path) -> float | None:
    """Return what was spent of a share whose worker died; None while somebody, such as its kernel, may still spend of it."""
    import sqlite3

    for path in sorted(folder.glob("*.db")):
        try:
            # A copy, made while nobody can open the file: another host may begin to use it at any time.
            with alone(path) as file, tempfile.TemporaryDirectory() as temporary:
                copy = Path(temporary, "copy.db")
                with copy.open("wb") as out:
                    shutil.copyfileobj(file, out)
                if os.path.exists(f"{path}-wal"):
                    shutil.copyfile(f"{path}-wal", f"{copy}-wal")
                with contextlib.closing(connect(copy)) as connection:
                    found = budgets.standing(connection, share)
        except (StoreError, OSError, sqlite3.DatabaseError):
            return None
        if found:
            return found[share].used_usd
    return 0.0


def take_over(ledger: Ledger, folder: Path) -> list[str]:
    """Add what the ledgers of hosts hold to the POC's, settle the shares that were spent there, and remove them.

    Return what is left there, and why: a kernel that still runs, a file that is damaged. It is there for the next time.

    Raises:
        StoreError: the POC's ledger cannot be used.
    """
    left = []
    for path in sorted(folder.glob("*.db")):
        try:
            with alone(path):
                pass
            host = Ledger.open(path)
            try:
                found, shares = list(entries(host)), host.standing()
            finally:
                host.close()
        except StoreError as error:
            left.append(error.message)
            continue
        transfer(found, ledger.path)
        for number, spent in shares.items():
            ledger.settle(number, spent.used_usd)
        remove(path)
    if not left:  # of the shares that are open still, no host has spent anything
        for file in folder.glob(f"*{SHARE}"):
            number = read_text(file)
            driver = number.rpartition(" ")[0]
            if driver == me() or not lives(driver):
                settle_share(ledger, number, folder, 0.0)
    return left
