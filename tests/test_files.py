import datetime
import errno
import json
import os
import resource
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poclab.errors import InputError, StoreError
from poclab.files import (
    DEEPEST,
    WORK,
    canonical,
    check_json,
    digest,
    find_poc,
    parse_json,
    read_json,
    read_json_lines,
    read_text,
    read_yaml,
    require_poc,
    unwritable,
    work_folder,
    write_atomic,
)

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)


def nested(depth):
    value = "leaf"
    for _ in range(depth):
        value = [value]
    return value


# --- which POC


def test_the_poc_is_the_nearest_folder_upwards_with_a_charter(tmp_path, monkeypatch):
    """A notebook in a folder of the POC, or a file in it, belongs to that POC, not to one further up."""
    monkeypatch.delenv("POCLAB_POC", raising=False)
    deep = tmp_path / "outer" / "inner" / "notebooks"
    deep.mkdir(parents=True)
    for folder in (tmp_path / "outer", tmp_path / "outer" / "inner"):
        (folder / "charter.yaml").write_text("decision: x")
    monkeypatch.chdir(deep)

    assert find_poc() == find_poc(deep / "none.ipynb") == tmp_path / "outer" / "inner"
    assert find_poc(tmp_path) is None


def test_the_environment_names_the_poc_only_where_nothing_else_does(tmp_path, monkeypatch):
    """`POCLAB_POC` helps a kernel that starts elsewhere; it does not overrule a file that was named."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "charter.yaml").write_text("decision: x")
    monkeypatch.setenv("POCLAB_POC", str(tmp_path / "b"))

    assert find_poc() == tmp_path / "b"
    assert find_poc(tmp_path / "a") == tmp_path / "a"


def test_a_folder_that_the_environment_names_must_be_a_poc(tmp_path, monkeypatch):
    """Whoever typed only `poclab sweep` is told which variable led astray."""
    monkeypatch.setenv("POCLAB_POC", str(tmp_path / "gone"))

    with pytest.raises(InputError, match=r"POCLAB_POC is '.*gone': there is no charter.yaml\n  fix: unset POCLAB_POC"):
        require_poc()


def test_a_current_folder_that_was_removed_and_a_link_to_itself_are_no_traceback(tmp_path, monkeypatch):
    """Another terminal deleted the folder; a link was made wrongly."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    assert find_poc(tmp_path / "loop") is None
    with pytest.raises(InputError, match="the current folder was removed\n  fix: cd "):
        find_poc()


# --- reading


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    """Excel and Notepad put one before the first key."""
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbf{}")

    assert read_text(tmp_path / "x") == "{}"


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_a_file_that_is_not_utf8_is_named_with_the_line_and_the_byte(tmp_path, start):
    """An export of Windows: the place can be found in an editor, and the command that converts it is given; as Latin-1 a euro sign would be lost."""
    (tmp_path / "old.csv").write_bytes(start + b"a\nb\ncaf\xe9")

    with pytest.raises(InputError, match=f"old.csv, line 3: not UTF-8: byte 0xe9 at offset {len(start) + 7}\n.*iconv -f CP1252"):
        read_text(tmp_path / "old.csv")


def test_a_file_in_utf16_gets_the_command_for_utf16(tmp_path):
    """Reading it as Latin-1 would give a text full of zero bytes."""
    (tmp_path / "x.csv").write_bytes("id,question".encode("utf-16"))

    with pytest.raises(InputError, match="iconv -f UTF-16 -t UTF-8 x.csv"):
        read_text(tmp_path / "x.csv")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    """What cannot be read is a clear error of one class."""
    with pytest.raises(InputError, match="none.txt: no such file"):
        read_text(tmp_path / "none.txt")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_text(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"x: not JSON: Expecting value \(column 1\)"),
        ('{"a": 1,\n "b": }', r"x: not JSON: Expecting value \(line 2, column 7\)"),
        ('{"a": NaN}', "x: not JSON: NaN is not JSON"),
        ('{"a": -Infinity}', "x: not JSON: -Infinity is not JSON"),
        ('{"a": 1, "b": 2, "a": 1}', "the key 'a' is there twice in one object"),
        ('[{"b": {"a": 1, "a": 2}}]', "the key 'a' is there twice in one object"),
        ("[" * 100_000, "x: nested too deeply"),
        ("9" * 5_000, "x: not JSON: Exceeds the limit"),
    ],
)
def test_what_is_no_json_is_refused_with_its_place(text, words):
    """NaN is read by no other program; of two equal keys one would win in silence; depth and length end in no traceback."""
    with pytest.raises(InputError, match=words):
        parse_json(text, where="x")


def test_the_same_key_in_two_objects_is_no_double():
    """Only one object with a key twice is ambiguous."""
    assert parse_json('[{"a": 1, "b": {"a": 2}}, {"a": 3}]', where="x") == [{"a": 1, "b": {"a": 2}}, {"a": 3}]


def test_lines_end_at_newlines_alone(tmp_path):
    """U+2028, U+0085 and form feed are characters of a text, though `str.splitlines` breaks there; blank lines and CRLF are nothing."""
    texts = ["a\u2028b", "c\u2029d", "e\x85f", "g"]
    file = tmp_path / "x.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(json.dumps({"t": one}, ensure_ascii=False) for one in texts).encode() + b"\r\n \r\n")

    assert list(read_json_lines(file)) == [(number, {"t": one}) for number, one in zip((1, 3, 5, 7), texts, strict=True)]


def test_a_broken_line_is_named_by_file_and_number(tmp_path):
    """Blank lines count: the number is the one an editor shows."""
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n\n{"a": \n')

    with pytest.raises(InputError, match=r"x.jsonl, line 3: not JSON: Expecting value \(column 7\)"):
        list(read_json_lines(tmp_path / "x.jsonl"))


def test_the_words_on_off_yes_and_no_are_words_in_yaml(tmp_path):
    """A charter is signed `on` a day: in YAML 1.1 that key would be `True`. Booleans are `true` and `false`."""
    (tmp_path / "x.yaml").write_text("on: 2026-11-23\nanswer: no\nwell: [true, FALSE, off]")

    assert read_yaml(tmp_path / "x.yaml") == {"on": datetime.date(2026, 11, 23), "answer": "no", "well": [True, False, "off"]}


@pytest.mark.parametrize("text", ["0400", "1:30", "1_000", "0x1F", "0b11", "08", "-0o7", "1:30.5", "on"])
def test_what_looks_like_another_number_than_it_is_stays_a_text_in_yaml(tmp_path, text):
    """YAML 1.1 reads 0400 as 256 and 1:30 as 90: as a text it is refused where a number belongs, never another number."""
    (tmp_path / "x.yaml").write_text(f"a: {text}")

    assert read_yaml(tmp_path / "x.yaml") == {"a": text}


def test_decimal_numbers_are_numbers_in_yaml(tmp_path):
    """Source: the core schema of YAML 1.2.2, 10.3.2, without leading zeros, octal and hexadecimal."""
    (tmp_path / "x.yaml").write_text("[0, -7, +40, 0.80, -.5, 1., 1e-3, 2E+2, -.inf]".join(("a: ", "\n")))

    assert read_yaml(tmp_path / "x.yaml") == {"a": [0, -7, 40, 0.8, -0.5, 1.0, 0.001, 200.0, float("-inf")]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"x.yaml: expected `key: value` lines, found nothing"),
        ("- a", r"x.yaml: expected `key: value` lines, found list"),
        ("a: [1", r"x.yaml, line 1, column 6: not YAML"),
        ("a: 1\nb: {c: 1, c: 2}", "x.yaml, line 2, column 11: not YAML: the key 'c' is there twice"),
        ("on: 2026-02-30", "x.yaml: not YAML: day is out of range for month"),
        ("a: &x [*x]", "x.yaml, line 1, column 8: not YAML: an alias: write the value out"),
        ("a: &x 1\nb: {<<: *x}", "x.yaml, line 2, column 9: not YAML: an alias"),
        ("a: !!bool foo", "x.yaml: not YAML: a value does not fit its tag"),
        ("a: !!timestamp foo", "x.yaml: not YAML: a value does not fit its tag"),
        ("a: !!int foo", "x.yaml: not YAML: invalid literal"),
        ("a: " + "[" * 3_000, "x.yaml: nested too deeply"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: \x00", "special characters are not allowed"),
    ],
)
def test_what_is_no_yaml_mapping_is_refused_with_its_place(tmp_path, text, words):
    """A person wrote it by hand: every slip is an error with a place, never a traceback, and no code is run."""
    (tmp_path / "x.yaml").write_text(text)

    with pytest.raises(InputError, match=words):
        read_yaml(tmp_path / "x.yaml")


# --- writing


def test_a_written_file_holds_exactly_the_text_and_is_shared_like_any_other(tmp_path):
    """UTF-8, newlines as given, folders made, mode by the umask."""
    mask = os.umask(0o027)
    try:
        written = write_atomic(tmp_path / "deep" / "x.txt", "é\u2028\r\n")
    finally:
        os.umask(mask)

    assert written.read_bytes() == b"\xc3\xa9\xe2\x80\xa8\r\n"
    assert stat.S_IMODE(written.stat().st_mode) == 0o640
    assert [one.name for one in written.parent.iterdir()] == ["x.txt"]


def test_a_link_that_is_written_stays_a_link(tmp_path):
    """Cases that several POCs share are written where they are, not replaced by a copy."""
    (tmp_path / "shared.jsonl").write_text("old")
    (tmp_path / "poc").mkdir()
    link = tmp_path / "poc" / "cases.jsonl"
    link.symlink_to("../shared.jsonl")
    write_atomic(link, "new")

    assert link.is_symlink()
    assert (tmp_path / "shared.jsonl").read_text() == "new"


def test_a_file_that_only_its_owner_may_read_stays_so(tmp_path):
    """Freezing cases with personal data must not open them to everybody on the machine."""
    file = tmp_path / "cases.jsonl"
    file.write_text("old")
    file.chmod(0o600)
    write_atomic(file, "new")

    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("new", 0o600)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    """A write that fails half way loses nothing. (A limit of 100 bytes per file stands in for the disk.)"""
    file = tmp_path / "cases.jsonl"
    file.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(StoreError, match="cases.jsonl: cannot be written: File too large\n  fix: make .* writable"):
            write_atomic(file, "n" * 1_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "free some space" in unwritable(file, OSError(errno.ENOSPC, "No space left on device"), "make it writable").fix

    assert file.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["cases.jsonl"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    """A file where a folder should be, and a folder where the file should be."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()

    with pytest.raises(StoreError, match="file/x.txt: cannot be written"):
        write_atomic(tmp_path / "file" / "x.txt", "")
    with pytest.raises(StoreError, match="folder: cannot be written: Is a directory"):
        write_atomic(tmp_path / "folder", "")
    with pytest.raises(StoreError, match="cannot be written: Not a directory\n  fix: make .* writable, or copy the POC elsewhere"):
        work_folder(tmp_path / "file", "index")
    assert list((tmp_path / "folder").iterdir()) == []


def test_half_a_character_does_not_lose_a_report(tmp_path):
    """A lone surrogate in an error text cannot be UTF-8; it is written as JSON writes it, and read back the same."""
    file = write_atomic(tmp_path / "x.json", json.dumps({"error": "\ud800!"}, ensure_ascii=False))

    assert read_json(file) == {"error": "\ud800!"}


def test_the_work_folder_is_made_inside_the_poc(tmp_path):
    """Everything that git ignores lies in one folder, and trying whether it can be written leaves nothing behind."""
    folder = work_folder(tmp_path, "a", "b")

    assert folder == tmp_path / WORK / "a" / "b"
    assert list(folder.iterdir()) == []


# --- digests


def test_a_digest_is_the_sha256_that_everybody_computes():
    """Source: the SHA-256 of the empty text and of "abc" (FIPS 180-4 test vectors)."""
    assert digest("") == digest(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_one_value_has_one_json_text():
    """Worked by hand: keys sorted, no spaces, characters as they are."""
    assert canonical({"b": [1, 2.5, None], "a": "é\n"}) == '{"a":"é\\n","b":[1,2.5,null]}'


def test_what_json_does_not_have_has_no_digest():
    """Nothing is digested as something that it is not."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"a": float("nan")})
    with pytest.raises(TypeError, match="date is not JSON serializable"):
        digest({"a": datetime.date(2026, 11, 23)})


@given(ANY_JSON, st.randoms())
def test_the_order_of_keys_does_not_change_a_digest(value, random):
    """Two people write the same line in another order."""

    def shuffled(one):
        if isinstance(one, dict):
            keys = list(one)
            random.shuffle(keys)
            return {key: shuffled(one[key]) for key in keys}
        return [shuffled(item) for item in one] if isinstance(one, list) else one

    assert digest(shuffled(value)) == digest(value)


@given(ANY_JSON)
def test_every_json_value_is_accepted_and_comes_back_from_its_text(value):
    """What is accepted can be written and read again, equal."""
    check_json(value, where="x")

    assert parse_json(canonical(value), where="x") == value


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (float("nan"), "float"),
        (float("-inf"), "float"),
        ((1, 2), "tuple"),
        ({1, 2}, "set"),
        (datetime.date(2026, 11, 23), "date"),
        (b"x", "bytes"),
        ({1: "x"}, "dict"),
        (1j, "complex"),
    ],
)
def test_a_value_that_json_would_change_in_silence_is_named(value, kind):
    """A tuple comes back as a list, a key 1 as "1": the digest of what was read would not be that of what was written."""
    with pytest.raises(InputError, match=rf"version 'v': p\.deep: .*\({kind}\) is not a JSON value"):
        check_json({"deep": [value]}, where="version 'v': p")


@pytest.mark.parametrize("value", ["ab\ud800", ["\udfff"], {"\ud800": 1}])
def test_half_a_character_is_no_text(value):
    """JSON can spell a lone surrogate, UTF-8, SQLite and HTTP cannot: it is refused before it gets there."""
    with pytest.raises(InputError, match=r"case 'q1': half a character in '(ab)?\\ud[8f][0f][0f]'"):
        check_json(value, where="case 'q1'")


def test_whole_characters_outside_the_basic_plane_are_text():
    """The two escapes of an emoji are one character."""
    check_json(parse_json('"\\ud83d\\ude00"', where="x"), where="x")


def test_the_depth_of_a_value_has_a_limit_that_python_can_stand():
    """What passes can be digested and written from any depth of the stack; what does not is an error, no traceback."""
    check_json(nested(DEEPEST), where="x")

    for depth in (DEEPEST + 1, 100_000):
        with pytest.raises(InputError, match=f"nested more than {DEEPEST} levels deep"):
            check_json(nested(depth), where="x")
