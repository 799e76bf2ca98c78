"""Take the pictures of the README: `python tests/pictures.py`, with Debian's Chromium and Python 3.11's documents.

They are of `experiments/python_help`, swept anew in a copy: the bench after a run with another prompt, and MLflow's side-by-side view.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

import browser
from conftest import free_port
from poclab.archive import Archive
from poclab.tracking import server

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / ".pictures"
PROMPT = """Answer the question from the passages, in at most two sentences.
If the passages do not contain the answer, reply exactly "I don't know."

{{context}}

Question: {{question}}
"""


def bench(page, address):
    """Run all cases with a prompt that allows two sentences, and open a case that it fixed."""
    page.set_viewport_size({"width": 1500, "height": 2200})  # all of it, without scrolling
    browser.run_all(page, address)
    page.get_by_role("button", name="Run sample").wait_for()
    page.locator(".jp-OutputArea textarea").first.fill(PROMPT)
    page.get_by_role("button", name="Run all (80)").click()
    cases = page.locator(".jp-OutputArea select[size]")
    cases.locator("option", has_text="fixed").first.wait_for(state="attached")
    cases.select_option(index=1)
    page.get_by_role("link", name="its trace in MLflow").wait_for()
    page.locator(".jp-OutputArea .widget-vbox").first.screenshot(path=PICTURES / "bench.png")


def side_by_side(page, address):
    """Show the right pane, wide enough for all columns."""
    page.set_viewport_size({"width": 2000, "height": 900})
    page.goto(address)
    page.get_by_text("80 of 80").wait_for()
    page.get_by_role("button", name="Close").first.click()
    page.wait_for_timeout(1000)  # the panel slides away
    page.get_by_text("I don't know.").first.hover()
    page.mouse.wheel(0, 520)  # past the questions that the documents do not answer
    page.wait_for_timeout(1000)
    left = page.get_by_text("Comparing").bounding_box()["x"] - 10
    page.screenshot(path=PICTURES / "side_by_side.png", clip={"x": left, "y": 90, "width": 2000 - left, "height": 700})


def main():
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, browser.launched() as chromium:
        root = Path(name)
        poc = root / "experiments" / "python_help"
        shutil.copytree(ROOT / "experiments" / "python_help", poc, ignore=shutil.ignore_patterns(".poclab", "ml*", "ledger*"))
        shutil.copytree(ROOT / "notebooks", root / "notebooks")
        subprocess.run([sys.executable, "-m", "poclab", "sweep", str(poc)], check=True)
        with browser.jupyterlab(root) as address, browser.opened(chromium) as page:
            bench(page, address.format("notebooks/02_evaluate.ipynb"))
        found = Archive.open(poc)
        with server.serve(found.uri, poc, free_port()) as (base, _), browser.opened(chromium) as page:
            side_by_side(page, f"{base}/{found.links()['baseline and champion, case by case']}")
    for picture in PICTURES.glob("*.png"):
        Image.open(picture).quantize(64).save(picture, optimize=True)


if __name__ == "__main__":
    main()
