"""BM25: two backends that must agree, ties, and what the user reads when a name is wrong."""

from __future__ import annotations

import argparse
import ast
import collections
import csv
import decimal
import email.message
import inspect
import logging
import math
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import bm25s
import numpy as np
import pyarrow as pa
import pytest
import rank_bm25
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.collection.collection import Collection, Hits
from miner.errors import UsageError
from miner.retrieval import term_shard
from miner.retrieval.bm25 import VARIANTS, Bm25, check
from miner.retrieval.config import Bm25Config
from miner.retrieval.terms import STOPWORDS, Terms

EVERY = [(backend, variant) for backend, variants in VARIANTS.items() for variant in variants]
WORDS = ("apple", "bread", "cheese", "dough", "eggs", "flour", "grain")
PLAIN: dict[str, Any] = {"stemmer": "none", "stopwords": "none"}

texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), min_size=1, max_size=9)


def collection(documents: Sequence[str], queries: Sequence[str]) -> Collection:
    return Collection(
        pa.table(
            {
                "doc_id": pa.array([f"d{i:05}" for i in range(len(documents))]),
                "text": pa.array(documents, pa.string()),
            }
        ),
        pa.table(
            {
                "query_id": pa.array([f"q{i:05}" for i in range(len(queries))]),
                "text": pa.array(queries, pa.string()),
            }
        ),
        {},
        "train",
    )


def search_all(
    documents: Sequence[str], queries: Sequence[str], config: Bm25Config, depth: int = 10_000
) -> Hits:
    return Bm25(collection(documents, queries), config).search(range(len(queries)), depth)


def by_query(hits: Hits, queries: int) -> list[dict[int, float]]:
    """Each query's documents and scores, in order of rank."""
    found: list[dict[int, float]] = [{} for _ in range(queries)]
    for query, doc, score in zip(hits.query.tolist(), hits.doc.tolist(), hits.score.tolist(), strict=True):
        found[query][doc] = score
    return found


def same_up_to_ties(left: dict[int, float], right: dict[int, float], tolerance: float) -> None:
    assert left.keys() == right.keys()
    assert all(abs(left[doc] - right[doc]) <= tolerance for doc in left)
    for order, scores in ((list(left), right), (list(right), left)):
        values = [scores[doc] for doc in order]
        assert all(above >= below - 1e-9 for above, below in pairwise(values))


def docstrings() -> list[str]:
    """300 texts that people wrote: the docstrings of standard library functions."""

    def found() -> Iterator[str]:
        modules = (
            argparse, ast, collections, csv, decimal, email.message, inspect, logging, os, pathlib,
            socket, statistics, subprocess, tarfile, threading, zipfile,
        )  # fmt: skip
        for module in modules:
            for _, member in sorted(inspect.getmembers(module)):
                parts = [member]
                if inspect.isclass(member):
                    parts += [part for _, part in sorted(vars(member).items()) if callable(part)]
                for part in parts:
                    if isinstance(doc := getattr(part, "__doc__", None), str) and len(doc) > 20:
                        yield doc

    distinct = list(dict.fromkeys(found()))
    assert len(distinct) >= 300
    return distinct[:300]


REAL = docstrings()
REAL_QUERIES = [" ".join(text.split()[:8]) for text in REAL[::10]]


# Where both libraries have the same formula


@settings(max_examples=80, deadline=None)
@given(texts, texts, st.sampled_from([0.5, 1.2, 2.0]), st.sampled_from([0.0, 0.4, 0.75, 1.0]))
def test_bm25_plus_is_one_formula_in_both_backends(
    documents: list[str], queries: list[str], k1: float, b: float
) -> None:
    ours, reference = (
        by_query(search_all(documents, queries, Bm25Config(backend, "bm25+", k1, b, **PLAIN)), len(queries))
        for backend in ("bm25s", "rank-bm25")
    )
    for left, right in zip(ours, reference, strict=True):
        same_up_to_ties(left, right, 1e-4)


def test_bm25_plus_agrees_on_real_text() -> None:
    ours, reference = (
        by_query(search_all(REAL, REAL_QUERIES, Bm25Config(backend, "bm25+")), len(REAL_QUERIES))
        for backend in ("bm25s", "rank-bm25")
    )
    assert sum(map(len, ours)) > 1000
    for left, right in zip(ours, reference, strict=True):
        same_up_to_ties(left, right, 1e-4)


@settings(max_examples=60, deadline=None)
@given(texts, texts, st.sampled_from(VARIANTS["bm25s"]))
def test_scores_are_those_of_plain_bm25s(documents: list[str], queries: list[str], variant: str) -> None:
    assert_as_plain_bm25s(documents, queries, Bm25Config(variant=variant, **PLAIN))


@pytest.mark.parametrize("variant", VARIANTS["bm25s"])
def test_scores_are_those_of_plain_bm25s_on_real_text(variant: str) -> None:
    assert_as_plain_bm25s(REAL, REAL_QUERIES, Bm25Config(variant=variant))


def assert_as_plain_bm25s(documents: Sequence[str], queries: Sequence[str], config: Bm25Config) -> None:
    """Every document that we return has the score of `retrieve`; those we leave out have the lowest."""
    tokens = Terms(config).of_texts(documents)
    if not any(tokens):
        return
    index = bm25s.BM25(
        k1=config.k1,
        b=config.b,
        method=config.variant,
        delta=term_shard.DELTA.get(config.variant, 0.5),
    )
    index.index(tokens, show_progress=False)
    known_terms = {term for text in tokens for term in text}
    ours = by_query(search_all(documents, queries, config), len(queries))
    for query, found in zip(Terms(config).of_texts(queries), ours, strict=True):
        known = [term for term in query if term in known_terms]
        if not known:
            assert not found
            continue
        places, scores = index.retrieve([known], k=len(documents), show_progress=False)
        plain = dict(zip(places[0].tolist(), scores[0].tolist(), strict=True))
        assert all(abs(plain[doc] - score) < 1e-4 for doc, score in found.items())
        left_out = [score for doc, score in plain.items() if doc not in found]
        assert not left_out or max(left_out) - min(plain.values()) < 1e-4


@settings(max_examples=60, deadline=None)
@given(texts, texts, st.sampled_from(VARIANTS["rank-bm25"]))
def test_scores_are_those_of_plain_rank_bm25(documents: list[str], queries: list[str], variant: str) -> None:
    if not any(documents):
        return
    kind = {"okapi": rank_bm25.BM25Okapi, "bm25l": rank_bm25.BM25L, "bm25+": rank_bm25.BM25Plus}[variant]
    index = kind([text.split() for text in documents], k1=1.2, b=0.75)
    ours = by_query(search_all(documents, queries, Bm25Config("rank-bm25", variant, **PLAIN)), len(queries))
    for query, found in zip(queries, ours, strict=True):
        plain = index.get_scores(query.split())
        assert all(abs(plain[doc] - score) < 1e-9 for doc, score in found.items())


# Where their formulas differ


def one_term(config: Bm25Config, documents: Sequence[str], term: str) -> dict[int, float]:
    return by_query(search_all(documents, [term], config), 1)[0]


@pytest.mark.parametrize("term", WORDS)
def test_bm25l_of_rank_bm25_multiplies_by_the_term_frequency_once_more(term: str) -> None:
    """Lv & Zhai's BM25L is idf · (k1+1)(c+δ)/(k1+c+δ), and so is bm25s; rank-bm25 multiplies that by
    the term's frequency once more. A document that lacks the term therefore gets 0 there, while the
    paper's formula gives it idf · (k1+1)δ/(k1+δ)."""
    documents = [" ".join(WORDS[i % 7 :] + WORDS[: i % 4] + (WORDS[i % 3],) * i) for i in range(12)]
    ours = one_term(Bm25Config("bm25s", "bm25l", **PLAIN), documents, term)
    theirs = one_term(Bm25Config("rank-bm25", "bm25l", **PLAIN), documents, term)
    assert ours.keys() == theirs.keys()
    for doc, score in ours.items():
        assert theirs[doc] == pytest.approx(score * documents[doc].split().count(term), rel=1e-9)


def test_bm25l_gives_an_absent_term_its_lower_bound_in_bm25s_and_nothing_in_rank_bm25() -> None:
    documents = ["apple bread", "apple cheese", "dough eggs", "eggs flour", "flour"]
    together = one_term(Bm25Config("bm25s", "bm25l", **PLAIN), documents, "bread cheese")
    alone = one_term(Bm25Config("bm25s", "bm25l", **PLAIN), documents, "bread")
    floor = math.log((5 + 1) / (1 + 0.5)) * (1.2 + 1) * 0.5 / (1.2 + 0.5)
    assert together[0] == pytest.approx(alone[0] + floor, rel=1e-9)
    reference = Bm25Config("rank-bm25", "bm25l", **PLAIN)
    assert one_term(reference, documents, "bread cheese")[0] == pytest.approx(
        one_term(reference, documents, "bread")[0], rel=1e-9
    )


def test_okapi_and_atire_share_the_term_part_and_differ_in_the_idf() -> None:
    """Both multiply an idf by tf·(k1+1)/(tf + k1(1-b+b·dl/avgdl)). ATIRE's idf is log(N/df); Okapi's is
    log((N-df+.5)/(df+.5)), and where that is negative a quarter of the average over all terms."""
    documents = [" ".join(["apple"] * (i % 3 + 1) + list(WORDS[1 : 2 + i % 6])) for i in range(11)]
    documents[10] = "grain grain flour"
    holders = {term: sum(term in text.split() for text in documents) for term in WORDS}
    plain = {term: math.log(11 - df + 0.5) - math.log(df + 0.5) for term, df in holders.items()}
    floor = 0.25 * sum(plain.values()) / len(plain)
    floored = 0
    for term, df in holders.items():
        idf = plain[term] if plain[term] >= 0 else floor
        floored += plain[term] < 0
        atire = one_term(Bm25Config("bm25s", "atire", **PLAIN), documents, term)
        okapi = one_term(Bm25Config("rank-bm25", "okapi", **PLAIN), documents, term)
        assert atire.keys() == okapi.keys()
        for doc, score in atire.items():
            assert okapi[doc] / score == pytest.approx(idf / math.log(11 / df), rel=1e-9)
    assert floored >= 1


def test_lucene_and_robertson_share_the_term_part_and_differ_in_the_idf() -> None:
    """Robertson's idf is Okapi's with 0 in place of a negative value; Lucene adds 1 inside the log."""
    documents = ["apple bread", "apple cheese dough", "eggs", "flour flour", "grain"]
    lucene = one_term(Bm25Config("bm25s", "lucene", **PLAIN), documents, "apple")
    robertson = one_term(Bm25Config("bm25s", "robertson", **PLAIN), documents, "apple")
    ratio = (5 - 2 + 0.5) / (2 + 0.5)
    for doc, score in lucene.items():
        assert robertson[doc] / score == pytest.approx(math.log(ratio) / math.log(1 + ratio), rel=1e-9)


# Search


@pytest.mark.parametrize(("backend", "variant"), EVERY)
def test_score_pairs_gives_exactly_the_scores_of_search(backend: str, variant: str) -> None:
    queries = [*REAL_QUERIES, " ".join(REAL[:3]), " ".join(REAL[3:9])]
    retriever = Bm25(collection(REAL, queries), Bm25Config(backend, variant))
    hits = retriever.search(range(len(queries)), 120)
    assert np.array_equal(retriever.score_pairs(hits.query, hits.doc), hits.score)
    shuffled = np.random.default_rng(0).permutation(len(hits.doc))
    assert np.array_equal(
        retriever.score_pairs(hits.query[shuffled], hits.doc[shuffled]), hits.score[shuffled]
    )


@settings(max_examples=60, deadline=None)
@given(texts, texts, st.sampled_from(EVERY), st.integers(1, 5))
def test_ranks_are_by_score_then_document(
    documents: list[str], queries: list[str], kind: tuple[str, str], depth: int
) -> None:
    config = Bm25Config(*kind, **PLAIN)
    whole = by_query(search_all(documents, queries, config), len(queries))
    hits = search_all(documents, queries, config, depth)
    cut = by_query(hits, len(queries))
    for query, found in enumerate(whole):
        assert list(found) == sorted(found, key=lambda doc: (-found[doc], doc))
        assert list(cut[query].items()) == list(found.items())[:depth]
        assert hits.rank[hits.query == query].tolist() == list(range(1, len(cut[query]) + 1))


def test_ties_go_to_the_smaller_id() -> None:
    hits = search_all(["apple bread", "cheese", "bread apple", "apple bread"], ["apple"], Bm25Config(), 2)
    assert hits.doc.tolist() == [0, 2]
    assert hits.score[0] == hits.score[1]


@pytest.mark.parametrize("workers", [1, 3])
def test_chunks_and_workers_change_nothing(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    whole = Bm25(collection(REAL, REAL_QUERIES), Bm25Config()).search(range(30), 20)
    retriever = Bm25(collection(REAL, REAL_QUERIES), Bm25Config(), workers=workers)
    monkeypatch.setattr(term_shard, "_QUERIES", 4)
    parts = [retriever.search(range(start, min(30, start + 7)), 20) for start in range(0, 30, 7)]
    for name in ("query", "doc", "rank", "score"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        assert np.array_equal(joined, getattr(whole, name)), name


_SEEDED = """
import hashlib, sys
from tests.test_bm25 import REAL, REAL_QUERIES, search_all
from miner.retrieval.config import Bm25Config
from miner.retrieval.terms import STOPWORDS, Terms
for backend, variant in (("bm25s", "lucene"), ("bm25s", "bm25l"), ("rank-bm25", "okapi")):
    hits = search_all(REAL[:120], REAL_QUERIES[:12], Bm25Config(backend, variant), 50)
    parts = (hits.query, hits.doc, hits.rank, hits.score)
    print(hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest())
"""


@pytest.mark.slow
def test_results_do_not_depend_on_the_hash_seed() -> None:
    outputs = [
        subprocess.run(
            [sys.executable, "-c", _SEEDED],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=pathlib.Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert len(outputs[0].split()) == 3
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(("backend", "variant"), EVERY)
def test_a_query_without_a_known_term_finds_nothing(backend: str, variant: str) -> None:
    queries = ["zebra", "apple", "", "a ? !"]
    hits = search_all(["apple bread", "cheese", "dough", ""], queries, Bm25Config(backend, variant))
    assert hits.query.tolist() == [1]
    assert hits.doc.tolist() == [0]
    retriever = Bm25(collection(["apple"], queries), Bm25Config(backend, variant))
    assert retriever.score_pairs(
        np.array([0, 2], dtype=np.int32), np.array([0, 0], dtype=np.int32)
    ).tolist() == [0.0, 0.0]
    assert len(retriever.score_pairs(np.array([], dtype=np.int32), np.array([], dtype=np.int32))) == 0


@pytest.mark.parametrize(("backend", "variant"), EVERY)
def test_a_corpus_without_words_finds_nothing(backend: str, variant: str) -> None:
    retriever = Bm25(collection(["", "the of", "?"], ["apple", ""]), Bm25Config(backend, variant))
    hits = retriever.search(range(2), 5)
    assert [len(part) for part in (hits.query, hits.doc, hits.rank, hits.score)] == [0, 0, 0, 0]
    assert retriever.score_pairs(
        np.array([0, 1], dtype=np.int32), np.array([2, 0], dtype=np.int32)
    ).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("variant", VARIANTS["bm25s"])
def test_a_repeated_query_term_counts_as_often_as_it_occurs(variant: str) -> None:
    documents = ["apple bread", "apple apple", "cheese", "dough", "eggs flour"]
    once, twice = by_query(search_all(documents, ["apple", "Apple apple"], Bm25Config(variant=variant)), 2)
    assert len(once) == 2
    assert {doc: 2 * score for doc, score in once.items()} == pytest.approx(twice)


# Tokens


def words(text: str, config: Bm25Config) -> list[str]:
    return Terms(config).of_texts([text])[0]


def test_tokens_are_lower_case_words_of_two_letters_stemmed_without_stop_words() -> None:
    assert words("The Runner is running a 7 x-ray, quickly", Bm25Config()) == [
        "runner",
        "run",
        "ray",
        "quick",
    ]


def test_stemmer_none_and_stop_words_none_leave_words_as_they_are() -> None:
    assert words("The Runner running", Bm25Config(stemmer="none")) == ["runner", "running"]
    assert words("The Runner running", Bm25Config(stopwords="none")) == ["the", "runner", "run"]
    assert words("Die Läufer", Bm25Config(stemmer="german", stopwords="german")) == ["lauf"]


def test_terms_are_numbered_as_they_occur_and_texts_may_be_empty() -> None:
    terms = Terms(Bm25Config(stemmer="none"))
    numbers, ends = terms.numbers(pa.array(["cheese of apple", "", None, "bread apple"]))
    assert terms.names().to_pylist() == ["cheese", "apple", "bread"]
    assert numbers.tolist() == [0, -1, 1, 2, 1]
    assert ends.tolist() == [3, 3, 3, 5]


@pytest.mark.parametrize("language", STOPWORDS)
def test_every_named_stop_word_list_exists(language: str) -> None:
    config = Bm25Config(stopwords=language, stemmer="none")
    check(config)
    assert "zzyzx" in words("zzyzx", config)


# What the user reads


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (Bm25Config(backend="lucene"), "unknown BM25 backend 'lucene'; choose one of bm25s, rank-bm25"),
        (
            Bm25Config(variant="okapi"),
            "bm25s has no BM25 variant 'okapi'; it has lucene, robertson, atire, bm25l, bm25+",
        ),
        (
            Bm25Config("rank-bm25", "lucene"),
            "rank-bm25 has no BM25 variant 'lucene'; it has okapi, bm25l, bm25+",
        ),
        (
            Bm25Config(stopwords="englsh"),
            "no stop words for 'englsh' (did you mean 'english'?); choose one of english, german, dutch, "
            "french, spanish, portuguese, italian, russian, swedish, norwegian, chinese, turkish, korean, "
            "danish, none",
        ),
    ],
)
def test_an_unknown_name_is_refused_with_what_there_is(config: Bm25Config, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Bm25(collection(["apple"], ["apple"]), config)
    assert str(caught.value) == text
    assert caught.value.exit_code == 2


def test_an_unknown_stemmer_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        check(Bm25Config(stemmer="englsh"))
    assert caught.value.message == "no stemmer 'englsh' (did you mean 'english'?)"
    assert caught.value.hint.startswith("choose one of arabic, ")
    assert caught.value.hint.endswith(", none")


def test_inputs_name_everything_that_changes_the_hits() -> None:
    base = Bm25Config()
    requested = [base, Bm25Config(k1=0.9), Bm25Config(b=0.4), Bm25Config(stemmer="none")]
    seen = [repr(Bm25(collection(["apple"], ["apple"]), config).inputs()) for config in requested]
    assert len(set(seen)) == len(requested)
    assert {"bm25s", "stemmer", "code", "bm25"} == set(Bm25(collection(["apple"], ["apple"]), base).inputs())
