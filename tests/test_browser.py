"""What a person sees, in a real browser: the bench in JupyterLab, and what MLflow's UI shows of the runs.

Needs Debian's Chromium; where there is none, nothing here can be seen.
"""

import json

import pytest

import browser
from conftest import copy_poc, free_port, notebook_of
from endpoint import Endpoint
from poclab import archive
from poclab.tracking import server

pytestmark = browser.needed
#: What somebody may have written anywhere, fit for a literal of Python.
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)></div> $$x^2$$ [a](javascript:alert(3)) <i onclick=alert(4)>"
HOSTILE_BENCH = """\
import poclab
from poclab import scores
from poclab.system import Passage, Reply

text = "{text}"

def build(version):
    if version.parameters["style"] == "raise":
        raise RuntimeError(text)
    return lambda inputs: Reply(text, contexts=[Passage(text, text)])

def judged(case, reply):
    return scores.Score(False, text, text)

poclab.Workbench("..", build=build, controls={{"style": [text, "raise"], text[:30]: [text]}}, scores=[judged])
"""


@pytest.fixture(scope="module")
def chromium():
    with browser.launched() as found:
        yield found


@pytest.fixture
def page(chromium):
    with browser.opened(chromium) as made:
        yield made


@pytest.fixture(scope="module")
def animals(swept, tmp_path_factory):
    """The swept POC, with a notebook 02 of its own."""
    poc = copy_poc(swept[0], tmp_path_factory.mktemp("lab") / "animals")
    notebook = poc / "notebooks" / "02_evaluate.ipynb"
    notebook.write_text(
        notebook.read_text().replace("../experiments/python_help", "..").replace("context_chars: int = 2000", "context_chars: int = 500")
    )
    return poc


@pytest.fixture(scope="module")
def lab(animals):
    """JupyterLab on the POC, with an endpoint that never answers: the address of the notebook, and the POC."""
    with (
        Endpoint(faults=[{"kind": "hang", "match": ".", "times": None}]) as hanging,
        browser.jupyterlab(animals.parent, OPENAI_BASE_URL=hanging.url) as address,
    ):
        yield address.format("animals/notebooks/02_evaluate.ipynb"), animals


@pytest.fixture(scope="module")
def served(animals):
    """MLflow's own server on the store of the POC: its address, those that `poclab ui` prints, and the one of the prompts."""
    found = archive.Archive.open(animals)
    with server.serve(found.uri, animals, free_port()) as (base, _):
        yield {"base": base, **{what: f"{base}/{address}" for what, address in found.links().items()}, "prompts": f"{base}/#/prompts"}


def open_bench(page, address):
    """Open notebook 02, run all of it, and return once the bench is there."""
    browser.run_all(page, address)
    page.get_by_role("button", name="Run sample").wait_for()
    page.get_by_text("placeholders: {{context}}, {{question}}").wait_for()


class TestTheBench:
    def test_from_an_edit_to_what_it_fixed_and_broke(self, page, lab, served):
        """A person runs notebook 02, edits the prompt, tries a sample, runs all, reads what changed, and opens a case."""
        open_bench(page, lab[0])
        editor = page.locator(".jp-OutputArea textarea").first
        editor.fill("Answer in one sentence.\n\n{{contxt}}\n\nQuestion: {{question}}\n")
        page.get_by_text("unknown placeholder {{contxt}}").wait_for()
        editor.fill("Answer in one sentence.\n\n{{context}}\n\nQuestion: {{question}}\n")
        page.get_by_label("retrieval").select_option("none")
        page.get_by_role("button", name="Run sample").click()
        page.get_by_text("0 of 8 answers from the ledger, 8 asked now").wait_for()
        page.get_by_role("button", name="Run all (8)").click()
        page.locator("b", has_text="run 2, retrieval bm25 -> none, prompt prompts/abstain.md -> prompts/abstain.md (edited").wait_for()

        # Nothing is found, so nothing is answered: the six cases that have an answer are broken.
        rows = page.locator(".jp-OutputArea select[size] option").all_inner_texts()
        assert [row.split()[0] for row in rows] == ["broken"] * 6 + ["ok"] * 2
        page.locator(".jp-OutputArea select[size]").select_option(index=1)
        page.get_by_text("q02: Where do storks nest?").wait_for()
        link = page.get_by_role("link", name="its trace in MLflow").get_attribute("href")
        assert browser.ours(page.errors) == []
        page.goto(link.replace("http://127.0.0.1:5000", served["base"]))
        page.get_by_text("There is no passage to answer from.").first.wait_for()

    def test_what_hangs_is_cancelled(self, page, lab):
        """An endpoint that does not answer holds up neither the bench nor the notebook."""
        open_bench(page, lab[0])
        page.get_by_label("model").fill("m")
        page.get_by_label("model").press("Tab")
        page.get_by_role("button", name="Run all (8)").click()
        page.get_by_text("0/8").wait_for()
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text("stopped after 0 of 8 cases").wait_for()

        page.get_by_role("button", name="Run all (8)").click(trial=True)  # as soon as it can be clicked
        assert browser.ours(page.errors) == []

    def test_hostile_text_stays_text(self, page, lab):
        """Nothing that a case, a file, a model or an error says becomes an element, runs, or is typeset."""
        address, poc = lab
        (poc / "notebooks" / "hostile.ipynb").write_text(json.dumps(notebook_of(HOSTILE_BENCH.format(text=HOSTILE))))
        browser.run_all(page, f"{address.replace('02_evaluate', 'hostile')}&reset")
        page.get_by_role("button", name="Run sample").click(trial=True)
        page.get_by_placeholder("a question").fill(HOSTILE)
        page.get_by_placeholder("a question").press("Enter")
        page.locator("b", has_text="try 1").wait_for()
        page.get_by_role("button", name="Run all (8)").click()
        page.locator("b", has_text="run 2").wait_for()
        page.get_by_label("style").select_option("raise")
        page.get_by_role("button", name="Run sample").click()
        page.get_by_text("RuntimeError: ").wait_for()

        found = "script, img, iframe, mjx-container, [onerror], [onclick], a[href^=javascript]"
        assert page.locator(".jp-OutputArea").locator(found).count() == 0
        assert page.dialogs == browser.ours(page.errors) == []


class TestMlflow:
    def test_the_runs_are_a_table(self, page, served):
        """Every trial is a line, under the name of what it changes."""
        page.goto(served["runs"])

        page.get_by_text("retrieval none -> bm25").first.wait_for()

    def test_the_charts_begin_with_the_accuracy(self, page, served):
        """The first thing that is drawn of a sweep is what it is about."""
        page.goto(served["charts of the trials"])

        page.get_by_text("accuracy_high", exact=True).last.wait_for()
        assert page.get_by_text("accuracy", exact=True).count() == 2  # the table's column, and the chart

    def test_baseline_and_champion_stand_side_by_side(self, page, served):
        """The cases of two runs are aligned, each question once with both answers' scores."""
        page.goto(served["baseline and champion, case by case"])
        for text in ("8 of 8", "Where do storks nest?", "Comparing"):
            page.get_by_text(text).wait_for()
        page.get_by_text("contains", exact=True).first.wait_for(state="attached")

    def test_a_trace_has_tokens_and_cost(self, page, served):
        """What a request took is seen where one looks at it: in its trace."""
        page.goto(served["failing traces of the champion"].partition("?")[0])
        page.get_by_text("Where do storks nest?").first.click()
        for text in ("74 tokens", "$0.00", "retrieve"):
            page.get_by_text(text, exact=True).first.wait_for()

    def test_prompts_have_versions_and_aliases(self, page, served):
        """Which prompt is the baseline's and which the champion's stands in the registry."""
        page.goto(served["prompts"])
        page.get_by_text("animals-abstain").click()
        for text in ("champion", "baseline"):
            page.get_by_text(text).first.wait_for()
