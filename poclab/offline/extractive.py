"""`offline/extractive` answers `/chat/completions`: a deterministic extractive reader, no neural network.

It copies the sentences of the given passages whose words match the question's best, or abstains in the words that the prompt dictates.
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
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from poclab.offline.protocol import completion, messages, refuse_parameters

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

STOP_WORDS = frozenset(
    """
    a an and any are as at be been being but by can can't could did do does doesn't doing don't for from had has have
    having how i if in into is isn't it it's its kind may me my of on one or our should so some such than that the their
    them then there these they this those to was we were what what's when where whether which while who whom whose why
    will with would you your
    """.split()
)
#: A passage, as prompts of the reference system hold it.
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


def answer(body: dict[str, Any]) -> dict[str, Any]:
    """Return the chat completion that answers `body`."""
    refuse_parameters(body, "tools", "functions", "response_format")
    return completion(body, extract(take_apart(messages(body))))


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
