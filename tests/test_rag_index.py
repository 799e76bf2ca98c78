import json
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from poclab import rag
from poclab.errors import StoreError
from poclab.rag.index import Index, load_or_build

KEY = {"made of": "this"}
ROOT = str(Path(rag.__file__).parents[2])


def sample():
    return Index({"numbers": numpy.arange(6.0).reshape(2, 3)}, ("alpha", "béta"))


def never():
    raise AssertionError("built although it was kept")


def entry(poc):
    return next(one for one in (poc / ".poclab" / "index").iterdir() if one.is_dir())


def test_a_kept_index_equals_the_built_one(tmp_path):
    """A trial that finds the index ranks as the trial that built it."""
    built = load_or_build(tmp_path, KEY, sample)
    kept = load_or_build(tmp_path, KEY, never)

    assert kept.words == built.words == ("alpha", "béta")
    assert kept.columns == {"alpha": 0, "béta": 1}
    assert numpy.array_equal(kept.arrays["numbers"], built.arrays["numbers"])


def test_another_key_is_another_index(tmp_path):
    """An index of other texts is never taken."""
    load_or_build(tmp_path, KEY, sample)

    with pytest.raises(AssertionError):
        load_or_build(tmp_path, {"made of": "that"}, never)


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    """A corpus in memory leaves no trace."""
    monkeypatch.chdir(tmp_path)
    load_or_build(None, KEY, sample)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("numbers.npy", b""),
        ("numbers.npy", None),
        ("words.json", b'["alpha","gamma"]'),
        ("manifest.json", b'{"files":'),
        ("manifest.json", b"[]"),
        ("manifest.json", b'{"files":{}}'),
    ],
)
def test_a_damaged_index_is_built_again(tmp_path, name, content):
    """A file that was cut short, changed or removed is not trusted."""
    load_or_build(tmp_path, KEY, sample)
    path = entry(tmp_path) / name
    path.unlink() if content is None else path.write_bytes(content)

    assert load_or_build(tmp_path, KEY, sample).words == ("alpha", "béta")
    assert load_or_build(tmp_path, KEY, never).words == ("alpha", "béta")


def test_a_pickle_is_never_opened(tmp_path):
    """A folder from somebody else cannot run code: an array of objects does not load, even with a matching digest."""
    from poclab.files import digest

    load_or_build(tmp_path, KEY, sample)
    place = entry(tmp_path)
    numpy.save(place / "numbers.npy", numpy.array([{}], dtype=object), allow_pickle=True)
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["files"]["numbers.npy"] = digest((place / "numbers.npy").read_bytes())
    (place / "manifest.json").write_text(json.dumps(manifest))

    assert load_or_build(tmp_path, KEY, sample).arrays["numbers"].dtype == float


def test_what_a_killed_build_left_is_no_index(tmp_path):
    """Only a whole folder is taken: a build that died half way is begun again."""
    load_or_build(tmp_path, KEY, sample)
    place = entry(tmp_path)
    half = place.rename(place.with_name(f"{place.name}.new"))
    (half / "stray").write_text("")

    load_or_build(tmp_path, KEY, sample)
    assert sorted(one.name for one in place.iterdir()) == ["manifest.json", "numbers.npy", "words.json"]


def test_two_processes_build_it_once(tmp_path):
    """Parallel trials that need the same index wait for the first of them."""
    script = f"""
import sys, pathlib, numpy
from poclab.rag.index import Index, load_or_build
poc = pathlib.Path({str(tmp_path)!r})
def build():
    with open(poc / "built.txt", "a") as log: log.write("x")
    return Index({{"numbers": numpy.random.default_rng().random((1000, 1000))}})
print("ready", flush=True); sys.stdin.readline()
print(load_or_build(poc, {{"key": 1}}, build).arrays["numbers"].sum())
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as one, subprocess.Popen([sys.executable, "-c", script], **pipes) as two:
        for process in (one, two):
            assert process.stdout.readline() == "ready\n"
        for process in (one, two):
            process.stdin.write("go\n")
            process.stdin.flush()
        sums = [process.communicate()[0] for process in (one, two)]

    assert (tmp_path / "built.txt").read_text() == "x"
    assert sums[0] == sums[1] != ""


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    """A full or read-only disk is an error with a fix, not a slow run."""
    (tmp_path / ".poclab").write_text("in the way")

    with pytest.raises(StoreError, match="cannot be written"):
        load_or_build(tmp_path, KEY, sample)
