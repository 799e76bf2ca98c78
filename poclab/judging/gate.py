"""The gate of `decide`: whether a score that judges gave is to be decided on, by their calibrations in a POC's folder.

A calibration counts while rubric, model and labels are what it was made with, and no other model answers under that name; and where the
lower edge of its kappa reaches what the charter asks for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from poclab.charter import Charter
from poclab.decision import Judged
from poclab.errors import InputError
from poclab.files import RUBRICS
from poclab.judging.calibration import SUFFIX, Calibration, calibration_path
from poclab.judging.rubric import Rubric
from poclab.report import Report
from poclab.scores import NO_RUBRIC


def gate(folder: Path, charter: Charter, *, named: str = "") -> Callable[[str, Report], Judged]:
    """Return what says of a score that judges gave whether it is to be decided on, by the calibrations in a POC's folder.

    `named` is what it says for the folder of the POC, where that is another one.
    """
    poc = named or str(folder)

    def judged(score: str, report: Report) -> Judged:
        found = [Calibration.load(path) for path in sorted((folder / RUBRICS).glob(f"*{SUFFIX}"))]
        known = [one for one in found if one.path == calibration_path(folder, one.name)]  # not a copy that somebody kept
        said = [
            _judged_by(rubric, score, report, known, charter, poc) or _unknown(rubric, score, known, folder, poc)
            for rubric in sorted(report.judged_by(score))
        ]
        return Judged("; ".join(one.refusal for one in said if one.refusal), "; ".join(one.told for one in said if one.told))

    return judged


def _judged_by(rubric: str, score: str, report: Report, known: Sequence[Calibration], charter: Charter, poc: str) -> Judged | None:
    """Return what the calibration of a rubric says; None where there is none."""
    if rubric == NO_RUBRIC:
        return Judged(f"{score!r} asks a model by itself, which nobody calibrated: make it a rubric and a `poclab.Judge`")
    found = next((one for one in known if one.rubric == rubric), None)
    if found is None:
        return None
    told = f"kappa {found.kappa_text}; mean of the judge {found.naive_text}, corrected {found.corrected_text}, on the {found.sampled['of']} replies of {found.sampled['name']}"
    return Judged(found.stranger(report.judges, poc) or found.stale(poc) or found.refusal(charter.kappa_at_least), told)


def _unknown(rubric: str, score: str, known: Sequence[Calibration], folder: Path, poc: str) -> Judged:
    """Return what is missing of a rubric without a calibration: that alone, or the rubric is not there any more."""
    there = None
    with contextlib.suppress(InputError):  # the score has another name than the rubric
        there = Rubric.named(score, folder)
    other = next((one for one in known if one.name == score), None)
    then = f" (it was with digest {other.rubric[:12]}: another rubric or model)" if other else ""
    back = "put that rubric back, and " if there and there.digest != rubric else ""
    how = f"{back}`poclab calibrate {poc} {score if there else 'RUBRIC'}`"
    return Judged(f"the judge of {score!r}, digest {rubric[:12]}, is not calibrated{then}: {how}{'; or score again' if back else ''}")
