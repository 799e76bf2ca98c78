import json

import pytest

from poclab import redaction
from poclab.redaction import CONCEALED, conceal, conceal_json, shown

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


@pytest.mark.parametrize("word", ["latency_s", "question", "postgres", "evidence-recall.v"])
def test_an_ordinary_word_in_a_variable_is_no_key(monkeypatch, word):
    """`SORT_KEY=latency_s` or `POSTGRES_PASSWORD=postgres` do not tear holes into reports; the same word given to a client does count."""
    monkeypatch.setenv("SORT_KEY", word)
    assert conceal(f"by {word}") == f"by {word}"

    redaction.remember(word)
    assert conceal(f"by {word}") == f"by {CONCEALED}"


@pytest.mark.parametrize("secret", ["correct-horse-battery-staple", "Postgres", "latency_95"])
def test_what_is_more_than_a_word_is_a_key(monkeypatch, secret):
    """A passphrase, a capital letter, a digit."""
    monkeypatch.setenv("MY_PASSWORD", secret)

    assert conceal(f"<{secret}>") == f"<{CONCEALED}>"


def test_keys_of_objects_are_concealed_and_none_is_lost(monkeypatch):
    """Two that differ by the secret alone are still two."""
    redaction.remember("sk-one-1234")
    redaction.remember("sk-two-5678")

    assert conceal_json({"sk-one-1234": 1, "sk-two-5678": {"sk-one-1234": 2}}) == {CONCEALED: 1, f"{CONCEALED}_": {CONCEALED: 2}}


@pytest.mark.parametrize("name", ["PASSWORD", "PGPASSWORD", "APIKEY", "SERVICE_TOKEN", "MY_PASSPHRASE"])
def test_a_variable_is_a_key_by_how_its_name_ends(monkeypatch, name):
    """With a word before it or without."""
    monkeypatch.setenv(name, "Correct-Horse-7")

    assert conceal("<Correct-Horse-7>") == f"<{CONCEALED}>"


def test_in_json_only_texts_are_concealed(monkeypatch):
    """A key value that is also a field's name or a number must not make the JSON unreadable; escaped JSON inside a text is searched."""
    monkeypatch.setenv("PIN_PASSWORD", "12345678")
    redaction.remember("latency_s")
    redaction.remember(AWKWARD)
    data = {"latency_s": [12345678, None, "at 12345678"], "inner": [{"arguments": json.dumps({"key": AWKWARD})}]}

    assert conceal_json(data) == {
        "latency_s": [12345678, None, f"at {CONCEALED}"],
        "inner": [{"arguments": json.dumps({"key": CONCEALED})}],
    }


def test_concealed_json_is_a_copy():
    """What a system keeps and changes later does not change the record, even where no key is known."""
    data = {"list": ["a"]}
    copy = conceal_json(data)
    data["list"].append("b")

    assert copy == {"list": ["a"]}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://user:pw@host:5000/v1", "http://host:5000/v1"),
        ("http://user:s3cr/etpw@host/v1", "http://host/v1"),
        ("http://user:s3c@retpw?x@host/v1?api-version=2&key=k", "http://host/v1"),
        ("postgresql+psycopg2://user:pw@host/db", "postgresql+psycopg2://host/db"),
        ("user:pw@host/v1", "host/v1"),
        ("API request to http://user:pw@host/api failed: ask a@b.org", "API request to http://host/api failed: ask a@b.org"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("http://host:5000", "http://host:5000"),
    ],
)
def test_an_address_is_shown_without_user_password_and_query(address, expected):
    """Whatever the password holds; what is left can still be recognised, and opened in a browser."""
    assert shown(address) == expected
