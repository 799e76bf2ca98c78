"""The README cannot drift: its commands are real, its example runs, its table is what the code computes."""

import re
import shutil
from pathlib import Path

import pytest

import poclab
from poclab import rag, scores, sweeps
from poclab.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
POC = ROOT / "experiments" / "python_help"


def between(name):
    return re.search(rf"<!-- {name}: begin -->\n(.*?)<!-- {name}: end -->", README, re.S)[1]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def test_the_two_lines_are_the_ones_that_ci_takes():
    """CI runs exactly the two command lines that a newcomer copies."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]

    assert len(lines) == 2
    assert lines[0].startswith("python3 -m venv") and lines[0].endswith("poclab sweep experiments/python_help")
    assert lines[1].startswith(".venv/bin/pip install") and lines[1].endswith("-m pytest")
    assert all("-c constraints.txt" in line for line in lines)


def test_every_verb_is_documented():
    """The README names every verb of the command line, and none that there is not."""
    assert set(re.findall(r"^poclab (\w+)", README, re.M)) == set(main.commands)


def test_every_option_in_the_readme_exists():
    """An option that the README shows is one that the verb takes."""
    for verb, rest in re.findall(r"poclab (\w+)([^`\n]*)", README):
        if verb in main.commands:
            known = {name for parameter in main.commands[verb].params for name in (*parameter.opts, *parameter.secondary_opts)}
            assert set(re.findall(r"(?<=\s)--?[a-z][\w-]*", rest.split("   ")[0])) <= known, verb


def test_the_examples_run(tmp_path, monkeypatch):
    """What else the README shows can be pasted into a notebook."""
    shutil.copytree(POC, tmp_path / "experiments" / "python_help", ignore=shutil.ignore_patterns(".poclab", "mlflow.db*", "mlartifacts"))
    monkeypatch.chdir(tmp_path)
    for code in blocks("python")[1:]:
        names = {}
        exec(code, names)
        assert names["report"].n == 80
        assert names["report"].failed == 0
        assert names["report"].run_id


def test_the_example_prints_what_stands_below_it(tmp_path, monkeypatch, capsys):
    """Each line of the shown output is printed by the ten lines, where the interpreter carries the documents that it was made on."""
    shutil.copytree(POC, tmp_path / "experiments" / "python_help", ignore=shutil.ignore_patterns(".poclab", "mlflow.db*", "mlartifacts"))
    monkeypatch.chdir(tmp_path)
    exec(blocks("python")[0], {})
    printed, shown = capsys.readouterr().out.splitlines(), re.search(r"```text\n(.*?)```", between("example"), re.S)[1].splitlines()

    assert len(shown) > 20
    if f"corpus {rag.load_corpus(POC).digest[:12]}" in between("table"):
        assert [line for line in shown if line not in (*printed, "...")] == []


def table():
    """Return the README's ranked table as rows of cells, and the text around it."""
    text = between("table")
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("rank "))
    columns, width = zip(*((match[0], match.start()) for match in re.finditer(r"\S+", lines[start])), strict=True)
    rows = []
    for line in lines[start + 1 :]:
        if not line.strip():
            break
        cells = [line[left:right].strip() for left, right in zip(width, [*width[1:], None], strict=True)]
        rows.append(dict(zip(columns, cells, strict=True)))
    return rows, text


@pytest.fixture(scope="module")
def readme_table():
    return table()


def test_the_table_is_of_this_sweep(readme_table):
    """The table has a row per trial of the sweep file, and the columns that the command prints."""
    rows, _ = readme_table
    sweep = sweeps.load_sweep(POC)

    assert len(rows) == len(sweep.trials) >= 12
    assert [*rows[0]] == ["rank", "accuracy", "interval", "n", "failed", "p95_s", "cost_usd", *sweep.varied, "run"]
    assert sum("baseline" in row["prompt"] for row in rows) == 1
    assert any(row["retrieval"] == "none" for row in rows)


def test_the_table_is_of_these_cases(readme_table):
    """The digest of the lock under the table is the one of the frozen set."""
    assert f"lock {poclab.TestSet.load(POC / 'cases.jsonl').digest[:12]}" in readme_table[1]


def test_the_numbers_of_the_table_are_what_the_code_computes(readme_table):
    """Where the interpreter carries the same documents, every row's accuracy and interval come out again."""
    rows, text = readme_table
    corpus = rag.load_corpus(POC)
    if f"corpus {corpus.digest[:12]}" not in text:
        assert re.search(r"corpus [0-9a-f]{12}", text)  # made on another Python: the digest says of which documents
        return
    cases = tuple(poclab.TestSet.load(POC / "cases.jsonl").split("dev"))  # in memory: nothing is recorded
    found = {}
    for row in rows:
        prompt = poclab.Prompt.load(POC / row["prompt"].split()[0])
        knobs = {"retrieval": row["retrieval"], "chunk_size": int(row["chunk_size"]), "context_chars": 2000}
        system = rag.build(poclab.Version("row", model="offline/extractive", prompt=prompt, **knobs), corpus=corpus)
        estimate = poclab.evaluate(system, cases, [scores.contains()]).estimate("contains")
        found[row["rank"]] = (f"{estimate.value:.3f}", f"{estimate.low:.3f} to {estimate.high:.3f}")

    assert found == {row["rank"]: (row["accuracy"], row["interval"]) for row in rows}
