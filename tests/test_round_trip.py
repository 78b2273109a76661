"""What comes back of an export: ingest, mine, export, ingest and mine again give the same."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import Phase, assume, given, reject, settings
from hypothesis import strategies as st

import miner
from miner.export import FORMATS, ExportConfig, export_run
from miner.export.formats import Shape
from miner.export.writers import FLAT
from miner.sources import ingest
from miner.store.database import Database
from miner.text import clean, text_key
from tests.sources_support import beir, collect, jsonl, rows, write

NEGATIVES = 2
"""How many negatives a run asks for; a row of `n-tuple` has as many."""
WITH_IDS = ("flagembedding", "tevatron", "ids")
WITH_TITLES = ("tevatron", "dpr", "ids")
"""Formats with the title and the text of a document apart."""
UNLABELLED = ("labeled-pair", "labeled-list")
"""Formats in which scores replace the labels, so that the judgments are in an export without scores."""

MARKS = [
    *("NA", "null", "None", "nan", "true", "\\N", "-", "#", "1.0", "1", "007", "1e5", "-0", "2020-01-01"),
    *("[x]", "[1, 2]", '["a"]', "['a', 'b']", '{"text": "a"}', "{}", "[]", '""', '"', "''", "a, b", ";", "|"),
    *(
        "\ta\t",
        " b ",
        'a\t"b"',
        "c\n",
        "\nd",
        "\re",
        "f\r",
        "\r\ng\r\n",
        "h\ri",
        "j\r\nk",
        "l\n\nm",
        "\ufeffn",
    ),
    *(
        "שלום",
        "مرحبا بالعالم",
        "\u202eabc",
        "日本語テキスト",
        "ไทยแลนด์",
        "\\",
        "\\n",
        "a\u2028b",
        "a\x85b",
        "é",
    ),
    *("\ufeffn", "a\x85b", "=1+1", "<p>&amp;</p>", "a,b\nc,d", 'a ""b""', "query\tpositive", "\x1ca", "🚀"),
]
"""Texts that a file or its reader might change. Each is a whole cell of every export."""
TEXTS = st.lists(st.one_of(st.sampled_from(MARKS), st.text(max_size=6)), max_size=4).map(
    lambda parts: clean("".join(parts))[0]
)
CASES = [
    (name, file_type, scores)
    for name, form in FORMATS.items()
    for file_type in form.file_types
    for scores in ((False, True) if form.scores else (False,))
    if file_type not in FLAT
    or not any(pa.types.is_nested(one.type) for one in form.schema(Shape(scores, NEGATIVES, "r")))
]
"""Each format with each of its file types, without and with scores."""


def different(texts: Sequence[str]) -> list[str]:
    """Returns the texts that have words, the first of those that are the same text."""
    first: dict[int, str] = {}
    for text in texts:
        first.setdefault(text_key(text), text)
    return [text for key, text in first.items() if key]


def mined(store: Path, *candidates: Path) -> Path:
    """Mines in a store with candidates, of which every one may be a negative; returns the store."""
    given_candidates = [str(one) for one in candidates]
    settings = {"negatives": NEGATIVES, "relative_margin": 0.0}
    miner.mine(str(store), candidates=given_candidates, bm25=False, **settings)
    return store


def first_store(folder: Path, texts: Sequence[str], shift: int, scores: Sequence[float]) -> Path:
    """Ingests a collection in which each text is a query, a document and a title, and mines in it.

    A query has one or two positives and four other candidates; `shift` says which text is whose title.
    """
    number = len(texts)
    titles = [texts[(d + shift) % number] if d % 3 == 0 else "\t" * (d % 7 == 1) for d in range(number)]
    whole = {text_key(f"{title} {text}") for title, text in zip(titles, texts, strict=True)}
    if len(whole) < number:
        reject()
    documents = {f"d{d}": (titles[d], texts[d]) for d in range(number)}
    steps = [(q, step) for q in range(number) for step in range(1, 7)]
    judged = [(f"q{q}", f"d{(q + step) % number}", 1) for q, step in steps if step <= 1 + q % 2]
    run = [
        {"query_id": f"q{q}", "doc_id": f"d{(q + step) % number}", "score": scores[at % len(scores)]}
        for at, (q, step) in enumerate(steps)
    ]
    positives = {pair[:2] for pair in judged}
    for row in run:
        row["score"] += 6 * ((row["query_id"], row["doc_id"]) in positives)
    source = beir(folder / "set", documents, {f"q{q}": text for q, text in enumerate(texts)}, train=judged)
    assert ingest(folder / "first.duckdb", str(source)).rejected == ()
    return mined(folder / "first.duckdb", write(folder / "run.jsonl", jsonl(*run)))


def exported(store: Path, folder: Path, name: str, file_type: str, scores: bool) -> Path:
    out = folder / f"{name}-{file_type}-{scores}"
    with Database.open(store, read_only=True) as opened:
        export_run(opened, out, ExportConfig(format=name, file_type=file_type, scores=scores))
    return out


DOCUMENTS = "SELECT doc_id, title, text FROM documents"
QUERIES = "SELECT query_id, text FROM queries"
JUDGMENTS = """SELECT query_id, q.text, doc_id, d.text, relevance, split FROM judgments
    JOIN queries q USING (query_id) JOIN document_texts d USING (doc_id)"""
TRIPLETS = """SELECT query_id, query, positive_id, positive, negative_id, negative,
    positive_score, negative_score FROM triplet_texts"""


def content(store: Path, name: str, scores: bool) -> dict[str, list[tuple[Any, ...]]]:
    """Returns what a format must bring back of a store with a run, in any order."""
    ids, scores = name in WITH_IDS, scores or name == "ids"
    documents = DOCUMENTS if name in WITH_TITLES else "SELECT doc_id, '', text FROM document_texts"
    found = {
        "documents": [(i if ids else "", *texts) for i, *texts in rows(store, documents)],
        "queries": [(i if ids else "", text) for i, text in rows(store, QUERIES)],
        "judgments": [
            (q_id, query, d_id, document, *rest) if ids else (query, document, *rest)
            for q_id, query, d_id, document, *rest in rows(store, JUDGMENTS)
        ],
        "triplets": [
            (*(row[:6] if ids else row[1:6:2]), *(row[6:] if scores else ())) for row in rows(store, TRIPLETS)
        ],
    }
    return {what: sorted(among) for what, among in found.items()}


def complete(store: Path) -> bool:
    """Returns whether each query has as many negatives for each positive as the run asked for."""
    pairs = Counter(row[:2] for row in rows(store, "SELECT query_id, positive_id FROM triplets"))
    judged = set(rows(store, "SELECT query_id, doc_id FROM judgments"))
    return set(pairs) == judged and set(pairs.values()) == {NEGATIVES}


def require_same(first: Path, folder: Path, name: str, file_type: str, scores: bool) -> None:
    """Asserts that an export of a store brings back its queries, documents, judgments and triplets."""
    out = exported(first, folder, name, file_type, scores)
    more = [exported(first, folder, name, file_type, False)] if scores and name in UNLABELLED else []
    again = folder / f"{out.name}.duckdb"
    if more:
        assert "judgments" not in collect(out)
    report = ingest(again, [str(one) for one in (out, *more)])
    assert report.rejected == ()
    assert content(mined(again, out), name, scores) == content(first, name, scores)


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mined store with a query, a document and perhaps a title of each of the marks."""
    folder = tmp_path_factory.mktemp("marked")
    return first_store(folder, different(MARKS), 5, [1.0, 0.1, -2.5, 1 / 3, 1e-7, 2, 0, -1e-300])


@pytest.mark.parametrize(("name", "file_type", "scores"), CASES)
def test_each_format_brings_back_a_mined_store(
    marked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file_type: str, scores: bool
) -> None:
    monkeypatch.setattr("miner.sources.tabular.ROWS_PER_BATCH", 2)
    assert complete(marked)
    require_same(marked, tmp_path, name, file_type, scores)


@settings(max_examples=2, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    st.lists(TEXTS, min_size=20, max_size=20),
    st.integers(1, 9),
    st.lists(st.floats(-2.5, 2.5), min_size=7, max_size=7),
    st.data(),
)
def test_any_texts_come_back_of_each_format(
    texts: list[str], shift: int, scores: list[float], data: st.DataObject
) -> None:
    found = different([*texts, *MARKS])
    with tempfile.TemporaryDirectory() as folder:
        first = first_store(Path(folder), found, shift, scores)
        assume(complete(first))
        for name in FORMATS:
            case = data.draw(st.sampled_from([case for case in CASES if case[0] == name]))
            require_same(first, Path(folder), *case)
