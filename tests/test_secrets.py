import json
import subprocess

import pytest

import poclab
from conftest import CHARTER
from endpoint import Endpoint
from poclab import models, scores
from poclab.ledger import LEDGER, Ledger

KEY = "sk-the-only-right-key-4711"
HEADER = "a-header-that-nobody-may-read-0815"


@pytest.fixture
def repository(make_poc, make_store, tmp_path, monkeypatch):
    """A POC in a git repository, with the key in a file that was changed and in one that is new."""
    poc = make_poc(tmp_path / "repository" / "animals")
    (poc / "charter.yaml").write_text(CHARTER)
    (poc / "settings.py").write_text("key = None\n")
    for arguments in (["init", "-q"], ["add", "."], ["-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-qm", "First"]):
        subprocess.run(["git", *arguments], cwd=poc.parent, check=True)
    (poc / "settings.py").write_text(f"key = '{KEY}'\n")
    make_store(poc)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return poc


def left_behind(folder, *, but):
    """Return the bytes of every file, compressed values of a ledger unpacked, without those that held the key before."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path not in but and ".git" not in path.parts:
            yield path, path.read_bytes()
            if path.name == LEDGER:
                for entry in Ledger.open(path).page(size=10_000)[0]:
                    yield path, repr(entry).encode()


def test_no_key_is_left_in_any_file(repository, run_poclab):
    """A run in Python with `extra_headers`, a headless one, a refused one that echoes its key: no file holds the key or the header."""
    with Endpoint(key=KEY) as endpoint:
        client = models.client(base_url=endpoint.url)

        def answer(inputs):
            asked = [{"role": "user", "content": f"{inputs['question']} My key is {KEY}. ANSWER:{{{KEY}}}"}]
            given = client.chat.completions.create(model="m", messages=asked, extra_headers={"x-secret": HEADER})
            assert HEADER not in poclab.redaction.conceal(HEADER)  # an endpoint that echoes it gets it nowhere
            if "Fidelio" in inputs["question"]:
                raise RuntimeError(f"failed with {KEY}")
            return given.choices[0].message.content

        cases = poclab.TestSet.load(repository / "cases.jsonl").split("dev")
        report = poclab.evaluate(answer, cases, [scores.contains()], version=poclab.Version("mine", model="m", hint=KEY))
        report.save(repository / "mine.json")
        environment = {"OPENAI_BASE_URL": endpoint.url, "OPENAI_API_KEY": KEY}
        done = run_poclab("run", repository, "-p", "model=m", "-p", "retrieval=bm25", **environment)
        refused = run_poclab("run", repository, "-p", "model=m", OPENAI_BASE_URL=endpoint.url, OPENAI_API_KEY="sk-a-wrong-key-123")
        told = [run_poclab("trace", repository, "q01", **environment), run_poclab("ledger", repository, **environment)]
        assert endpoint.counts()["billed"] > 8

    assert done.returncode == 0, done.stderr
    assert refused.returncode == 2
    assert "refuses the API key" in refused.stderr
    found = list(left_behind(repository, but=[repository / "settings.py"]))
    assert any(path.name == "mlflow.db" for path, _ in found)
    assert any(path.name == "git.diff" for path, _ in found)
    assert any(path.suffix == ".ipynb" and "mlartifacts" in path.parts for path, _ in found)
    for secret in (KEY, HEADER, "sk-a-wrong-key-123"):
        assert [path for path, content in found if secret.encode() in content] == []
        assert all(secret not in one.stdout + one.stderr for one in (done, refused, *told))
    assert "(key removed)" in repr(Ledger.open(repository / LEDGER).page(size=1)[0])


def test_personal_data_are_taken_out_of_stored_traces(repository):
    """The user's function sees every text; what it cannot handle is not kept."""

    def redact(text):
        if "zebra" in text:
            raise ValueError(text)
        return text.replace("ada@example.org", "(address)")

    def answer(inputs):
        with poclab.system.step("look up ada@example.org", "TOOL", inputs={"who": ["ada@example.org"]}) as one:
            one.outputs = "a zebra of ada@example.org"
        return "ask ada@example.org"

    cases = poclab.TestSet.load(repository / "cases.jsonl").split("dev")
    report = poclab.evaluate(answer, cases, [scores.contains()], version=poclab.Version("mine"), redact=redact)
    from poclab.inspection import inspect

    trace = inspect(report.results[0].request_id, repository).trace

    assert trace["spans"][0]["outputs"] == "ask (address)"
    assert trace["spans"][1]["inputs"] == {"who": ["(address)"]}
    assert trace["spans"][1]["outputs"] == "(not kept: the redaction raised ValueError)"
    assert report.results[0].reply.text == "ask ada@example.org"


def test_a_key_that_only_a_notebook_knows_is_left_in_no_file(make_poc, tmp_path, run_poclab):
    """It reads the key from a file of its own, prints it, and then fails with it: neither copy nor message shows it."""
    poc = make_poc(tmp_path / "animals", store=True)
    (poc / "key.txt").write_text(KEY)
    path = poc / "notebooks" / "02_evaluate.ipynb"
    notebook = json.loads(path.read_text())
    show = ["from poclab import models\n", "key = open('key.txt').read()\n", "models.client(api_key=key)\n", "print(key)"]
    cells = [{"cell_type": "code", "metadata": {}, "source": source, "outputs": [], "execution_count": None, "id": name}
             for name, source in (("show", show), ("fail", ["raise ValueError(key)"]))]  # fmt: skip
    path.write_text(json.dumps({**notebook, "cells": [*notebook["cells"][:2], cells[0], *notebook["cells"][2:], cells[1]]}))
    done = run_poclab("run", poc, "-p", "retrieval=bm25")

    assert "(key removed)" in "".join(one.read_text() for one in poc.rglob("executed.ipynb"))
    assert [one for one, content in left_behind(poc, but=[poc / "key.txt"]) if KEY.encode() in content] == []
    assert done.returncode == 2 and KEY not in done.stdout + done.stderr
