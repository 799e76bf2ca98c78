"""The dollars of an answer are those of the published price, or unknown; the most that a request can cost bounds them."""

import datetime
import functools
import subprocess
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from poclab.charter import Charter
from poclab.errors import InputError
from poclab.files import canonical
from poclab.prices import DATA_OF, LIMITS, Cost, Usage, _listed, bound_usd, cost_of, usage_of

OPENAI = "https://api.openai.com/v1"
GOOGLE = "https://generativelanguage.googleapis.com/v1beta/openai"
HERE = "http://localhost:11434/v1"
CHAT = "/chat/completions"
OWN = {
    "mine": {"input": 2.0, "output": 8.0, "cached_input": 0.5, "on": "2026-11-01"},
    "plain": {"input": 1, "output": 3, "on": "2026-10-02"},
}
ENDPOINTS = (
    OPENAI,
    GOOGLE,
    "https://api.deepseek.com",
    "https://api.groq.com/openai/v1",
    "https://api.mistral.ai/v1",
    "https://api.x.ai/v1",
    "https://openrouter.ai/api/v1",
    "https://api.together.xyz/v1",
    "https://api.perplexity.ai",
    "https://api.moonshot.ai/v1",
    "https://poc.openai.azure.com/openai/v1",
)


def chat(text="hi", **more):
    return {"model": "mine", "messages": [{"role": "user", "content": text}], "max_tokens": 100, **more}


def size(body):
    return len(canonical(body).encode())


# --- usage


def test_the_tokens_of_every_kind_of_answer_are_read():
    """Chat and Responses use other names; an embedding puts out nothing; cached and reasoning tokens are parts."""
    parts = {"prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 2}}
    of_chat = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, **parts}
    in_responses = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15, "input_tokens_details": {"cached_tokens": 4}}
    in_responses["output_tokens_details"] = {"reasoning_tokens": 2}

    assert usage_of({"usage": of_chat}, CHAT) == Usage(10, 5, 4, 2)
    assert usage_of({"usage": in_responses}, "/responses") == Usage(10, 5, 4, 2)
    assert usage_of({"usage": {"prompt_tokens": 10, "completion_tokens": 5}}, "/completions") == Usage(10, 5)
    assert usage_of({"usage": {"prompt_tokens": 10, "total_tokens": 10}}, "/embeddings") == Usage(10, 0)


def test_reasoning_that_only_the_total_counts_is_output():
    """Some endpoints report 21 in, 4 out, 85 in all: the 60 that were thought are billed."""
    usage = {"prompt_tokens": 21, "completion_tokens": 4, "total_tokens": 85, "completion_tokens_details": {"reasoning_tokens": 60}}

    assert usage_of({"usage": usage}, CHAT) == Usage(21, 64, None, 60)
    assert usage_of({"usage": usage | {"total_tokens": 3}}, CHAT).tokens_out == 4


@pytest.mark.parametrize("answer", [None, [], "usage", {}, {"usage": None}, {"usage": [1]}, {"usage": "3"}, {"usage": 3}])
def test_an_answer_without_usage_says_nothing(answer):
    """Nothing is guessed."""
    assert usage_of(answer, CHAT) == Usage()


@pytest.mark.parametrize("hostile", [True, False, -1, 3.0, float("nan"), 10**9 + 1, 10**400, "3", None, [3], {"a": 3}])
def test_what_is_no_count_is_unknown(hostile):
    """An endpoint can say anything; a cost is reckoned from whole numbers of tokens only."""
    whole = {"prompt_tokens": hostile, "completion_tokens": hostile, "total_tokens": hostile}
    details = {"prompt_tokens_details": {"cached_tokens": hostile}, "completion_tokens_details": {"reasoning_tokens": hostile}}
    wrong = {"prompt_tokens_details": hostile, "completion_tokens_details": hostile}

    assert usage_of({"usage": whole}, CHAT) == Usage()
    assert usage_of({"usage": {"prompt_tokens": 3, "completion_tokens": 2, **details}}, CHAT) == Usage(3, 2)
    assert usage_of({"usage": {"prompt_tokens": 3, "completion_tokens": 2, **wrong}}, CHAT) == Usage(3, 2)


def test_a_part_is_not_larger_than_the_whole():
    """A discount for more cached tokens than there were would make a cost negative."""
    details = {"prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 3}}

    assert usage_of({"usage": {"prompt_tokens": 3, "completion_tokens": 2, **details}}, CHAT) == Usage(3, 2)
    assert usage_of({"usage": details}, CHAT) == Usage()


WORDS = ["prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "total_tokens", "cached_tokens", "reasoning_tokens"]
DETAILS = ["prompt_tokens_details", "completion_tokens_details", "input_tokens_details", "output_tokens_details"]
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(0, 2 * 10**9), st.integers(10**300, 10**400), st.floats(), st.text(max_size=2)
)
ODDER = st.one_of(ODD, st.lists(ODD, max_size=2), st.dictionaries(st.sampled_from(WORDS), ODD, max_size=4))


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from([*WORDS, *DETAILS]), ODDER) | ODDER, st.sampled_from([*LIMITS]))
def test_any_usage_is_counts_or_unknown_and_never_a_credit(usage, path):
    """Whatever an endpoint reports: whole numbers, each part within its whole, and a finite cost of at least 0 only where both are known."""
    found = usage_of({"usage": usage}, path)
    counts = (found.tokens_in, found.tokens_out, found.tokens_cached, found.tokens_reasoning)

    assert all(one is None or (type(one) is int and 0 <= one <= 10**9) for one in counts)
    assert found.tokens_cached is None or found.tokens_cached <= found.tokens_in
    assert found.tokens_reasoning is None or found.tokens_reasoning <= found.tokens_out
    for model, url in (("mine", HERE), ("gpt-4o", OPENAI), ("gemini-2.5-pro", GOOGLE)):
        cost = cost_of(model, url, found, OWN)
        assert (cost is None) == (found.tokens_in is None or found.tokens_out is None)
        assert cost is None or 0 <= cost.usd < 1e6


# --- cost


@pytest.mark.parametrize(
    ("model", "endpoint", "usage", "usd"),
    [
        # 600 x 2.50 + 400 cached x 1.25 + 100 x 10.00 = 1500 + 500 + 1000 millionths
        ("gpt-4o", OPENAI, Usage(1000, 100, 400), 0.003),
        # 1000 x 1.25 + 500 x 10.00 = 1250 + 5000; the 400 that were reasoning are among the 500
        ("gpt-5", OPENAI, Usage(1000, 500, None, 400), 0.00625),
        ("text-embedding-3-small", OPENAI, Usage(1_000_000, 0), 0.02),
        # A request of more than 200,000 tokens pays more for all of them: 1.25 and 10.00, then 2.50 and 15.00
        ("gemini-2.5-pro", GOOGLE, Usage(200_000, 1000), 0.26),
        ("gemini-2.5-pro", GOOGLE, Usage(200_001, 1000), 0.5150025),
        # 15.00 in and 120.00 out, and no price for cached tokens: 1000 x 15 + 100 x 120
        ("gpt-5-pro", OPENAI, Usage(1000, 100, 900), 0.027),
        # 1.00 in and out, and 12.00 per thousand requests
        ("sonar", "https://api.perplexity.ai", Usage(1000, 1000), 0.014),
    ],
)
def test_a_cost_is_that_of_the_published_price(model, endpoint, usage, usd):
    """Worked by hand from the providers' price lists, as the data of 2026-11-09 has them."""
    assert cost_of(model, endpoint, usage, {}) == Cost(pytest.approx(usd, rel=1e-12), "2026-11-09")


def test_the_data_is_that_of_its_date():
    """The package carries no date of its own: whoever takes another version dates it, by its newest entry that is not announced."""
    import importlib.metadata

    from genai_prices.data import providers

    conditions = [one.constraint for who in providers for model in who.models if isinstance(model.prices, list) for one in model.prices]
    starts = {str(one.start_date) for one in conditions if hasattr(one, "start_date")}

    assert importlib.metadata.version("genai-prices") == "0.2.3"
    assert max(day for day in starts if day <= "2026-11-25") == DATA_OF


def test_the_charters_price_goes_first():
    """Whoever has a contract knows better than a list: 600 x 2 + 400 x 0.5 + 100 x 8 = 2200 millionths."""
    assert cost_of("mine", HERE, Usage(1000, 100, 400), OWN) == Cost(0.0022, "2026-11-01")
    assert cost_of("plain", HERE, Usage(1000, 100, 400), OWN) == Cost(0.0013, "2026-10-02")
    assert cost_of("gpt-4o", OPENAI, Usage(1000, 100), {"gpt-4o": OWN["plain"]}) == Cost(0.0013, "2026-10-02")
    assert cost_of("free", HERE, Usage(1000, 100), {"free": {"input": 0, "output": 0, "on": "2026-11-01"}}) == Cost(0.0, "2026-11-01")


def test_an_offline_model_costs_nothing():
    """It runs in this process, whether or not anything is counted."""
    assert cost_of("offline/extractive", OPENAI, Usage(), {}).usd == 0
    assert bound_usd("offline/extractive", OPENAI, CHAT, {"model": "offline/extractive", "messages": []}, {}) == 0


@pytest.mark.parametrize("usage", [Usage(), Usage(10, None), Usage(None, 10)])
def test_without_usage_a_cost_is_unknown(usage):
    """Unknown is not 0, whichever price there is."""
    assert cost_of("gpt-4o", OPENAI, usage, {}) is None
    assert cost_of("mine", OPENAI, usage, OWN) is None


@pytest.mark.parametrize(
    ("model", "endpoint"),
    [
        ("gpt-4o", HERE),
        ("gpt-4o", "http://api.openai.com/v1"),
        ("gpt-4o", "https://gateway.example/v1"),
        ("gpt-4o", "https://gateway.example/https://api.openai.com/v1"),
        ("gpt-4o", "https://api.openai.com.proxy.example/v1"),
        ("gpt-4o", "https://api.openai.community/v1"),
        ("gemini-2.5-pro", "https://gateway.example/generativelanguage.googleapis.com/v1beta/openai"),
        ("gpt-4o", "https://api.mistral.ai/v1"),
        ("gpt-nobody-has", OPENAI),
        ("gpt-4o-in-our-tuning", OPENAI),
        ("whisper-1", OPENAI),
        ("", OPENAI),
    ],
)
def test_a_price_is_that_of_the_host_that_was_asked(model, endpoint):
    """A server of one's own that calls its model gpt-4o does not charge what OpenAI does; a model without a price is not free."""
    assert cost_of(model, endpoint, Usage(1000, 100), {}) is None


@pytest.mark.parametrize(
    "endpoint", [OPENAI, "https://api.openai.com", "https://api.openai.com:443/v1", "https://poc.openai.azure.com/openai/v1"]
)
def test_the_path_and_the_port_of_a_host_do_not_matter(endpoint):
    """It is the same provider, or one that sells the same models."""
    assert cost_of("gpt-4o", endpoint, Usage(1000, 100), {}).usd == 0.0035


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_who_only_looks_like_a_provider_has_no_price(endpoint):
    """A host that begins with the provider's or holds it, a gateway that names it in its path, and a user of that name."""
    host, model = endpoint.removeprefix("https://").split("/")[0], next(model for model, url in priced() if url == endpoint)
    others = [f"{host}.example", f"{host}-example.org", f"not{host}.example", f"gateway.example/{host}", f"{host}@gateway.example"]

    assert cost_of(model, endpoint, Usage(10, 10), {}) is not None
    assert {other: cost_of(model, f"https://{other}/v1", Usage(10, 10), {}) for other in others} == dict.fromkeys(others)


def test_a_model_that_is_listed_without_a_price_has_none():
    """Nearly 200 models of the data have no prices at all; and a price for input alone tells nothing of an answer in words."""
    from genai_prices.data import providers

    empty = [model.id for who in providers if who.id == "openrouter" for model in who.models if model.prices and not vars(now_of(model))]

    assert len(empty) > 100
    assert [cost_of(model, "https://openrouter.ai/api/v1", Usage(1000, 100), {}) for model in empty] == [None] * len(empty)
    assert cost_of("text-embedding-3-small", OPENAI, Usage(1000, 100), {}) is None
    assert cost_of("sonar-deep-research", "https://api.perplexity.ai", Usage(1000, 100), {}) is None


def test_nothing_is_fetched():
    """The package can update itself; here it opens no connection, starts no thread, and a program that does update it changes no cost."""
    code = (
        "import sys, threading\n"
        "sys.addaudithook(lambda event, args: sys.exit(event) if event.startswith('socket.') else None)\n"
        "from poclab import prices\n"
        "assert 'genai_prices' not in sys.modules\n"
        f"first = prices.cost_of('gpt-4o', {OPENAI!r}, prices.Usage(1000, 100), {{}})\n"
        "from genai_prices import data_snapshot\n"
        "data_snapshot.set_custom_snapshot(data_snapshot.DataSnapshot(providers=[], from_auto_update=True))\n"
        f"second = prices.cost_of('gpt-4o', {OPENAI!r}, prices.Usage(2000, 200), {{}})\n"
        "print(first.usd, second.usd, threading.active_count())\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)

    assert (done.stdout, done.stderr) == ("0.0035 0.007 1\n", "")


# --- bound


def test_a_bound_counts_the_bytes_and_the_limit():
    """Each byte of the whole request may be a token, at the dearest price: 2.00 in, not the 0.50 of the cached; 100 out at 8.00."""
    body = chat("Grüße")

    written = '{"max_tokens":100,"messages":[{"content":"Gr..e","role":"user"}],"model":"mine"}'

    # 80 letters, of which two take two bytes
    assert size(body) == len(written) + 2 == 82
    assert bound_usd("mine", HERE, CHAT, body, OWN) == pytest.approx((82 * 2 + 100 * 8) / 1e6, rel=1e-12)
    assert bound_usd("mine", HERE, CHAT, chat("\ud800"), OWN) > 0  # half a character, as a broken file gives it


def test_a_cached_price_that_is_dearer_counts():
    """Nobody promises that it is not."""
    own = {"mine": {"input": 2.0, "output": 8.0, "cached_input": 3.0, "on": "2026-11-01"}}

    assert bound_usd("mine", HERE, CHAT, chat(), own) == pytest.approx((size(chat()) * 3 + 800) / 1e6, rel=1e-12)


def test_a_tier_counts_once_a_request_can_reach_it():
    """Up to 200,000 bytes the lower price holds; one more may be one token more, and then all cost the higher one."""
    frame = chat("", model="gemini-2.5-pro")
    short, long = (chat("a" * (length - size(frame)), model="gemini-2.5-pro") for length in (200_000, 200_001))

    assert bound_usd("gemini-2.5-pro", GOOGLE, CHAT, short, {}) == pytest.approx((200_000 * 1.25 + 100 * 10) / 1e6, rel=1e-12)
    assert bound_usd("gemini-2.5-pro", GOOGLE, CHAT, long, {}) == pytest.approx((200_001 * 2.5 + 100 * 15) / 1e6, rel=1e-12)


def test_a_price_per_request_counts():
    """12.00 per thousand, besides 1.00 per million tokens in and out."""
    body = chat(model="sonar")

    assert bound_usd("sonar", "https://api.perplexity.ai", CHAT, body, {}) == pytest.approx((size(body) + 100) / 1e6 + 0.012, rel=1e-12)


@pytest.mark.parametrize(
    ("path", "more", "tokens_out"),
    [
        (CHAT, {"max_tokens": 50}, 50),
        (CHAT, {"max_tokens": 50, "max_completion_tokens": 70}, 70),
        (CHAT, {"max_completion_tokens": 70, "n": 3}, 210),
        (CHAT, {"max_tokens": 50, "n": None, "tools": None, "service_tier": "flex", "modalities": ["text"]}, 50),
        ("/responses", {"max_output_tokens": 40}, 40),
        ("/completions", {"prompt": "a", "max_tokens": 10}, 10),
        ("/completions", {"prompt": "a", "max_tokens": 10, "n": 2, "best_of": 5}, 50),
        ("/completions", {"prompt": ["a", "b", "c"], "max_tokens": 10, "n": 2}, 60),
        ("/completions", {"prompt": [[1, 2], [3]], "max_tokens": 10}, 20),
        ("/completions", {"prompt": [101, 102, 103], "max_tokens": 10}, 10),
        ("/embeddings", {"input": ["a", "b"]}, 0),
    ],
)
def test_every_answer_of_a_request_is_bounded(path, more, tokens_out):
    """Several answers, several prompts, and those that are made but not returned; a list of numbers is one prompt."""
    body = {"model": "plain", **more}

    assert bound_usd("plain", HERE, path, body, OWN) == pytest.approx((size(body) + 3 * tokens_out) / 1e6, rel=1e-12)


def test_a_model_without_a_price_is_refused_with_the_lines_to_add(tmp_path):
    """What the error says can be pasted into the charter, and is then enough."""
    body = chat(model="llama3:8b")
    with pytest.raises(InputError, match=f"model 'llama3:8b' at {HERE} has no price: a budget cannot be kept") as caught:
        bound_usd("llama3:8b", HERE, CHAT, body, {})
    lines = caught.value.fix.removeprefix("add to charter.yaml, in dollars per million tokens: ")
    (tmp_path / "charter.yaml").write_text(lines, encoding="utf-8")
    prices = Charter.load(tmp_path).prices

    assert yaml.safe_load(lines).keys() == {"prices"}
    assert bound_usd("llama3:8b", HERE, CHAT, body, prices) == pytest.approx((size(body) + 4 * 100) / 1e6, rel=1e-12)


@pytest.mark.parametrize(
    ("endpoint", "path", "name"),
    [
        (HERE, CHAT, "max_tokens"),
        (OPENAI, CHAT, "max_completion_tokens"),
        (HERE, "/responses", "max_output_tokens"),
        (OPENAI, "/completions", "max_tokens"),
    ],
)
def test_a_call_without_a_limit_is_refused_with_the_parameter_to_add(endpoint, path, name):
    """Its name depends on the path, and for chat on who is asked."""
    with pytest.raises(InputError, match=f"a call to {path} has no limit of its answer(.|\n)*fix: add {name}=500"):
        bound_usd("mine", endpoint, path, {"model": "mine"}, OWN)


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "100", [100]])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n", "best_of"])
def test_a_limit_that_is_none_is_refused(name, value):
    """Some servers take -1 or 0 for no limit; another limit beside it does not help."""
    with pytest.raises(InputError, match=f"{name} is .* a budget needs a whole number of at least 1"):
        bound_usd("mine", HERE, CHAT, chat(**{name: value}), OWN)


def parts(*content):
    return [{"role": "user", "content": list(content)}]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"messages": parts({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}})}, "a part of type 'image_url'"),
        ({"messages": parts({"type": "text", "text": "see"}, {"type": "file", "file": {"file_id": "f1"}})}, "a part of type 'file'"),
        ({"messages": parts({"image_url": "https://example.org/a.png"})}, "a part with 'image_url'"),
        ({"messages": parts({"type": ["image"]})}, "a part of type ['image']"),
        ({"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}, "a part with 'audio'"),
        ({"input": parts({"type": "input_image", "file_id": "f1"})}, "a part of type 'input_image'"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "a part of type 'item_reference'"),
        ({"input": [{"type": "reasoning", "id": "r1", "summary": []}]}, "a part of type 'reasoning'"),
        ({"input": [{"id": "msg_1"}]}, "a part of type 'item_reference'"),
        ({"input": [{"type": "function_call_output", "output": [{"type": "input_file"}]}]}, "a part of type 'input_file'"),
        ({"tools": [{"type": "function"}, {"type": "web_search"}]}, "the tool 'web_search'"),
        ({"tools": ["web_search"]}, "the tool 'web_search'"),
        ({"tools": 5}, "the tool 5"),
        ({"input": [{"image": "https://example.org/a.png"}]}, "a part with 'image'"),
        ({"web_search_options": {"search_context_size": "low"}}, "'web_search_options'"),
        ({"plugins": [{"id": "web"}]}, "'plugins'"),
        ({"models": ["gpt-5-pro"]}, "'models'"),
        ({"previous_response_id": "resp_1"}, "'previous_response_id'"),
        ({"conversation": "conv_1"}, "'conversation'"),
        ({"prediction": {"type": "content", "content": "a"}}, "'prediction'"),
        ({"service_tier": "priority"}, "service_tier 'priority'"),
        ({"modalities": ["text", "audio"]}, "modalities ['text', 'audio']"),
    ],
)
def test_what_its_bytes_do_not_bound_is_refused(more, words):
    """An address of an image has 30 bytes; a budget that took these for its cost would not hold."""
    with pytest.raises(InputError) as caught:
        bound_usd("mine", HERE, CHAT, chat(**more), OWN)

    assert caught.value.message == f"a budget cannot bound what {words} costs"
    assert caught.value.fix == "leave it out, or run without max_cost_usd"


@pytest.mark.parametrize(
    ("model", "endpoint"),
    [
        ("gpt-4o-search-preview", OPENAI),
        ("gpt-4o-mini-search-preview-2025-03-11", OPENAI),
        ("gpt-5-search-api", OPENAI),
        ("o3-deep-research", OPENAI),
        ("perplexity/sonar", "https://openrouter.ai/api/v1"),
    ],
)
def test_a_model_that_searches_by_itself_is_refused(model, endpoint):
    """Each request of it is charged for a search, which the listed price of tokens does not hold; whoever prices it may use it."""
    with pytest.raises(InputError, match=f"a budget cannot bound what the searches of '{model}' cost(.|\n)*fix: take another model"):
        bound_usd(model, endpoint, CHAT, chat(model=model), {})

    assert bound_usd(model, endpoint, CHAT, chat(model=model), {model: OWN["plain"]}) > 0
    assert bound_usd("research-7b", HERE, CHAT, chat(), {"research-7b": OWN["plain"]}) > 0


def test_a_stored_prompt_and_an_unknown_path_are_refused():
    """On `/responses` a prompt is a reference; on `/completions` it is the text itself."""
    with pytest.raises(InputError, match="what 'prompt', a stored text, costs"):
        bound_usd("mine", HERE, "/responses", {"prompt": {"id": "pmpt_1"}, "max_output_tokens": 5}, OWN)
    with pytest.raises(InputError, match="a budget cannot bound a call to /images/generations"):
        bound_usd("mine", HERE, "/images/generations", {"prompt": "a cat"}, OWN)


def test_a_conversation_of_text_with_tools_is_bounded():
    """Parts of text, calls of functions and their results, in the forms of chat and of Responses."""
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        *parts({"type": "text", "text": "hi"}),
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "7"},
    ]
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "id": "r1", "summary": [{"type": "summary_text", "text": "look"}], "encrypted_content": "gAAAA"},
        {"type": "function_call", "id": "f1", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "7"},
    ]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]

    assert bound_usd("mine", HERE, CHAT, chat(messages=messages, tools=tools), OWN) > 0
    assert bound_usd("mine", HERE, "/responses", {"input": items, "max_output_tokens": 9}, OWN) > 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "id", "content", "image", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = ["messages", "input", "prompt", "tools", "n", "best_of", "max_tokens", "max_output_tokens", "modalities", "service_tier", "models"]


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), JSON), st.sampled_from([*LIMITS]))
def test_any_request_is_bounded_or_refused(body, path):
    """A system may send whatever JSON it likes: it gets a number of dollars, or an error that says what to change."""
    try:
        assert bound_usd("mine", HERE, path, body, OWN) >= size(body) * 2 / 1e6
    except InputError as error:
        assert error.fix


def now_of(model, minutes=0):
    return model.get_prices(datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=minutes))


def bounded(model, url, path):
    """Whether a budget takes the model: not one that searches by itself."""
    try:
        return bound_usd(model, url, path, {"max_tokens": 1}, {}) > -1
    except InputError as error:
        assert "searches" in error.message
        return False


@functools.cache
def priced_for_input():
    """Every model of the data that has a price for input at one of the endpoints, whether or not it answers in words."""
    from genai_prices.data import providers

    names = {model.id for who in providers for model in who.models}
    return [(model, url) for url in ENDPOINTS for model in sorted(names) if cost_of(model, url, Usage(1, 0), {})]


@functools.cache
def priced():
    """Those of them that a chat has a price for."""
    return [(model, url) for model, url in priced_for_input() if cost_of(model, url, Usage(1, 1), {}) and bounded(model, url, CHAT)]


def test_many_models_have_a_price():
    """The property below is about something: each of these providers has models with a price."""
    assert {url for _, url in priced()} == set(ENDPOINTS)
    assert len(priced()) > 800


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_no_cost_exceeds_its_bound(data):
    """Whatever the model, the usage within the bounds, and the minute of the coming day in which it is billed."""
    from genai_prices import Usage as Counts

    model, url = data.draw(st.sampled_from(priced()))
    path = data.draw(st.sampled_from([CHAT, "/responses", "/completions"]))
    limit, answers = data.draw(st.integers(1, 200_000)), data.draw(st.sampled_from([None, 1, 4]))
    text = data.draw(st.sampled_from(["", "ü", "\ud800", '"\\\n'])) + "a" * data.draw(st.sampled_from([0, 1000, 199_900, 272_000, 600_000]))
    key = "prompt" if path == "/completions" else "input"
    content = {"messages": [{"role": "user", "content": text}]} if path == CHAT else {key: text}
    body = {"model": model, **content, LIMITS[path][-1]: limit, "n": answers}
    most_in = len(canonical(body).encode("utf-8", "surrogatepass"))
    tokens_in = data.draw(st.one_of(st.just(most_in), st.integers(0, most_in)))
    tokens_out = data.draw(st.one_of(st.just(limit * (answers or 1)), st.integers(0, limit)))
    cached, reasoning = data.draw(st.integers(0, tokens_in)), data.draw(st.integers(0, tokens_out))

    bound = bound_usd(model, url, path, body, {})
    later = now_of(_listed(model, url), data.draw(st.integers(0, 1439)))
    billed = later.calc_price(
        Counts(input_tokens=tokens_in, output_tokens=tokens_out, cache_read_tokens=cached, output_reasoning_tokens=reasoning)
    )

    assert 0 <= cost_of(model, url, Usage(tokens_in, tokens_out, cached, reasoning), {}).usd <= bound
    assert float(billed["total_price"]) <= bound


@settings(max_examples=200, deadline=None)
@given(*[st.floats(0, 1e6)] * 3, st.integers(0, 100), st.integers(0, 1000), st.data())
def test_no_cost_by_the_charter_exceeds_its_bound(into, out, cached_input, tokens_out, tokens_in, data):
    """Not even by the last digit: both are reckoned exactly and rounded once."""
    own = {"mine": {"input": into, "output": out, "cached_input": cached_input, "on": "2026-11-01"}}
    tokens_in = min(tokens_in, size(chat()))

    usage = Usage(tokens_in, tokens_out, data.draw(st.integers(0, tokens_in)))
    assert cost_of("mine", HERE, usage, own).usd <= bound_usd("mine", HERE, CHAT, chat(), own)


@functools.cache
def embedding():
    return [(model, url) for model, url in priced_for_input() if bounded(model, url, "/embeddings")]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_cost_of_an_embedding_exceeds_its_bound(data):
    """Nothing is put out; the input is one text, several, or numbers of tokens."""
    model, url = data.draw(st.sampled_from(embedding()))
    text = st.text(max_size=20) | st.lists(st.text(max_size=5), max_size=3) | st.lists(st.integers(0, 10**5), max_size=5)
    body = {"model": model, "input": data.draw(text)}
    usage = usage_of({"usage": {"prompt_tokens": data.draw(st.integers(1, size(body)))}}, "/embeddings")

    assert 0 <= cost_of(model, url, usage, {}).usd <= bound_usd(model, url, "/embeddings", body, {})
