"""The handoff folder: what it says, that it can be checked without a store, and that nothing in it can be changed unseen."""

import contextlib
import hashlib
import html.parser
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import poclab
from conftest import CHARTER, ENV_KEY, GIVEN_KEY, SIGNED, copy_poc
from poclab import files, freezing, handover, labels, scores
from poclab.archive import Archive
from poclab.cli import main
from poclab.errors import FrozenError, InputError
from poclab.handover.blocks import markdown, page
from poclab.handover.document import blocks
from poclab.handover.evidence import Evidence
from poclab.report import Report
from poclab.tracking import store, tracking_uri

SECTIONS = [
    "Who owns it",
    "Where the data came from",
    "What was built",
    "The production shape",
    "The test set",
    "Results",
    "Drill",
    "History",
    "Costs",
    "Latency",
    "Known limits",
    "What was tried",
    "How to reproduce it",
    "Next steps",
    "How to read it",
]
#: Markup, Markdown, a formula, a table's edge, a fence, a terminal's commands and a reading order, in one text.
HOSTILE = (
    "</td></pre><script>alert(1)</script><img src=https://evil.example/x onerror='alert(2)'> | a | b |\n\n# big\n"
    "- item\n1. one\n```\n~~~~\n![x](https://evil.example/y) [z](javascript:alert(3)) **bold** $x^2$ &amp; \\ \x1b[2J\u202e"
)


@pytest.fixture
def folder(decided, tmp_path):
    """A copy of a fresh handoff, in a place of its own."""
    return Path(shutil.copytree(decided.handoff.folder, tmp_path / "received"))


def _said(folder, name="handoff.md"):
    return (folder / name).read_text(encoding="utf-8")


def _sealed(folder):
    """Write the manifest again, as somebody would who hides a change."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "digests.json")
    named = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    (folder / "digests.json").write_text(json.dumps({"folder": files.digest(named), "files": named}))


def _edit(path, change):
    """Change the JSON of a file."""
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def _problems(folder):
    """Return the checks that do not hold, each with its message."""
    return {what: problem for what, problem in handover.verify(folder).checks if problem}


class TestTheDocument:
    def test_has_every_section(self, decided):
        """Whoever takes over finds owner, data, prompt, test set, results, history, costs, latency, limits and what was tried."""
        headings = re.findall(r"^## (.*)$", _said(decided.handoff.folder), re.M)
        page = re.findall(r"<h2>(.*?)</h2>", _said(decided.handoff.folder, "handoff.html"))

        assert headings == page == SECTIONS

    def test_begins_with_the_verdict_and_its_numbers(self, decided):
        """3 of 3 right is 0.439 to 1 by Wilson: 3 / (3 + 1.96^2) = 0.4385; a bound of 0.8 cannot be told from it."""
        first = _said(decided.handoff.folder).partition("## Who owns it")[0]

        assert "**not yet: Answer questions about animals from five short pages, or do not.**" in first
        assert re.search(
            r"accuracy &gt;= 0.8 on test \(95% confidence\) by contains \| 1\.000 \(0\.439 to 1\.000\) \| 3 \| cannot tell", first
        )
        assert decided.run_id in first
        assert "signed by Grace Example on 2026-11-23 (minutes of the kick-off)" in first
        assert "What was unknown: Whether retrieval finds the sentence." in first

    def test_names_what_is_not_known(self, decided):
        """A blank would read as nothing to say."""
        text = _said(decided.handoff.folder)

        assert "Volume: not known." in text
        assert "Per month: not known, since the charter names no volume." in text
        assert "| agreement on personal data | not known: the charter names none |" in text
        assert "| source | not known |" in text
        assert "| labelled by | not known (11) |" in text
        assert "| second labels | none: nobody labelled these cases a second time, so how far two people agree is not known |" in text
        assert "| commit | not known: not in a git repository |" in text
        for step in ("Name the production shape", "Name the volume a month", "Settle whether there are personal data"):
            assert step in text.partition("## Next steps")[2]

    def test_holds_the_prompt_to_the_letter(self, decided):
        """It is what was built."""
        prompt = (decided.poc / "prompts/abstain.md").read_text().rstrip("\n")

        assert f"```text\n{prompt}\n```" in _said(decided.handoff.folder)

    def test_is_made_of_the_evidence_alone(self, folder):
        """Nothing is typed by hand: the same evidence gives the same documents, byte by byte, anywhere."""
        made = blocks(Evidence(folder / "evidence"))

        assert markdown(made) == _said(folder)
        assert page("Handoff: animals", made) == _said(folder, "handoff.html")

    def test_names_the_command_that_makes_the_run_again(self, decided_copy, decided, monkeypatch):
        """Copied from the document, it answers every case in the same way."""
        (line,) = [one for one in _said(decided.handoff.folder).splitlines() if one.startswith("poclab run ")]
        monkeypatch.chdir(decided_copy.parent)
        shutil.rmtree(decided_copy / ".poclab")  # else the command finds the run that was made before
        done = CliRunner().invoke(main, shlex.split(line)[1:])
        archive = Archive.open(decided_copy)

        assert done.exit_code == 0, done.output
        assert archive.finished[-1]["run_id"] != decided.run_id
        assert archive.finished[-1]["tags"]["content"] == archive.find(decided.run_id)["tags"]["content"]

    def test_is_one_page_that_needs_no_other(self, decided):
        """It can be mailed and printed: pictures are in it, and its policy forbids everything else."""
        text = _said(decided.handoff.folder, "handoff.html")

        assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text
        assert [source[:22] for tag, source in _sources(text) if tag == "img"] == ["data:image/png;base64,"] * 2
        assert {tag for tag, _ in _sources(text)} == {"img"}


def test_a_handoff_of_a_run_on_all_cases_holds_too(swept, tmp_path):
    """Somebody scored the whole set at once, twice over: its folder is called `all`, and each case has two results."""
    poc = copy_poc(swept[0], tmp_path / "animals")
    (poc / "charter.yaml").write_text(CHARTER + SIGNED)
    cases = poclab.TestSet.load(poc / "cases.jsonl")
    report = poclab.evaluate(lambda inputs: "fifteen", cases, [scores.contains()], version=poclab.Version("fifteen"), repeats=2)
    made = handover.handoff(poc, report)

    assert _problems(made.folder) == {}
    assert "listed in evidence/all/environment.json" in _said(made.folder)
    assert "On all: n = 11" in _said(made.folder)


def test_a_handoff_of_a_sweep_that_ranks_by_another_score_holds_too(swept, tmp_path):
    """Such as a judge's: the comparison is about that score when it is worked out again."""
    poc = copy_poc(swept[0], tmp_path / "animals")
    (poc / "charter.yaml").write_text(CHARTER + SIGNED)
    with contextlib.closing(sqlite3.connect(poc / "mlflow.db")) as database, database:
        database.execute("UPDATE tags SET value = 'evidence_recall' WHERE key = 'poclab.metric'")
    made = handover.handoff(poc)

    assert Evidence(made.folder / "evidence").recorded_comparison["candidates"][0]["scores"][0]["score"] == "evidence_recall"
    assert _problems(made.folder) == {}


def test_a_handoff_before_the_first_look_says_that_there_was_none(swept, tmp_path):
    """The held-out cases are still to be scored: the winner on dev is handed over, and its verdict is not yet."""
    poc = copy_poc(swept[0], tmp_path / "animals")
    (poc / "charter.yaml").write_text(CHARTER + SIGNED)
    made = handover.handoff(poc)

    assert _problems(made.folder) == {}
    assert r"cannot tell (never scored on test: \`poclab decide --confirm\`)" in _said(made.folder)
    assert "| looks at test | 0 |" in _said(made.folder)


class _Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        self.text += data


def _sources(text):
    """Return each element that would fetch something, with what."""
    return [(tag, value) for tag, name, value in _Page(text).attributes if name in ("src", "href", "srcset", "action", "data")]


@pytest.fixture(scope="module")
def hostile(make_poc, tmp_path_factory):
    """A POC in which everything that a person or a model can write is hostile, and its handoff. Its cost is not known."""
    from poclab.system import Call, current_case

    poc = make_poc(tmp_path_factory.mktemp("hostile") / "<b>an|imals", store=True)
    charter = {
        **dict.fromkeys(("decision", "uncertainty", "owner", "sponsor", "production_shape"), HOSTILE),
        "signed": {"by": HOSTILE, "on": "2026-11-23", "where": HOSTILE},
        "data": {"source": HOSTILE, "pii": {"agreed_by": HOSTILE, "on": "2026-11-23", "where": HOSTILE}},
        "volume_per_month": 1000,
        "criteria": [{"metric": "accuracy", "at_least": 0.8}],
    }
    (poc / "charter.yaml").write_text(json.dumps(charter))  # YAML holds JSON
    (poc / "LOG.md").write_text(f"# Log\n{HOSTILE}\n", encoding="utf-8")
    (poc / "prompts/hostile.md").write_text("{{question}} {{context}}" + HOSTILE, encoding="utf-8")
    (poc / "cases.lock.json").unlink()
    lines = [json.loads(line) for line in (poc / "cases.jsonl").read_text().splitlines()]
    lines[6]["inputs"]["question"] += HOSTILE
    lines[6]["tags"] = {"kind|<b>": HOSTILE}
    (poc / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    freezing.freeze(poc / "cases.jsonl")

    def answer(inputs):
        current_case.get().add_call(Call("big-1", "/chat/completions", 0.1, 200, 10, 5, None))
        if "hang" in inputs["question"]:
            raise RuntimeError(HOSTILE)
        return HOSTILE

    prompt = poclab.Prompt.load(poc / "prompts/hostile.md")
    version = poclab.Version(f"v{HOSTILE}", prompt=prompt, note=HOSTILE)
    cases = poclab.TestSet.load(poc / "cases.jsonl")
    for split in ("dev", "test"):
        poclab.evaluate(answer, cases.split(split), [scores.contains()], version=version)
    return poc, handover.handoff(poc)


class TestHostileText:
    def test_stays_text_in_the_page(self, hostile):
        """No element but those of the document, no attribute that runs, nothing that fetches."""
        text = _said(hostile[1].folder, "handoff.html")
        made = _Page(text)
        known = "html head meta title style body h1 h2 h3 p table thead tbody tr th td pre img".split()

        assert set(made.tags) == set(known)
        assert made.tags.count("img") == 1
        assert {value[:11] for _, value in _sources(text)} == {"data:image/"}
        assert not [name for _, name, _ in made.attributes if name.startswith("on")]
        assert made.text.count("<script>alert(1)</script>") >= 5
        assert "\x1b" not in text and "\u202e" not in text

    def test_stays_text_in_markdown(self, hostile):
        """Rendered as GitHub does: the same tables, one picture, no raw element, no link but an address that is shown."""
        text = _said(hostile[1].folder)
        made = _Page(_rendered(text))
        names = {"h1", "h2", "h3", "p", "strong", "table", "thead", "tbody", "tr", "th", "td", "pre", "code", "img", "a"}
        links = re.findall(r'<a href="(.*?)">(.*?)</a>', _rendered(text))

        assert set(made.tags) == names
        assert [value for tag, value in _sources(_rendered(text)) if tag == "img"] == ["evidence/history.png"]
        assert [target for target, shown in links if target != shown] == []  # a bare address leads to what it says
        assert made.tags.count("strong") == 1  # the verdict
        assert "\x1b" not in text and "\u202e" not in text

    def test_breaks_no_row_of_a_table(self, hostile):
        """Each table has as many cells in every row as it has columns, and all of its rows."""
        for text in (_rendered(_said(hostile[1].folder)), _said(hostile[1].folder, "handoff.html")):
            tables = re.findall(r"<table>.*?</table>", text, re.S)
            rows = [[len(re.findall("<t[hd]", row)) for row in re.findall(r"<tr>.*?</tr>", table, re.S)] for table in tables]
            assert len(tables) > 10
            assert all(len(set(one)) == 1 for one in rows)

    def test_is_shown_letter_by_letter_in_the_log(self, hostile):
        """The log stands in a fence that nothing in it closes."""
        rendered = _rendered(_said(hostile[1].folder))
        log = html.unescape(re.search(r"as it was written</h3>\s*<pre><code[^>]*>(.*?)</code>", rendered, re.S)[1])

        assert log.startswith("# Log\n</td></pre><script>alert(1)</script>")
        assert "\n```\n~~~~\n![x](https://evil.example/y)" in log

    def test_does_not_stand_in_the_way_of_verification(self, hostile):
        """What was written is what is written again."""
        assert _problems(hostile[1].folder) == {}

    def test_that_failed_is_told_by_class(self, hostile):
        """Failing cases by class, with what was asked, expected and answered; an unknown cost is named."""
        text = _said(hostile[1].folder)
        limits = text.partition("## Known limits")[2]

        assert "3 of 3 cases on test are not fully right by contains." in limits
        for heading in ("### crashed: 1", "### wrong: 1", "### answered where it should abstain: 1"):
            assert heading in limits
        assert "## Costs\n\nNot known: no model call was seen, or one of a model without a price." in text
        assert "Find out what a case costs: it is not known." in text


def _rendered(text):
    import mistune

    return mistune.create_markdown(escape=False, plugins=["table", "strikethrough", "footnotes", "url", "math"])(text)


class TestWriting:
    def test_keeps_the_digest_on_the_run(self, decided):
        """The store of runs vouches for the folder: whoever receives it can ask for the tag."""
        tags = store.connect(tracking_uri(decided.poc)).get_run(decided.run_id).data.tags

        assert (
            tags[f"poclab.handoff.{decided.handoff.digest[:12]}"]
            == decided.handoff.digest
            == handover.verify(decided.handoff.folder).folder_digest
        )
        assert (decided.handoff.folder, decided.handoff.run_id) == (decided.poc / "handoff", decided.run_id)

    def test_replaces_an_earlier_handoff(self, decided_copy):
        """The tag of the old one stays on the run: who received it can still hold it against that."""
        out, first = decided_copy / "handoff", handover.verify(decided_copy / "handoff")
        (decided_copy / "LOG.md").write_text("One more thing.\n")
        made = handover.handoff(decided_copy)

        assert made.folder == out
        tags = store.connect(tracking_uri(decided_copy)).get_run(made.run_id).data.tags
        assert {first.folder_digest, made.digest} <= set(tags.values())
        assert "One more thing." in _said(out)
        assert _problems(out) == {}
        assert not list(decided_copy.glob(".handoff-*"))

    def test_holds_beside_a_version_that_was_run_alone(self, decided_copy):
        """The comparison says that somebody looked at one more; no result of a trial says so."""
        cases = poclab.TestSet.load(decided_copy / "cases.jsonl").split("dev")
        poclab.evaluate(lambda inputs: "no idea", cases, [scores.contains()], version=poclab.Version("alone"))
        made = handover.handoff(decided_copy)

        assert "run on these cases one by one" in (made.folder / "evidence/comparison.json").read_text()
        assert _problems(made.folder) == {}

    def test_loses_nothing_that_was_added_to_an_earlier_one(self, decided_copy):
        """Notes of a reviewer lie beside the document: they are named, and nothing is replaced."""
        (decided_copy / "handoff/notes.txt").write_text("ask Ada\n")
        with pytest.raises(InputError, match=r"something was added to the handoff there, or changed: notes.txt\n.*--out FOLDER"):
            handover.handoff(decided_copy)
        assert (decided_copy / "handoff/notes.txt").read_text() == "ask Ada\n"

    def test_leaves_a_folder_of_something_else_alone(self, decided_copy, tmp_path):
        """A mistyped --out replaces no work."""
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/thesis.md").write_text("years")
        for out in (tmp_path / "mine", tmp_path / "mine/thesis.md", decided_copy):
            with pytest.raises(InputError, match="holds something that is no handoff\n.*--out"):
                handover.handoff(decided_copy, out=out)
        assert (tmp_path / "mine/thesis.md").read_text() == "years"

    def test_fills_an_empty_folder_elsewhere(self, decided_copy, tmp_path):
        """`--out` names where it goes; folders above are made."""
        (tmp_path / "empty").mkdir()
        for out in (tmp_path / "empty", tmp_path / "a/b"):
            assert _problems(handover.handoff(decided_copy, out=out).folder) == {}

    def test_that_is_interrupted_leaves_the_old_one(self, decided_copy):
        """A handoff is there whole or not at all."""
        before = _said(decided_copy / "handoff", "digests.json")
        for path in decided_copy.glob("mlartifacts/*/artifacts/report.json"):
            path.unlink()
        with pytest.raises(InputError):
            handover.handoff(decided_copy)

        assert _said(decided_copy / "handoff", "digests.json") == before
        assert _problems(decided_copy / "handoff") == {}
        assert not list(decided_copy.glob(".handoff-*"))

    def test_that_stops_between_old_and_new_brings_the_old_one_back(self, decided_copy, monkeypatch):
        """The disk fails, or Ctrl-C comes, just when the old folder has been moved out of the way."""
        before, replace = _said(decided_copy / "handoff", "digests.json"), os.replace

        def fails_once(source, target):
            if str(target) == str(decided_copy / "handoff") and Path(source).name == "new":
                raise KeyboardInterrupt
            return replace(source, target)

        monkeypatch.setattr(os, "replace", fails_once)
        with pytest.raises(KeyboardInterrupt):
            handover.handoff(decided_copy)

        assert _said(decided_copy / "handoff", "digests.json") == before

    def test_is_refused_after_a_new_edition_was_frozen(self, decided_copy):
        """The run is on cases that are not those of today."""
        cases = decided_copy / "cases.jsonl"
        cases.write_text(cases.read_text().replace('"chimneys"', '"chimneys", "roofs"', 1))
        with pytest.raises(FrozenError, match="1 changed: q02"):
            handover.handoff(decided_copy)
        assert CliRunner().invoke(main, ["freeze", str(decided_copy), "--new-edition"]).exit_code == 0
        run_id = Archive.open(decided_copy).looks()[0].run_id
        with pytest.raises(
            FrozenError, match=r"is on other cases than those that are frozen now \(lock [0-9a-f]{12}, .*\n.*decide --confirm"
        ):
            handover.handoff(decided_copy, run_id)
        with pytest.raises(InputError, match="no finished run to decide on: the runs are on other cases"):
            handover.handoff(decided_copy)

    def test_is_refused_while_the_charter_is_not_signed(self, decided_copy):
        """With the question that is open."""
        (decided_copy / "charter.yaml").write_text(CHARTER)
        with pytest.raises(InputError, match="cannot decide yet: it lacks signed"):
            handover.handoff(decided_copy)

    def test_puts_no_key_into_any_file(self, recorded, tmp_path, monkeypatch):
        """Keys in settings, errors, the log, the charter and the sweep file; one of them only ever handed to a client."""
        poc = copy_poc(recorded[0], tmp_path / "animals")
        monkeypatch.setenv("OPENAI_API_KEY", ENV_KEY)
        keys = f"{ENV_KEY} and {GIVEN_KEY}"
        (poc / "charter.yaml").write_text(f"{CHARTER}{SIGNED}production_shape: with {keys}\n")
        (poc / "LOG.md").write_text(f"Tried {keys}.\n")
        with (poc / "sweep.yaml").open("a") as file:
            file.write(f"# {keys}\n")
        poclab.evaluate(
            lambda inputs: f"fifteen {keys}",
            poclab.TestSet.load(poc / "cases.jsonl").split("test"),
            [scores.contains()],
            version=poclab.Version("leaks", hint=keys),
        )
        made = handover.handoff(poc)
        leaks = [
            path
            for path in made.folder.rglob("*")
            if path.is_file() and any(key.encode() in path.read_bytes() for key in keys.split(" and "))
        ]

        assert [path.relative_to(made.folder).as_posix() for path in leaks] == []
        assert "(key removed)" in _said(made.folder)
        assert _problems(made.folder) == {}

    def test_says_how_far_two_labellers_agree(self, decided_copy):
        """Who, how far, and what is open. 2 of 3 is 0.208 to 0.939 by Wilson; kappa is (2/3 - 4/9) / (1 - 4/9), by chance 2/3 * 1/3 twice."""
        book = labels.load(decided_copy)
        for case_id, answers in (("q01", ["fifteen"]), ("q02", []), ("q09", [])):
            book = labels.judge(book, case_id, answers, by="Edsger | Example")
        text = _said(handover.handoff(decided_copy).folder)

        assert "| second labels, without seeing the first | Edsger \\| Example (3) |" in text
        assert "| agreement 0.667 (0.208 to 0.939, n = 3); kappa on answerable 0.400 (n = 3) |" in text
        assert "| disagreements not settled | 1: q02 |" in text
        assert "Settle what labellers disagree on, and freeze a new edition where that changes a case: q02." in text
        assert _problems(decided_copy / "handoff") == {}

        labels.settle(book, book.disagreements[0], "first", by="Linus")
        text = _said(handover.handoff(decided_copy).folder)
        assert "agreement 0.667" in text and "| disagreements not settled | none |" in text

    def test_is_refused_while_reviews_cannot_be_understood(self, decided_copy):
        """Nothing is left out in silence; the file and the line are named."""
        (decided_copy / "reviews.jsonl").write_text("{}\n")
        with pytest.raises(InputError, match=r"animals/reviews.jsonl, line 1: 'case' is None"):
            handover.handoff(decided_copy)


class TestVerify:
    def test_holds_for_a_fresh_folder_without_store_or_network(self, folder, tmp_path):
        """Another team has the folder, and nothing else of the POC; nothing is written into it."""
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        code = (
            "import socket, sys\n"
            "def refuse(*arguments, **options): raise OSError('no network')\n"
            "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
            "from poclab.cli import main\n"
            "try:\n    main(['handoff', '--verify', sys.argv[1]])\n"
            "finally:\n    print('mlflow' in sys.modules)\n"
        )
        done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=tmp_path, capture_output=True, text=True)

        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.endswith("False\n")
        assert "NO" not in done.stdout
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

    def test_tells_the_digest_and_the_run_that_vouches_for_it(self, decided, folder):
        """Whoever changed all of it consistently cannot change the run's tag."""
        checked = handover.verify(folder)

        assert (checked.folder_digest, checked.run_id) == (decided.handoff.digest, decided.run_id)
        assert (
            f"folder digest {decided.handoff.digest}\nhold it against the tag poclab.handoff.{decided.handoff.digest[:12]} of run {decided.run_id}"
            in repr(checked)
        )

    def test_of_a_folder_without_a_handoff_is_an_error(self, tmp_path):
        """An empty folder, one that is not there, a file."""
        (tmp_path / "file").write_text("")
        for path in (tmp_path, tmp_path / "missing", tmp_path / "file"):
            with pytest.raises(InputError, match="no handoff there: there is no digests.json\n.*--verify FOLDER"):
                handover.verify(path)


FILES = "every file is what its digest says"
NOT_READ = "{}: no regular file, or larger than any evidence; nothing was read"
CASES = "the reports hold every frozen case"
AGGREGATES = "every aggregate follows from the results of the cases"
DECISION = "the verdicts follow from the charter and the reports"
COMPARISON = "the comparison of the trials follows from their results"
DOCUMENTS = "the documents say what the evidence says"


def _score_0(data):
    data["results"][0]["scores"]["contains"]["value"] = 0.0


def _redigested(path):
    """Give a report the digest of what it says now."""

    def digested(data):
        data.pop("file_digest")
        data["file_digest"] = files.digest(data)

    _edit(path, digested)


class TestTampering:
    """Each change is found, with a plain message, and without a traceback."""

    def test_with_one_score(self, folder):
        """The digests of the file and of the folder both say so."""
        _edit(folder / "evidence/test/report.json", _score_0)
        problems = _problems(folder)

        assert problems[FILES] == "evidence/test/report.json was changed"
        assert "report.json: changed since it was written" in problems[AGGREGATES]

    def test_with_one_score_and_all_digests_made_again(self, folder):
        """Its aggregates, its content digest, the verdict and the documents do not follow from it any more."""
        path = folder / "evidence/test/report.json"
        _edit(path, _score_0)
        _redigested(path)
        _sealed(folder)
        problems = _problems(folder)

        assert FILES not in problems
        assert "accuracy on test is {'value': 0.6666666666666666" in problems[AGGREGATES]
        assert "the content digest of the report on test is not that of its results" in problems[AGGREGATES]
        assert "decision.json says something else: verdicts" in problems[DECISION]
        assert problems[DOCUMENTS] == "handoff.md is not what the evidence says; handoff.html is not what the evidence says"

    def test_with_one_score_and_a_report_that_follows_from_it(self, folder):
        """Whoever saves a report of other scores still has to change the verdict and both documents."""
        path = folder / "evidence/test/report.json"
        _edit(path, _score_0)
        _redigested(path)
        Report.load(path).save(path)
        _sealed(folder)

        assert set(_problems(folder)) == {DECISION, DOCUMENTS}

    def test_with_everything_leaves_another_folder_digest(self, decided, folder):
        """A consistent forgery holds by itself; the run's tag gives it away."""
        path = folder / "evidence/LOG.md"
        path.write_text("All went well.\n")
        made = blocks(Evidence(folder / "evidence"))
        (folder / "handoff.md").write_text(markdown(made))
        (folder / "handoff.html").write_text(page("Handoff: animals", made))
        _sealed(folder)
        checked = handover.verify(folder)

        assert checked.holds
        assert checked.folder_digest != decided.handoff.digest

    def test_with_the_label_of_a_case(self, folder):
        """The lock names the case."""
        cases = folder / "evidence/cases.jsonl"
        cases.write_text(cases.read_text().replace("caves", "barns"))
        _sealed(folder)

        assert "q08" in _problems(folder)[CASES]

    def test_with_the_question_of_a_result(self, folder):
        """What a report says was asked is what was frozen."""
        path = folder / "evidence/test/report.json"
        _edit(path, lambda data: data["results"][0]["inputs"].update(question="An easier one?"))
        _redigested(path)
        _sealed(folder)

        assert "says something else about case 'q07' than the frozen cases" in _problems(folder)[CASES]

    def test_with_a_criterion_of_the_charter(self, folder):
        """A bar that is lowered afterwards gives another verdict than the recorded one."""
        charter = folder / "evidence/charter.yaml"
        charter.write_text(charter.read_text().replace("0.8", "0.4"))
        _sealed(folder)

        assert (
            _problems(folder)[DECISION]
            == "the criteria give go (met), decision.json says something else: word, headline, verdicts, charter, facts"
        )

    def test_with_a_number_in_a_document(self, folder):
        """The Markdown is there to edit from, and the page to trust: both are held against the evidence."""
        path = folder / "handoff.md"
        path.write_text(path.read_text().replace("0.439 to", "0.939 to"))
        _sealed(folder)

        assert _problems(folder) == {DOCUMENTS: "handoff.md is not what the evidence says"}

    def test_with_the_recorded_decision(self, folder):
        """The word is worked out again."""
        _edit(folder / "evidence/decision.json", lambda data: data.update(word="go"))
        _sealed(folder)

        assert _problems(folder) == {DECISION: _problems(folder)[DECISION]}
        assert "the criteria give not yet" in _problems(folder)[DECISION]

    def test_with_the_looks(self, folder):
        """One look fewer is another document."""
        _edit(folder / "evidence/decision.json", lambda data: data.update(looks=[]))
        _sealed(folder)

        assert DOCUMENTS in _problems(folder)

    def test_with_the_results_of_a_trial(self, folder):
        """What was tried is worked out again too."""
        path = next(path for path in sorted(folder.glob("evidence/trials/*.json")) if "none" not in Report.load(path).version.name)
        _edit(path, lambda data: data["results"][0]["scores"]["contains"].update(value=0.0))
        _redigested(path)
        _sealed(folder)

        assert _problems(folder)[COMPARISON] == "the results of the trials give another comparison than comparison.json"

    def test_with_the_report_of_another_run(self, decided, folder):
        """A better run of another version, whole and genuine, is not the one that was decided on."""
        other = Archive.open(decided.poc).winner("accuracy", maximize=False)["run_id"]
        source = decided.poc / "mlartifacts" / other / "artifacts"
        for name in ("report.json", "version.json"):
            shutil.copy(source / name, folder / "evidence/dev" / name)
        _sealed(folder)

        assert f"dev/report.json is of run {other} on dev" in _problems(folder)[AGGREGATES]

    def test_with_the_version(self, folder):
        """Other parameters than those that were scored."""
        _edit(folder / "evidence/test/version.json", lambda data: data["parameters"].update(chunk_size=800))
        _sealed(folder)

        assert "test/version.json is of another version than the report" in _problems(folder)[AGGREGATES]

    def test_with_the_list_of_files(self, folder):
        """Added, missing, changed, and a list whose digest is another one."""
        (folder / "evidence/extra.txt").write_text("more")
        (folder / "evidence/corpus.yaml").unlink()
        (folder / "evidence/sweep.yaml").write_text("notebook: other\n")
        told = "evidence/corpus.yaml is missing; evidence/extra.txt was added; evidence/sweep.yaml was changed"
        assert _problems(folder) == {FILES: told}

        _edit(folder / "digests.json", lambda data: data.update(folder="0" * 64))
        assert _problems(folder)[FILES] == f"{told}; the folder digest in digests.json is not that of its list"

    def test_with_a_link_to_the_same_content(self, folder, tmp_path):
        """What stands elsewhere can be changed there later."""
        charter = folder / "evidence/charter.yaml"
        charter.rename(tmp_path / "elsewhere.yaml")
        charter.symlink_to(tmp_path / "elsewhere.yaml")

        assert _problems(folder) == {FILES: NOT_READ.format("evidence/charter.yaml")}

    def test_with_what_never_ends(self, folder):
        """A pipe in place of a report and a link to endless zeros are named, and not read."""
        (folder / "evidence/dev/report.json").unlink()
        os.mkfifo(folder / "evidence/dev/report.json")
        (folder / "evidence/LOG.md").unlink(missing_ok=True)
        (folder / "evidence/LOG.md").symlink_to("/dev/zero")

        assert _problems(folder) == {FILES: NOT_READ.format("evidence/LOG.md, evidence/dev/report.json")}

    def test_with_a_name_that_looks_like_a_check(self, folder):
        """A file name with a line break makes no line of its own."""
        (folder / "evidence/x\nok  every file is what its digest says").write_text("")

        assert repr(handover.verify(folder)).count("ok  every file is what its digest says") == 1
        assert "\nok  every file" not in repr(handover.verify(folder))

    @pytest.mark.parametrize("content", ["", "{", "null", "[]", "{}", '"x"', "1e999", "[" * 100_000, '{"results": [{}]}'])
    @pytest.mark.parametrize(
        "name",
        ["digests.json", "evidence/facts.json", "evidence/decision.json", "evidence/comparison.json", "evidence/test/report.json"],
    )
    def test_with_files_of_another_shape(self, folder, name, content):
        """Truncated, empty, of another kind, nested without end: a check that cannot be made does not hold."""
        (folder / name).write_text(content)
        checked = handover.verify(folder)

        assert not checked.holds
        assert "Traceback" not in repr(checked)


def test_a_key_that_became_known_later_is_not_handed_over(decided_copy, monkeypatch):
    """It stands in cases that were frozen before: nothing is written, and the files are named."""
    monkeypatch.setenv("LIBRARY_TOKEN", "upside down in caves")
    with pytest.raises(InputError, match=r"the value of a key that is known now stands in evidence/cases.jsonl"):
        handover.handoff(decided_copy)

    assert _problems(decided_copy / "handoff") == {}
