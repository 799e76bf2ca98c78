"""What a call costs: the tokens that its answer reports, at the charter's own prices, else at those of `genai-prices`.

The data comes with the package and is never updated over the network. A price is taken for the provider whose host is asked, and for no
other: what a server of one's own, or a gateway, calls `gpt-4o` has no price unless the charter gives one. Without usage, or without a price,
a cost is unknown, never 0.

A bound is kept by requests of text alone: no text has more tokens than bytes. What else costs money is refused under a budget.
Not covered: discounts, surcharges for a service tier, tokens that are written to a cache, and searches: a cost is without them. A bound does
not know a server that ignores the limit of its answer, puts a long system prompt of its own before the request, or, as routers do, passes
the request on to a provider that is dearer than the listed one.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from poclab.errors import InputError
from poclab.files import canonical
from poclab.offline import PREFIX
from poclab.tables import cut

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice

#: The newest entry in the data of genai-prices 0.2.3. The package carries no date, so it is pinned, and dated here.
DATA_OF = "2026-11-09"
#: More tokens than any request has: a larger count is no count.
MOST_TOKENS = 10**9
#: What limits the tokens of an answer, by path.
LIMITS = {
    "/chat/completions": ("max_completion_tokens", "max_tokens"),
    "/responses": ("max_output_tokens",),
    "/completions": ("max_tokens",),
    "/embeddings": (),
}
#: What a conversation may hold under a budget; whatever else it holds (images, sound, files, references) is not bounded by its bytes.
TEXT = frozenset(
    "text input_text output_text refusal message function custom function_call function_call_output custom_tool_call "
    "custom_tool_call_output reasoning reasoning_text summary_text".split()
)
NOT_TEXT = ("audio", "file", "file_id", "file_url", "image", "image_url", "images", "input_audio", "video", "video_url")
#: What adds to a request, or to its bill, something that is not in its bytes; and the service tiers that do not.
ADDING = (
    "audio",
    "cached_content",
    "conversation",
    "data_sources",
    "documents",
    "images",
    "min_tokens",
    "models",
    "plugins",
    "prediction",
    "previous_response_id",
    "search_parameters",
    "speed",
    "web_search_options",
)
#: More answers than anybody asks for in one request.
MOST_ANSWERS = 10**4
TIERS = (None, "auto", "default", "flex")
#: Models that search by themselves, by their names; the list prices the searches of few of them.
SEARCHING = re.compile(r"\bsearch\b|\bonline\b|deep-research|\bsonar\b", re.IGNORECASE)
WITHOUT_BUDGET = "leave it out, or run without max_cost_usd"


@dataclass(frozen=True)
class Usage:
    """The tokens of one answer, None where the endpoint did not say. Cached ones are among those in, reasoning ones among those out."""

    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_cached: int | None = None
    tokens_reasoning: int | None = None


@dataclass(frozen=True)
class Cost:
    """Dollars, and the day of the price (ISO): of the charter's entry or of the data; empty for an offline model, which has no price."""

    usd: float
    priced_on: str


def usage_of(answer: Mapping[str, Any] | None, path: str) -> Usage:
    """Return the tokens that an answer reports, by chat's or Responses' names for them. What is no count of tokens is None.

    An embedding puts out none. A part (cached, reasoning) that is larger than its whole is no count either.
    """
    usage = answer.get("usage") if isinstance(answer, Mapping) else None
    if not isinstance(usage, Mapping):
        return Usage()
    # No request is empty: a server that says 0 does not count.
    tokens_in = _count(usage, "prompt_tokens", "input_tokens") or None
    tokens_out = 0 if path == "/embeddings" else _tokens_out(usage, tokens_in)
    cached = _part(usage, ("prompt_tokens_details", "input_tokens_details"), "cached_tokens", tokens_in)
    if cached is None:  # as DeepSeek and Moonshot say it
        cached = next(filter(None, (_whole_part(usage, name, tokens_in) for name in ("prompt_cache_hit_tokens", "cached_tokens"))), None)
    reasoning = _part(usage, ("completion_tokens_details", "output_tokens_details"), "reasoning_tokens", tokens_out)
    return Usage(tokens_in, tokens_out, cached, reasoning)


def _count(usage: Mapping[str, Any], *names: str) -> int | None:
    return next((usage[name] for name in names if type(usage.get(name)) is int and 0 <= usage[name] <= MOST_TOKENS), None)


def _tokens_out(usage: Mapping[str, Any], tokens_in: int | None) -> int | None:
    tokens_out, total = _count(usage, "completion_tokens", "output_tokens"), _count(usage, "total_tokens")
    if tokens_in is None or tokens_out is None or total is None:
        return tokens_out
    # Some endpoints (Google's, xAI's) count reasoning in the total alone; it is billed as output.
    return max(tokens_out, total - tokens_in)


def _part(usage: Mapping[str, Any], details: tuple[str, ...], name: str, whole: int | None) -> int | None:
    return _whole_part(next((usage[one] for one in details if isinstance(usage.get(one), Mapping)), {}), name, whole)


def _whole_part(usage: Mapping[str, Any], name: str, whole: int | None) -> int | None:
    part = _count(usage, name)
    return None if part is None or whole is None or part > whole else part


def cost_of(model: str, endpoint: str, usage: Usage, own: Mapping[str, Any]) -> Cost | None:
    """Return what an answer cost; None without its usage, or without a price. Reasoning is not charged twice.

    `own` holds the charter's prices by model, which go before those of the data; `endpoint` is the base URL that was asked.
    """
    if model.startswith(PREFIX):
        return Cost(0.0, "")
    if usage.tokens_in is None or usage.tokens_out is None:
        return None
    if given := own.get(model):
        cached = min(usage.tokens_cached or 0, usage.tokens_in)
        dollars = {name: Decimal(str(given.get(name, given["input"]))) for name in ("input", "cached_input", "output")}
        usd = (usage.tokens_in - cached) * dollars["input"] + cached * dollars["cached_input"] + usage.tokens_out * dollars["output"]
        return Cost(float(usd / 1_000_000), str(given["on"]))
    price = next(_prices(model, endpoint, own, hours=1), None)
    if price is None or not _covers(price, usage.tokens_out):
        return None
    from genai_prices import Usage as Counts

    # Without a cached price these are charged like all input; without one of its own, reasoning like all output.
    parts = {
        "cache_read_tokens": min(usage.tokens_cached or 0, usage.tokens_in),
        "output_reasoning_tokens": min(usage.tokens_reasoning or 0, usage.tokens_out),
    }
    total = price.calc_price(Counts(input_tokens=usage.tokens_in, output_tokens=usage.tokens_out, **parts))["total_price"]
    return Cost(float(total), DATA_OF)


def bound_usd(model: str, endpoint: str, path: str, body: Mapping[str, Any], own: Mapping[str, Any]) -> float:
    """Return the most dollars that a request can cost, in whichever hour of the coming day it is billed.

    It has at most as many tokens in as its JSON has bytes, at most as many out as it allows, and each costs the dearest price (plain,
    cached, of a tier by length) that so many tokens can meet.

    Raises:
        InputError: the model has no price, the answer no limit, or the request something that its bytes do not bound.
    """
    if model.startswith(PREFIX):
        return 0.0
    _refuse_unbounded(path, body)
    tokens_in, tokens_out = len(canonical(body).encode("utf-8", "surrogatepass")), _most_out(endpoint, path, body)
    prices = list(_prices(model, endpoint, own, hours=24))
    if not prices or not all(_covers(price, tokens_out) for price in prices):
        given = f"{{input: 1.0, output: 4.0, on: {datetime.date.today()}, source: their price list}}"
        raise InputError(
            f"model {model!r} at {endpoint} has no price: a budget cannot be kept",
            fix=f"add to charter.yaml, in dollars per million tokens: prices: {{{json.dumps(model)}: {given}}}",
        )
    # Whoever gives a price in the charter answers for it.
    if model not in own and SEARCHING.search(model) and not all(vars(price).get("requests_kcount") for price in prices):
        raise InputError(
            f"a budget cannot bound what the searches of {model!r} cost", fix="take another model, or run without max_cost_usd"
        )
    return max(_most_usd(price, tokens_in, tokens_out) for price in prices)


# --- prices


def _prices(model: str, endpoint: str, own: Mapping[str, Any], *, hours: int) -> Iterator[ModelPrice]:
    """Yield the prices of a model in the coming hours, the present one first; some are lower at night, or end with a month."""
    from genai_prices.types import ModelPrice

    if given := own.get(model):
        names = {"input": "input_mtok", "output": "output_mtok", "cached_input": "cache_read_mtok"}
        yield ModelPrice(**{name: Decimal(str(given[key])) for key, name in names.items() if key in given})
    elif found := _listed(model, endpoint):
        now = datetime.datetime.now(datetime.UTC)
        prices = [found.get_prices(now + datetime.timedelta(hours=hour)) for hour in range(hours)]
        yield from {id(price): price for price in prices}.values()


@functools.lru_cache(maxsize=256)
def _listed(model: str, endpoint: str) -> ModelInfo | None:
    """Return what the data knows of a model at the provider whose host this is."""
    from genai_prices.data import providers  # never its snapshot, which a program may have replaced by what it fetched

    url = urllib.parse.urlsplit(endpoint)
    host = f"{url.scheme}://{url.hostname}"
    for provider in providers:
        # The patterns have no end and some no middle: without its dots, the path of a gateway cannot pass for a host.
        found = re.match(provider.api_pattern, host + url.path.replace(".", ""))
        beyond = host[found.end() :] if found else ""
        is_host = not beyond or (found and found[0].endswith(".") and "." not in beyond)
        if found and is_host and (listed := provider.find_model(model, all_providers=providers)):
            return listed
    return None


def _covers(price: ModelPrice, tokens_out: int) -> bool:
    """Whether all that is charged can be told from a usage: some prices are per hour or page, and many models have none."""
    names = {name for name, amount in vars(price).items() if amount is not None}
    return "input_mtok" in names and (tokens_out == 0 or "output_mtok" in names) and "output_citation_mtok" not in names


def _most_usd(price: ModelPrice, tokens_in: int, tokens_out: int) -> float:
    into, out, requests = [Decimal(0)], [Decimal(0)], [Decimal(0)]
    for name, amount in vars(price).items():
        if amount is not None and (name.endswith("_mtok") or name == "requests_kcount"):
            kind = requests if name == "requests_kcount" else out if name.startswith("output") else into
            kind += _amounts(amount, tokens_in)
    return float((tokens_in * max(into) + tokens_out * max(out)) / 10**6 + max(requests) / 1000)


def _amounts(amount: Any, tokens_in: int) -> list[Decimal]:
    """Return the prices that a request of at most so many tokens can meet: a tier holds for all tokens of a longer one."""
    if isinstance(amount, Decimal):
        return [amount]
    return [amount.base, *(tier.price for tier in amount.tiers if tier.start < tokens_in)]


# --- what bounds a request


def _refuse_unbounded(path: str, body: Mapping[str, Any]) -> None:
    if path not in LIMITS:
        raise InputError(f"a budget cannot bound a call to {path}", fix="run without max_cost_usd")
    for found in (*_adding(path, body), *_beyond_text(body.get("messages")), *_beyond_text(body.get("input"))):
        raise InputError(f"a budget cannot bound what {found} costs", fix=WITHOUT_BUDGET)


def _adding(path: str, body: Mapping[str, Any]) -> Iterator[str]:
    yield from (repr(name) for name in ADDING if body.get(name))
    if path == "/responses" and body.get("prompt"):
        yield "'prompt', a stored text,"
    if body.get("service_tier") not in TIERS:
        yield f"service_tier {body['service_tier']!r}"
    if body.get("modalities") not in (None, ["text"]):
        yield f"modalities {body['modalities']!r}"
    tools = body.get("tools") or []
    for tool in tools if isinstance(tools, list) else [tools]:
        kind = tool.get("type", "function") if isinstance(tool, Mapping) else tool
        if kind not in ("function", "custom"):
            yield f"the tool {kind!r}"


def _beyond_text(value: Any) -> Iterator[str]:
    """Yield what a conversation holds besides text, at any depth."""
    if isinstance(value, list):
        for one in value:
            yield from _beyond_text(one)
    elif isinstance(value, Mapping):
        # An item of nothing but an id stands for one that the endpoint has stored.
        kind = value.get("type") or ("item_reference" if set(value) <= {"id", "type"} else "text")
        # So does reasoning that is not sent along, openly or encrypted.
        stored = kind == "reasoning" and not (value.get("content") or value.get("encrypted_content"))
        if stored or str(kind) not in TEXT:
            yield f"a part of type {kind!r}"
        yield from (f"a part with {name!r}" for name in NOT_TEXT if value.get(name))
        for one in value.values():
            yield from _beyond_text(one)


def _most_out(endpoint: str, path: str, body: Mapping[str, Any]) -> int:
    """Return the most tokens of all answers to a request together."""
    if not LIMITS[path]:
        return 0
    limits = _whole(body, *LIMITS[path])
    if not limits:
        # OpenAI's newer models refuse `max_tokens`; many compatible servers ignore its successor, and would answer without a limit.
        name = LIMITS[path][0 if urllib.parse.urlsplit(endpoint).hostname == "api.openai.com" else -1]
        raise InputError(f"a call to {path} has no limit of its answer: a budget cannot be kept", fix=f"add {name}=500 to the call")
    # Of `best_of` answers, `n` are returned and all are charged.
    answers = max(_whole(body, "n", "best_of"), default=1)
    prompt = body.get("prompt")
    prompts = sum(type(one) is not int for one in prompt) if path == "/completions" and isinstance(prompt, list) else 1
    return max(limits) * answers * max(prompts, 1)  # a prompt may be one list of token numbers


def _whole(body: Mapping[str, Any], *names: str) -> list[int]:
    given = {name: body[name] for name in names if body.get(name) is not None}
    for name, value in given.items():
        if type(value) is not int or not 1 <= value <= (MOST_ANSWERS if name in ("n", "best_of") else MOST_TOKENS):
            raise InputError(
                f"{name} is {cut(repr(value), 40)}: a budget needs a whole number of at least 1, and not a huge one",
                fix=f"{name}=1" if name in ("n", "best_of") else f"{name}=500",
            )
    return list(given.values())
