import pytest

from poclab import rag
from poclab.errors import InputError
from poclab.labeling import texts
from poclab.system import Passage


def test_a_selected_stretch_is_evidence_that_is_found():
    """Whatever lines it spans, the corpus holds it."""
    text = "Storks nest\n   on chimneys.\tIn winter they fly."
    corpus = rag.Corpus((rag.Document("d", text),))

    for start, end in ((0, 11), (7, 29), (0, len(text)), (7, 999)):
        assert corpus.find(texts.phrase(text, start, end)) == ["d"]
    assert texts.phrase(text, 7, 27) == "nest on chimneys."
    for start, end in ((5, 5), (11, 14), (9, 3), (-5, 0)):
        with pytest.raises(InputError, match="no text is selected"):
            texts.phrase(text, start, end)


@pytest.mark.parametrize(
    ("phrases", "found"),
    [
        ([], [("Storks nest\n on roofs.", False)]),
        (["nest on"], [("Storks ", False), ("nest\n on", True), (" roofs.", False)]),
        (["Storks nest", "nest on roofs."], [("Storks nest", True), ("\n on roofs.", True)]),
        (["Storks nest on roofs.", "nest"], [("Storks nest\n on roofs.", True)]),
        (["o.k", " "], [("Storks nest\n on roofs.", False)]),
    ],
)
def test_evidence_is_marked_where_it_stands(phrases, found):
    """With other white space, overlapping, or inside of another; a dot is a dot. Put together the pieces are the text."""
    assert texts.pieces("Storks nest\n on roofs.", phrases) == found


def test_tags_are_written_in_one_line():
    """What is read is what was shown; a part without a value is no tag."""
    tags = {"kind": "look up", "difficulty": "easy=1"}

    assert texts.read_tags(texts.tags_text(tags)) == tags
    assert texts.read_tags(" , kind = lookup ,") == {"kind": "lookup"}
    for text in ("kind", "kind=", "=lookup"):
        with pytest.raises(InputError, match="is not NAME=VALUE"):
            texts.read_tags(text)


def test_a_list_is_written_one_a_line():
    """Empty lines and repeats are nothing; white space is folded, as evidence is compared."""
    assert texts.listed(" a  b \n\n c\na b\n") == ["a b", "c"]


def test_a_phrase_lies_whole_in_some_passage():
    """What is no longer than the overlap is never cut in two by the borders of passages."""
    text = " ".join(f"word{number}" for number in range(2000))
    spans = rag.cut(text, size=texts.PASSAGE, overlap=texts.OVERLAP)

    assert all(any(a <= start and start + texts.OVERLAP <= b for a, b in spans) for start in range(0, len(text) - texts.OVERLAP, 7))


def test_passages_that_overlap_are_shown_as_one():
    """Put together as the document has them, where the best of them stood; a passage of another document stays apart."""
    text = "0123456789abcdefghij"

    def passage(start, end, document="d"):
        return Passage(text[start:end], document, start, end)

    assert texts.joined([passage(8, 14), passage(0, 4, "e"), passage(16, 20), passage(2, 9), passage(14, 15)]) == (
        passage(2, 15),
        passage(0, 4, "e"),
        passage(16, 20),
    )
    assert texts.joined([]) == ()
