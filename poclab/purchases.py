"""One answer in the ledger: looked for, claimed, paid from a budget, and recorded before anybody sees it; or all of it given back.

Nothing waits here: what another has in hand is None or False, and whoever asked looks again. Without a POC nothing is kept.
"""

from __future__ import annotations

import datetime
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from poclab import offline, prices
from poclab.answers import Arrival
from poclab.charter import Charter
from poclab.errors import EndpointError, InputError
from poclab.files import CHARTER, digest
from poclab.ledger import Claim, Entry, Ledger, Reservation
from poclab.redaction import conceal
from poclab.requests import Request
from poclab.rewording import reworded

FIX_POC = "export POCLAB_POC=... with the POC's folder"
#: The headers of an answer that are kept.
KEPT = ("content-type", "x-request-id")


class Purchase:
    """A request's place in the ledger. `entry` is its answer: one that was there, or the one that was recorded."""

    def __init__(self, asked: Request) -> None:
        self.asked, context = asked, asked.context
        identity = [asked.endpoint, asked.path, asked.body, context.case_id, context.repeat, context.purpose]
        more = [asked.query] if asked.query else []
        try:
            self.request = digest([*identity, offline.fingerprint() if asked.offline else "", *more])
        except ValueError:
            raise InputError(
                f"the request to {asked.model!r} holds NaN or an infinity, which JSON has not", fix="send a number or null"
            ) from None
        self.occurrence = context.occurrence(self.request)
        self.key = digest([self.request, self.occurrence])
        self.ledger: Ledger | None = None
        self.prices: Mapping[str, Any] = {}
        self.claim: Claim | None = None
        #: One that was released while its stream was still read: what comes of it is kept all the same.
        self.released: Claim | None = None
        self.reservation: Reservation | None = None
        self.entry: Entry | None = None

    def find(self) -> bool:
        """Tell whether the answer is there and is to be used.

        Raises:
            EndpointError: it is not there, and nothing is to be asked.
            StoreError: the ledger cannot be used.
        """
        asked = self.asked
        if asked.poc is None:
            if asked.mode == "replay":
                raise EndpointError("nothing can be replayed: there is no POC here", fix=FIX_POC)
            if asked.budget:
                raise InputError("a budget is kept in a POC's ledger, and there is no POC here", fix=FIX_POC)
            return False
        self.ledger = Ledger.of(asked.poc)
        # Among new requests the claim is the first to look: one statement in place of two.
        looks = asked.mode == "replay" or (asked.mode == "auto" and not self.ledger.expects_new)
        self.entry = self.ledger.find(self.key, newest=asked.context.newest) if looks else None
        if self.entry is None and asked.mode == "replay":
            asked.context.missed += 1
            raise EndpointError(
                f"{self.ledger.path}: no answer to this request to {asked.model!r} is recorded", fix="use mode auto, which asks for it"
            )
        self.prices = _own_prices(asked.poc)  # read before anything is paid
        return self.entry is not None

    def take(self) -> bool:
        """Take the right to ask, or the answer that another got meanwhile; False while somebody else asks."""
        mode, newest = self.asked.mode, self.asked.context.newest
        found = self.ledger.claim(self.key, again=mode == "live", newest=newest) if self.ledger else None
        self.entry, self.claim = (found, None) if isinstance(found, Entry) else (None, found)
        return found is not None or self.ledger is None

    def reserve(self) -> bool:
        """Set aside what the call can cost, under a budget; False while there is no room, but calls under way may make some.

        Raises:
            BudgetError: there is no room, and nothing is under way.
            InputError: nobody knows what the call can cost.
        """
        asked = self.asked
        if asked.budget and self.ledger is not None and self.reservation is None:
            most_usd = prices.bound_usd(asked.model, asked.endpoint, asked.path, asked.body, self.prices)
            self.reservation = self.ledger.reserve(asked.budget, most_usd)
            return self.reservation is not None
        return True

    def record(self, come: Arrival, latency_s: float) -> None:
        """Make an answer durable, if it is one; it may be used from then on."""
        reading, asked = come.reading, self.asked
        claim = self.claim or self.released
        if self.ledger is None or claim is None or not come.ok or reading.problem or not _answers(asked.path, reading.answer):
            return
        usage = prices.usage_of(reading.answer, asked.path)
        cost = self.cost(usage)
        entry = Entry(
            key=self.key,
            endpoint=asked.endpoint,
            path=asked.path,
            model=asked.model,
            body=asked.body,
            status=come.status,
            headers={name: come.headers[name] for name in KEPT if name in come.headers},
            content=_clear(come.content, events=come.is_stream),
            latency_s=latency_s,
            at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            cost_usd=cost.usd if cost else None,
            priced_on=cost.priced_on if cost else None,
            case_id=asked.context.case_id,
            repeat=asked.context.repeat,
            occurrence=self.occurrence,
            request_id=asked.context.request_id,
            purpose=asked.context.purpose,
            **vars(usage),
        )
        self.entry = self.ledger.record(claim, entry, self.reservation)
        self.claim = self.reservation = None

    def cost(self, usage: prices.Usage) -> prices.Cost | None:
        return prices.cost_of(self.asked.model, self.asked.endpoint, usage, self.prices)

    def write_off(self) -> None:
        """Before asking again: an attempt that may be billed keeps its reservation for good, and the next one needs its own."""
        if self.reservation is not None:
            self.ledger.write_off(self.reservation)
            self.reservation = None

    def release(self, *, billed: bool) -> None:
        """Give back what is held: nothing was recorded."""
        if self.claim is not None:
            self.ledger.release(self.claim, self.reservation, billed=billed)
            self.released, self.claim, self.reservation = self.claim, None, None

    def give_up(self) -> None:
        """Let the next request that is the same be this one: it got no answer."""
        self.asked.context.give_up(self.request, self.occurrence)


def _clear(content: bytes, *, events: bool) -> bytes:
    """Return an answer whose texts hold no key: not in pieces over several events, nor with its letters escaped, either."""
    if not events and b"\\u" not in content:  # what stands there as it is, the ledger conceals by itself
        return content
    return reworded(content, lambda text: clear if (clear := conceal(text)) != text else None, events=events) or content


def _answers(path: str, answer: Mapping[str, Any]) -> bool:
    """Tell whether an answer says something: what is empty, failed in words or is still to come is asked for again."""
    said = answer.get({"/embeddings": "data", "/responses": "output"}.get(path, "choices"))
    if path == "/responses":
        return isinstance(said, list) and answer.get("status") not in ("queued", "in_progress", "failed", "cancelled")
    failed = isinstance(said, list) and any(isinstance(one, dict) and one.get("finish_reason") == "error" for one in said)
    return isinstance(said, list) and bool(said) and not failed


def _own_prices(poc: Path) -> Mapping[str, Any]:
    try:
        changed_ns = os.stat(f"{poc}/{CHARTER}").st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return _charter_prices(poc / CHARTER, changed_ns)


@functools.lru_cache(maxsize=8)
def _charter_prices(path: Path, changed_ns: int) -> Mapping[str, Any]:
    return Charter.load(path).prices
