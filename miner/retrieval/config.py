"""The settings of each retriever."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bm25Config:
    """BM25 (Robertson & Zaragoza 2009; variants after Kamphuis et al., ECIR 2020)."""

    backend: str = "bm25s"
    """Whose formulas: those of `bm25s` or of `rank-bm25`."""
    variant: str = "lucene"
    """bm25s: lucene, robertson, atire, bm25l, bm25+; rank-bm25: okapi, bm25l, bm25+."""
    k1: float = 1.2
    b: float = 0.75
    stemmer: str = "english"
    """A Snowball algorithm, or `none`."""
    stopwords: str = "english"
    """A language whose stop words are left out, or `none`."""


@dataclass(frozen=True)
class DenseConfig:
    """Search by an encoder: for a dense one exact or approximate, for the other kinds exact."""

    encoder: str
    """Hub id, folder, `bundled`, or `URL#MODEL`."""
    revision: str | None = None
    dtype: str = "auto"
    query_prompt: str | None = None
    """None: the model's own prompt."""
    document_prompt: str | None = None
    index: str = "Flat"
    """`Flat` is exact; anything else is a FAISS factory string, for a dense encoder."""
    dimension: int | None = None
    """The first numbers of a dense encoder's vectors to use (Matryoshka); None: the model's own setting."""
    token_dtype: str = "fp32"
    """Precision of a multi-vector encoder's cached token vectors: `fp32`, or `fp16` for half the disk and
    scores that differ by up to 0.03 %."""
