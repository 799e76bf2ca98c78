import json
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from poclab import models, rag
from poclab.errors import EndpointError
from poclab.rag.dense import build_embeddings, build_lsa, embed, embedding_scores, lsa_scores, lsa_vector, unit
from poclab.rag.lexical import tokens

TEXTS = [
    f"{animal} {animal} eats {food}, and the {food} is {colour}"
    for animal in ("cat", "dog", "owl")
    for food in ("fish", "corn")
    for colour in ("red", "blue")
]


def test_a_question_becomes_the_vector_that_scikit_learn_gives():
    """The numpy transform, which spares an import of five seconds, is scikit-learn's to nine places, but for the sign of a dimension."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer

    index = build_lsa(TEXTS)
    size = index.arrays["components"].shape[1]
    theirs = make_pipeline(TfidfVectorizer(analyzer=tokens, sublinear_tf=True), TruncatedSVD(size, random_state=0), Normalizer())
    vectors = theirs.fit_transform(TEXTS)

    for question in ("which cats eat fish fish fish", "blue owl zebra", TEXTS[3]):
        theirs_one = theirs.transform([question])[0]
        assert numpy.allclose(abs(lsa_vector(index, question)), abs(theirs_one), atol=1e-9)
        assert numpy.allclose(lsa_scores(index, question), theirs.transform(TEXTS) @ theirs_one, atol=1e-9)
    assert vectors.shape == (len(TEXTS), size)


def test_a_text_is_nearest_to_itself():
    """The cosine of a text with itself is 1, and no other is above it."""
    scores = lsa_scores(build_lsa(TEXTS), TEXTS[5])

    assert scores[5] == pytest.approx(1)
    assert scores.max() <= 1 + 1e-9


@pytest.mark.parametrize("question", ["", "zebra", "the of"])
def test_a_question_without_a_known_word_is_near_to_nothing(question):
    """No word in common is a cosine of 0, not an error."""
    assert not lsa_scores(build_lsa(TEXTS), question).any()


@pytest.mark.parametrize("texts", [["cat"], ["cat dog"], ["cat", "cat"], ["cat dog", "?"]])
def test_a_tiny_corpus_has_fewer_dimensions(texts):
    """One passage or one word is a corpus too."""
    assert lsa_scores(build_lsa(texts), "cat")[0] > 0


def test_a_vector_of_nothing_stays_nothing():
    """No division by zero."""
    assert unit(numpy.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[0.6, 0.8], [0.0, 0.0]]


def test_nothing_heavy_is_imported_before_or_after_the_index_is_built(tmp_path):
    """`import poclab.rag` is light, and a trial that finds its index imports neither scikit-learn nor bm25s."""
    (tmp_path / "corpus.yaml").write_text('source: files\nglob: "*.md"')
    (tmp_path / "a.md").write_text("\n\n".join(TEXTS))
    rag.Retriever.build(rag.load_corpus(tmp_path), retrieval="hybrid", chunk_size=50)
    script = f"""
import sys
from poclab import rag
heavy = {{"numpy", "sklearn", "scipy", "bm25s", "Stemmer", "filelock", "openai", "yaml", "pandas", "mlflow"}}
print(sorted(heavy & set(sys.modules)))
rag.Retriever.build(rag.load_corpus({str(tmp_path)!r}), retrieval="hybrid", chunk_size=50).retrieve("blue corn", top_k=1)
print(sorted(heavy & set(sys.modules)))
"""
    root = Path(rag.__file__).parents[2]
    printed = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True).stdout

    assert printed.splitlines() == ["[]", "['Stemmer', 'numpy', 'yaml']"]


def endpoint(answer):
    """Return a client whose endpoint is the function `answer(body) -> (status, JSON)`."""
    import httpx2
    import openai

    def handle(request):
        status, content = answer(json.loads(request.content))
        return httpx2.Response(status, json=content)

    return openai.OpenAI(api_key="none", max_retries=0, http_client=httpx2.Client(transport=httpx2.MockTransport(handle)))


def backwards(body):
    """Answer the length of each text, the last text first."""
    data = [{"object": "embedding", "index": place, "embedding": [len(text), 0]} for place, text in enumerate(body["input"])]
    return 200, {"object": "list", "model": body["model"], "data": data[::-1], "usage": {"prompt_tokens": 1, "total_tokens": 1}}


def test_embeddings_are_asked_in_batches_and_keep_the_order_of_the_texts():
    """A corpus larger than an endpoint takes at once is embedded whole; answers in another order are put right."""
    sizes = []

    def answer(body):
        sizes.append(len(body["input"]))
        return backwards(body)

    rows = embed(["x" * n for n in range(1, 71)], model="any", client=endpoint(answer))

    assert sizes == [32, 32, 6]
    assert rows[:, 0].tolist() == list(range(1, 71))


def test_a_missing_embedding_is_an_error():
    """Vectors are never attached to the wrong passages."""

    def short(body):
        status, content = backwards(body)
        return status, {**content, "data": content["data"][1:]}

    with pytest.raises(EndpointError, match="asked for 2 embeddings, got 1"):
        embed(["a", "b"], model="any", client=endpoint(short))


def test_a_corpus_that_the_endpoint_refuses_is_an_endpoint_error():
    """A model that embeds nothing is named before the first question."""
    refusing = endpoint(lambda body: (400, {"error": {"message": "this model does not embed"}}))

    with pytest.raises(EndpointError, match="chat-model: the corpus cannot be embedded: .*does not embed"):
        build_embeddings(["a"], model="chat-model", client=refusing)


def test_an_endpoint_that_echoes_the_key_does_not_show_it(monkeypatch):
    """The message ends on a terminal and in the record of a sweep."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-echoed-0123456789")
    refusing = endpoint(lambda body: (401, {"error": {"message": "Incorrect API key: sk-echoed-0123456789"}}))

    with pytest.raises(EndpointError, match=r"Incorrect API key: \(key removed\)") as caught:
        build_embeddings(["a"], model="any", client=refusing)

    assert "sk-echoed" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_an_empty_question_is_not_sent():
    """Endpoints refuse an empty text; here it is near to nothing."""
    asked = {"model": "offline/hashing", "client": models.client()}
    index = build_embeddings(TEXTS, **asked)

    assert not embedding_scores(index, "  ", **asked).any()
    assert embedding_scores(index, TEXTS[2], **asked).argmax() == 2
