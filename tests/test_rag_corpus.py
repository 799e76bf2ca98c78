import json
import shutil

import pytest

from poclab import rag
from poclab.errors import InputError
from poclab.rag import Corpus, Document


def make_poc(folder, source, **files):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "corpus.yaml").write_text(source, encoding="utf-8")
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_md", ".md").replace("_txt", ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def test_pydoc_topics_of_the_running_python_are_a_corpus(tmp_path):
    """Every machine with Python has a corpus of about 80 documents to try the kit on."""
    from pydoc_data.topics import topics

    corpus = rag.load_corpus(make_poc(tmp_path, "source: pydoc"))

    assert [one.id for one in corpus.documents] == sorted(topics)
    assert all(one.text == topics[one.id] for one in corpus.documents)


def test_the_pydoc_topics_that_were_read_are_kept(tmp_path):
    """Another release of Python has other topics; what was evaluated can still be looked up by its digest."""
    corpus = rag.load_corpus(make_poc(tmp_path, "source: pydoc"))
    kept = json.loads((tmp_path / ".poclab" / "corpus" / f"{corpus.digest}.json").read_text(encoding="utf-8"))

    assert kept["documents"] == {one.id: one.text for one in corpus.documents}


def test_files_are_named_by_their_path_in_the_poc_and_ordered_by_it(tmp_path):
    """The same repository gives the same ids and digest on every machine."""
    poc = make_poc(tmp_path, 'source: files\nglob: "docs/**/*.md"', docs__b_md="two", docs__deep__a_md="one", notes_txt="no")
    corpus = rag.load_corpus(poc)

    assert corpus.documents == (Document("docs/b.md", "two"), Document("docs/deep/a.md", "one"))
    assert corpus.folder == tmp_path


def test_documents_beside_the_poc_keep_relative_ids(tmp_path):
    """Documents may lie in the repository outside the POC folder, and still have the same ids for everybody."""
    poc = make_poc(tmp_path / "poc", 'source: files\nglob: "../docs/*.txt"')
    make_poc(tmp_path, "", docs__a_txt="one")

    assert rag.load_corpus(poc).documents == (Document("../docs/a.txt", "one"),)


def test_the_digest_follows_ids_and_texts_alone(tmp_path):
    """A copied POC has the same corpus; one changed character makes another."""
    source = 'source: files\nglob: "*.md"'
    first = rag.load_corpus(make_poc(tmp_path / "a", source, x_md="same"))
    copied = rag.load_corpus(make_poc(tmp_path / "b", source, x_md="same"))
    changed = rag.load_corpus(make_poc(tmp_path / "c", source, x_md="Same"))
    renamed = rag.load_corpus(make_poc(tmp_path / "d", source, y_md="same"))

    assert first.digest == copied.digest
    assert len({first.digest, changed.digest, renamed.digest}) == 3


def test_a_poc_that_cannot_be_written_is_read_without_caches(tmp_path):
    """A read-only checkout can be evaluated in memory."""
    poc = make_poc(tmp_path, "source: pydoc")
    (poc / ".poclab").write_text("a file where the work folder would be, so that it cannot be made, even by root")
    corpus = rag.load_corpus(poc)

    assert corpus.folder is None
    assert rag.Retriever.build(corpus).retrieve("the with statement", top_k=1)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{}", "no `source`"),
        ("source: pydocs", "did you mean 'pydoc'"),
        ("source: [pydoc]", "unknown source"),
        ("source: pydoc\nglob: x", "unknown key 'glob'"),
        ("source: files\ngolb: x", "did you mean 'glob'"),
        ("source: files", "needs a `glob`"),
        ("source: files\nglob: 3", "needs a `glob`, found 3"),
        ("source: files\nglob: /etc/*.md", "is absolute"),
        ("source: files\nglob: nothing/*.md", "no file matches"),
        ("source: files\nglob: '*.yaml'", "not one of .md"),
    ],
)
def test_a_wrong_corpus_file_is_refused_with_what_to_write(tmp_path, source, message):
    """A slip in corpus.yaml is named before an index is built or a call paid."""
    with pytest.raises(InputError) as caught:
        rag.load_corpus(make_poc(tmp_path, source))

    assert message in str(caught.value)


def test_a_missing_corpus_file_is_named(tmp_path):
    """The message says which file is not there."""
    with pytest.raises(InputError, match="corpus.yaml: no such file"):
        rag.load_corpus(tmp_path)


def test_a_file_that_is_not_utf8_is_refused_by_name(tmp_path):
    """No character is replaced in silence: evidence would no longer be found."""
    poc = make_poc(tmp_path, 'source: files\nglob: "*.txt"', latin_txt="Zürich".encode("latin-1"))

    with pytest.raises(InputError, match=r"latin\.txt, line 1: not UTF-8: byte 0xfc at offset 1"):
        rag.load_corpus(poc)


def test_documents_without_text_are_refused(tmp_path):
    """An empty corpus answers nothing, which would look like a bad system."""
    with pytest.raises(InputError, match="hold no text"):
        rag.load_corpus(make_poc(tmp_path, 'source: files\nglob: "*.md"', a_md=" \n"))


def test_evidence_is_found_whatever_its_white_space():
    """A phrase copied from a wrapped page is found; another letter case or word is not."""
    corpus = Corpus((Document("a", "the quick\n   brown\tfox"), Document("b", "quick brown\u00a0fox"), Document("c", "Quick brown fox")))

    assert corpus.find("  quick brown\nfox ") == ["a", "b"]
    assert corpus.find("quick red fox") == []


def test_nothing_is_not_evidence():
    """An empty phrase stands in every text and proves nothing."""
    assert Corpus((Document("a", "text"),)).find(" \n") == []


def test_loading_again_reads_the_files_again(tmp_path):
    """No stale corpus: a changed document is seen at once."""
    poc = make_poc(tmp_path, 'source: files\nglob: "docs/*.md"', docs__a_md="old")
    before = rag.load_corpus(poc)
    shutil.rmtree(poc / "docs")
    make_poc(poc, 'source: files\nglob: "docs/*.md"', docs__a_md="new")

    assert rag.load_corpus(poc).digest != before.digest
