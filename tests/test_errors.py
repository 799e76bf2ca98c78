import os
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poclab.errors import EndpointError, FrozenError, InputError, PocError, StoreError, printable, refuse_unknown


def test_an_error_reads_as_what_was_found_and_what_to_type():
    """A person sees both, in this order, and a program can take them apart."""
    error = InputError("cases.jsonl, line 3: no inputs", fix="add inputs")

    assert str(error) == "cases.jsonl, line 3: no inputs\n  fix: add inputs"
    assert (error.message, error.fix) == ("cases.jsonl, line 3: no inputs", "add inputs")


def test_an_error_without_a_fix_is_one_line():
    """No empty `fix:` is printed where there is nothing to type."""
    assert str(StoreError("no room")) == "no room"


@pytest.mark.parametrize("kind", [InputError, FrozenError, EndpointError, StoreError])
def test_one_except_clause_catches_them_all(kind):
    """The command line and a notebook need to know one class only."""
    assert issubclass(kind, PocError)


def test_an_error_survives_the_way_between_two_processes():
    """A trial's kernel is another process; its error must arrive as it was raised."""
    error = pickle.loads(pickle.dumps(FrozenError("changed", fix="restore it")))

    assert (type(error), str(error), error.fix) == (FrozenError, "changed\n  fix: restore it", "restore it")


@pytest.mark.parametrize(
    ("found", "hint"),
    [
        ("chunk_sise", "did you mean 'chunk_size'?"),
        ("prmpt", "did you mean 'prompt'?"),
        ("zzz", "use one of: chunk_size, prompt"),
        (7, "use one of: chunk_size, prompt"),
    ],
)
def test_an_unknown_name_comes_with_the_nearest_valid_one(found, hint):
    """A typing mistake costs one reading; where nothing is near, all names are listed."""
    with pytest.raises(InputError) as caught:
        refuse_unknown(["prompt", found], ("chunk_size", "prompt"), where="sweep.yaml")

    assert str(caught.value) == f"sweep.yaml: unknown key {found!r}\n  fix: {hint}"


@given(st.text())
def test_printable_text_is_one_line_without_control_characters(text):
    """Whatever the text; and one that is printable already is not touched."""
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)


def test_known_names_pass_and_no_names_pass():
    """Leaving a name out is not what this checks."""
    refuse_unknown(["prompt"], iter(["chunk_size", "prompt"]), where="here")
    refuse_unknown([], ["prompt"], where="here")


def test_a_notebook_prints_an_error_without_a_traceback(tmp_path):
    """The cell shows what was found and what to type, not the library's frames; control characters reach no terminal."""
    code = "from poclab.errors import InputError; raise InputError('no \\x1b[31mfile', fix='write one')"
    command = [sys.executable, "-m", "IPython", "--colors=NoColor", "-c", code]
    shell = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "IPYTHONDIR": str(tmp_path)})

    assert shell.stdout + shell.stderr == "InputError: no \\x1b[31mfile\n  fix: write one\n"
