"""Hold retrieval to a published figure: nDCG@10 on SciFact (BEIR), one chunk per document, title and text.

    python tests/benchmarks/scifact.py --data FOLDER       # FOLDER: corpus.jsonl queries.jsonl qrels/test.tsv

Exit code 1 when BM25 is further than .02 from Anserini's .679 (flat BM25 with title and text in one field).
Needs no network and no model. Embeddings of an endpoint are not measured.
Source: Thakur et al. (2021), BEIR, https://github.com/beir-cellar/beir; Anserini's regressions for beir-v1.0.0-scifact-flat.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from poclab.files import read_json_lines, read_text
from poclab.rag import Corpus, Document, Retriever

ANCHOR, TOLERANCE = 0.679, 0.02


def ndcg_at_10(ranking: Sequence[str], relevant: Mapping[str, int]) -> float:
    """Return the discounted gain of the first ten over that of the best ten.

    Source: Järvelin and Kekäläinen (2002), linear gain, as trec_eval and BEIR compute it.
    """
    gains = [relevant.get(id, 0) for id in ranking[:10]]
    best = sorted(relevant.values(), reverse=True)[:10]
    return _discounted(gains) / _discounted(best)


def _discounted(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def load(data: Path) -> tuple[Corpus, dict[str, str], dict[str, dict[str, int]]]:
    """Return the corpus, the questions by id, and for each judged question the relevant documents with their grade."""
    documents = tuple(Document(one["_id"], f"{one['title']} {one['text']}") for _, one in read_json_lines(data / "corpus.jsonl"))
    judged: dict[str, dict[str, int]] = defaultdict(dict)
    for row in csv.DictReader(read_text(data / "qrels" / "test.tsv").splitlines(), delimiter="\t"):
        judged[row["query-id"]][row["corpus-id"]] = int(row["score"])
    questions = {one["_id"]: one["text"] for _, one in read_json_lines(data / "queries.jsonl") if one["_id"] in judged}
    return Corpus(documents), questions, judged


def measure(retrieval: str, data: Path) -> tuple[float, float, float]:
    """Return the mean nDCG@10, the seconds to build, and the milliseconds per question."""
    corpus, questions, judged = load(data)
    begun = time.perf_counter()
    retriever = Retriever.build(corpus, retrieval=retrieval, chunk_size=max(len(one.text) for one in corpus.documents))
    built = time.perf_counter()
    scores = [ndcg_at_10([one.document for one in retriever.retrieve(questions[id], top_k=10)], judged[id]) for id in questions]
    asked = time.perf_counter()
    return sum(scores) / len(scores), built - begun, (asked - built) / len(scores) * 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder in BEIR layout")
    data = parser.parse_args().data
    print(f"{'retrieval':<10}{'nDCG@10':>9}{'build_s':>9}{'question_ms':>13}")
    figures = {}
    for retrieval in ("bm25", "dense", "hybrid"):
        figures[retrieval], build_s, question_ms = measure(retrieval, data)
        print(f"{retrieval:<10}{figures[retrieval]:>9.4f}{build_s:>9.1f}{question_ms:>13.1f}", flush=True)
    held = abs(figures["bm25"] - ANCHOR) <= TOLERANCE
    print(f"bm25 is {'within' if held else 'OUTSIDE'} {ANCHOR} +- {TOLERANCE}")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
