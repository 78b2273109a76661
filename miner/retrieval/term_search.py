"""Compiled search of an inverted index: the best documents of queries, exactly, most postings unread.

Documents are searched block by block. Terms that even together cannot lift a document among the best so far
are left out of a block (MaxScore: Turtle & Flood 1995); they are added only for the documents that the other
terms bring near enough. Sums of float32 choose these documents and decide nothing else: each document that
may be among the best gets its score in float64, its terms added in the order of the query.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from miner.compiled import compiled

BLOCK = 1 << 14
"""Documents whose sums stay in a processor's cache."""
_FIRST = 1 << 10
"""Documents of the first block. Blocks grow, because the best so far rule out more and more."""
_STRIP = 64
_SPARSE = 8
"""If the terms have fewer than one posting for so many documents, only the postings are looked at."""
_LOOKUP = 24
"""A search for one document in a list costs as much as adding so many of its postings."""
_TINY = 1e-30


class Index(NamedTuple):
    """An inverted index, and what its formula makes of the documents' lengths."""

    starts: Any
    """The documents of term t are `docs[starts[t]:starts[t + 1]]`, in order."""
    docs: Any
    counts: Any
    """How often the document of each posting holds the term."""
    lengths: Any
    norm_of: Any
    """The norm of each length."""
    norms: Any
    """The norm of each document, in float32."""
    bonus: float
    """See `weight`."""


class Queries(NamedTuple):
    """The terms of queries that documents hold."""

    starts: Any
    """The terms of query q are `terms[starts[q]:starts[q + 1]]`."""
    terms: Any
    factors: Any
    """The factor of each term: see `weight`."""
    largest: Any
    """The largest weight of each term in any document, for a factor of 1."""
    bases: Any
    """What is added to every score of a query."""


class _Work(NamedTuple):
    """The memory of one search."""

    order: Any
    """The query's terms by the largest weight, the smallest first."""
    bounds: Any
    """The largest weights of the terms up to each in `order`, added."""
    low: Any
    high: Any
    """The postings of each term in the block are those from `low` to `high`."""
    stops: Any
    """Where each term's postings end."""
    block: Any
    """The sums of the documents of a block."""
    near: Any
    """The documents of the block that may be among the best, counted from its first."""
    waiting: Any
    """Documents that wait for their score."""
    waiting_sums: Any
    tops: Any
    """A heap of the largest sums."""
    best: Any
    """A heap of the largest scores."""
    best_docs: Any


@compiled
def weight(factor: Any, count: Any, norm: Any, bonus: Any) -> Any:
    """Returns what a term adds to the score of a document that holds it `count` times.

    `factor` is its idf times constants. With `bonus` 0 it is the saturating form that all formulas have but
    one: BM25L of rank-bm25 is not bounded.
    """
    part = count / (count + norm)
    if bonus != 0:
        part *= count + bonus * norm
    return factor * part


@compiled
def largest_weights(terms: Any, index: Any) -> Any:
    """Returns the largest weight of each term in any document, for a factor of 1."""
    result = np.zeros(len(terms))
    for number, term in enumerate(terms):
        for at in range(index.starts[term], index.starts[term + 1]):
            norm = np.float64(index.norms[index.docs[at]])
            result[number] = max(result[number], weight(1.0, np.float64(index.counts[at]), norm, index.bonus))
    return result


@compiled
def _forward(docs: Any, start: Any, stop: Any, doc: Any) -> Any:
    """Returns the first position from `start` on, before `stop`, whose document is `doc` or later."""
    step, low = np.uint64(1), start
    while low + step < stop and docs[low + step] < doc:
        low += step
        step += step
    return low + _position(docs[low : min(stop, low + step + np.uint64(1))], doc)


@compiled
def _position(docs: Any, doc: Any) -> Any:
    """Returns the position of a document among sorted ones, or that of the next if it is not among them."""
    low, high = np.uint64(0), np.uint64(len(docs))
    while low < high:
        middle = (low + high) >> np.uint64(1)
        if docs[middle] < doc:
            low = middle + np.uint64(1)
        else:
            high = middle
    return low


@compiled
def _is_worse(score: Any, doc: Any, other: Any, other_doc: Any) -> bool:
    """Returns whether a hit ranks below another: by score, then document."""
    return bool(score < other or (score == other and doc > other_doc))


@compiled
def _sink(scores: Any, docs: Any, size: int) -> None:
    """Moves the first hit of a heap to its level; the worst hit comes first."""
    score, doc, parent = scores[0], docs[0], 0
    while True:
        child = 2 * parent + 1
        if child >= size:
            break
        if child + 1 < size and _is_worse(scores[child + 1], docs[child + 1], scores[child], docs[child]):
            child += 1
        if not _is_worse(scores[child], docs[child], score, doc):
            break
        scores[parent], docs[parent] = scores[child], docs[child]
        parent = child
    scores[parent], docs[parent] = score, doc


@compiled
def _push(scores: Any, docs: Any, size: int, score: Any, doc: Any) -> int:
    """Adds a hit to a heap of at most len(scores) hits; returns its new size."""
    if size < len(scores):
        child = size
        while child and _is_worse(score, doc, scores[(child - 1) // 2], docs[(child - 1) // 2]):
            scores[child], docs[child] = scores[(child - 1) // 2], docs[(child - 1) // 2]
            child = (child - 1) // 2
        scores[child], docs[child] = score, doc
        return size + 1
    if _is_worse(scores[0], docs[0], score, doc):
        scores[0], docs[0] = score, doc
        _sink(scores, docs, size)
    return size


@compiled
def _push_sum(tops: Any, size: int, value: Any) -> int:
    """Adds a number to a heap of at most len(tops), the smallest first; returns its new size."""
    if size < len(tops):
        child = size
        while child and value < tops[(child - 1) // 2]:
            tops[child] = tops[(child - 1) // 2]
            child = (child - 1) // 2
        tops[child] = value
        return size + 1
    if value > tops[0]:
        parent = 0
        while 2 * parent + 1 < size:
            child = 2 * parent + 1
            if child + 1 < size and tops[child + 1] < tops[child]:
                child += 1
            if tops[child] >= value:
                break
            tops[parent] = tops[child]
            parent = child
        tops[parent] = value
    return size


@compiled
def _add(docs: Any, counts: Any, norms: Any, factor: Any, bonus: Any, begin: Any, sums: Any) -> None:
    """Adds a term's weights in documents of the block that begins at document `begin` to their sums."""
    for number in range(len(docs)):
        doc, count = docs[number], np.float32(counts[number])
        sums[doc - begin] += weight(factor, count, norms[doc], bonus)


@compiled
def _add_near(
    docs: Any, counts: Any, norms: Any, factor: Any, bonus: Any, begin: Any, sums: Any, near: Any
) -> None:
    """Does what `_add` does, for the documents `near` alone."""
    for number in near:
        doc = begin + number
        at = _position(docs, doc)
        if at < len(docs) and docs[at] == doc:
            sums[number] += weight(factor, np.float32(counts[at]), norms[doc], bonus)


@compiled
def _above(sums: Any, cutoff: Any, near: Any) -> int:
    """Writes the documents with a sum above `cutoff` to `near`; returns how many they are."""
    size = 0
    for start in range(0, len(sums), _STRIP):
        strip = sums[start : start + _STRIP]
        above = np.int32(0)
        for number in range(_STRIP):  # of a fixed length, which the compiler turns into vector operations
            above += np.int32(strip[number] > cutoff)
        if above:
            for number in range(_STRIP):
                if strip[number] > cutoff:
                    near[size] = start + number
                    size += 1
    return size


@compiled
def _above_among(docs: Any, begin: Any, sums: Any, cutoff: Any, near: Any, size: int) -> int:
    """Adds those documents of a term whose sum is above `cutoff` to `near`; returns their number.

    It negates their sums, so that another term does not add them again.
    """
    for doc in docs:
        number = doc - begin
        one = sums[number]
        near[size] = number
        size += one > cutoff
        sums[number] = -one if one > cutoff else one
    return size


@compiled
def _still_above(sums: Any, cutoff: Any, near: Any, size: int) -> int:
    """Keeps those of the first `size` documents of `near` with a sum above `cutoff`; returns how many."""
    kept = 0
    for one in near[:size]:
        near[kept] = one
        kept += sums[one] > cutoff
    return kept


@compiled
def _score(doc: Any, terms: Any, factors: Any, base: float, index: Any) -> float:
    """Returns a document's score, its terms added in their order."""
    score = 0.0
    for number, term in enumerate(terms):
        start, stop = index.starts[term], index.starts[term + 1]
        at = start + np.int64(_position(index.docs[start:stop], doc))
        if at < stop and index.docs[at] == doc:
            norm = index.norm_of[index.lengths[doc]]
            score += weight(factors[number], np.float64(index.counts[at]), norm, index.bonus)
    return score + base


@compiled
def _settle(waiting: Any, size: int, terms: Any, factors: Any, base: float, index: Any, work: Any) -> int:
    """Gives the waiting documents their scores and adds them to the best; returns how many these are.

    A score that is not finite is left out.
    """
    for doc in waiting:
        score = _score(doc, terms, factors, base, index)
        if np.isfinite(score):
            size = _push(work.best, work.best_docs, size, score, np.int64(doc))
    return size


@compiled
def _prepare(terms: Any, factors: Any, largest: Any, index: Any, work: Any) -> float:
    """Sets up the lists of a query's terms; returns the sum of their largest weights, without signs."""
    total = 0.0
    for t in range(len(terms)):
        work.low[t] = work.high[t] = index.starts[terms[t]]
        work.stops[t] = index.starts[terms[t] + 1]
        total += abs(factors[t]) * largest[t]
        at = t
        while at and factors[work.order[at - 1]] * largest[work.order[at - 1]] > factors[t] * largest[t]:
            work.order[at] = work.order[at - 1]
            at -= 1
        work.order[at] = t
    bound = 0.0
    for rank in range(len(terms)):
        t = work.order[rank]
        bound += max(0.0, factors[t] * largest[t])
        work.bounds[rank] = bound
    return total


@compiled
def _following(left_out: int, terms: int, docs: Any, work: Any) -> Any:
    """Returns the first document beyond the last block that holds a term that is not left out, or a number
    beyond all documents."""
    first = np.int64(np.iinfo(np.int64).max)
    for rank in range(left_out, terms):
        t = work.order[rank]
        if work.high[t] < work.stops[t]:
            first = min(first, np.int64(docs[work.high[t]]))
    return first


@compiled
def _search_block(
    begin: int,
    end: int,
    left_out: int,
    cutoff: float,
    every: bool,
    factors: Any,
    index: Any,
    work: Any,
) -> int:
    """Sums up the documents of a block; returns how many are near enough to the best, listed in `work.near`.

    Near enough is a sum above `cutoff`; with `every` all documents that hold a term are.
    """
    sums, near, base, postings = work.block, work.near, np.uint32(begin), 0
    sums = sums[: (end - begin + _STRIP - 1) // _STRIP * _STRIP]
    sums[:] = 0
    bonus = np.float32(index.bonus)
    for rank in range(left_out, len(factors)):
        t = work.order[rank]
        work.low[t] = work.high[t]
        work.high[t] = _forward(index.docs, work.low[t], work.stops[t], end)
        docs, counts = index.docs[work.low[t] : work.high[t]], index.counts[work.low[t] : work.high[t]]
        postings += len(docs)
        if every:
            for doc in docs:
                sums[doc - base] = 1
        else:
            _add(docs, counts, index.norms, np.float32(factors[t]), bonus, base, sums)
    rest = work.bounds[left_out - 1] if left_out else 0.0
    least = np.float32(max(0.0, cutoff - rest))
    if _SPARSE * postings > len(sums):
        size = _above(sums, least, near)
    else:
        size = 0
        for rank in range(left_out, len(factors)):
            t = work.order[rank]
            size = _above_among(index.docs[work.low[t] : work.high[t]], base, sums, least, near, size)
        for one in near[:size]:
            sums[one] = -sums[one]
    for rank in range(left_out - 1, -1, -1):
        if not size:
            break
        t = work.order[rank]
        work.low[t] = _forward(index.docs, work.low[t], work.stops[t], begin)
        work.high[t] = _forward(index.docs, work.low[t], work.stops[t], end)
        docs, counts = index.docs[work.low[t] : work.high[t]], index.counts[work.low[t] : work.high[t]]
        factor = np.float32(factors[t])
        if len(docs) < _LOOKUP * size:
            _add(docs, counts, index.norms, factor, bonus, base, sums)
        else:
            _add_near(docs, counts, index.norms, factor, bonus, base, sums, near[:size])
        rest = work.bounds[rank - 1] if rank else 0.0
        size = _still_above(sums, np.float32(max(0.0, cutoff - rest)), near, size)
    return size


@compiled
def _search_query(
    terms: Any, factors: Any, largest: Any, base: float, index: Any, slack: float, work: Any
) -> int:
    """Finds a query's best documents, which are then in the heap `work.best`; returns how many they are."""
    total = _prepare(terms, factors, largest, index, work)
    error, room = slack * total + _TINY, 1e-9 * (total + abs(base))
    every = slack == np.inf
    for factor in factors:
        every = every or factor <= 0
    documents, depth = len(index.lengths), len(work.best)
    limit, left_out, begin, end = -np.inf, 0, 0, 0
    sums, waiting, best = 0, 0, 0
    while True:
        while left_out < len(terms) and work.bounds[left_out] < limit:
            left_out += 1
        following = _following(left_out, len(terms), index.docs, work)
        if following >= documents:
            break
        while following >= end:
            begin = end
            end = min(documents, begin + min(BLOCK, max(begin, _FIRST)))
        near = _search_block(begin, end, left_out, limit - error, every, factors, index, work)
        if not every:
            for one in work.near[:near]:
                sums = _push_sum(work.tops, sums, work.block[one])
            if sums == depth:
                limit = work.tops[0] - error - room
            near = _still_above(work.block, np.float32(max(0.0, limit - error)), work.near, near)
        if waiting + near > len(work.waiting):
            kept = 0
            for number in range(waiting):
                work.waiting[kept], work.waiting_sums[kept] = work.waiting[number], work.waiting_sums[number]
                kept += work.waiting_sums[number] > limit - error
            waiting = kept
        if waiting + near > len(work.waiting):
            best = _settle(work.waiting[:waiting], best, terms, factors, base, index, work)
            waiting = 0
        for one in work.near[:near]:
            work.waiting[waiting], work.waiting_sums[waiting] = begin + one, work.block[one]
            waiting += 1
    kept = 0
    for number in range(waiting):
        work.waiting[kept] = work.waiting[number]
        kept += every or work.waiting_sums[number] > limit - error
    return _settle(work.waiting[:kept], best, terms, factors, base, index, work)


@compiled
def search(queries: Any, index: Any, slack: float, found_docs: Any, found_scores: Any) -> Any:
    """Writes the best documents of each query that share a term with it; returns how many were found.

    Rows of `found_docs` and `found_scores` are queries, ranked by score, then document; scores that are not
    finite are left out. `slack` bounds the relative error of a sum in float32; with infinity every document
    that shares a term gets its score.
    """
    most, depth = 0, found_docs.shape[1]
    for query in range(len(queries.starts) - 1):
        most = max(most, queries.starts[query + 1] - queries.starts[query])
    work = _Work(
        np.empty(most, dtype=np.int64),
        np.empty(most),
        np.empty(most, dtype=np.uint64),
        np.empty(most, dtype=np.uint64),
        np.empty(most, dtype=np.uint64),
        np.empty(BLOCK, dtype=np.float32),
        np.empty(BLOCK + 1, dtype=np.uint32),
        np.empty(2 * BLOCK, dtype=np.uint32),
        np.empty(2 * BLOCK, dtype=np.float32),
        np.empty(depth, dtype=np.float32),
        np.empty(depth),
        np.empty(depth, dtype=np.int64),
    )
    found = np.zeros(len(queries.starts) - 1, dtype=np.int64)
    for query in range(len(found)):
        own = slice(queries.starts[query], queries.starts[query + 1])
        terms, factors, largest = queries.terms[own], queries.factors[own], queries.largest[own]
        size = _search_query(terms, factors, largest, queries.bases[query], index, slack, work)
        found[query] = size
        while size:
            size -= 1
            found_docs[query, size], found_scores[query, size] = work.best_docs[0], work.best[0]
            work.best[0], work.best_docs[0] = work.best[size], work.best_docs[size]
            _sink(work.best, work.best_docs, size)
    return found


@compiled
def score_pairs(pair_queries: Any, pair_docs: Any, queries: Any, index: Any) -> Any:
    """Returns the score of each pair of a query and a document, equal to that of `search`."""
    scores = np.zeros(len(pair_queries))
    for number in range(len(pair_queries)):
        query = pair_queries[number]
        own = slice(queries.starts[query], queries.starts[query + 1])
        doc = np.uint32(pair_docs[number])
        scores[number] = _score(doc, queries.terms[own], queries.factors[own], queries.bases[query], index)
    return scores
