"""LLM judges: a rubric file, verdicts that are read and never guessed, and what a judge is worth against people.

rubric        what a judge is told and shown; its digest
reading       the label in an answer
judge         the judge as a score; which of two replies is better
asking        many questions to a judge, outside of an evaluation
pairs         two runs, reply against reply
labels        the sample that people label
marking       the form for it
calibration   how far a judge agrees with them; its mean, corrected
gate          what `decide` makes of it
robustness    whether a verdict flips when a reply gives orders, or is padded
"""

from poclab.judging.calibration import Calibration, calibrate, calibration_path
from poclab.judging.judge import Judge, Preference
from poclab.judging.labels import draw, extend, labels_path, read_labels
from poclab.judging.marking import ReplyLabeler
from poclab.judging.pairs import Pairwise, pairwise
from poclab.judging.robustness import JudgeDrill, drill
from poclab.judging.rubric import Rubric

__all__ = [
    "Calibration",
    "Judge",
    "JudgeDrill",
    "Pairwise",
    "Preference",
    "ReplyLabeler",
    "Rubric",
    "calibrate",
    "calibration_path",
    "draw",
    "drill",
    "extend",
    "labels_path",
    "pairwise",
    "read_labels",
]
