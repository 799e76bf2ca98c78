"""What the parameters of a version are set by."""

import pytest

from poclab.controls import REFERENCE, checked, widget
from poclab.errors import InputError


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"top_k": range(0)}, "'top_k' is range"),
        ({"top_k": range(9, 1, -1)}, "expected a list, a range upwards"),
        ({"top_k": 5}, "'top_k' is 5"),
        ({"style": []}, "'style' is "),
        ({"style": {"short": 1}}, "expected a list, a range upwards"),
        ({5: ["short"]}, "5 is "),
        ({"prompt": "prompts/plain.md"}, "expected a list of files"),
        ({"prompt": range(3)}, "expected a list of files"),
    ],
)
def test_what_is_no_control_is_refused(wrong, message):
    """A mistake is told in the words of whoever made it, before a widget meets it."""
    with pytest.raises(InputError, match=message):
        checked(wrong)


def test_those_of_the_reference_system_are_controls():
    """What notebook 02 can be told can be set at the bench."""
    assert checked(REFERENCE) == REFERENCE


@pytest.mark.parametrize("pattern", ["notes/*.md", "/etc/*", "**b"])
def test_a_pattern_without_a_file_is_refused(poc, pattern):
    """An empty list would say nothing."""
    with pytest.raises(InputError, match="no file matches|is no pattern of files"):
        widget("notes", pattern, poc)
