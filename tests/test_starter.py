"""A new POC works before anything in it was replaced, and says what to type next."""

import os
import resource
import shutil
import stat

import pytest

from poclab import Charter, TestSet, rag
from poclab.agent import Sandbox, check_labels, load_tools
from poclab.errors import InputError, StoreError
from poclab.experiment import plan
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
    """A copied notebook opens its own POC, not the one that the project came with; that of the other kind of POC is left out."""
    for agent, other in ((False, "06_agent.ipynb"), (True, "02_evaluate.ipynb")):
        make_poc(tmp_path / f"{agent}", agent=agent)
        copies = sorted((tmp_path / f"{agent}" / "notebooks").glob("*.ipynb"))

        assert [one.name for one in copies] == sorted(one.name for one in notebooks().glob("*.ipynb") if one.name != other)
        assert all('poc: str = \\"..\\"' in one.read_text() and "../experiments" not in one.read_text() for one in copies)


def test_an_agent_is_ready_to_freeze_and_to_sweep(tmp_path):
    """The example of an agent is nobody's yet; its labels come about in its world, and its sweep runs notebook 06."""
    folder = tmp_path / "mine"
    said = make_poc(folder, agent=True)

    assert freeze(folder / "cases.jsonl").test_set.name == "mine"
    check_labels(TestSet.load(folder), Sandbox(folder / "world.sql"))
    assert len(load_tools(folder / "desk.py")) == 15
    swept = load_sweep(folder)
    assert (len(swept.trials), swept.notebook) == (2, folder / "notebooks/06_agent.ipynb")
    assert Charter.load(folder).missing == ("owner", "sponsor", "signed")
    assert "cannot show" not in repr(plan(folder))  # ten held-out tasks can meet its numbers
    assert "cases.jsonl, world.sql and desk.py: an example" in said[1]
    with pytest.raises(InputError, match="--docs and --agent"):
        make_poc(tmp_path / "both", tmp_path, agent=True)


def test_it_answers_from_ones_own_documents(tmp_path):
    """With --docs the corpus is that folder, whatever else lies in it, and the example's labels are gone."""
    docs = tmp_path / "texts [2024] 🦉" / "deep"
    docs.mkdir(parents=True)
    (docs / "one.md").write_text("# One\nThe owl eats corn.\n")
    (docs.parent / "two.txt").write_text("The fox does not.\n")
    (docs.parent / "picture.png").write_bytes(b"\x89PNG")
    folder = tmp_path / "mine"

    said = make_poc(folder, docs.parent)

    assert [one.id for one in rag.load_corpus(folder).documents] == [f"../{docs.parent.name}/{name}" for name in ("deep/one.md", "two.txt")]
    assert not (folder / "cases.jsonl").exists() and not (folder / "docs").exists()
    assert f"the documents stay in {docs.parent}" in said[0]


def test_ones_own_documents_come_with_an_empty_charter(tmp_path):
    """No decision, number or name of the example is taken over; what to fill in is said, and both forms of a case."""
    (tmp_path / "one.md").write_text("The owl eats corn.\n")
    said = "\n".join(make_poc(tmp_path / "mine", tmp_path))

    assert Charter.load(tmp_path / "mine").missing == ("decision", "owner", "sponsor", "criteria", "signed")
    assert "charter.yaml: what is decided" in said
    assert '"expected": {"answers": ["..."]' in said and '"expected": {"abstain": true}' in said
    assert len(load_sweep(tmp_path / "mine").trials) == 5


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


def test_an_empty_folder_is_filled_where_it_is(tmp_path, monkeypatch):
    """`poclab new .`: the folder stays the one that the shell stands in, and is shared like any other."""
    before = os.stat(tmp_path).st_ino
    monkeypatch.chdir(tmp_path)
    make_poc(tmp_path.relative_to(tmp_path))

    assert os.stat(tmp_path).st_ino == before
    assert {one.name for one in tmp_path.iterdir()} >= {"charter.yaml", ".gitignore", "notebooks"}
    assert stat.S_IMODE((tmp_path / "prompts").stat().st_mode) == 0o777 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_full_disk_leaves_no_half_poc(tmp_path):
    """The next try is not told that there is a POC already. (A limit of 500 bytes per file stands in for the disk.)"""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(StoreError, match="mine: cannot be written: File too large"):
            make_poc(tmp_path / "mine")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert list((tmp_path / "mine").iterdir()) == []
    make_poc(tmp_path / "mine")


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
