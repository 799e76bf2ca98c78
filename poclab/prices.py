"""What a call costs: tokens by the reply's usage, dollars by the charter's own prices, else by the data of `genai-prices`.

The data comes with the package and is never updated over the network. A price is taken for the provider whose address is asked: what a
server of one's own calls `gpt-4o` has no price unless the charter gives one. Without usage or price a cost is unknown, never 0.
Not covered: discounts, batch prices, and what is not counted in tokens (images, searches): a budget refuses what it cannot bound.
"""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from poclab.errors import InputError
from poclab.files import canonical

OFFLINE = "offline/"
#: More tokens than any request has: a larger count is no count.
MOST_TOKENS = 10**9
#: What limits the tokens of an answer, by path; the first is the one to add.
LIMITS = {
    "/chat/completions": ("max_completion_tokens", "max_tokens"),
    "/responses": ("max_output_tokens",),
    "/completions": ("max_tokens",),
    "/embeddings": (),
}
#: The prices per million tokens that a text request can meet.
INPUT_PRICES = ("input_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok")
OUTPUT_PRICES = ("output_mtok",)


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer, None where the endpoint did not say. Cached ones are part of those in, reasoning ones of those out."""

    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_cached: int | None = None
    tokens_reasoning: int | None = None


@dataclass(frozen=True)
class Cost:
    """Dollars, and the day and source of the price."""

    usd: float
    priced_on: str


def usage_of(answer: Mapping[str, Any] | None, path: str) -> Usage:
    """Return the tokens that an answer says it took, by chat's or Responses' names for them; an embedding puts out none."""
    usage = answer.get("usage") if isinstance(answer, Mapping) else None
    if not isinstance(usage, Mapping):
        return Usage()
    tokens_in, tokens_out = _count(usage, "prompt_tokens", "input_tokens"), _count(usage, "completion_tokens", "output_tokens")
    cached = _count(_details(usage, "prompt_tokens_details", "input_tokens_details"), "cached_tokens")
    reasoning = _count(_details(usage, "completion_tokens_details", "output_tokens_details"), "reasoning_tokens")
    if cached is not None and cached > (tokens_in or 0):
        cached = None  # more of a part than of the whole
    return Usage(tokens_in, 0 if path == "/embeddings" else tokens_out, cached, reasoning)


def _count(usage: Mapping[str, Any], *names: str) -> int | None:
    return next((usage[name] for name in names if type(usage.get(name)) is int and 0 <= usage[name] <= MOST_TOKENS), None)


def _details(usage: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    return next((usage[name] for name in names if isinstance(usage.get(name), Mapping)), {})


def cost_of(model: str, endpoint: str, usage: Usage, own: Mapping[str, Any]) -> Cost | None:
    """Return what an answer cost; None without its usage, or without a price. `own` holds the charter's prices by model."""
    if model.startswith(OFFLINE):
        return Cost(0.0, "offline models cost nothing")
    if usage.tokens_in is None or usage.tokens_out is None:
        return None
    if price := own.get(model):
        cached = usage.tokens_cached or 0
        usd = (usage.tokens_in - cached) * price["input"] + cached * price.get("cached_input", price["input"])
        return Cost((usd + usage.tokens_out * price["output"]) / 1e6, f"{price['on']} by the charter")
    return _listed_cost(model, endpoint, usage)


def _listed_cost(model: str, endpoint: str, usage: Usage) -> Cost | None:
    import genai_prices

    tokens = {"input_tokens": usage.tokens_in, "output_tokens": usage.tokens_out}
    tokens |= {"cache_read_tokens": usage.tokens_cached} if usage.tokens_cached else {}
    try:
        found = genai_prices.calc_price(genai_prices.Usage(**tokens), model, provider_api_url=endpoint)
    except (LookupError, ValueError):  # no such provider or model, or counts that do not fit its prices
        return None
    if not any(getattr(found.model_price, name, None) is not None for name in INPUT_PRICES):
        return None
    today = datetime.datetime.now(datetime.UTC).date()
    return Cost(float(found.total_price), f"{today} by genai-prices {_data_version()}")


@functools.cache
def _data_version() -> str:
    return importlib.metadata.version("genai-prices")


def bound_usd(model: str, endpoint: str, path: str, body: Mapping[str, Any], own: Mapping[str, Any]) -> float:
    """Return the most that a request can cost: no more tokens in than its bytes, no more out than it allows, at the dearest of its prices.

    Raises:
        InputError: the model has no price, or the request no limit.
    """
    if model.startswith(OFFLINE):
        return 0.0
    price = _dearest(model, endpoint, own)
    if price is None:
        raise InputError(
            f"model {model!r} at {endpoint} has no price, so no budget can be kept",
            fix=f"add to charter.yaml: prices: {{{model}: {{input: 1.0, output: 4.0, on: {datetime.date.today()}, source: ...}}}} "
            "(dollars per million tokens)",
        )
    _refuse_unbounded(body)
    tokens_in = len(canonical(body).encode("utf-8", "surrogatepass"))
    return (tokens_in * price[0] + _most_out(path, body) * price[1]) / 1e6 + price[2]


def _dearest(model: str, endpoint: str, own: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """Return the dearest prices of a model: per million tokens in, out, and per request."""
    if given := own.get(model):
        return max(given["input"], given.get("cached_input", 0.0)), given["output"], 0.0
    from genai_prices import data_snapshot

    try:
        _, found = data_snapshot.get_snapshot().find_provider_model(model, None, None, endpoint)
    except LookupError:
        return None
    all_prices = list(_prices(found))
    dearest_in = max((price for one in all_prices for price in _amounts(one, INPUT_PRICES)), default=None)
    if dearest_in is None:
        return None
    dearest_out = max((price for one in all_prices for price in _amounts(one, OUTPUT_PRICES)), default=0.0)
    return dearest_in, dearest_out, max((price / 1000 for one in all_prices for price in _amounts(one, ("requests_kcount",))), default=0.0)


def _prices(model: Any) -> Iterator[Any]:
    """Yield every set of prices that a model may be charged by: at other times, and for other classes of service."""
    listed = model.prices if isinstance(model.prices, list) else [model]
    yield from (one.prices for one in listed)
    yield from (variant.prices for variant in model.price_variants or [])


def _amounts(prices: Any, names: tuple[str, ...]) -> Iterator[float]:
    for name in names:
        price = vars(prices).get(name)
        if price is not None:
            yield from (float(one) for one in (getattr(price, "base", price), *(tier.price for tier in getattr(price, "tiers", ()))))


def _refuse_unbounded(body: Mapping[str, Any]) -> None:
    """Refuse what costs money that its bytes do not bound."""
    for tool in body.get("tools") or []:
        if isinstance(tool, Mapping) and tool.get("type", "function") not in ("function", "custom"):
            raise InputError(f"a budget cannot bound what the tool {tool.get('type')!r} costs", fix="run it without max_cost_usd")
    found = _not_text(body.get("messages")) or _not_text(body.get("input"))
    if found:
        raise InputError(f"a budget cannot bound what a part of type {found!r} costs", fix="run it without max_cost_usd")
    named = next((name for name in ("previous_response_id", "conversation", "prompt_id") if body.get(name)), "")
    if named:
        raise InputError(f"a budget cannot bound what {named!r} adds to the request", fix="send the whole conversation")


def _not_text(value: Any) -> str:
    """Return the type of the first part of a message that is no text; empty when all are."""
    if isinstance(value, list):
        return next((found for one in value if (found := _not_text(one))), "")
    if not isinstance(value, Mapping):
        return ""
    kind = str(value.get("type") or "")
    if "image" in kind or "audio" in kind or "file" in kind or "video" in kind:
        return kind
    return _not_text(value.get("content"))


def _most_out(path: str, body: Mapping[str, Any]) -> int:
    names = LIMITS[path]
    if not names:
        return 0
    given = [body[name] for name in names if type(body.get(name)) is int and body[name] > 0]
    if not given:
        raise InputError(f"a call to {path} without a limit of its answer is not made under a budget", fix=f"add {names[0]}=500")
    many = [body[name] for name in ("n", "best_of") if type(body.get(name)) is int]
    prompts = len(body["prompt"]) if path == "/completions" and isinstance(body.get("prompt"), list) else 1
    return max(given) * max([1, *many]) * prompts
