"""Contamination: evaluation texts are found in the training data however they were edited, and removed."""

from __future__ import annotations

import json
from pathlib import Path
from zlib import crc32

import pytest
from click.testing import CliRunner

from miner.cli.main import group
from miner.curation.contamination import ContaminationConfig, Removed, find_contamination, remove_matches
from miner.errors import UsageError
from miner.sources import SourceConfig, ingest
from miner.store.database import Database
from tests.stores import make_store

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
LONG = "it was the best of times it was the worst of times it was the age of wisdom"
TRAIN = {
    "same": "A man plays a flute.",
    "case": "two dogs RUN through  tall grass",
    "swap": "a woman is slicing the red onion quickly now",
    "long": f"So he began: {LONG}, and went on for many pages about the season of light and of darkness.",
    "half": "it was the best of times for a dance in the old town hall by the river",
    "free": "nothing of this is in the benchmark",
}
TEST = {
    "e1": "A man plays a flute.",
    "e2": "Two dogs run through tall grass",
    "e3": "A woman is slicing the onion red, quickly now!",
    "e4": LONG,
    "e5": "an unseen sentence about a violin",
}


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Path, Path]:
    """A store to train on, and one to be measured on."""
    train, test = tmp_path / "train.duckdb", tmp_path / "test.duckdb"
    with make_store(
        train, TRAIN, {"q": "a query", "q2": "Two Dogs"}, [("q", d) for d in TRAIN] + [("q2", "case")]
    ):
        pass
    queries = {"t1": "two dogs", "t2": "other question", "t3": "unused"}
    judged = [("t1", d, "test") for d in ("e1", "e2", "e3")] + [("t2", d, "test") for d in ("e4", "e5")]
    with make_store(test, TEST, queries, [*judged, ("t3", "e5", "dev")]):
        pass
    return train, test


def test_each_kind_of_copy_is_found_and_the_strongest_is_reported(stores: tuple[Path, Path]) -> None:
    with Database.open(stores[0]) as train, Database.open(stores[1]) as test:
        report = find_contamination(train, test, ContaminationConfig())
    found = {match.id: (match.how, match.train_id) for match in report.matches}
    assert found == {
        "e1": ("exact", "same"),
        "e2": ("normalised", "case"),
        "e3": ("near", "swap"),
        "e4": ("contained", "long"),
        "t1": ("normalised", "q2"),
    }
    assert report.evaluation == {"document": 5, "query": 2}
    assert report.counts()["document"] == {"exact": 1, "normalised": 1, "near": 1, "contained": 1}
    assert report.train_ids == {"query": ("q2",), "document": ("case", "long", "same", "swap")}


def test_parts_need_as_many_as_requested(stores: tuple[Path, Path]) -> None:
    with Database.open(stores[0]) as train, Database.open(stores[1]) as test:
        few = find_contamination(train, test, ContaminationConfig(ngram=4, contained=0.2))
        assert {"long", "half"} <= set(few.train_ids["document"])
        none = find_contamination(train, test, ContaminationConfig(ngram=30))
        assert "long" not in none.train_ids["document"]


def test_parts_are_the_same_words_not_the_same_hash_of_them(tmp_path: Path) -> None:
    assert crc32(b"plumless") == crc32(b"buckeroo")
    said = "some of us were quite {} all through that long autumn"
    page = f"{said.format('buckeroo')}, {' '.join(f'word{i}' for i in range(50))}"
    with (
        make_store(tmp_path / "train.duckdb", {"page": page}, {"q": "?"}, [("q", "page")]) as train,
        make_store(
            tmp_path / "test.duckdb",
            {"other": said.format("plumless"), "same": said.format("buckeroo")},
            {"t": "!"},
            [("t", "other", "test"), ("t", "same", "test")],
        ) as test,
    ):
        found = find_contamination(train, test, ContaminationConfig(ngram=6))
    assert [(match.id, match.how) for match in found.matches] == [("same", "contained")]


def test_removal_leaves_nothing_to_find(stores: tuple[Path, Path]) -> None:
    with Database.open(stores[0]) as train, Database.open(stores[1]) as test:
        report = find_contamination(train, test, ContaminationConfig())
        assert remove_matches(train, report, "test").judgments == 5
        left = find_contamination(train, test, ContaminationConfig())
        assert left.matches == ()
        assert train.rows("SELECT doc_id FROM documents ORDER BY doc_id") == [("free",), ("half",)]
        assert train.rows("SELECT query_id, doc_id FROM judgments ORDER BY ALL") == [
            ("q", "free"),
            ("q", "half"),
        ]


def test_a_store_against_itself_compares_the_queries_of_its_splits(tmp_path: Path) -> None:
    documents = {"a": "apple", "b": "banana"}
    queries = {"t": "what is an apple", "u": "What is an apple?", "v": "what is a pear", "w": "how so"}
    judged = [("t", "a"), ("u", "a", "test"), ("v", "b"), ("w", "b", "test"), ("w", "a")]
    with make_store(tmp_path / "s.duckdb", documents, queries, judged) as store:
        report = find_contamination(store, store, ContaminationConfig())
        found = [(match.id, match.train_id, match.how) for match in report.matches]
        assert found == [("u", "t", "near"), ("w", "w", "exact")]
        assert remove_matches(store, report, "test", same=True) == Removed(0, 2, 0)
        assert store.rows("SELECT query_id, split FROM judgments ORDER BY ALL") == [
            ("u", "test"), ("v", "train"), ("w", "test"),
        ]  # fmt: skip


def test_the_command_reports_writes_and_removes(stores: tuple[Path, Path], tmp_path: Path) -> None:
    train, test = map(str, stores)
    out = tmp_path / "matches.jsonl"
    done = CliRunner().invoke(group, ["contamination", train, test, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == "4 of 5 evaluation positives (80.0 %) occur in the 8 training texts"
    assert "        1 the same except for case and white space" in done.stdout.splitlines()
    assert [json.loads(line)["id"] for line in out.read_text("utf-8").splitlines()] == [
        "e1",
        "e2",
        "e3",
        "e4",
        "t1",
    ]
    taken = CliRunner().invoke(group, ["contamination", train, test, "--remove"])
    assert f"removed from {train}: 5 texts and 5 judgments; next: miner mine {train}" in taken.stderr
    again = CliRunner().invoke(group, ["contamination", train, test, "--json"])
    assert json.loads(again.stdout)["matches"] == []


def test_what_the_training_store_evaluates_on_itself_stays(tmp_path: Path) -> None:
    documents, queries = {"d0": "the same answer for both"}, {"q1": "first question", "q2": "second question"}
    judged = [("q1", "d0"), ("q2", "d0", "test")]
    with (
        make_store(tmp_path / "train.duckdb", documents, queries, judged) as train,
        make_store(tmp_path / "test.duckdb", documents, queries, judged[1:]) as test,
    ):
        report = find_contamination(train, test, ContaminationConfig())
        assert report.train_ids == {"query": ("q2",), "document": ("d0",)}
        removed = remove_matches(train, report, "test")
        assert removed == Removed(0, 1, 2)
        assert train.rows("SELECT query_id, doc_id, split FROM judgments") == [("q2", "d0", "test")]
        assert train.rows("SELECT count(*) FROM documents") == [(1,)]
        with pytest.raises(UsageError, match="has no queries outside split 'test'"):
            find_contamination(test, test, ContaminationConfig())
    arguments = ["contamination", str(tmp_path / "train.duckdb"), str(tmp_path / "test.duckdb")]
    done = CliRunner().invoke(group, [*arguments, "--remove"]).stderr.strip().splitlines()[-1]
    assert done.endswith(
        f"0 judgments; 2 texts stay: {tmp_path / 'train.duckdb'} uses them in its own split 'test'"
    )
    read = CliRunner().invoke(group, [*arguments, "--out", str(tmp_path / "matches.jsonl")]).stderr
    assert read.strip().splitlines()[-1] == "next: the same command with --remove"


def test_wrong_splits_and_values_are_refused(stores: tuple[Path, Path]) -> None:
    with (
        Database.open(stores[0]) as train,
        Database.open(stores[1]) as test,
        pytest.raises(UsageError, match=r"nothing is judged in split 'tset' of .* \(did you mean 'test'\?\)"),
    ):
        find_contamination(train, test, ContaminationConfig(split="tset"))
    with pytest.raises(UsageError, match="contained must be a number above 0"):
        ContaminationConfig(contained=0)
    with pytest.raises(UsageError, match="ngram must be a whole number from 2"):
        ContaminationConfig(ngram=1)


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")
def test_the_captions_that_nli_and_stsb_share_are_found(tmp_path: Path) -> None:
    train, test = tmp_path / "nli.duckdb", tmp_path / "stsb.duckdb"
    ingest(
        train,
        str(SHARED / "nli/train.tsv"),
        SourceConfig(query_column="premise", positive_column="hypothesis", relevance_column="none"),
    )
    ingest(
        test,
        str(SHARED / "stsb/test.tsv"),
        SourceConfig(query_column="sentence1", positive_column="sentence2", relevance_column="score"),
    )
    with Database.open(train) as one, Database.open(test) as other:
        report = find_contamination(one, other, ContaminationConfig())
    counts = report.counts()
    assert sum(sum(kinds.values()) for kinds in counts.values()) > 150
    assert min(kinds["exact"] for kinds in counts.values()) >= 5
    assert any(match.text == "A dog runs through the grass." for match in report.matches)
