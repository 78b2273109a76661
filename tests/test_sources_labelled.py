"""Texts with labels: who becomes whose positive, and that it stays linear."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from miner.sources import SourceConfig, ingest
from miner.text import content_id
from tests.sources_support import collect, dump, refused, rows, write


def _labels(path: Path, texts: list[tuple[str, str]]) -> Path:
    return write(path, "label\ttext\n" + "".join(f"{label}\t{text}\n" for text, label in texts))


def _texts(label: str, number: int) -> list[tuple[str, str]]:
    return [(f"{label} text {i}", label) for i in range(number)]


def test_texts_are_queries_and_documents_with_their_label(tmp_path: Path) -> None:
    path = _labels(tmp_path / "train.tsv", [("good film", "pos"), ("fine film", "pos"), ("bad film", "neg")])
    store = tmp_path / "s.duckdb"
    ingest(store, [str(path)])
    good, fine = (content_id("", text) for text in ("good film", "fine film"))
    assert rows(store, "SELECT label, text FROM documents ORDER BY text") == [
        ("neg", "bad film"),
        ("pos", "fine film"),
        ("pos", "good film"),
    ]
    assert rows(store, "SELECT label, text FROM queries") == rows(store, "SELECT label, text FROM documents")
    assert rows(store, "SELECT query_id, doc_id FROM judgments ORDER BY ALL") == sorted(
        [(f"q-{good}", f"d-{fine}"), (f"q-{fine}", f"d-{good}")]
    )


def test_sample_is_even_seeded_and_without_the_text_itself(tmp_path: Path) -> None:
    path = _labels(tmp_path / "t.tsv", _texts("a", 50) + _texts("b", 5) + [("A  TEXT 0", "a")])
    judged = [(j["query_id"][2:], j["doc_id"][2:]) for j in collect(path)["judgments"]]
    assert len(judged) == len(set(judged))
    keys = {content_id("", "A  TEXT 0"): content_id("", "a text 0")}
    assert all(keys.get(query, query) != keys.get(document, document) for query, document in judged)
    per_query = Counter(query for query, _ in judged)
    assert Counter(per_query.values()) == {8: 51, 4: 5}
    other = [(j["query_id"][2:], j["doc_id"][2:]) for j in collect(path, seed=14)["judgments"]]
    assert set(other) != set(judged)


def test_sample_does_not_depend_on_the_order_of_the_rows(tmp_path: Path) -> None:
    texts = _texts("a", 30) + _texts("b", 30)
    stores = []
    for name, order in (("x", texts), ("y", texts[::-1])):
        ingest(tmp_path / f"{name}.duckdb", [str(_labels(tmp_path / f"{name}.tsv", order))])
        stores.append(dump(tmp_path / f"{name}.duckdb"))
    assert stores[0] == stores[1]


def test_number_of_judgments_is_linear(tmp_path: Path) -> None:
    path = _labels(tmp_path / "t.tsv", _texts("a", 3000))
    assert len(collect(path, positives_per_query=3)["judgments"]) == 9000


def test_positives_come_from_the_same_split(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        _labels(tmp_path / f"set/{split}.tsv", [(f"{split} {i}", "a") for i in range(5)])
    found = collect(tmp_path / "set", positives_per_query=100)
    names = {d["doc_id"]: d["text"].split()[0] for d in found["documents"]}
    assert len(found["judgments"]) == 2 * 5 * 4
    assert {(names[j["doc_id"]], j["split"]) for j in found["judgments"]} == {
        ("train", "train"),
        ("dev", "dev"),
    }


def test_a_text_alone_with_its_label_has_no_positive(tmp_path: Path) -> None:
    assert "judgments" not in collect(_labels(tmp_path / "t.tsv", [("x", "a"), ("y", "b")]))


def test_bad_rows_are_listed(tmp_path: Path) -> None:
    path = _labels(
        tmp_path / "t.tsv", [("x", "a"), ("", "a"), ("y", " "), ("x", "b"), ("z", "a"), ("x", "a")]
    )
    store = tmp_path / "s.duckdb"
    ingest(store, [str(path)], SourceConfig(max_bad=0.5))
    assert [row[1:] for row in rows(store, "FROM rejected ORDER BY line")] == [
        (3, "empty_text", "the text is empty"),
        (4, "empty_label", "the label is empty"),
        (5, "conflicting_label", "'b' here, 'a' in an earlier row of this text"),
        (7, "duplicate_row", f"the same row as {path}:2"),
    ]
    assert rows(store, "SELECT count(*) FROM judgments") == [(2,)]


def test_another_label_than_the_store_holds_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    ingest(store, [str(_labels(tmp_path / "one.tsv", [("x", "a"), ("y", "a")]))])
    before = dump(store)
    with pytest.raises(Exception, match=r"document 'd-\w+' has two labels: the store and .*two.tsv:2"):
        ingest(store, [str(_labels(tmp_path / "two.tsv", [("x", "b"), ("z", "b")]))])
    assert dump(store) == before


def test_label_is_added_to_a_text_that_had_none(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    ingest(store, [str(write(tmp_path / "pairs.tsv", "query\tpositive\nx\ty\n"))])
    ingest(store, [str(_labels(tmp_path / "labels.tsv", [("x", "a"), ("y", "a")]))])
    assert rows(store, "SELECT text, label FROM documents ORDER BY text") == [("x", "a"), ("y", "a")]
    assert rows(store, "SELECT text, label FROM queries ORDER BY text") == [("x", "a"), ("y", "a")]


def test_misspelt_label_column(tmp_path: Path) -> None:
    path = _labels(tmp_path / "t.tsv", [("x", "a")])
    assert refused(tmp_path, path, label_column="lable") == (
        "DIR/t.tsv: no column 'lable' (did you mean 'label'?) for labels; its columns: label, text"
    )
