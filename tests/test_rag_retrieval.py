import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poclab import rag
from poclab.errors import EndpointError, InputError
from poclab.rag import Corpus, Document, Retriever
from poclab.rag.retrieval import fill, fuse, order
from poclab.system import Passage

ANIMALS = Corpus(
    (
        Document("a", "cat cat dog"),
        Document("b", "cat bird fish"),
        Document("c", "tree tree tree"),
        Document("d", "cat bird fish"),
    )
)


def documents(retriever, question, **room):
    return [one.document for one in retriever.retrieve(question, **(room or {"top_k": 10}))]


def test_bm25_ranks_by_the_words_that_the_question_names():
    """`cat` twice comes before `cat` once; a text without it is not found; equal texts keep their order."""
    assert documents(Retriever.build(ANIMALS), "cat") == ["a", "b", "d"]


@pytest.mark.parametrize("retrieval", ["bm25", "dense", "hybrid"])
@pytest.mark.parametrize("question", ["", "  ", "zebra", "what is it"])
def test_to_find_nothing_is_a_normal_result(retrieval, question):
    """A question about something else gets no passages, so that the system can say that it does not know."""
    assert Retriever.build(ANIMALS, retrieval=retrieval).retrieve(question, context_chars=1000) == ()


def test_a_closed_book_has_no_passages():
    """`none` is the baseline beside every score: what the model knows by heart."""
    assert Retriever.build(ANIMALS, retrieval="none").retrieve("cat", top_k=3) == ()


@pytest.mark.parametrize("retrieval", ["bm25", "dense", "hybrid"])
def test_equal_passages_are_ranked_by_document_then_offset(retrieval):
    """The same ranking on every run: nothing depends on chance or on a sort that moves equals."""
    text = "owl eats corn.\n\n" * 4
    corpus = Corpus(tuple(Document(id, text) for id in "abc") + (Document("d", "something else entirely"),))
    found = Retriever.build(corpus, retrieval=retrieval, chunk_size=20).retrieve("corn for the owl", top_k=100)

    assert [(one.document, one.start) for one in found] == [(id, start) for id in "abc" for start in (0, 16, 32, 48)]


def test_positions_of_equal_scores_keep_their_order():
    """Scores that differ by less than a millionth are equal: that is how far sums of floats may be trusted."""
    assert order(numpy.array([0.5, 0.5 + 1e-9, 0.7, 0.0, -0.2, 0.5 - 1e-9])) == [2, 0, 1, 5]


def test_many_equal_scores_keep_their_order_too():
    """numpy's default sort keeps the order of equals only in short arrays."""
    assert order(numpy.tile([1.0, 2.0], 500)) == [*range(1, 1000, 2), *range(0, 1000, 2)]


def test_fusion_is_the_one_worked_by_hand():
    """1/61 + 1/62 before 1/63 + 1/61 before 1/62; found first in one and second in the other is a tie, broken by position."""
    assert fuse([[0, 1, 2], [2, 0]]) == [0, 2, 1]
    assert fuse([[1, 0], [0, 1]]) == [0, 1]
    assert fuse([[], [3]]) == [3]


def test_hybrid_finds_what_either_finds():
    """A passage that only one of the two rankings holds is in the fused one."""
    either = set(documents(Retriever.build(ANIMALS), "bird")) | set(documents(Retriever.build(ANIMALS, retrieval="dense"), "bird"))

    assert set(documents(Retriever.build(ANIMALS, retrieval="hybrid"), "bird")) == either


@given(st.lists(st.text("ab \n", min_size=1, max_size=300), max_size=8), st.integers(100, 900))
def test_the_budget_is_never_exceeded_and_offsets_stay_right(texts, room):
    """A cut passage is the head of the one that was found, and less than 100 characters are left unused while there is text."""
    found = [Passage(text, str(number), 7, 7 + len(text)) for number, text in enumerate(texts)]
    given_ = list(fill(found, room))
    used = sum(len(one.text) for one in given_)

    assert used <= room
    assert used == sum(map(len, texts)) or room - used < 100
    assert all(one.end - one.start == len(one.text) and texts[int(one.document)].startswith(one.text) for one in given_)


def test_every_chunk_size_gets_the_same_room():
    """A budget of 1,000 characters is 1,000 characters, whether chunks have 200 or 1,600: neither wins by showing more."""
    corpus = Corpus((Document("long", "the owl eats corn and fish " * 400),))
    used = {
        size: sum(len(one.text) for one in Retriever.build(corpus, chunk_size=size).retrieve("owl", context_chars=1000))
        for size in (200, 1600)
    }

    assert all(900 < chars <= 1000 for chars in used.values())


def test_a_rest_below_a_sentence_is_left_empty():
    """150 characters of a budget of 240 are taken; 90 are too few to cut another passage down to."""
    found = [Passage("x" * 150, "a", 0, 150), Passage("y" * 150, "b", 10, 160)]

    assert list(fill(found, 240)) == found[:1]
    assert list(fill(found, 250)) == [found[0], Passage("y" * 100, "b", 10, 110)]


@pytest.mark.parametrize("retrieval", ["bm25", "dense", "hybrid"])
def test_a_kept_index_ranks_as_a_fresh_one(tmp_path, retrieval):
    """The first trial and the hundredth are given the same passages."""
    texts = Corpus(tuple(Document(f"{n}", f"the owl number {n} eats corn, fish and {n % 5} mice at night") for n in range(40)))
    here = Corpus(texts.documents, tmp_path)
    results = [Retriever.build(corpus, retrieval=retrieval).retrieve("3 mice for owl 17", top_k=40) for corpus in (texts, here, here)]

    assert results[0] == results[1] == results[2] != ()


def test_another_chunk_size_is_another_index(tmp_path):
    """No trial of a sweep searches the chunks of another."""
    corpus = Corpus((Document("a", "owls eat corn. " * 20),), tmp_path)
    for size in (100, 200):
        retriever = Retriever.build(corpus, chunk_size=size)
        assert len(retriever.retrieve("owl", top_k=100)) == len(retriever.passages)


def test_questions_side_by_side_get_the_same_passages():
    """A retriever is shared by the threads of a run."""
    retriever = Retriever.build(ANIMALS, retrieval="hybrid")
    questions = ["cats", "a bird", "dogs and trees", "fish"] * 25
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda question: documents(retriever, question), questions))

    assert together == [documents(retriever, question) for question in questions]


def test_the_ranking_does_not_depend_on_hash_seed_or_blas_threads(tmp_path):
    """A sweep with four jobs and a person's notebook get the same passages, each building its own index."""
    script = """
import json
from poclab.rag import Corpus, Document, Retriever
corpus = Corpus(tuple(Document(str(n), f"owl {n % 7} eats corn {n % 3} and fish {n % 5}") for n in range(60)))
print(json.dumps([Retriever.build(corpus, retrieval="hybrid").rank(q) for q in ("owl 12 fish", "corn and fish")]))
"""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=Path(rag.__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": seed, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed, threads in (("1", "1"), ("2", "2"))
    ]
    printed = [one.communicate()[0] for one in started]

    assert printed[0] == printed[1]
    assert len(json.loads(printed[0])[0]) == 60


def test_an_unknown_retrieval_is_refused():
    """A slip is not a closed book."""
    with pytest.raises(InputError, match="use one of: none, bm25, dense, hybrid"):
        Retriever.build(ANIMALS, retrieval="bm52")


@pytest.mark.parametrize("corpus", [Corpus(()), Corpus((Document("a", "? ! the"),))])
def test_a_corpus_without_words_is_refused(corpus):
    """It would answer nothing, which would look like a bad system."""
    with pytest.raises(InputError, match="no word to search for"):
        Retriever.build(corpus)


def test_a_retriever_shows_itself_in_a_line():
    """A notebook cell that ends with a corpus or a retriever does not print the documents."""
    assert len(repr(Retriever.build(ANIMALS))) + len(repr(ANIMALS)) < 200


def test_an_endpoints_embeddings_are_asked_for_once(tmp_path):
    """The second trial takes the paid vectors from the disk; another model has its own."""
    corpus = Corpus(ANIMALS.documents, tmp_path)
    first = Retriever.build(corpus, retrieval="dense", embedding="offline/hashing")
    second = Retriever.build(corpus, retrieval="dense", embedding="offline/hashing")
    Retriever.build(corpus, retrieval="dense", embedding="lsa")

    assert documents(first, "a cat and a bird")[:3] == documents(second, "a cat and a bird")[:3] == ["b", "d", "a"]
    assert len([one for one in (tmp_path / ".poclab" / "index").iterdir() if one.is_dir()]) == 2


def test_an_unknown_embedding_model_is_refused():
    """A slip is named before the corpus is sent anywhere."""
    with pytest.raises(EndpointError, match="offline/hashing"):
        Retriever.build(ANIMALS, retrieval="dense", embedding="offline/hashin")
