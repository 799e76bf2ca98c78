from math import log

import numpy
import pytest

from poclab.rag.lexical import STOP_WORDS, bm25_scores, build_bm25, tokens

TEXTS = ["cat cat dog", "cat bird fish", "tree tree tree"]


def test_words_are_lowered_stemmed_and_stop_words_left_out():
    """`Running` finds `runs`; words of one character and stop words find nothing."""
    assert tokens("The Runner was running: runs, x y2 (naïve)") == ["runner", "run", "run", "y2", "naïv"]


def test_the_words_are_those_of_the_benchmarked_configuration():
    """What was measured on SciFact, bm25s' tokens with its English stop words, is what runs."""
    import bm25s
    import Stemmer

    text = "Anaïs' 2 experiments were being RE-RUN; it's not as if they'll be generalised to mice_42, e.g. HIV/AIDS trials."
    theirs = bm25s.tokenize([text], stopwords="english", stemmer=Stemmer.Stemmer("english"), return_ids=False, show_progress=False)

    assert tokens(text) == theirs[0]
    assert set(bm25s.stopwords.STOPWORDS_EN) == STOP_WORDS


def test_scores_are_those_worked_by_hand():
    """All texts have average length, so a word that stands t times adds idf * t / (t + 1.5), with idf = ln(1 + (3 - 2 + .5) / (2 + .5))."""
    scores = bm25_scores(build_bm25(TEXTS), "Cats?", count=3)

    assert scores == pytest.approx([log(1.6) * 2 / 3.5, log(1.6) * 1 / 2.5, 0])


def test_scores_are_those_of_bm25s():
    """Adding up the columns without bm25s gives what bm25s gives, a repeated word counting twice."""
    import bm25s

    found = [tokens(text) for text in TEXTS]
    engine = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
    engine.index(found, show_progress=False)
    question = "the dog, a cat, another cat and a zebra"

    assert numpy.allclose(bm25_scores(build_bm25(TEXTS), question, count=3), engine.get_scores(tokens(question)), rtol=1e-6)


@pytest.mark.parametrize("question", ["", "zebra", "the of and", "?"])
def test_a_question_without_a_known_word_scores_nothing(question):
    """No word in common is a score of 0 for every text, not an error."""
    assert bm25_scores(build_bm25(TEXTS), question, count=3).tolist() == [0, 0, 0]
