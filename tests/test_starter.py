"""A new POC works before anything in it was replaced, and says what to type next."""

import shutil

import pytest

from poclab import Charter, TestSet, rag
from poclab.errors import InputError
from poclab.freezing import freeze
from poclab.starter import make_poc, notebooks
from poclab.sweeps import load_sweep


def test_a_new_poc_is_ready_to_freeze_and_to_sweep(tmp_path):
    """The example's labels are sound, its evidence is found, and its sweep file and charter are valid."""
    folder = tmp_path / "mine"
    make_poc(folder)
    corpus = rag.load_corpus(folder)

    frozen = freeze(folder / "cases.jsonl", find=corpus.find, corpus_digest=corpus.digest)

    assert (len(frozen.test_set.split("dev")), len(frozen.test_set.split("test"))) == (8, 4)
    assert len(load_sweep(folder).trials) == 5
    assert Charter.load(folder).missing == ("owner", "sponsor", "signed")
    assert TestSet.load(folder / "cases.jsonl").name == "mine"


def test_its_notebooks_look_at_the_folder_above_them(tmp_path):
    """A copied notebook opens its own POC, not the one that the project came with."""
    make_poc(tmp_path / "mine")
    copies = sorted((tmp_path / "mine" / "notebooks").glob("*.ipynb"))

    assert [one.name for one in copies] == sorted(one.name for one in notebooks().glob("*.ipynb"))
    assert all('poc: str = \\"..\\"' in one.read_text() and "python_help" not in one.read_text() for one in copies)


def test_it_answers_from_ones_own_documents(tmp_path):
    """With --docs the corpus is that folder, whatever else lies in it, and the example's labels are gone."""
    docs = tmp_path / "texts" / "deep"
    docs.mkdir(parents=True)
    (docs / "one.md").write_text("# One\nThe owl eats corn.\n")
    (docs.parent / "two.txt").write_text("The fox does not.\n")
    (docs.parent / "picture.png").write_bytes(b"\x89PNG")
    folder = tmp_path / "mine"

    said = make_poc(folder, docs.parent)

    assert [one.id for one in rag.load_corpus(folder).documents] == ["../texts/deep/one.md", "../texts/two.txt"]
    assert not (folder / "cases.jsonl").exists() and not (folder / "docs").exists()
    assert any("write your cases" in line for line in said)


@pytest.mark.parametrize("there", ["a POC", "a file", "files"])
def test_nothing_is_overwritten(tmp_path, there):
    """A folder with anything in it is refused, and stays as it is."""
    folder = tmp_path / "mine"
    if there == "a POC":
        make_poc(folder)
    elif there == "files":
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")
    else:
        folder.write_text("mine")
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))

    with pytest.raises(InputError, match="name another one"):
        make_poc(folder)

    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


def test_documents_that_cannot_be_read_are_refused_before_anything_is_made(tmp_path):
    """A folder without text is named, and no half POC is left."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "one.png").write_bytes(b"\x89PNG")
    for docs, words in ((pictures, "no file in it ends in .md"), (tmp_path / "nowhere", "no such folder")):
        with pytest.raises(InputError, match=words):
            make_poc(tmp_path / "mine", docs)
        assert not (tmp_path / "mine").exists()
    shutil.rmtree(pictures)
