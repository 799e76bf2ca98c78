"""The reference system: answer questions from a corpus of documents (retrieval-augmented generation).

corpus.py       which documents              chunking.py    passages with offsets
lexical.py      BM25                         dense.py       LSA, embeddings
index.py        built once, kept on disk     retrieval.py   ranking, fusion, the context budget
parameters.py   names, defaults, bounds      answering.py   prompt, model call, reply
"""

from poclab.rag.answering import Rag, build
from poclab.rag.chunking import cut
from poclab.rag.corpus import Corpus, Document, load_corpus
from poclab.rag.retrieval import Retriever

__all__ = ["Corpus", "Document", "Rag", "Retriever", "build", "cut", "load_corpus"]
