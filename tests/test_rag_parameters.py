import pytest

from poclab.errors import InputError
from poclab.rag.parameters import complete
from poclab.system import Prompt, Version

PROMPT = Prompt("plain.md", "{{context}}\n\nQuestion: {{question}}")


def version(**parameters):
    return Version("v", **{"prompt": PROMPT, **parameters})


def test_the_version_is_completed_with_the_defaults_that_are_used():
    """A run shows every parameter that the system used, also those nobody typed."""
    assert complete(version()).parameters == {
        "model": "offline/extractive",
        "prompt": PROMPT,
        "retrieval": "bm25",
        "chunk_size": 400,
        "overlap": 0,
        "context_chars": 2000,
        "max_tokens": 300,
    }


def test_no_default_is_added_that_is_not_used():
    """Two closed-book runs have one digest: a chunk size that nothing is cut by is no difference."""
    assert set(complete(version(retrieval="none")).parameters) == {"model", "prompt", "retrieval", "max_tokens"}
    assert complete(version(retrieval="dense")).parameters["embedding"] == "lsa"
    assert "context_chars" not in complete(version(top_k=5)).parameters


def test_none_counts_as_not_given():
    """A notebook's `temperature: float | None = None` sends no temperature."""
    assert complete(version(temperature=None, top_k=None)) == complete(version())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"chunksize": 400}, "did you mean 'chunk_size'"),
        ({"split": "dev"}, "unknown parameter 'split'"),
        ({"chunk_size": "400"}, "chunk_size must be a whole number >= 50, found '400' (str)"),
        ({"chunk_size": 49}, "chunk_size must be a whole number >= 50, found 49"),
        ({"chunk_size": 400.0}, "found 400.0 (float)"),
        ({"overlap": True}, "overlap must be a whole number >= 0, found True (bool)"),
        ({"overlap": 400}, "overlap 400 is not below chunk_size 400"),
        ({"top_k": 0}, "top_k must be"),
        ({"context_chars": 99}, "context_chars must be a whole number >= 100"),
        ({"top_k": 3, "context_chars": 500}, "both top_k and context_chars"),
        ({"retrieval": "bm52"}, "one of: none, bm25, dense, hybrid"),
        ({"retrieval": ["bm25"]}, "retrieval must be"),
        ({"model": ""}, "model must be the name of a model"),
        ({"embedding": 3, "retrieval": "dense"}, "embedding must be"),
        ({"max_tokens": 0}, "max_tokens must be"),
        ({"temperature": -0.1}, "temperature must be a number >= 0"),
        ({"seed": 1.5}, "seed must be"),
        ({"prompt": "Answer {{question}}"}, "prompt must be a poclab.Prompt"),
        ({"prompt": None}, "no prompt"),
        ({"prompt": Prompt("p.md", "{{context}} {{qestion}}")}, "unknown placeholder {{qestion}}"),
        ({"prompt": Prompt("p.md", "{{context}}")}, "p.md: no {{question}}"),
        ({"prompt": Prompt("p.md", "{{question}}")}, "p.md: no {{context}}"),
    ],
)
def test_a_wrong_parameter_is_named_before_anything_is_spent(parameters, message):
    """Each message says what was found and what to type."""
    with pytest.raises(InputError) as caught:
        complete(version(**parameters))

    assert message in str(caught.value)


def test_a_closed_book_prompt_needs_no_context():
    """The same prompt with and without passages may be compared; so may one that never mentions them."""
    assert complete(version(retrieval="none", prompt=Prompt("p.md", "{{question}}")))
    assert complete(version(retrieval="none"))
