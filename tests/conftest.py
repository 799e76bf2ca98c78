"""What several test files share: an environment without keys or addresses, a small POC made of files, and one recorded sweep."""

import compileall
import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from endpoint import Endpoint
from poclab import TestSet, freezing, rag

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
#: How long a test waits for what must happen.
DEADLINE_S = 90
NAMES = ("MLFLOW_", "OPENAI_", "POCLAB_")
#: The files that take longest. They begin first, so that what is left in the end are short ones, and all workers end together.
LONGEST = (
    "executors browser trials journal cli secrets reproduction browser_labeler drills paid_once survival progress handover readme notebooks "
    "evaluation screen kernels zygote archive"
).split()

DOCUMENTS = {
    "cats.md": "# Cats\n\nCats sleep about fifteen hours a day. They purr when they are content.\n",
    "storks.md": "# Storks\n\nStorks nest on chimneys. In winter they fly to Africa.\n",
    "owls.md": "# Owls\n\nOwls hunt at night. Their feathers make no sound.\n",
    "beavers.md": "# Beavers\n\nBeavers build dams of wood. Their teeth never stop growing.\n",
    "bats.md": "# Bats\n\nBats find insects by echo. They hang upside down in caves.\n",
}
#: Each answerable question uses the words of one sentence; the others share no word with any document.
ANSWERABLE = {
    "q01": ("How many hours a day do cats sleep?", "fifteen", "sleep about fifteen hours", "dev"),
    "q02": ("Where do storks nest?", "chimneys", "nest on chimneys", "dev"),
    "q03": ("When do owls hunt?", "night", "hunt at night", "dev"),
    "q04": ("What do beavers build?", "dams", "build dams of wood", "dev"),
    "q05": ("How do bats find insects?", "echo", "find insects by echo", "dev"),
    "q06": ("Where do storks fly in winter?", "Africa", "fly to Africa", "dev"),
    "q07": ("When do cats purr?", "content", "purr when they are content", "test"),
    "q08": ("Where do bats hang upside down?", "caves", "upside down in caves", "test"),
}
UNANSWERABLE = {
    "q09": ("Who composed the opera Fidelio?", "dev"),
    "q10": ("What is the capital of Mongolia?", "dev"),
    "q11": ("Which king signed Magna Carta?", "test"),
}
CHARTER = """\
decision: Answer questions about animals from five short pages, or do not.
uncertainty: Whether retrieval finds the sentence.
owner: Ada Example
sponsor: Grace Example
criteria:
  - {metric: accuracy, at_least: 0.8, split: test}
"""
PRICES = "prices: {m: {input: 1.0, output: 4.0, on: 2026-11-25, source: the test endpoint}}\n"
SIGNED = "signed: {by: Grace Example, on: 2026-11-23, where: minutes of the kick-off}\n"
PROMPTS = {
    "plain.md": "Answer in one sentence, from these passages.\n\n{{context}}\n\nQuestion: {{question}}\n",
    "abstain.md": "Answer in one sentence, from these passages alone.\n"
    'If the passages do not contain the answer, reply exactly "I don\'t know."\n\n{{context}}\n\nQuestion: {{question}}\n',
}
SWEEP = """\
notebook: notebooks/02_evaluate.ipynb
metric: {name: accuracy, goal: maximize}
fixed: {split: dev, context_chars: 500}
include:
  - {retrieval: none, prompt: prompts/abstain.md}
parameters:
  retrieval: {values: [bm25]}
  prompt: {values: [prompts/abstain.md, prompts/plain.md]}
limits: {jobs: 2}
"""


def _case_lines():
    for case_id, (question, answer, evidence, split) in ANSWERABLE.items():
        yield {"id": case_id, "inputs": {"question": question}, "expected": {"answers": [answer], "evidence": [evidence]}, "split": split}
    for case_id, (question, split) in UNANSWERABLE.items():
        yield {"id": case_id, "inputs": {"question": question}, "expected": {"abstain": True}, "split": split}


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # hundreds of processes import poclab here, where Python may be told to keep nothing compiled
        compileall.compile_dir(NOTEBOOKS.with_name("poclab"), quiet=2)
    # MLflow 3.17 asks SQLAlchemy 2.1 for this; no line of ours can change it.
    config.addinivalue_line("filterwarnings", "ignore:The ``noload`` loader strategy is deprecated")


def pytest_collection_modifyitems(items):
    rank = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="module")
def served():
    """An endpoint that a module's tests share."""
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(served):
    """The shared endpoint, as it was when it began: without faults, its counts at zero."""
    served.configure(faults=[], fingerprint="fp_tests")
    served.reset()
    return served


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_machine():
    """Tests start without keys, endpoints and stores that the machine's environment may name."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(NAMES)]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def make_poc(make_store):
    """Return a function that makes a frozen POC: 8 dev cases (6 to answer, 2 to abstain from) and 3 test cases, and no store or an empty one."""

    def make(folder: Path, sweep: str = SWEEP, *, store: bool = False) -> Path:
        for name, text in DOCUMENTS.items():
            _write(folder / "docs" / name, text)
        for name, text in PROMPTS.items():
            _write(folder / "prompts" / name, text)
        _write(folder / "charter.yaml", CHARTER)
        _write(folder / "corpus.yaml", 'source: files\nglob: "docs/*.md"\n')
        _write(folder / "sweep.yaml", sweep)
        _write(folder / "cases.jsonl", "".join(json.dumps(line) + "\n" for line in _case_lines()))
        shutil.copytree(NOTEBOOKS, folder / "notebooks", ignore=shutil.ignore_patterns(".*", "06_agent.ipynb"))  # of another kind of POC
        corpus = rag.load_corpus(folder)
        freezing.freeze(folder / "cases.jsonl", find=corpus.find, corpus_digest=corpus.digest)
        if store:
            make_store(folder)
        return folder

    return make


def invoke(*arguments, cwd=None, **env):
    """Run a command in this process, which has papermill and a recorder at hand already: seconds less."""
    from click.testing import CliRunner

    from poclab.cli import main

    with pytest.MonkeyPatch.context() as patch:
        if cwd:
            patch.chdir(cwd)
        for name, value in env.items():
            patch.setenv(name, value)
        result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return SimpleNamespace(returncode=result.exit_code, stdout=result.stdout, stderr=result.stderr)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Return a function that has something made in a folder by the first worker that wants it; the others wait, and find it there.

    What `make` returns is JSON, and comes back beside the folder. Nothing may change what lies in it: take a copy.
    """
    from filelock import FileLock

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def once(name, make):
        folder, done = shared / name, shared / f"{name}.json"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # half made by a worker that failed
                folder.mkdir()
                done.write_text(json.dumps(make(folder)))
        return folder, json.loads(done.read_text())

    return once


@pytest.fixture(scope="session")
def make_store(made_once):
    """Return a function that gives a POC the empty store that MLflow would make at its first run.

    That takes MLflow a second of migrations; whoever does not test it takes a copy.
    """
    from poclab.tracking import store

    def set_up(folder: Path) -> None:
        store.connect(f"sqlite:///{folder}/mlflow.db")

    def make(poc: Path) -> None:
        folder, _ = made_once("store", set_up)
        shutil.copyfile(folder / "mlflow.db", poc / "mlflow.db")

    return make


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def poc(make_poc, tmp_path):
    """A POC of the test's own."""
    return make_poc(tmp_path / "animals")


@pytest.fixture(scope="session")
def run_poclab():
    """Return a function that runs the command line in a process of its own, as a person does."""

    def run(*arguments, cwd=None, timeout=120, **env):
        command = [sys.executable, "-m", "poclab", *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=timeout)

    return run


@pytest.fixture(scope="session")
def swept(made_once, make_poc, run_poclab, tmp_path_factory):
    """A POC whose sweep of three trials has run: the folder, and what the command printed. Nothing may change it.

    Each worker has a copy of its own, so that two of them do not meet at the lock of a sweep.
    """

    def sweep(folder):
        done = run_poclab("sweep", make_poc(folder / "animals"), POCLAB_TEST_API_KEY="sk-swept-0123456789abcdef")
        assert done.returncode == 0, done.stderr
        return {"stdout": done.stdout, "stderr": done.stderr}

    folder, said = made_once("swept", sweep)
    poc = copy_poc(folder / "animals", tmp_path_factory.mktemp("swept") / "animals")
    return poc, SimpleNamespace(**{name: text.replace(str(folder), str(poc.parent)) for name, text in said.items()})


def plain_cases(folder, count):
    """Freeze so many cases of a POC whose charter has a price for the model `m`, and return them."""
    (folder / "charter.yaml").write_text(CHARTER + PRICES)
    lines = (
        {"id": f"q{i:02}", "inputs": {"question": f"case {i:02}"}, "expected": {"answers": ["a"]}, "split": "dev"} for i in range(count)
    )
    (folder / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    freezing.freeze(folder / "cases.jsonl")
    return TestSet.load(folder / "cases.jsonl").split("dev")


def completion(text, reason="stop", **message):
    """Return what an endpoint answers to a chat."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": reason}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def copy_poc(poc, folder):
    """Copy a POC with its store; the runs of the copy hold the artifacts of the copy, and its trials are those of its store."""
    shutil.copytree(poc, folder)
    for records in folder.glob(".poclab/sweeps/*/trials.jsonl"):
        records.write_text(records.read_text().replace(str(poc), str(folder)))
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        for table, column in (("runs", "artifact_uri"), ("experiments", "artifact_location")):
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (poc.as_uri(), folder.as_uri()))
    return folder


@pytest.fixture(scope="session")
def decided(made_once, swept, tmp_path_factory):
    """The swept POC with a signed charter, its winner scored once on the held-out cases, and its handoff. Nothing may change it.

    `poc` is the folder, `run_id` the run on the held-out cases, `handoff` what was written.
    """
    from poclab import handover

    def decide(folder):
        poc = copy_poc(swept[0], folder / "animals")
        (poc / "charter.yaml").write_text(CHARTER + SIGNED)
        # In a process of its own: MLflow remembers where the artifacts of a run are, and copies of it lie elsewhere.
        code = f"from poclab.confirmation import confirm; from pathlib import Path; print(confirm(Path({str(poc)!r})))"
        run_id = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()[-1]
        made = handover.handoff(poc)
        return {"run_id": run_id, "handoff": [str(made.folder), made.digest, made.run_id]}

    folder, said = made_once("decided", decide)
    poc = copy_poc(folder / "animals", tmp_path_factory.mktemp("decided") / "animals")
    written, *rest = said["handoff"]
    handoff = handover.Handoff(Path(written.replace(str(folder), str(poc.parent))), *rest)
    return SimpleNamespace(poc=poc, run_id=said["run_id"], handoff=handoff)


@pytest.fixture
def decided_copy(decided, tmp_path):
    """The decided POC, to be changed."""
    return copy_poc(decided.poc, tmp_path / "animals")


ENV_KEY, GIVEN_KEY = "sk-env-7f3a9c51d2e84b60", "sk-given-1b6e2f9a0c7d4853"
GITIGNORE = ".poclab/\nmlflow.db*\nmlartifacts/\n"


@pytest.fixture(scope="session")
def recorded(make_poc, tmp_path_factory):
    """A POC in a git repository with one recorded evaluation, by a system that takes steps, calls a model, and crashes on q09."""
    import poclab
    from poclab import scores

    # A name that every address has to escape.
    repository = tmp_path_factory.mktemp("recorded") / "100% of Zoë's #1 repo"
    poc = make_poc(repository / "animals")
    _write(repository / ".gitignore", GITIGNORE)
    _write(repository / "settings.py", "key = None\n")
    _git(repository, "init", "-q")
    _git(repository, "add", ".")
    _git(repository, "-c", "user.name=Ada", "-c", "user.email=ada@example.org", "commit", "-q", "-m", "First")
    _write(repository / "settings.py", f"key = '{ENV_KEY}' or '{GIVEN_KEY}'\n")
    _write(repository / "draft.md", "not added yet\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", ENV_KEY)
        patch.setenv("ZOO_PLAIN", "plain-value-77")
        version = poclab.Version(
            "look-up",
            model="offline/extractive",
            prompt=poclab.Prompt.load(poc / "prompts/plain.md"),
            limits=[1, 2],
            note="n" * 600,
            hint=f"never {GIVEN_KEY}",
        )
        cases = poclab.TestSet.load(poc / "cases.jsonl").split("dev")
        given = [scores.contains(), scores.abstains()]
        report = poclab.evaluate(zoo_keeper(), cases, given, version=version, repeats=2)
    return poc, report


def zoo_keeper():
    """Return a system that reads every document, in a span of its own, and asks the offline model."""
    from poclab import models
    from poclab.system import Reply, step

    client = models.client(api_key=GIVEN_KEY)

    def answer(inputs):
        if "Fidelio" in inputs["question"]:
            raise RuntimeError(f"no opera; tried {ENV_KEY} and {GIVEN_KEY}")
        with step("read", "RETRIEVER", inputs=inputs["question"]) as one:
            with step("open", "TOOL"):
                passages = list(DOCUMENTS.values())
            one.outputs = [{"page_content": text, "metadata": {}} for text in passages]
        text = client.chat.completions.create(model="offline/extractive", messages=_asked(passages, inputs["question"]))
        return Reply(text.choices[0].message.content, contexts=passages)

    return answer


def _asked(passages, question):
    blocks = "\n".join(f'<passage source="{number}">{text}</passage>' for number, text in enumerate(passages))
    asked = PROMPTS["abstain.md"].replace("{{context}}", blocks).replace("{{question}}", question)
    return [{"role": "user", "content": asked}]


def _git(folder, *arguments):
    subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)


def until(condition, what):
    """Wait for something that happens by itself, and return it."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.05)
    return found


def notebook_of(*cells):
    """Return a notebook's JSON; a cell is its source, or (source, tag)."""
    made = []
    for number, cell in enumerate(cells):
        source, *tags = (cell,) if isinstance(cell, str) else cell
        made.append({
            "cell_type": "code", "id": f"c{number}", "metadata": {"tags": tags}, "source": source, "outputs": [], "execution_count": None,
        })  # fmt: skip
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return {"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


def free_port():
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def unused_port():
    """A port of this machine that nobody listens on."""
    return free_port()


@pytest.fixture(scope="session")
def ui(swept, make_poc, tmp_path_factory):
    """`poclab ui` on the swept POC, from its start to Ctrl-C; meanwhile another POC is evaluated through its server.

    What happened: `lines` that it printed, `pages` by address, `settings` of its server, `report` and `poc` of that evaluation, `code`, `orphans`.
    """
    import poclab
    from poclab import scores

    port = free_port()
    command = [sys.executable, "-m", "poclab", "ui", str(swept[0]), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        lines = list(_lines_until(process.stdout, "Ctrl-C ends it."))
        base = f"http://127.0.0.1:{port}"
        pages = {path: _get(base + path) for path in ("/", "/health")}
        poc = make_poc(tmp_path_factory.mktemp("served") / "served")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", base)
            version = poclab.Version("served", prompt=poclab.Prompt.load(poc / "prompts/plain.md"))
            report = poclab.evaluate(zoo_keeper(), poclab.TestSet.load(poc / "cases.jsonl"), [scores.contains()], version=version)
        running, settings = _servers(port), _settings_of_children(process.pid)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    found = {"port": port, "lines": lines, "pages": pages, "poc": poc, "report": report, "running": running, "settings": settings}
    return SimpleNamespace(**found, code=process.returncode, errors=errors, orphans=_servers(port))


def _lines_until(stream, last):
    for line in stream:
        yield line.rstrip("\n")
        if line.strip() == last:
            return


def _get(url):
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as answer:
        return answer.read().decode()


def _settings_of_children(pid):
    """Return the environments of the processes that a process started, as one text."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return b"".join(Path(f"/proc/{child}/environ").read_bytes() for child in children).decode(errors="replace")


def _servers(port):
    """Return the command lines of processes, other than `poclab ui`, that serve this port."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if f"--port {port}" in line and "poclab ui" not in line]
