"""The offline models: the kit runs with no key and no network, on the code path of any other model.

`offline/extractive` answers `/chat/completions`. It is a deterministic extractive reader, no neural network: it copies the sentences
of the given passages whose words match the question's best, or abstains in the words that the prompt dictates.
It is a baseline that a real model must beat.

It reads the text of all messages as one, whatever their roles:

- passages: what stands in `<passage ...>...</passage>` blocks, as it is (entities are not decoded);
- question: after the last `Question:` that starts a line outside the passages, to the end of its paragraph or the next `Label:` line;
  else the last line of a user message that ends in `?`; else the last line;
- instructions: the rest. Two are understood: a number of sentences ("in one sentence", "at most 3 sentences"; 1 without), and the
  words to abstain with (`If the passages do not contain the answer, reply exactly "I don't know."`). Words inside a passage are data.

It does not reason, add up, translate, or join two statements; it knows nothing that the passages do not say, no synonyms beyond a
shared word stem, and no other instruction. Temperature, seed, stop words and the like are ignored. What would change the
shape of an answer (tools, `n` above 1, JSON output, images) is refused with status 400.

`offline/hashing` answers `/embeddings`: signed feature hashing of stemmed words and word pairs. It finds shared words, not shared meaning.
A token is counted as 4 characters, rounded up, in prompts and answers alike; no real tokenizer agrees exactly.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import json
import math
import re
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poclab.files import canonical, digest

PREFIX = "offline/"
#: Every offline model, with the path that it answers.
MODELS = {"offline/extractive": "/chat/completions", "offline/hashing": "/embeddings"}
NO_PASSAGE = "There is no passage to answer from."

# Chosen on 2026-11-23 on 100 questions about the Anthropic documentation, 5 passages of 500 characters each, with drafts of the cases
# of experiments/python_help in sight: its scores on that POC are a little too good for a reader that never saw them.
#: The reader abstains, if the prompt says how, when its best sentence covers less than this share of the question's idf weight. The highest
#: value, in steps of 0.05, that kept nine answers of ten (91%); it refused 43% of the questions that were given only wrong passages.
WEAK = 0.2
#: What a question word in the sentence before or after counts, against one in the sentence itself.
NEIGHBOUR = 0.25
#: How much a sentence of more words than the others loses: 0 nothing, 1 in full proportion (the b of BM25).
LENGTH_WEIGHT = 0.25
#: Numbers in an embedding.
DIMENSIONS = 512
CHARACTERS_PER_TOKEN = 4

STOP_WORDS = frozenset(
    """
    a an and any are as at be been being but by can can't could did do does doesn't doing don't for from had has have
    having how i if in into is isn't it it's its kind may me my of on one or our should so some such than that the their
    them then there these they this those to was we were what what's when where whether which while who whom whose why
    will with would you your
    """.split()
)
PASSAGE = re.compile(r"""<passage\b(?:"[^"]*"|[^"<>])*>(.*?)</passage>""", re.DOTALL | re.IGNORECASE)
LABEL = r"[ \t>#*_]*"
QUESTION = re.compile(rf"^{LABEL}(?i:question)[*_ \t]*:[*_]*\s*(\S.*?)(?=\n[ \t]*\n|\n{LABEL}[A-Z]\w*(?: \w+)?[*_]*:|\Z)", re.M | re.S)
# The heading of a reStructuredText section (a line above a rule) or of a Markdown one: it repeats a question's words and answers nothing.
HEADING = re.compile(r"""^[ \t]*\S.*\n[ \t]*([=*~^"#+-])\1{2,}[ \t]*$|^#{1,6} .*$""", re.MULTILINE)
BLOCK = re.compile(r"\n[ \t]*\n|\n(?=[ \t]*(?:[-*•]|\d+[.)])[ \t])")
SENTENCE_END = re.compile(
    r"""(?:(?<=[.!?])|(?<=[.!?]["'”)\]]))(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bcf\.)(?<!\bvs\.)\s+(?=["'`“(\[*]+\w|[A-Z0-9\0])"""
)
WORD = re.compile(r"\w+(?:['’]\w+)*|[-+*/%@&|^~<>=!:]{2,}")  # operators are words of a language reference: ":=", "**"
NUMBERS = {
    "a": 1,
    "single": 1,
    **dict(zip(["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"], range(1, 11), strict=True)),
}
SENTENCES = re.compile(rf"\b(\d{{1,4}}|{'|'.join(NUMBERS)})\s+(?:\w+\s+)?sentences?\b", re.IGNORECASE)
QUOTED = re.compile(r""""([^"]+)"|“([^”]+)”|`([^`]+)`|(?<!\w)'(.{1,200}?)'(?!\w)""")
CONDITION = re.compile(r"\b(?:if|when|whenever|where|unless)\b", re.IGNORECASE)
NEGATION = re.compile(
    r"\b(?:not|no|none|nothing|cannot|unless|missing|without|lacks?|absent|insufficient|unable|unsure)\b|n['’]t\b", re.IGNORECASE
)
SPOKEN = re.compile(
    r"\b(?:reply|respond|answer|say|write|output|return|print|use)(?: (?:with|only|just|exactly|the|words?|text))*:? ?\0(\d+)\0", re.I
)


@dataclass(frozen=True)
class Request:
    """What a prompt asks, taken apart."""

    question: str
    passages: Sequence[str]
    instructions: str


@dataclass(frozen=True)
class Match:
    """A sentence of the passages. `share` of the question's idf weight stands in it; `place` is its number in reading order."""

    sentence: str
    share: float
    score: float
    place: int


class _Refused(Exception):
    """A request that is answered with an error in OpenAI's format."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}


# --- the protocol


def answer(path: str, body: Any) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the JSON answer to `body` at `path` (below the base URL): the same for the same request, always.

    `stream` is not looked at: `stream_events` spells out an answer. Errors come as OpenAI's error object with status 400 or 404.
    """
    try:
        if path == "/models":
            return 200, {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "poclab"} for name in MODELS]}
        _check_model(path, body)
        return 200, _complete(body) if path == "/chat/completions" else _embed(body)
    except _Refused as refused:
        return refused.status, {"error": refused.error}


def stream_events(body: dict[str, Any], whole: dict[str, Any]) -> Iterator[str]:
    """Yield the server-sent events that spell out `whole`, the answer to a chat request, word by word."""
    head = {**whole, "object": "chat.completion.chunk"}
    usage = head.pop("usage")
    choice = whole["choices"][0]
    deltas = [
        {"role": "assistant", "content": ""},
        *({"content": word} for word in re.findall(r"\S+\s*|\s+", choice["message"]["content"])),
        {},
    ]
    for delta in deltas:
        reason = None if delta else choice["finish_reason"]
        yield _event({**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]})
    if (body.get("stream_options") or {}).get("include_usage"):
        yield _event({**head, "choices": [], "usage": usage})
    yield "data: [DONE]\n\n"


@functools.cache
def fingerprint() -> str:
    """Return the digest of this module's source: answers of another version of the offline models may differ."""
    return digest(Path(__file__).read_bytes())


def count_tokens(text: str) -> int:
    """Return the approximate number of tokens: 4 characters each, rounded up."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def _check_model(path: str, body: Any) -> None:
    if not isinstance(body, dict):
        raise _Refused("the request body is not a JSON object")
    model = body.get("model")
    if not isinstance(model, str) or model not in MODELS:
        raise _Refused(f"unknown model {model!r}; offline models: {', '.join(MODELS)}", status=404, param="model", code="model_not_found")
    if MODELS[model] != path:
        raise _Refused(f"{model} answers {MODELS[model]}, not {path}", status=404, param="model")


def _complete(body: dict[str, Any]) -> dict[str, Any]:
    for param, accepted in {"n": (None, 1), "tools": (None, []), "functions": (None, [])}.items():
        if body.get(param) not in accepted:
            raise _Refused(f"offline/extractive does not support {param!r}: it writes one answer and calls no tools", param=param)
    if not isinstance(body.get("stream_options") or {}, dict):
        raise _Refused("'stream_options' is not an object", param="stream_options")
    if (body.get("response_format") or {"type": "text"}) != {"type": "text"}:
        raise _Refused("offline/extractive writes plain text only", param="response_format")
    messages = _messages(body)
    text, reason = _cut(extract(take_apart(messages)), body)
    choice = {"index": 0, "message": {"role": "assistant", "content": text, "refusal": None}, "logprobs": None, "finish_reason": reason}
    head = {"id": _id("chatcmpl", body), "object": "chat.completion", "created": 0, "model": body["model"]}
    usage = _usage(sum(count_tokens(content) for _, content in messages), count_tokens(text))
    return {**head, "system_fingerprint": f"offline-{fingerprint()[:12]}", "choices": [choice], "usage": usage}


def _cut(text: str, body: dict[str, Any]) -> tuple[str, str]:
    """Return the text within the token limit, and the finish reason."""
    for param in ("max_completion_tokens", "max_tokens"):
        limit = body.get(param)
        if limit is None:
            continue
        if type(limit) is not int or limit < 1:
            raise _Refused(f"{param!r} is {limit!r}, expected a number from 1", param=param)
        if count_tokens(text) > limit:
            return text[: limit * CHARACTERS_PER_TOKEN], "length"
    return text, "stop"


def _messages(body: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (role, text) of every message."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise _Refused("'messages' is not a list of one or more messages", param="messages")
    return [(str(one.get("role")), _text(one.get("content"))) for one in messages]


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list) or not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
        raise _Refused("offline/extractive reads text only", param="messages")
    return "\n".join(part["text"] for part in content)


def _usage(tokens_in: int, tokens_out: int) -> dict[str, int]:
    return {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}


def _id(kind: str, body: dict[str, Any]) -> str:
    return f"{kind}-{hashlib.blake2b(canonical(body).encode('utf-8', 'surrogatepass'), digest_size=12).hexdigest()}"


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n"


# --- the reader


def take_apart(messages: Sequence[tuple[str, str]]) -> Request:
    """Return question, passages and instructions of (role, text) messages, by the rules of the module's docstring."""
    whole = "\n\n".join(text for _, text in messages)
    outside = PASSAGE.sub("\n\n", whole)
    start, end = _question_span(outside, "\n\n".join(text for role, text in messages if role == "user"))
    passages = [match[1] for match in PASSAGE.finditer(whole)]
    return Request(_fold(outside[start:end]), passages, f"{outside[:start]}\n\n{outside[end:]}")


def _question_span(outside: str, user: str) -> tuple[int, int]:
    labelled = list(QUESTION.finditer(outside))
    if labelled:
        return labelled[-1].span(1)
    lines = [line.strip() for line in PASSAGE.sub("\n\n", user).splitlines() if line.strip().endswith("?")] or outside.strip().splitlines()[
        -1:
    ]
    start = outside.rfind(lines[-1]) if lines else 0
    return start, start + len(lines[-1]) if lines else 0


def extract(request: Request) -> str:
    """Return the sentences of the passages that match the question best, in reading order, or the words of abstention.

    Without words to abstain with, the best sentence is always given. A second or later one must share a word with the question.
    """
    matches = rank(request.question, request.passages)
    abstain = abstention(request.instructions)
    if not matches:
        return abstain or NO_PASSAGE
    if abstain is not None and matches[0].share < WEAK:
        return abstain
    rest = [match for match in matches[1 : sentence_limit(request.instructions)] if match.share > 0]
    return " ".join(match.sentence for match in sorted([matches[0], *rest], key=lambda match: match.place))


def rank(question: str, passages: Sequence[str]) -> list[Match]:
    """Return every different sentence of the passages, the best match first; equal ones in reading order.

    A word's weight is its idf over these sentences, ln(1 + (N - n + 0.5) / (n + 0.5)). The score is the share of the question's weight
    that stands in the sentence, plus `NEIGHBOUR` of what only the sentence before or after has, divided by a length factor.
    Source: Robertson and Zaragoza (2009), The Probabilistic Relevance Framework: BM25 and Beyond, for the idf and the length factor.
    """
    read = _read(passages)
    counts = Counter(word for words, _ in read.values() for word in set(words))
    weights = {word: math.log(1 + (len(read) - counts[word] + 0.5) / (counts[word] + 0.5)) for word in dict.fromkeys(terms(question))}
    total = sum(weights.values()) or 1.0
    mean_length = sum(len(words) for words, _ in read.values()) / len(read) if read else 0.0
    matches = []
    for place, (sentence, (words, near)) in enumerate(read.items()):
        share = sum(weight for word, weight in weights.items() if word in words) / total
        beside = sum(weight for word, weight in weights.items() if word in near and word not in words) / total
        length = 1 - LENGTH_WEIGHT + LENGTH_WEIGHT * len(words) / (mean_length or 1.0)
        matches.append(Match(sentence, share, (share + NEIGHBOUR * beside) / length, place))
    return sorted(matches, key=lambda match: (-match.score, match.place))


def _read(passages: Sequence[str]) -> dict[str, tuple[list[str], set[str]]]:
    """Return for each different sentence its words, and those of its neighbours in the passage where it stands first."""
    read: dict[str, tuple[list[str], set[str]]] = {}
    for passage in passages:
        split = sentences(passage)
        words = [terms(sentence) for sentence in split]
        for place, sentence in enumerate(split):
            near = [*words[max(place - 1, 0) : place], *words[place + 1 : place + 2]]
            read.setdefault(sentence, (words[place], set().union(*near)))
    return read


def sentences(text: str) -> list[str]:
    """Return the sentences of a manual's text, white space folded; headings and rules are left out.

    Blank lines and list bullets end a sentence too, so that a code block or a table is one sentence of its own.
    """
    blocks = BLOCK.split(HEADING.sub("\n\n", text))
    split = (sentence for block in blocks for sentence in SENTENCE_END.split(_fold(block)))
    return [sentence for sentence in split if WORD.search(sentence) and re.search(r"\w", sentence)]


def terms(text: str) -> list[str]:
    """Return the stems of the words that carry meaning, in order. A text of stop words has none."""
    import Stemmer

    # A stemmer must not be shared by threads, and costs a microsecond to make.
    return Stemmer.Stemmer("english", 0).stemWords([word for word in WORD.findall(text.lower()) if word not in STOP_WORDS])


def sentence_limit(instructions: str) -> int:
    """Return how many sentences the instructions allow: the first "<number> sentences" in them, 1 without."""
    found = SENTENCES.search(instructions)
    if not found:
        return 1
    word = found[1].lower()
    return NUMBERS.get(word) or max(int(word), 1)


def abstention(instructions: str) -> str | None:
    """Return the words that the instructions dictate for a question that the passages do not answer, or None.

    They are the quoted words of the first sentence that has a condition (if, when, unless) and a negation (not, no, cannot, ...):
    those right after a verb of saying, else the first. Backquotes and curly or single quotes count as quotes.
    """
    quotes: list[str] = []

    def mask(match: re.Match[str]) -> str:
        quotes.append(next(group for group in match.groups() if group))
        return f"\0{len(quotes) - 1}\0{'.' if quotes[-1][-1] in '.!?' else ''}"

    for sentence in sentences(QUOTED.sub(mask, instructions.replace("\0", " "))):
        found = SPOKEN.search(sentence) or re.search(r"\0(\d+)\0", sentence)
        if found and CONDITION.search(sentence) and NEGATION.search(sentence):
            return _fold(quotes[int(found[1])])
    return None


def _fold(text: str) -> str:
    return " ".join(text.split())


# --- embeddings


def embed(text: str) -> list[float]:
    """Return the embedding of a text: length 1, or all zeros for a text without a word that carries meaning.

    Each stem, and each pair of neighbours, adds 1 + ln(count) to one of the places, with a sign; place and sign are its hash.
    Source: Weinberger et al. (2009), Feature Hashing for Large Scale Multitask Learning.
    """
    words = terms(text)
    features = Counter([*words, *(f"{first} {second}" for first, second in itertools.pairwise(words))])
    vector = [0.0] * DIMENSIONS
    for feature, count in features.items():
        place, sign = _place(feature)
        vector[place] += sign * (1 + math.log(count))
    norm = math.sqrt(sum(value * value for value in vector)) or 1.0
    return [value / norm for value in vector]


@functools.lru_cache(maxsize=1 << 16)
def _place(feature: str) -> tuple[int, int]:
    # Python's own hash differs from process to process.
    number = int.from_bytes(hashlib.blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
    return (number >> 1) % DIMENSIONS, 1 if number & 1 else -1


def _embed(body: dict[str, Any]) -> dict[str, Any]:
    texts = [body["input"]] if isinstance(body.get("input"), str) else body.get("input")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise _Refused("'input' is not a text or a list of one or more texts", param="input")
    if body.get("dimensions") not in (None, DIMENSIONS):
        raise _Refused(f"offline/hashing has {DIMENSIONS} dimensions only", param="dimensions")
    encoding = body.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise _Refused(f"'encoding_format' is {encoding!r}, expected 'float' or 'base64'", param="encoding_format")
    vectors = [embed(text) for text in texts]
    data = [{"object": "embedding", "index": index, "embedding": _encode(vector, encoding)} for index, vector in enumerate(vectors)]
    tokens = sum(count_tokens(text) for text in texts)
    return {"object": "list", "data": data, "model": body["model"], "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def _encode(vector: list[float], encoding: str) -> list[float] | str:
    return vector if encoding == "float" else base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *vector)).decode("ascii")
