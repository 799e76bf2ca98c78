"""Search by vectors: latent semantic analysis on this machine, or the embeddings of an endpoint's model.

LSA (TF-IDF, then a truncated SVD) needs no network and no key. It is a baseline, and a weak one: nDCG@10 about .5 on SciFact, where
BM25 has .69. scikit-learn is needed only to build it; a question is turned into a vector with numpy alone.
Not covered: approximate search (every passage is compared, fine to about a million) and models that want a prefix before questions.
Source: Deerwester et al. (1990); scikit-learn's `TfidfVectorizer`, and the randomized SVD of its `TruncatedSVD`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from poclab.errors import EndpointError
from poclab.rag.index import Index
from poclab.rag.lexical import tokens
from poclab.redaction import conceal

if TYPE_CHECKING:
    import numpy
    import openai

LSA = "lsa"
#: The usual range is 100 to 300 (Deerwester et al.; scikit-learn's guide); capped by the number of passages and of words.
DIMENSIONS = 256
#: The most that Hugging Face's text-embeddings-inference takes in one request by default; OpenAI takes 2048.
BATCH = 32


def build_lsa(texts: Sequence[str]) -> Index:
    """Return the index of `texts`: their vectors, and what turns a question into one (idf and SVD components)."""
    import numpy
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.utils.extmath import randomized_svd

    weigher = TfidfVectorizer(analyzer=tokens, sublinear_tf=True)
    matrix = weigher.fit_transform(texts)
    # What TruncatedSVD calls; itself it refuses a vocabulary of one word, and divides by 0 for a single passage.
    _, _, components = randomized_svd(matrix, min(DIMENSIONS, *matrix.shape), n_iter=5, random_state=0)
    arrays = {"vectors": unit(matrix @ components.T), "idf": weigher.idf_, "components": numpy.ascontiguousarray(components.T)}
    return Index(arrays, tuple(weigher.get_feature_names_out().tolist()))


def lsa_vector(index: Index, text: str) -> numpy.ndarray:
    """Return the unit vector of `text`, as scikit-learn's own transform gives it; all 0 without a known word."""
    import numpy

    counts = Counter(index.columns[token] for token in tokens(text) if token in index.columns)
    columns = numpy.array(sorted(counts), dtype=int)
    weights = (1 + numpy.log([counts[column] for column in columns])) * index.arrays["idf"][columns]
    return unit(weights @ index.arrays["components"][columns])


def lsa_scores(index: Index, question: str) -> numpy.ndarray:
    """Return the cosine of the question with each text; all 0 without a known word."""
    return index.arrays["vectors"] @ lsa_vector(index, question)


def build_embeddings(texts: Sequence[str], *, model: str, client: openai.OpenAI) -> Index:
    """Return the index of `texts` as the endpoint's `model` embeds them: calls that cost money, once per corpus and chunking.

    Raises:
        EndpointError: the endpoint refuses, or answers with another number of vectors.
    """
    import openai

    try:
        return Index({"vectors": unit(embed(texts, model=model, client=client))})
    except openai.OpenAIError as error:
        reason = conceal(str(error))
        raise EndpointError(f"{model}: the corpus cannot be embedded: {reason}", fix="embedding='lsa' needs no endpoint") from None


def embedding_scores(index: Index, question: str, *, model: str, client: openai.OpenAI) -> numpy.ndarray:
    """Return the cosine of the question with each text; all 0 for an empty question, which no endpoint would embed."""
    import numpy

    vectors = index.arrays["vectors"]
    return vectors @ unit(embed([question], model=model, client=client))[0] if question.strip() else numpy.zeros(len(vectors))


def embed(texts: Sequence[str], *, model: str, client: openai.OpenAI) -> numpy.ndarray:
    """Return the vectors of `texts`, a row each.

    Raises:
        EndpointError: the endpoint answered with another number of vectors.
    """
    import numpy

    rows: list[list[float]] = []
    for first in range(0, len(texts), BATCH):
        batch = list(texts[first : first + BATCH])
        # Plain numbers, not the SDK's base64: any endpoint has them, and the ledger stays readable.
        answer = client.embeddings.create(model=model, input=batch, encoding_format="float")
        if len(answer.data) != len(batch):
            raise EndpointError(f"{model}: asked for {len(batch)} embeddings, got {len(answer.data)}")
        rows += [one.embedding for one in sorted(answer.data, key=lambda one: one.index)]
    return numpy.array(rows, dtype=float)


def unit(vectors: numpy.ndarray) -> numpy.ndarray:
    """Return the vectors with length 1; one of length 0 stays as it is."""
    import numpy

    lengths = numpy.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / numpy.where(lengths > 0, lengths, 1)
