import datetime
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poclab.cases import Case, Difference, Lock, TestSet, difference, lines, lock_path
from poclab.errors import FrozenError, InputError
from poclab.files import digest
from poclab.freezing import freeze

FIRST = {"id": "q1", "inputs": {"question": "Who?"}, "expected": {"answers": ["Ada"], "evidence": ["was Ada"]}, "tags": {"kind": "lookup"}}
SECOND = {"id": "q2", "inputs": {"question": "When?"}, "expected": {"abstain": True}}
WHOLE = {**FIRST, "split": "dev", "cluster": "who", "rubric": "be kind", "label": {"by": "Ada", "on": "2026-11-23"}}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


def write(folder, *cases):
    path = folder / "cases.jsonl"
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in cases), encoding="utf-8")
    return path


@pytest.fixture
def frozen(tmp_path):
    path = write(tmp_path, {**FIRST, "split": "dev"}, {**SECOND, "split": "test"})
    freeze(path)
    return path


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


# --- reading


@pytest.mark.parametrize("content", ["", "\n \r\n\n", "\ufeff"])
def test_an_empty_file_is_refused(tmp_path, content):
    """A score over no cases is no score; the form of a line is shown."""
    with pytest.raises(InputError, match=r'cases.jsonl: no cases\n  fix: write one JSON object a line: {"id": "q001"'):
        TestSet.read(write(tmp_path, content))


def test_a_file_that_is_not_there_yet_is_to_be_written(tmp_path):
    """That is how a POC of one's own documents begins; it may be a misspelt path as well."""
    with pytest.raises(InputError, match=r'cases.jsonl: no such file\n  fix: check the path, or write your cases .* a line: {"id": "q001"'):
        TestSet.load(tmp_path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id": "q2"', r"cases.jsonl, line 3: not JSON: Expecting ',' delimiter \(column 12\)"),
        ("{'id': 'q2'}", "cases.jsonl, line 3: not JSON: Expecting property name"),
        ('["q2"]', "cases.jsonl, line 3: expected a JSON object, found list"),
        ({"inputs": {"question": "A?"}}, 'cases.jsonl, line 3: a case needs an id .a text., found None\n  fix: add "id": "q001"'),
        ({**SECOND, "id": 2}, "a case needs an id .a text., found 2"),
        ({**SECOND, "id": " "}, "a case needs an id .a text., found ' '"),
        ({**SECOND, "expeted": {}}, r"cases.jsonl, line 3: unknown key 'expeted'\n  fix: did you mean 'expected'\?"),
        ({**SECOND, "expected": {"answer": ["x"]}}, r"line 3, case 'q2', expected: unknown key 'answer'\n  fix: did you mean 'answers'\?"),
        ({"id": "q2"}, "cases.jsonl, line 3, case 'q2': no inputs\n  fix: add \"inputs\""),
        ({**SECOND, "inputs": None}, "case 'q2': no inputs"),
        ({**SECOND, "inputs": {"question": " "}}, "case 'q2': no inputs"),
        ({**SECOND, "inputs": "A?"}, "case 'q2': 'inputs' is an object such as .*, found 'A\\?'"),
        ({**SECOND, "expected": ["x"]}, "'expected' is an object such as"),
        ({**SECOND, "expected": {"answers": "x"}}, "expected.answers is a list of texts, none of them empty, found 'x'"),
        ({**SECOND, "expected": {"answers": ["x", " "]}}, "expected.answers is a list of texts, none of them empty"),
        ({**SECOND, "expected": {"answers": None}}, "expected.answers is a list of texts, none of them empty, found None"),
        ({**SECOND, "expected": {"evidence": [7]}}, "expected.evidence is a list of texts"),
        ({**SECOND, "expected": {"abstain": "yes"}}, "expected.abstain is a bool, found 'yes'"),
        ({**SECOND, "expected": {"data": []}}, "expected.data is a dict"),
        ({**SECOND, "expected": {"effects": {}}}, "expected.effects is a list"),
        ({**SECOND, "tags": {"level": 1}}, "tags.level is a text, found 1"),
        ({**SECOND, "tags": ["a"]}, "'tags' is an object of texts"),
        ({**SECOND, "label": {"by": None}}, "label.by is a text, found None"),
        ({**SECOND, "split": "train"}, "split 'train'\n  fix: use 'dev' or 'test'"),
        ({**SECOND, "cluster": 7}, "'cluster' is a text, found 7"),
        ('{"id": "q2", "inputs": {"x": NaN}}', "cases.jsonl, line 3: not JSON: NaN"),
        ('{"id": "q2", "inputs": {"x": 1e999}}', r"line 3, case 'q2'.inputs.x: inf \(float\) is not a JSON value"),
        ('{"id": "q2", "inputs": {"x": "\\ud800"}}', "line 3, case 'q2'.inputs.x: half a character"),
        ('{"id": "q2", "inputs": {"x": "1"}, "inputs": {"x": "2"}}', "line 3: not JSON: the key 'inputs' is there twice"),
        ('{"id": "q2", "inputs": {"x": ' + "[" * 500 + "]" * 500 + "}}", "line 3, case 'q2'.inputs.x .*: nested more than 100 levels deep"),
        ('{"id": "q2", "inputs": ' + "[" * 100_000, "line 3: nested too deeply"),
        (FIRST, "cases.jsonl: two cases have the id 'q1'\n  fix: give each its own id"),
    ],
)
def test_a_line_that_is_no_case_is_refused_with_its_number(tmp_path, line, words):
    """File, line, case, what was found, and what to type: an editor is one step away."""
    with pytest.raises(InputError, match=words):
        TestSet.read(write(tmp_path, FIRST, "", line))


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    """With the line of the first wrong byte, and the command that converts it."""
    (tmp_path / "cases.jsonl").write_bytes(json.dumps(FIRST).encode() + b'\n{"id": "caf\xe9"}')

    with pytest.raises(InputError, match="cases.jsonl, line 2: not UTF-8: byte 0xe9"):
        TestSet.read(tmp_path / "cases.jsonl")


def test_files_of_other_editors_hold_the_same_cases(tmp_path):
    """CRLF, a byte order mark, blank lines and keys in another order change no digest."""
    plain = TestSet.read(write(tmp_path, FIRST, SECOND))
    other = tmp_path / "other.jsonl"
    turned = [dict(reversed(one.items())) for one in (FIRST, SECOND)]
    other.write_bytes(b"\xef\xbb\xbf" + b"\r\n\r\n".join(json.dumps(one, indent=None).encode() for one in turned))

    assert not plain.difference(TestSet.read(other))


def test_a_line_of_ten_megabytes_is_a_case(tmp_path):
    """A whole contract may be an input."""
    path = write(tmp_path, {**FIRST, "inputs": {"contract": "x" * 10_000_000}})

    assert len(TestSet.read(path).cases[0].inputs["contract"]) == 10_000_000


def test_huge_numbers_are_kept_to_the_last_digit(tmp_path):
    """An id of 40 digits as a number, and a float at the edge of its range."""
    numbers = {"big": 10**40 + 1, "negative": -(10**300), "float": 1.7976931348623157e308, "tiny": 5e-324}
    (case,) = TestSet.read(write(tmp_path, {**SECOND, "inputs": numbers}))
    (again,) = TestSet.read(write(tmp_path, json.dumps(case.to_json())))

    assert case.inputs == again.inputs == numbers
    assert case.digest == again.digest


# --- cases


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"question": float("nan")}, {}),
        ({"question": (1, 2)}, {}),
        ({"on": datetime.date(2026, 11, 23)}, {}),
        ({"question": "A?"}, {"answers": "Ada"}),
        ({"question": "A?"}, {"answers": ("Ada",)}),
        ({"question": "A?"}, {"anwsers": ["Ada"]}),
        ({}, {"answers": ["Ada"]}),
        (None, {}),
    ],
)
def test_a_case_made_in_a_notebook_is_checked_like_one_from_a_file(inputs, expected):
    """`answers="Ada"` would be three accepted answers of one letter each; a tuple would come back from the report as a list."""
    with pytest.raises(InputError, match="^case 'q1'"):
        Case("q1", inputs, expected)


def test_the_digest_of_a_case_covers_everything_in_its_line():
    """Whatever is edited is noticed: every key, every nested value, the type of a number, an added or removed key."""
    changed = [
        {**WHOLE, "id": "q3"},
        {**WHOLE, "inputs": {"question": "Who? "}},
        {**WHOLE, "inputs": {"question": "Who?", "more": None}},
        {**WHOLE, "expected": {"answers": ["ada"], "evidence": ["was Ada"]}},
        {**WHOLE, "expected": {"answers": ["Ada"], "evidence": ["Ada was"]}},
        {**WHOLE, "expected": {**WHOLE["expected"], "abstain": False}},
        {**WHOLE, "expected": {**WHOLE["expected"], "data": {"n": 1}}},
        {**WHOLE, "expected": {**WHOLE["expected"], "data": {"n": 1.0}}},
        {**WHOLE, "expected": {**WHOLE["expected"], "data": {"n": True}}},
        {**WHOLE, "tags": {"kind": "look up"}},
        {**WHOLE, "split": "test"},
        {**WHOLE, "cluster": "what"},
        {**WHOLE, "rubric": "be brief"},
        {**WHOLE, "label": {"by": "Ada", "on": "2026-11-24"}},
        *({name: value for name, value in WHOLE.items() if name != key} for key in WHOLE if key not in ("id", "inputs")),
    ]
    digests = [Case.from_json(one, where="x").digest for one in (WHOLE, *changed)]

    assert len(set(digests)) == len(digests) == 1 + 14 + 6


@given(
    st.fixed_dictionaries(
        {"id": TEXT, "inputs": st.dictionaries(TEXT, TEXT | st.integers() | st.lists(TEXT), min_size=1)},
        optional={
            "expected": st.fixed_dictionaries({}, optional={"answers": st.lists(TEXT), "abstain": st.booleans()}),
            "tags": st.dictionaries(TEXT, TEXT),
            "split": st.sampled_from(["dev", "test"]),
            "cluster": TEXT,
            "rubric": TEXT,
            "label": st.dictionaries(TEXT, TEXT),
        },
    ),
    st.randoms(),
)
def test_a_case_is_the_same_when_written_and_read_in_any_order_of_keys(data, random):
    """Freezing rewrites the file: no character of a label may change, line separators of other alphabets included."""
    case = Case.from_json(data, where="x")
    (line,) = lines([case]).split("\n")[:-1]
    keys = list(data)
    random.shuffle(keys)

    assert Case.from_json(json.loads(line), where="x") == case
    assert Case.from_json(json.loads(line), where="x").digest == case.digest
    assert Case.from_json({key: data[key] for key in keys}, where="x").digest == case.digest


def test_a_written_line_has_its_keys_in_the_order_that_a_person_reads():
    """The id first, then what is asked, then what is expected; letters of all alphabets as they are."""
    case = Case("q1", {"question": "Wé?"}, {"abstain": True}, split="dev", tags={"kind": "x"})

    expected = '{"id": "q1", "inputs": {"question": "Wé?"}, "expected": {"abstain": true}, "tags": {"kind": "x"}, "split": "dev"}\n'
    assert lines([case]) == expected


# --- the lock


def test_a_frozen_set_loads_with_its_lock(frozen):
    """Its digest is that of all its cases, also for a part of it."""
    test_set = TestSet.load(frozen)

    assert len(test_set) == 2
    assert test_set.digest == test_set.split("dev").digest == digest({case.id: case.digest for case in test_set})
    assert (test_set.lock.edition, test_set.lock.lineage) == (1, ())


def test_an_edited_label_is_refused_by_name(frozen):
    """A score on a set that moved compares with nothing; both ways on are named."""
    edit(frozen, "Ada", "Eve")

    with pytest.raises(
        FrozenError,
        match="cases.jsonl: changed after it was frozen as edition 1: 1 changed: q1\n"
        rf"  fix: put the old lines back \(`git checkout {frozen}`\), or `poclab freeze --new-edition` to start edition 2",
    ):
        TestSet.load(frozen)


def test_added_and_removed_cases_are_refused_by_name(frozen):
    """Dropping the hard cases is a change as any other."""
    edit(frozen, '"id": "q1"', '"id": "q9"')

    with pytest.raises(FrozenError, match="1 added: q9; 1 removed: q1"):
        TestSet.load(frozen)


def test_lines_in_another_order_are_the_same_set(frozen):
    """A sorted file, or one that another editor saved, is not an edited one."""
    before = TestSet.load(frozen).digest
    frozen.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(reversed(frozen.read_bytes().splitlines())))

    assert TestSet.load(frozen).digest == before


def test_a_set_without_a_lock_is_not_frozen(tmp_path):
    """What to type is one command."""
    with pytest.raises(FrozenError, match="cases.jsonl: not frozen: there is no cases.lock.json\n  fix: `poclab freeze`"):
        TestSet.load(write(tmp_path, FIRST))
    with pytest.raises(FrozenError, match="this test set was never frozen\n  fix: `poclab freeze`"):
        TestSet.read(tmp_path / "cases.jsonl").verify()


def test_a_lost_lock_is_to_be_put_back(frozen):
    """Freezing again would begin at edition 1 and take every edit for the truth: the marks in the cases tell that there was one."""
    lock_path(frozen).unlink()

    with pytest.raises(FrozenError, match=r"fix: if it was frozen, put cases.lock.json back \(`git checkout /.*\); .* `poclab freeze`$"):
        TestSet.load(frozen)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        b"\xff\xfe\x00",
        b"<<<<<<< HEAD\n{}",
        b"[]",
        b"7",
        b"null",
        b"{}",
        b'{"cases": {}}',
        b'{"edition": 1, "digest": "x", "frozen_on": "x", "corpus_digest": null, "cases": [], "lineage": []}',
        b'{"edition": 1, "digest": "x", "frozen_on": "x", "corpus_digest": null, "cases": {"q1": 7}, "lineage": 7}',
        b"[" * 100_000,
        b'{"edition": ' + b"[" * 900 + b"]" * 900 + b"}",
    ],
)
def test_a_lock_that_is_no_lock_is_refused(frozen, content):
    """A merge conflict, an empty file, another tool's file: neither loading nor freezing takes it for no lock at all."""
    lock_path(frozen).write_bytes(content)

    for use in (TestSet.load, freeze):
        with pytest.raises(
            FrozenError, match="cases.lock.json: not a lock that poclab wrote, or edited since\n  fix: put the old file back"
        ):
            use(frozen)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"edition": 1', '"edition": 2'),
        ('"frozen_on": "2', '"frozen_on": "3'),
        ('"corpus_digest": null', '"corpus_digest": "x"'),
        ('"split": "test"', '"split": "dev"'),
        ('"inputs": "', '"inputs": "0'),
        ('"lineage": []', '"lineage": [{}]'),
        ('"q1": {', '"q7": {'),
        ('"edition": 1', '"edition": 1, "note": "x"'),
        ('"edition": 1', '"edition": 1.0'),
        ('"edition": 1', '"edition": true'),
    ],
)
def test_an_edit_anywhere_in_the_lock_is_refused(frozen, old, new):
    """The split that a case keeps for ever, and the editions before, are as frozen as the labels."""
    edit(lock_path(frozen), old, new)

    with pytest.raises(FrozenError, match="not a lock that poclab wrote, or edited since"):
        TestSet.load(frozen)


def test_editing_case_and_lock_together_is_refused(frozen):
    """Pasting the new digest of one case into the lock is not freezing: the set's digest and the seal are still the old ones."""
    old = TestSet.load(frozen).cases[0].digest
    edit(frozen, "Ada", "Eve")
    edit(lock_path(frozen), old, TestSet.read(frozen).cases[0].digest)

    with pytest.raises(FrozenError, match="edited since"):
        TestSet.load(frozen)


def test_a_lock_lies_beside_its_cases(tmp_path):
    """Two case files in one folder have two locks."""
    assert lock_path(tmp_path / "cases.jsonl") == tmp_path / "cases.lock.json"
    assert lock_path(tmp_path / "smoke.jsonl") == tmp_path / "smoke.lock.json"


def test_a_lock_comes_back_from_its_file(frozen):
    """Reading and writing a lock changes nothing in it."""
    lock = Lock.load(lock_path(frozen))

    assert lock.to_json() == json.loads(lock_path(frozen).read_text())


def test_a_set_stays_that_of_its_poc_when_the_process_goes_elsewhere(frozen, tmp_path, monkeypatch):
    """Its runs would be recorded in whatever folder a notebook had gone to."""
    monkeypatch.chdir(frozen.parent)
    test_set = TestSet.load("cases.jsonl")
    monkeypatch.chdir(tmp_path.parent)

    assert test_set.poc == test_set.split("dev").poc == frozen.parent
    assert TestSet.load(frozen.parent).cases == test_set.cases


# --- parts and differences


def test_a_split_holds_its_cases_and_verifies_by_itself(frozen):
    """The held-out cases are not missing from the part that is iterated on."""
    test_set = TestSet.load(frozen)

    assert [case.id for case in test_set.split("dev")] == ["q1"]
    assert [case.id for case in test_set.split("test")] == ["q2"]
    assert [case.id for case in test_set.split("all")] == ["q1", "q2"]
    for name in ("dev", "test", "all"):
        test_set.split(name).verify()


def test_a_split_that_lost_a_case_does_not_verify(frozen):
    """A part that was thinned out in memory is noticed."""
    test_set = TestSet.load(frozen)

    with pytest.raises(FrozenError, match="1 removed: q1"):
        TestSet((), test_set.lock, test_set.path, "dev").verify()


def test_a_split_that_is_not_there_is_refused(tmp_path):
    """A misspelt name, or a set that was not split yet, gives no empty score."""
    test_set = TestSet.read(write(tmp_path, FIRST))

    with pytest.raises(InputError, match="unknown split 'train'\n  fix: use 'dev', 'test' or 'all'"):
        test_set.split("train")
    with pytest.raises(InputError, match="no case has the split 'dev'\n  fix: `poclab freeze` assigns splits"):
        test_set.split("dev")


def test_two_cases_with_one_id_are_refused_in_memory():
    """Results are found by id."""
    with pytest.raises(InputError, match="test set: two cases have the id 'q1'"):
        TestSet([Case("q1", {"x": "a"}), Case("q1", {"x": "b"})])


def test_a_difference_names_what_was_added_removed_and_changed():
    """Worked by hand."""
    found = difference({"a": "1", "b": "2", "c": "3"}, {"b": "2", "c": "4", "e": "5", "d": "6"})

    assert found == Difference(added=("d", "e"), removed=("a",), changed=("c",))
    assert str(found) == "2 added: d, e; 1 removed: a; 1 changed: c"
    assert (str(Difference()), bool(Difference()), bool(found)) == ("no difference", False, True)


def test_a_long_difference_is_cut_after_twelve_ids():
    """The count stays true."""
    assert str(Difference(added=tuple(f"q{n:02d}" for n in range(13)))) == (
        "13 added: q00, q01, q02, q03, q04, q05, q06, q07, q08, q09, q10, q11 ..."
    )


def test_a_set_shows_itself_as_a_table(tmp_path):
    """One line a case, what is expected in words."""
    data = {"id": "q3", "inputs": {"text": "x"}, "expected": {"data": {"n": 1}}, "split": "dev"}
    rows = TestSet.read(write(tmp_path, WHOLE, SECOND, data)).rows()

    assert rows[0] == {"case": "q1", "question": "Who?", "expected": "Ada", "tag:kind": "lookup", "split": "dev", "cluster": "who"}
    assert [row["expected"] for row in rows] == ["Ada", "(abstain)", '{"n": 1}']


def test_a_set_says_what_it_is(frozen):
    """Name, size, part, edition and digest on one line."""
    test_set = TestSet.load(frozen)
    name = frozen.parent.name

    assert repr(test_set.split("dev")) == f"TestSet({name}, 1 cases, dev, edition 1, {test_set.digest[:12]})"
    assert repr(TestSet([Case("q1", {"x": "a"})])) == "TestSet(in_memory, 1 cases, not frozen)"


def test_an_id_cannot_drive_a_terminal(tmp_path):
    """Ids and folders are shown with control characters as escapes."""
    (tmp_path / "a\x1b[2J").mkdir()
    test_set = TestSet.read(write(tmp_path / "a\x1b[2J", FIRST))

    assert str(Difference(added=("q\x1b[31m1\n",))) == "1 added: q\\x1b[31m1\\n"
    assert repr(test_set) == "TestSet(a\\x1b[2J, 1 cases, not frozen)"


def test_equal_cases_are_one_in_a_set():
    """Two that are equal have one hash, or sets and dicts would keep both."""
    one, same, other = (Case(name, {"question": "?"}) for name in ("q1", "q1", "q2"))

    assert {one, same, other} == {one, other}
    assert len({one, same, other}) == 2
