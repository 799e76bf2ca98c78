import json

import pytest

from poclab.cases import Case, TestSet, lines
from poclab.errors import InputError
from poclab.imports import import_cases, import_questions


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def squad(*questions, version="v2.0", title="Normans", context="The Normans gave their name to Normandy."):
    paragraph = {"context": context, "qas": list(questions)}
    return json.dumps({"version": version, "data": [{"title": title, "paragraphs": [paragraph]}]})


# --- CSV


def test_a_csv_line_becomes_a_case(tmp_path):
    """Every documented column goes where it belongs; an empty cell is nothing."""
    path = write(
        tmp_path,
        "x.csv",
        "id,question,answers,evidence,abstain,tag:kind,tag:level,split,cluster,rubric,by,on,source\n"
        "a1,What is it?,one | two |,a phrase|another,,lookup,,dev,c1,be kind,Ada,2026-11-23,manual\n"
        "a2,And that?,,,yes,,hard,,,,,,\n",
    )

    assert import_cases(path).cases == (
        Case(
            "a1",
            {"question": "What is it?"},
            {"answers": ["one", "two"], "evidence": ["a phrase", "another"]},
            {"kind": "lookup"},
            "dev",
            "c1",
            "be kind",
            {"by": "Ada", "on": "2026-11-23", "source": "manual"},
        ),
        Case("a2", {"question": "And that?"}, {"abstain": True}, {"level": "hard"}),
    )


def test_quotes_commas_and_newlines_in_a_csv_cell_are_text(tmp_path):
    """As Excel writes it: byte order mark, CRLF between the lines, quotes doubled, a line break inside a cell."""
    path = write(tmp_path, "X.CSV", b'\xef\xbb\xbfid,question,answers\r\na,"Say ""hi"",\r\nplease",h\xc3\xa9\r\n\r\n,,\r\nb,Next?,x\r\n')
    cases = import_cases(path).cases

    assert [(one.id, one.inputs["question"], one.expected["answers"]) for one in cases] == [
        ("a", 'Say "hi",\r\nplease', ["hé"]),
        ("b", "Next?", ["x"]),
    ]


def test_other_inputs_than_a_question_have_columns_of_their_own(tmp_path):
    """A system may take several inputs, under the names that it uses."""
    path = write(tmp_path, "x.csv", "input:title,input:body,answers\nHello,,greeting\n")

    assert import_cases(path).cases[0].inputs == {"title": "Hello", "body": ""}


def test_a_case_without_an_id_is_named_by_its_line(tmp_path):
    """The first case of a CSV file is q001."""
    path = write(tmp_path, "x.csv", "question,answers\nA?,a\nB?,b\n")

    assert [one.id for one in import_cases(path)] == ["q001", "q002"]


@pytest.mark.parametrize("word", ["true", "TRUE", "yes", "1", "x", " X "])
def test_a_mark_for_abstaining_may_be_written_in_several_ways(tmp_path, word):
    """Spreadsheets write TRUE, people write x."""
    assert import_cases(write(tmp_path, "x.csv", f"question,abstain\nA?,{word}\n")).cases[0].expected == {"abstain": True}


@pytest.mark.parametrize("word", ["false", "No", "0", ""])
def test_no_mark_for_abstaining_may_be_written_in_several_ways(tmp_path, word):
    """It is the same as leaving it out."""
    assert import_cases(write(tmp_path, "x.csv", f"question,answers,abstain\nA?,a,{word}\n")).cases[0].expected == {"answers": ["a"]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "x.csv: no cases in it"),
        ("id,question\n", "x.csv: no cases in it"),
        ("id,question,answers\na,What, now?,b\n", "x.csv, line 2: 4 cells under 3 columns\n  fix: quote a cell that holds a comma"),
        ("id,question,answers\na,A?,b\nc,B?\n", "x.csv, line 3: 2 cells under 3 columns"),
        ("answers\na\n", "x.csv, line 1: no column 'question'\n  fix: add it"),
        ("id,question,awnsers\na,A?,b\n", r"x.csv, line 1: unknown column 'awnsers'\n  fix: did you mean 'answers'\?"),
        ("id;question;answers\na;A?;b\n", "x.csv, line 1: the file is separated by ';'\n  fix: save it as CSV with commas"),
        ("sep=;\nid;question;answers\na;A?;b\n", "x.csv, line 1: the file is separated by ';'"),
        ("id\tquestion\tanswers\na\tA?\tb\n", r"x.csv, line 1: the file is separated by '\\t'"),
        ("id,question,answers,,\na,A?,b,,\n", "x.csv, line 1: column 4 has no name\n  fix: name it, or remove it"),
        ("id,question,input:question,answers\na,A?,B?,b\n", "x.csv, line 1: 'question' and 'input:question' are the same input"),
        ("id,question,answers,answers\na,A?,b,c\n", "x.csv: two columns are named 'answers'"),
        ('id,question,answers\na,"A"?,b\n', "x.csv, line 2: not CSV: "),
        ('id,question,answers\na,"A?,b\n', "x.csv, line 2: not CSV: unexpected end of data"),
        ("question,abstain\nA?,maybe\n", "x.csv, line 2: abstain is 'maybe'\n  fix: use true or false"),
        ("id,question,answers\na, ,b\n", "x.csv, line 2, case 'a': no inputs"),
        ("id,question,answers,split\na,A?,b,train\n", "x.csv, line 2, case 'a': split 'train'"),
        ("id,question,answers\na,A?,b\na,B?,c\n", "x.csv: two cases have the id 'a'"),
        ("id,question\na," + "x" * 200_000, "x.csv, line 2: not CSV: field larger than field limit"),
    ],
)
def test_a_csv_file_that_cannot_be_understood_is_refused_with_its_line(tmp_path, text, words):
    """Nothing is guessed: a shifted cell or a misspelt column would become a wrong label."""
    with pytest.raises(InputError, match=words):
        import_cases(write(tmp_path, "x.csv", text))


# --- JSONL


def test_jsonl_lines_may_be_flat_or_whole_cases(tmp_path):
    """Both describe the same case."""
    flat = {"id": "a", "question": "A?", "answers": ["x", "y"], "tag:kind": "lookup", "source": "manual"}
    whole = {
        "id": "b",
        "inputs": {"question": "B?"},
        "expected": {"answers": ["x", "y"]},
        "tags": {"kind": "lookup"},
        "label": {"source": "manual"},
    }
    one, other = import_cases(write(tmp_path, "x.jsonl", f"{json.dumps(flat)}\n\n{json.dumps(whole)}\n"))

    assert (one.expected, one.tags, one.label) == (other.expected, other.tags, other.label)
    assert (one.inputs, other.inputs) == ({"question": "A?"}, {"question": "B?"})


def test_numbers_and_booleans_in_flat_jsonl_are_not_lost(tmp_path):
    """A level 0 is a tag as any other; texts in a list are taken as they are, with their bars."""
    line = {"id": 0, "question": "A?", "answers": ["a|b"], "tag:level": 0, "tag:hard": False, "abstain": False, "cluster": None}

    assert import_cases(write(tmp_path, "x.jsonl", json.dumps(line))).cases == (
        Case("0", {"question": "A?"}, {"answers": ["a|b"]}, {"level": "0", "hard": "False"}),
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id": "a", "question": "A?"', "x.jsonl, line 2: not JSON"),
        ('["a"]', "x.jsonl, line 2: expected a JSON object, found list"),
        ('{"id": "a", "question": "A?", "answer": "b"}', r"x.jsonl, line 2: unknown column 'answer'\n  fix: did you mean 'answers'\?"),
        ('{"id": "a", "question": "A?", "answers": 0}', "x.jsonl, line 2, case 'a': expected.answers is a list of texts"),
        (
            '{"id": "a", "inputs": {"question": "A?"}, "expeced": {}}',
            r"x.jsonl, line 2: unknown key 'expeced'\n  fix: did you mean 'expected'\?",
        ),
        ('{"id": "a", "question": "A\\ud800?", "answers": "b"}', "x.jsonl, line 2, case 'a'.inputs.question: half a character"),
        ('{"id": "a", "question": "A?", "answers": "b", "id": "c"}', "x.jsonl, line 2: not JSON: the key 'id' is there twice"),
    ],
)
def test_a_jsonl_line_that_is_no_case_is_refused_with_its_number(tmp_path, line, words):
    """File, line and the nearest valid name."""
    with pytest.raises(InputError, match=words):
        import_cases(write(tmp_path, "x.jsonl", '{"id": "first", "question": "?!", "answers": "x"}\n' + line))


# --- SQuAD


def test_squad_1_questions_become_cases(tmp_path):
    """Version 1.1: several annotators' answers, each once; the paragraph is an input, since the question is about it."""
    answers = [
        {"text": "Normandy", "answer_start": 31},
        {"text": "Normandy", "answer_start": 31},
        {"text": "to Normandy", "answer_start": 28},
    ]
    path = write(tmp_path, "dev-v1.1.json", squad({"id": "56", "question": "What got its name?", "answers": answers}, version="1.1"))

    assert import_cases(path).cases == (
        Case(
            "56",
            {"question": "What got its name?", "context": "The Normans gave their name to Normandy."},
            {"answers": ["Normandy", "to Normandy"]},
            label={"source": "SQuAD: Normans"},
        ),
    )


def test_an_impossible_question_of_squad_2_expects_to_abstain(tmp_path):
    """Version 2.0: plausible answers are wrong ones, and never become labels."""
    path = write(
        tmp_path,
        "dev-v2.0.json",
        squad(
            {"id": "1", "question": "Who?", "answers": [{"text": "The Normans", "answer_start": 0}], "is_impossible": False},
            {
                "id": "2",
                "question": "Who left?",
                "answers": [],
                "plausible_answers": [{"text": "The Normans", "answer_start": 0}],
                "is_impossible": True,
            },
        ),
    )

    assert [dict(one.expected) for one in import_cases(path)] == [{"answers": ["The Normans"]}, {"abstain": True}]


def test_a_squad_question_without_an_answer_is_not_taken_for_an_impossible_one(tmp_path):
    """A file without labels says nothing about what is right: freezing asks for it."""
    (case,) = import_cases(write(tmp_path, "x.json", squad({"id": "1", "question": "Who?", "answers": []})))

    assert (case.expected, case.abstain) == ({"answers": []}, False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "x.json: not SQuAD format: .*\n  fix: expected data -> paragraphs -> qas"),
        ('{"data": {"a": 1}}', "not SQuAD format"),
        ('{"data": [{"paragraphs": [{"context": "c", "qas": [{"question": "Q?"}]}]}]}', "not SQuAD format: KeyError.'id'"),
        ('{"data": 7}', "not SQuAD format"),
        ('{"data": []}', "x.json: no cases in it"),
        ('{"data": [', "x.json: not JSON"),
        (
            squad({"id": "7", "question": "Q?", "is_impossible": "false"}),
            "x.json: question '7': is_impossible is 'false'\n  fix: use true or",
        ),
        (squad({"id": 7, "question": "Q?", "answers": []}), "x.json: a case needs an id .a text., found 7"),
        (
            squad({"id": "7", "question": "Q?", "answers": [{"text": ""}]}),
            "x.json, case '7': expected.answers is a list of texts, none of them empty",
        ),
    ],
)
def test_a_json_file_that_is_not_squad_is_refused(tmp_path, text, words):
    """The shape that was expected is named."""
    with pytest.raises(InputError, match=words):
        import_cases(write(tmp_path, "x.json", text))


# --- all


@pytest.mark.parametrize(("name", "kind"), [("x.xlsx", ".xlsx"), ("cases", "nameless")])
def test_another_kind_of_file_is_refused_with_the_kinds_that_are_read(tmp_path, name, kind):
    """A spreadsheet has to be saved as CSV first."""
    with pytest.raises(InputError, match=f"cannot import a {kind} file\n  fix: use .csv, .jsonl, or SQuAD-format .json"):
        import_cases(write(tmp_path, name, "x"))


def test_imported_cases_are_the_same_when_written_and_read(tmp_path):
    """What an import makes is an ordinary case file."""
    imported = import_cases(write(tmp_path, "x.csv", "id,question,answers,tag:a\nq,Wo\u2028 hin?,é|x,1\n"))
    written = TestSet.read(write(tmp_path, "cases.jsonl", lines(imported)))

    assert not imported.difference(written)
    assert imported.lock is None


# --- questions


def test_questions_are_read_from_a_folder_of_texts(tmp_path):
    """A text file holds one a line, a Markdown file is one; sorted by path, without what an editor hides there or another program left."""
    (tmp_path / "more").mkdir()
    (tmp_path / ".ipynb_checkpoints").mkdir()
    write(tmp_path, "b.txt", "Do cats purr?\r\n\n  Do owls sing?\n")
    write(tmp_path / "more", "A.MD", "# Storks\n\nWhere do they nest?\n")
    write(tmp_path / ".ipynb_checkpoints", "b.txt", "Do cats purr?\n")
    write(tmp_path, "notes.pdf", "x")

    assert [(one.inputs["question"], one.label) for one in import_questions(tmp_path)] == [
        ("Do cats purr?", {"source": "b.txt"}),
        ("Do owls sing?", {"source": "b.txt"}),
        ("# Storks\n\nWhere do they nest?", {"source": "A.MD"}),
    ]


def test_questions_are_read_from_one_file(tmp_path):
    """Of text, or of cases."""
    assert [one.inputs["question"] for one in import_questions(write(tmp_path, "a.txt", "A?\nB?"))] == ["A?", "B?"]
    assert [one.id for one in import_questions(write(tmp_path, "a.csv", "question\nA?\n"))] == ["q001"]


def test_a_folder_without_questions_is_refused(tmp_path):
    """It may be another one that was meant."""
    write(tmp_path, "a.txt", "\n \n")
    with pytest.raises(InputError, match="no question in it\n  fix: write one question a line of a .txt file"):
        import_questions(tmp_path)
