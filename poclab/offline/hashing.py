"""`offline/hashing` answers `/embeddings`: signed feature hashing of stemmed words and word pairs.

It finds shared words, not shared meaning.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import math
import struct
from collections import Counter
from typing import Any

from poclab.offline.extractive import terms
from poclab.offline.protocol import Refused, count_tokens

#: Numbers in an embedding.
DIMENSIONS = 512


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


def answer(body: dict[str, Any]) -> dict[str, Any]:
    texts = [body["input"]] if isinstance(body.get("input"), str) else body.get("input")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise Refused("'input' is not a text or a list of one or more texts", param="input")
    if body.get("dimensions") not in (None, DIMENSIONS):
        raise Refused(f"offline/hashing has {DIMENSIONS} dimensions only", param="dimensions")
    encoding = body.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise Refused(f"'encoding_format' is {encoding!r}, expected 'float' or 'base64'", param="encoding_format")
    vectors = [embed(text) for text in texts]
    data = [{"object": "embedding", "index": index, "embedding": _encode(vector, encoding)} for index, vector in enumerate(vectors)]
    tokens = sum(count_tokens(text) for text in texts)
    return {"object": "list", "data": data, "model": body["model"], "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def _encode(vector: list[float], encoding: str) -> list[float] | str:
    return vector if encoding == "float" else base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *vector)).decode("ascii")
