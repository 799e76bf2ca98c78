"""Find the passages of a corpus that a question is about: `bm25`, `dense`, both (`hybrid`), or `none`.

The ranking is the same on every run, in every process, with any number of threads: scores are rounded to six places, and
equal ones keep the order of documents and offsets. A passage without a positive score is not found; to find nothing is a normal result.
Not covered: a reranker, filters, and passages that say the same twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from poclab.errors import InputError
from poclab.files import digest
from poclab.rag import chunking, dense, lexical
from poclab.rag.corpus import Corpus
from poclab.rag.index import Index, load_or_build
from poclab.system import Passage

if TYPE_CHECKING:
    import numpy
    import openai

RETRIEVALS = ("none", "bm25", "dense", "hybrid")
#: Source: Cormack, Clarke and Buettcher (2009), reciprocal rank fusion.
RRF_K = 60
#: A rest of the budget shorter than about a sentence is left empty.
SHORTEST_CUT = 100
#: Part of every index's key: raise it when `tokens`, or what the arrays mean, changes.
FORMAT = 1


@dataclass(frozen=True, eq=False)
class Retriever:
    """Ranks passages for a question. Its scorers give one number per passage; two of them are fused by rank."""

    passages: tuple[Passage, ...] = field(repr=False)
    scorers: tuple[Callable[[str], numpy.ndarray], ...] = field(repr=False, default=())

    @classmethod
    def build(
        cls, corpus: Corpus, *, retrieval: str = "bm25", chunk_size: int = 400, overlap: int = 0, embedding: str = dense.LSA
    ) -> Retriever:
        """Cut the corpus and index it, or take the index from the POC's work folder.

        `embedding` is `lsa` or the name of a model that the endpoint serves.

        Raises:
            InputError: an unknown retrieval, or a corpus without a word to search for.
            EndpointError: the embedding model cannot be asked.
        """
        if retrieval not in RETRIEVALS:
            raise InputError(f"unknown retrieval {retrieval!r}", fix=f"use one of: {', '.join(RETRIEVALS)}")
        if retrieval == "none":
            return cls(())
        passages = chunking.passages(corpus.documents, size=chunk_size, overlap=overlap)
        if not any(lexical.tokens(one.text) for one in passages):
            raise InputError("the corpus holds no word to search for", fix="look at what `rag.load_corpus` returns")
        names = {"bm25": ("bm25",), "dense": (embedding,), "hybrid": ("bm25", embedding)}[retrieval]
        return cls(passages, tuple(_scorer(name, corpus, passages) for name in names))

    def rank(self, question: str) -> list[int]:
        """Return the positions of the passages that were found, best first."""
        rankings = [order(score(question)) for score in self.scorers]
        return rankings[0] if len(rankings) == 1 else fuse(rankings)

    def retrieve(self, question: str, *, top_k: int | None = None, context_chars: int | None = None) -> tuple[Passage, ...]:
        """Return the best passages: `top_k` of them, or as many as `context_chars` has room for."""
        found = [self.passages[position] for position in self.rank(question)]
        return tuple(found[:top_k] if context_chars is None else fill(found, context_chars))


def order(scores: numpy.ndarray) -> list[int]:
    """Return the positions of the positive scores, highest first, equal ones by position."""
    import numpy

    # Sums of floats differ in the last digits with the number of BLAS threads; six places do not.
    rounded = numpy.round(numpy.asarray(scores, dtype=float), 6)
    found = numpy.flatnonzero(rounded > 0)
    return found[numpy.argsort(-rounded[found], kind="stable")].tolist()


def fuse(rankings: Sequence[Sequence[int]]) -> list[int]:
    """Return one ranking: each position scores the sum of 1 / (60 + rank) over the rankings that hold it; ties by position."""
    scores: dict[int, float] = defaultdict(float)
    for ranking in rankings:
        for rank, position in enumerate(ranking, start=1):
            scores[position] += 1 / (RRF_K + rank)
    return sorted(scores, key=lambda position: (-scores[position], position))


def fill(found: Sequence[Passage], room: int) -> Iterator[Passage]:
    """Yield passages in order while they fit; the first that does not is cut to what is left, if that is at least 100 characters.

    A budget, unlike a number of passages, gives every chunk size the same amount of text: with a fixed number the largest
    chunks win by showing more (measured: all evidence among the first 5, from .32 at 200 characters to .95 at 3,200).
    """
    for one in found:
        if len(one.text) > room:
            if room >= SHORTEST_CUT:
                yield replace(one, text=one.text[:room], end=one.start + room if one.start is not None else None)
            return
        yield one
        room -= len(one.text)


def _scorer(name: str, corpus: Corpus, passages: Sequence[Passage]) -> Callable[[str], numpy.ndarray]:
    texts = [one.text for one in passages]
    spans = digest([[one.document, one.start, one.end] for one in passages])

    def index(build: Callable[[], Index], **depends: str) -> Index:
        key = {"format": FORMAT, "corpus": corpus.digest, "spans": spans, "ranks_by": name, **depends}
        return load_or_build(corpus.folder, key, build)

    if name == "bm25":
        built = index(partial(lexical.build_bm25, texts), **_versions("bm25s", "PyStemmer"))
        return partial(lexical.bm25_scores, built, count=len(texts))
    if name == dense.LSA:
        built = index(partial(dense.build_lsa, texts), **_versions("scikit-learn", "PyStemmer"))
        return partial(dense.lsa_scores, built)
    asked = {"model": name, "client": _client(name)}
    built = index(partial(dense.build_embeddings, texts, **asked), endpoint=_endpoint(**asked))
    return partial(dense.embedding_scores, built, **asked)


def _versions(*packages: str) -> Mapping[str, str]:
    from importlib.metadata import version as installed

    return {package: installed(package) for package in packages}


def _client(model: str) -> openai.OpenAI:
    from poclab import models

    models.check(model)
    return models.client()


def _endpoint(model: str, client: openai.OpenAI) -> str:
    from poclab import offline

    return offline.fingerprint() if model.startswith(offline.PREFIX) else str(client.base_url)
