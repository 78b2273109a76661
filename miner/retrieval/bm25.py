"""BM25 with sparse matrices: a chunk of queries is one sparse product."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from miner.collection.collection import Collection, Floats, Hits, Ints
from miner.errors import UsageError, near
from miner.retrieval.config import Bm25Config
from miner.retrieval.ranked import products, top
from miner.text import for_tokens

VARIANTS = {
    "bm25s": ("lucene", "robertson", "atire", "bm25l", "bm25+"),
    "rank-bm25": ("okapi", "bm25l", "bm25+"),
}
STOPWORDS = (
    "english", "german", "dutch", "french", "spanish", "portuguese", "italian", "russian",
    "swedish", "norwegian", "chinese", "turkish", "korean", "danish", "none",
)  # fmt: skip
DELTA = {"bm25l": 0.5, "bm25+": 1.0}
"""Lower-bounding constants (Lv & Zhai 2011)."""

_CODE = 2


def check(config: Bm25Config) -> None:
    """Raises UsageError if the configuration names something that does not exist."""
    if config.backend not in VARIANTS:
        raise UsageError(f"unknown BM25 backend '{config.backend}'", f"choose one of {', '.join(VARIANTS)}")
    variants = VARIANTS[config.backend]
    if config.variant not in variants:
        raise UsageError(
            f"{config.backend} has no BM25 variant '{config.variant}'", f"it has {', '.join(variants)}"
        )
    if config.stopwords not in STOPWORDS:
        raise UsageError(
            f"no stop words for '{config.stopwords}'{near(config.stopwords, STOPWORDS)}",
            f"choose one of {', '.join(STOPWORDS)}",
        )
    _stemmer(config.stemmer)


def _stemmer(name: str) -> Any:
    import Stemmer

    if name == "none":
        return None
    try:
        return Stemmer.Stemmer(name)
    except KeyError as error:
        known = [*Stemmer.algorithms(), "none"]
        raise UsageError(
            f"no stemmer '{name}'{near(name, known)}", f"choose one of {', '.join(known)}"
        ) from error


def tokenise(texts: Sequence[str], config: Bm25Config) -> tuple[list[list[int]], list[str]]:
    """Returns each text's token numbers, and the sorted vocabulary that they index.

    Tokens are lower-case words of two or more letters or digits, without stop words, stemmed; in scripts
    without spaces they are pairs of neighbouring characters (`text.for_tokens`).
    """
    import bm25s

    prepared, pattern = for_tokens(texts)
    tokens = bm25s.tokenize(
        prepared,
        token_pattern=pattern or r"(?u)\b\w\w+\b",
        stopwords=None if config.stopwords == "none" else config.stopwords,
        stemmer=_stemmer(config.stemmer),
        show_progress=False,
    )
    terms = sorted(tokens.vocab)
    sorted_number = np.empty(len(terms), dtype=np.int64)
    for number, term in enumerate(terms):
        sorted_number[tokens.vocab[term]] = number
    return [sorted_number[ids].tolist() if ids else [] for ids in tokens.ids], terms


class Bm25:
    """Searches a collection with BM25; the index is built at the first search."""

    name = "bm25"
    kind = "bm25"
    proposes = True

    def __init__(self, collection: Collection, config: Bm25Config) -> None:
        check(config)
        self._collection = collection
        self._config = config

    def inputs(self) -> dict[str, Any]:
        """Returns everything that its hits depend on, except the texts and the depth."""
        import bm25s
        import Stemmer

        config = {name: getattr(self._config, name) for name in self._config.__dataclass_fields__}
        versions = {"bm25s": bm25s.__version__, "stemmer": Stemmer.version()}
        return {"bm25": config, "code": _CODE, **versions}

    @cached_property
    def _tokens(self) -> tuple[list[list[int]], list[str]]:
        return tokenise(self._collection.documents["text"].to_pylist(), self._config)

    @cached_property
    def _weights(self) -> Any:
        """Sparse matrix (terms, documents): what each term adds to each document's score."""
        documents, terms = self._tokens
        if not any(documents):
            return _matrix(np.zeros(0), np.zeros(0, int), np.zeros(1, int), (0, len(documents)))
        if self._config.backend == "rank-bm25":
            return _reference_weights(documents, len(terms), self._config)
        return _bm25s_weights(documents, terms, self._config)

    @cached_property
    def _by_document(self) -> Any:
        return self._weights.T.tocsr()

    @cached_property
    def _queries(self) -> Any:
        """Sparse matrix (queries, terms): how often each query contains each term."""
        number_of = {term: number for number, term in enumerate(self._tokens[1])}
        tokens, terms = tokenise(self._collection.queries["text"].to_pylist(), self._config)
        numbers = [number_of.get(term, -1) for term in terms]
        rows = [[numbers[t] for t in query if numbers[t] >= 0] for query in tokens]
        indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        indices = np.fromiter((t for row in rows for t in row), dtype=np.int64)
        matrix = _matrix(np.ones(len(indices)), indices, indptr, (len(rows), self._weights.shape[0]))
        matrix.sum_duplicates()
        return matrix

    @cached_property
    def _are_finite(self) -> bool:
        """Whether every query's sum of weights is finite, as it is unless k1 or b is extreme."""
        most = abs(self._queries @ np.ones(self._queries.shape[1])).max(initial=0.0)
        largest = np.abs(self._weights.data).max(initial=0.0) + np.abs(self._absence).max(initial=0.0)
        with np.errstate(over="ignore"):
            return bool(np.isfinite(most * largest))

    def search(self, queries: range, depth: int) -> Hits:
        """Returns, for each query, the best `depth` documents that share a term with it; ties by doc_id.

        A document whose score is not finite is not a hit.
        """
        absent = np.asarray(self._queries[queries.start : queries.stop] @ self._absence, dtype=np.float64)
        sums = products(self._queries[queries.start : queries.stop], self._weights)
        scored = ((docs, scores + base) for (docs, scores), base in zip(sums, absent, strict=True))
        if not self._are_finite:
            scored = (
                (docs[known], scores[known]) for docs, scores in scored for known in [np.isfinite(scores)]
            )
        best = [top(docs, scores, depth) for docs, scores in scored]
        sizes = [len(docs) for docs, _ in best]
        rank = np.concatenate([np.arange(1, size + 1) for size in sizes]).astype(np.int32)
        return Hits(
            np.repeat(np.arange(queries.start, queries.stop, dtype=np.int32), sizes),
            np.concatenate([docs for docs, _ in best]).astype(np.int32),
            rank,
            np.concatenate([scores for _, scores in best]),
        )

    @cached_property
    def _absence(self) -> Floats:
        """What each term adds to the score of a document without it: 0 except for BM25L and BM25+."""
        delta = DELTA.get(self._config.variant)
        terms = self._weights.shape[0]
        if delta is None or (self._config.variant == "bm25l" and self._config.backend == "rank-bm25"):
            return np.zeros(terms)
        return _absence(np.diff(self._weights.indptr), self._weights.shape[1], delta, self._config)

    def score_pairs(self, query: Ints, doc: Ints) -> Floats:
        """Returns the BM25 score of each (query, document) pair of positions, equal to that of `search`."""
        if not len(query):
            return np.zeros(0)
        shared = self._queries[query].multiply(self._by_document[doc]).tocsr()
        shared.sort_indices()
        # sum(axis=1) would add pairwise, while the product in `search` adds one term after the other.
        present = np.asarray(shared @ np.ones(shared.shape[1]), dtype=np.float64)
        return present + np.asarray(self._queries[query] @ self._absence, dtype=np.float64)


def _matrix(data: Any, indices: Any, indptr: Any, shape: tuple[int, int]) -> Any:
    from scipy.sparse import csr_array

    return csr_array((np.asarray(data, dtype=np.float64), indices, indptr), shape=shape)


def _bm25s_weights(documents: list[list[int]], terms: list[str], config: Bm25Config) -> Any:
    import bm25s

    index = bm25s.BM25(
        k1=config.k1, b=config.b, method=config.variant, delta=DELTA.get(config.variant, 0.5), dtype="float64"
    )
    vocabulary = {term: number for number, term in enumerate(terms)}
    index.index((documents, vocabulary), show_progress=False, create_empty_token=False)
    scores = index.scores
    return _matrix(scores["data"], scores["indices"], scores["indptr"], (len(terms), len(documents)))


def _reference_weights(documents: list[list[int]], terms: int, config: Bm25Config) -> Any:
    """Returns the weights by rank-bm25's scores of all one-term queries: slow, but the original formula."""
    import rank_bm25
    from scipy.sparse import csr_array, vstack

    kind = {"okapi": "BM25Okapi", "bm25l": "BM25L", "bm25+": "BM25Plus"}[config.variant]
    delta = {} if config.variant == "okapi" else {"delta": DELTA[config.variant]}
    index = getattr(rank_bm25, kind)(documents, k1=config.k1, b=config.b, **delta)
    rows = []
    for term in range(terms):
        holders = np.array([term in frequencies for frequencies in index.doc_freqs])
        with np.errstate(invalid="ignore"):  # 0 / 0 of an empty document when b is 1 or k1 is 0
            scores = index.get_scores([term])
        rows.append(csr_array(np.where(holders, scores, 0.0)[None, :]))
    weights = vstack(rows, format="csr")
    if config.variant == "bm25+":
        weights.data -= np.repeat(
            _absence(np.diff(weights.indptr), len(documents), DELTA["bm25+"], config), np.diff(weights.indptr)
        )
    return weights


def _absence(holders: Any, documents: int, delta: float, config: Bm25Config) -> Floats:
    """Returns BM25L's or BM25+'s score of a term for documents without it (Kamphuis et al. 2020, table 1)."""
    if config.variant == "bm25l":
        idf = np.log((documents + 1) / (holders + 0.5))
        return np.asarray(idf * (config.k1 + 1) * delta / (config.k1 + delta), dtype=np.float64)
    return np.asarray(np.log((documents + 1) / holders) * delta, dtype=np.float64)
