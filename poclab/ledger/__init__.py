"""The ledger: every model answer that was paid for, kept once and for ever, and the budgets that calls are paid from.

One SQLite file per POC, safe for many threads and processes of one machine. An answer is on the disk before its caller has it. Who asks
first holds a claim on the key, and others wait for the answer; a claim of a process that died is void.

Not covered: several machines on one file (network file systems do not lock as SQLite needs it); a power cut within the milliseconds in
which one thread syncs an answer and another reads it already: it may be asked again, and paid again.
"""

from __future__ import annotations

from poclab.ledger.book import HOST_LEDGER, LEDGER, Claim, Ledger
from poclab.ledger.budgets import BudgetError, Reservation, Spent
from poclab.ledger.entries import Entry
from poclab.ledger.listing import Sums, budgets_table, entries, overview, summary, summary_table
from poclab.ledger.portable import export, export_file, import_, import_file, transfer
from poclab.ledger.recovery import recover

__all__ = [
    "HOST_LEDGER",
    "LEDGER",
    "BudgetError",
    "Claim",
    "Entry",
    "Ledger",
    "Reservation",
    "Spent",
    "Sums",
    "budgets_table",
    "entries",
    "export",
    "export_file",
    "import_",
    "import_file",
    "overview",
    "recover",
    "summary",
    "summary_table",
    "transfer",
]
