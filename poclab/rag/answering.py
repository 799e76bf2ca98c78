"""The reference system: find passages, put them into the prompt, ask the model once.

It is what a better system must beat. Not covered: follow-up questions, query rewriting, citations, streaming, and defence
against instructions inside a passage, beyond that no passage can close its own block.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from poclab import system
from poclab.errors import EndpointError, InputError
from poclab.rag.corpus import Corpus
from poclab.rag.parameters import complete
from poclab.rag.retrieval import Retriever
from poclab.system import Passage, Reply, Version

if TYPE_CHECKING:
    import openai

TAG = re.compile(r"<(?=\s*/?\s*passage)", re.IGNORECASE)
RETRIEVAL_PARAMETERS = ("retrieval", "chunk_size", "overlap", "embedding")


@dataclass(frozen=True, eq=False)
class Rag:
    """A system that answers `{"question": ...}` from a corpus. `version` holds every parameter as it is used."""

    version: Version
    corpus_digest: str
    retriever: Retriever = field(repr=False)
    client: openai.OpenAI = field(repr=False)

    def __call__(self, inputs: Mapping[str, Any]) -> Reply:
        """Answer the question of one case, with the passages that the model was given.

        Raises:
            InputError: `inputs` is not one text under `question`.
            EndpointError: the model answered without a word: an empty reply would look like an abstention.
        """
        question = _question(inputs)
        passages = self._retrieve(question)
        text = self.version.parameters["prompt"].fill(question=question, context=render(passages))
        answer = self.client.chat.completions.create(messages=[{"role": "user", "content": text}], **self._request())
        return Reply(text=_said(answer), contexts=passages)

    def _retrieve(self, question: str) -> tuple[Passage, ...]:
        parameters = self.version.parameters
        if parameters["retrieval"] == "none":
            return ()
        room = {name: parameters[name] for name in ("top_k", "context_chars") if name in parameters}
        with system.step("retrieve", "RETRIEVER", inputs=question) as step:
            passages = system.retrieved(self.retriever.retrieve(question, **room))
            step.outputs = [_traced(one, rank) for rank, one in enumerate(passages, start=1)]
        return passages

    def _request(self) -> dict[str, Any]:
        from poclab import models

        taken = ("model", "max_tokens", "temperature", "seed")
        return models.limited(self.client, {name: self.version.parameters[name] for name in taken if name in self.version.parameters})


def build(version: Version, *, corpus: Corpus) -> Rag:
    """Return the system that `version` describes; all that can be refused is refused here, before a question is asked.

    Parameters and defaults: `poclab.rag.parameters`. The index comes from the POC's work folder if it was built before.

    Raises:
        InputError: a parameter or the prompt is not what it should be.
        EndpointError: the model cannot be asked.
    """
    from poclab import models

    version = complete(version)
    models.check(version.parameters["model"])
    chosen = {name: version.parameters[name] for name in RETRIEVAL_PARAMETERS if name in version.parameters}
    return Rag(version, corpus.digest, Retriever.build(corpus, **chosen), models.client())


def render(passages: Sequence[Passage]) -> str:
    """Return the passages as blocks; a text that holds a passage tag of its own cannot end its block or open another."""
    return "\n".join(f'<passage source="{html.escape(one.document)}">\n{TAG.sub("&lt;", one.text)}\n</passage>' for one in passages)


def _question(inputs: Mapping[str, Any]) -> str:
    if isinstance(inputs, Mapping) and set(inputs) == {"question"} and isinstance(inputs["question"], str):
        return inputs["question"]
    found = {key: type(value).__name__ for key, value in inputs.items()} if isinstance(inputs, Mapping) else type(inputs).__name__
    raise InputError(f"rag answers {{'question': text}}, found {found}", fix="name the input `question` in cases.jsonl")


def _said(answer: Any) -> str:
    if not answer.choices:
        raise EndpointError("the endpoint answered without choices")
    choice = answer.choices[0]
    text = (choice.message.content or "").strip()
    if not text:
        found = f"finish_reason {choice.finish_reason!r}, refusal {choice.message.refusal!r}"
        fix = "raise max_tokens: it was used up before the first word" if choice.finish_reason == "length" else ""
        raise EndpointError(f"the model answered without text: {found}", fix=fix)
    return text


def _traced(passage: Passage, rank: int) -> dict[str, Any]:
    # The format that MLflow shows as retrieved documents.
    metadata = {"doc_uri": passage.document, "start": passage.start, "end": passage.end, "rank": rank}
    return {"page_content": passage.text, "metadata": metadata}
