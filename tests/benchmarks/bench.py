"""How quickly the bench answers a person: `python tests/benchmarks/bench.py`, with Debian's Chromium.

A POC of 500 dev cases in JupyterLab. Measured in the page, from the click until what was asked for is drawn: a sample of 20 cases whose
answers the ledger has, and a case of the 500 that is opened; medians and the longest of several, after a first one that counts, too.
Aimed at: 2 s for the sample, 0.2 s for a case.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import browser
from conftest import CHARTER, PROMPTS, notebook_of
from poclab import freezing

CASES, ROUNDS = 500, 15
BENCH = "import poclab; from poclab import scores; poclab.Workbench('.', scores=[scores.contains(), scores.evidence_recall()])"
#: Click, or choose an option, and tell after how many milliseconds a selector shows a text that it did not show before.
TIMED = """([act, target, value, watched, text]) => new Promise(done => {
    const found = () => [...document.querySelectorAll(watched)].some(one => one.textContent.includes(text));
    const started = performance.now();
    const watch = new MutationObserver(() => found() && (watch.disconnect(), requestAnimationFrame(() => done(performance.now() - started))));
    watch.observe(document.body, {childList: true, subtree: true, characterData: true});
    if (act === "click") [...document.querySelectorAll("button")].find(one => one.textContent.includes(target)).click();
    else { const list = document.querySelector(target); list.selectedIndex = value; list.dispatchEvent(new Event("change", {bubbles: true})); }
})"""


def make(poc):
    """A POC whose questions are each answered by a sentence of one document."""
    facts = [f"The parcel number {number} lies on shelf {number * 7 % 997}." for number in range(CASES + 1)]
    files = {"charter.yaml": CHARTER, "corpus.yaml": 'source: files\nglob: "docs/*.md"\n', "docs/parcels.md": "\n\n".join(facts)}
    files |= {f"prompts/{name}": text for name, text in PROMPTS.items()}
    files["bench.ipynb"] = json.dumps(notebook_of(BENCH))
    lines = (
        {
            "id": f"q{number:03}",
            "inputs": {"question": f"On which shelf lies the parcel number {number}?"},
            "expected": {"answers": [f"shelf {number * 7 % 997}"], "evidence": [f"The parcel number {number} lies"]},
            "split": "dev" if number < CASES else "test",
        }
        for number in range(CASES + 1)
    )
    files["cases.jsonl"] = "".join(json.dumps(line) + "\n" for line in lines)
    for name, text in files.items():
        (poc / name).parent.mkdir(parents=True, exist_ok=True)
        (poc / name).write_text(text)
    freezing.freeze(poc / "cases.jsonl")


def main():
    with tempfile.TemporaryDirectory() as name, browser.launched() as chromium:
        root = Path(name)
        make(root / "parcels")
        with browser.jupyterlab(root) as address, browser.opened(chromium) as page:
            browser.run_all(page, address.format("parcels/bench.ipynb"))
            page.get_by_role("button", name=f"Run all ({CASES})").click()
            page.get_by_text("run 1, ").last.wait_for()
            samples = []
            for number in range(2, 2 + ROUNDS):
                page.get_by_role("button", name="Run sample").click(trial=True)
                samples.append(page.evaluate(TIMED, ["click", "Run sample", 0, ".jp-OutputArea b", f"sample {number}, "]))
            page.get_by_role("button", name=f"Run all ({CASES})").click()
            page.wait_for_function("count => document.querySelectorAll('.jp-OutputArea select[size] option').length == count", arg=CASES)
            options = page.locator(".jp-OutputArea select[size] option").all_text_contents()
            opened = []
            for place in range(20, 20 + ROUNDS * 30, 30):
                case = options[place].split()[2]
                opened.append(page.evaluate(TIMED, ["choose", ".jp-OutputArea select[size]", place, ".jp-OutputArea b", case]))
    for what, taken in ((f"a sample of 20, replayed, of {CASES}", samples), (f"a case of {CASES} opens", opened)):
        print(f"{what}: median {statistics.median(taken) / 1000:.3f} s, longest {max(taken) / 1000:.3f} s, of {len(taken)}")


if __name__ == "__main__":
    main()
