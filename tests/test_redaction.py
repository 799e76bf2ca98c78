import json

import pytest

from poclab import redaction
from poclab.redaction import CONCEALED, conceal

AWKWARD = 'pä"ss\\wörd\n12'


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    monkeypatch.setattr(redaction, "_remembered", set())


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "HF_TOKEN", "APP_SECRET", "MLFLOW_TRACKING_PASSWORD", "GCP_CREDENTIALS", "my_api_key"])
def test_the_value_of_a_variable_that_is_named_like_a_secret_is_removed(monkeypatch, name):
    """An error text or a reply that repeats a key does not carry it into a report."""
    monkeypatch.setenv(name, "s3cr3t-value")

    assert conceal("401: s3cr3t-value is wrong (s3cr3t-value)") == f"401: {CONCEALED} is wrong ({CONCEALED})"


def test_other_variables_are_left_alone(monkeypatch):
    """A text about /usr/local/lib is not mangled because a variable holds that path."""
    monkeypatch.setenv("SOME_PLACE", "/usr/local/lib")

    assert conceal("see /usr/local/lib") == "see /usr/local/lib"


def test_a_key_that_was_handed_over_is_removed_from_then_on():
    """A key given as an argument never stood in the environment."""
    assert conceal("key-from-argument") == "key-from-argument"
    redaction.remember("key-from-argument")

    assert conceal("Bearer key-from-argument") == f"Bearer {CONCEALED}"


def test_a_short_value_is_not_looked_for(monkeypatch):
    """`TEST_KEY=test` must not blacken every word `test`: 7 characters stay, 8 go."""
    monkeypatch.setenv("TEST_KEY", "seven77")
    redaction.remember("7seven7")
    redaction.remember("eight888")

    assert conceal("seven77 7seven7 eight888") == f"seven77 7seven7 {CONCEALED}"


@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_a_key_with_quotes_and_accents_is_found_as_json_writes_it(ensure_ascii):
    """Reports are JSON: there the key stands escaped, in either of two ways."""
    redaction.remember(AWKWARD)
    text = json.dumps({"error": f"bad key {AWKWARD}!"}, ensure_ascii=ensure_ascii)

    assert json.loads(conceal(text)) == {"error": f"bad key {CONCEALED}!"}


def test_a_key_that_holds_another_key_is_removed_whole():
    """Replacing the shorter one first would leave the rest of the longer one readable."""
    redaction.remember("abcdefgh")
    redaction.remember("abcdefgh-and-the-rest")

    assert conceal("abcdefgh-and-the-rest, abcdefgh") == f"{CONCEALED}, {CONCEALED}"
