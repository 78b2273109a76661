#!/usr/bin/env bash
# bm25s 0.3.16 and rank-bm25 0.2.2: the constant delta of BM25+ changes no ranking. BM25+ (Lv & Zhai 2011) adds delta
# for each word of the query that a document holds, so that a long document with the word stays above a document
# without it. Both libraries add it for each word of the query to *every* document. What is left is plain BM25 and one
# number per query, the same for all documents; and a document with none of the words has a score above 0. bm25s does
# so on purpose: a comment in its source speaks of the scores of absent words in BM25L and BM25+. What it means for
# delta is said nowhere.
#
# Who is hurt: whoever takes BM25+ for its gain on long documents, or tunes delta: every value gives the same figures.
# And whoever drops what does not match with "score > 0", as is usual with BM25: with BM25+ that drops nothing, and
# documents that share no word with the query can become its hard negatives.
# What to do there: drop documents without a word of the query by their words; do not tune delta.
#
# Exits with 0 if the behaviour is as described, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check bm25s==0.3.16 rank-bm25==0.2.2 numpy==2.4.6
cd "$work"
venv/bin/python - <<'PYTHON'
import sys
from importlib.metadata import version

import bm25s
import numpy as np
from rank_bm25 import BM25Plus

for package in ("bm25s", "rank-bm25", "numpy"):
    print(package, version(package))
print("BM25+ ranks the same whatever delta is, and gives documents without any word of the query a score above 0.")

K1, B = 1.5, 0.75
DELTAS = (0.0, 1.0, 10.0)
rng = np.random.default_rng(0)
words = np.array([f"w{number}" for number in range(300)])
share = 1 / np.arange(1, 301)
lengths = rng.lognormal(4, 1, 1000).astype(int) + 5
corpus = [rng.choice(words, size, p=share / share.sum()).tolist() for size in lengths]
queries = [rng.choice(words, 4, replace=False).tolist() for _ in range(30)]


def by_hand(query: list[str], delta: float) -> np.ndarray:
    """Scores by the formula of the paper: the sum is over the words that the query and the document share."""
    scores = np.zeros(len(corpus))
    for word in query:
        count = np.array([document.count(word) for document in corpus])
        idf = np.log((len(corpus) + 1) / max(1, (count > 0).sum()))
        frequency = (K1 + 1) * count / (K1 * (1 - B + B * lengths / lengths.mean()) + count)
        scores += np.where(count > 0, idf * (frequency + delta), 0)
    return scores


def of_bm25s(delta: float) -> np.ndarray:
    index = bm25s.BM25(method="bm25+", k1=K1, b=B, delta=delta, dtype="float64")
    index.index(corpus, show_progress=False)
    return np.array([index.get_scores(query) for query in queries])


def of_rank_bm25(delta: float) -> np.ndarray:
    index = BM25Plus(corpus, k1=K1, b=B, delta=delta)
    return np.array([index.get_scores(query) for query in queries])


def first(scores: np.ndarray) -> np.ndarray:
    """Returns the ten first documents of each query; ties, to 9 digits, by number."""
    return np.argsort(-np.round(scores, 9), axis=1, kind="stable")[:, :10]


def shared(left: np.ndarray, right: np.ndarray) -> float:
    """Returns how much of the first ten two rankings share."""
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(first(left), first(right))]))


paper = {delta: np.array([by_hand(query, delta) for query in queries]) for delta in DELTAS}
foreign = np.array([[not set(query) & set(document) for document in corpus] for query in queries])
print(f"{foreign.sum()} of {foreign.size} pairs of query and document share no word")
as_described = all((scores[foreign] == 0).all() for scores in paper.values())
for name, scored in (("bm25s", of_bm25s), ("rank-bm25", of_rank_bm25)):
    plain = scored(0.0)
    for delta in DELTAS[1:]:
        scores = scored(delta)
        moved = scores - plain
        same = bool(np.ptp(moved, axis=1).max() < 1e-9 and (first(scores) == first(plain)).all())
        above = int((scores[foreign] > 0).sum())
        overlap = shared(scores, paper[delta])
        print(f"{name}, delta {delta:g}: differs from delta 0 by one number per query, same first 10: {same}")
        print(f"    of the paper's first 10 it has {overlap:.0%}; pairs without a shared word above 0: {above}")
        as_described &= same and above == foreign.sum() and overlap < 0.8
    exact = bool(np.allclose(plain, paper[0.0], atol=1e-9))
    print(f"{name}, delta 0: the paper's scores: {exact}")
    as_described &= exact
print("first 10 that the paper's delta 0 and 1 share:", f"{shared(paper[0.0], paper[1.0]):.0%}")
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PYTHON
