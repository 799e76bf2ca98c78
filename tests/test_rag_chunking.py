import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poclab.rag import Document, cut
from poclab.rag.chunking import passages

PIECES = ["a", "word", "é😀", " ", "   ", "\t", ". ", '!" ', "\n", "\r\n", "\n\n", "\n \n", "unbrokenunbrokenunbroken"]
TEXTS = st.lists(st.sampled_from(PIECES), min_size=10, max_size=80).map("".join) | st.text(max_size=20)
SIZES = st.integers(1, 30)


@given(TEXTS, SIZES)
def test_without_overlap_the_chunks_are_the_document(text, size):
    """Cutting loses nothing: evidence that stands in a document stands in its chunks or across a border of them."""
    spans = cut(text, size=size)

    assert "".join(text[start:end] for start, end in spans) == text
    assert all(0 < end - start <= size for start, end in spans)


@given(TEXTS, SIZES, st.data())
def test_every_chunk_starts_the_overlap_before_the_last_ones_end(text, size, data):
    """Offsets are right, the whole text is covered, and each chunk comes further than the one before."""
    overlap = data.draw(st.integers(0, size - 1))
    spans = cut(text, size=size, overlap=overlap)

    assert all(0 < end - start <= size for start, end in spans)
    assert all(after[0] == before[1] - overlap for before, after in itertools.pairwise(spans))
    assert all(after[1] > before[1] for before, after in itertools.pairwise(spans))
    assert (spans[0][0], spans[-1][1]) == (0, len(text)) if text else spans == []


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("one. two six.\n\na\nb. c five", "one. two six.\n\n"),
        ("one. two three\nfour five six", "one. two three\n"),
        ("one two three. four five six", "one two three. "),
        ("one two three four five six s", "one two three four "),
        ("onetwothreefourfivesixseveneight", "onetwothreefourfives"),
        ("one. two three fourfivesixseven", "one. two three "),
    ],
)
def test_a_cut_is_preferred_after_a_paragraph_a_line_a_sentence_a_word(text, first):
    """A passage is readable; the first border in that order wins, if it lies in the second half of a chunk of 20."""
    start, end = cut(text, size=20)[0]

    assert text[start:end] == first


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (5, 5), (5, -1)])
def test_an_overlap_that_would_not_come_further_is_refused(size, overlap):
    """No endless loop."""
    with pytest.raises(ValueError, match="overlap < size"):
        cut("some text", size=size, overlap=overlap)


def test_passages_know_where_they_stand():
    """A passage is found again in its document; white space alone is no passage, and documents keep their order."""
    documents = [Document("b", "alpha beta" + " " * 30 + "gamma"), Document("a", "delta")]
    found = passages(documents, size=10)

    assert [one.text.strip() for one in found] == ["alpha", "beta", "gamma", "delta"]
    texts = {one.id: one.text for one in documents}
    assert all(texts[one.document][one.start : one.end] == one.text for one in found)


def test_a_long_text_is_cut_in_time_that_grows_with_its_length():
    """Ten million characters without any border take seconds, not hours: each is looked at a fixed number of times."""
    assert len(cut("a" * 10_000_000, size=1000)) == 10_000
