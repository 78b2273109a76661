"""The data sets of ../shared/data: the counts that their READMEs give."""

from __future__ import annotations

from pathlib import Path

import pytest

from miner.errors import InputError
from miner.sources import ingest
from tests.sources_support import SHARED, rows

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")


@pytest.mark.parametrize(
    ("name", "documents", "queries", "judgments"),
    [
        ("perspectrum", 11112, 907, {"dev": 2070, "train": 6963, "test": 2772}),
        ("tldr", 31164, 29913, {"train": 29594, "dev": 1042, "test": 1040}),
        ("cranfield", 1400 - 2, 225, {"test": 1837 - 1}),
    ],
)
def test_judged_sets(
    tmp_path: Path, name: str, documents: int, queries: int, judgments: dict[str, int]
) -> None:
    report = ingest(tmp_path / "s.duckdb", [str(SHARED / name)])
    assert (report.added["documents"], report.added["queries"]) == (documents, queries)
    assert report.splits == judgments
    assert report.added["judgments"] == sum(judgments.values())


def test_cranfield_lists_its_two_documents_without_text(tmp_path: Path) -> None:
    ingest(tmp_path / "s.duckdb", [str(SHARED / "cranfield")])
    assert rows(tmp_path / "s.duckdb", "SELECT reason, detail FROM rejected ORDER BY ALL") == [
        ("empty_text", "document '471' has no text"),
        ("empty_text", "document '995' has no text"),
        ("unknown_document", "no document '995' (judged for query '125')"),
    ]


def test_sentiment(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    report = ingest(store, [str(SHARED / "sentiment")])
    listed = {rejection.reason: rejection.rows for rejection in report.rejected}
    lines = sum(
        len((SHARED / f"sentiment/{s}.tsv").read_bytes().splitlines()) - 1 for s in ("train", "dev", "test")
    )
    assert lines == 3414 + 490 + 976
    assert listed == {"conflicting_label": 4}
    in_two_splits = rows(
        store,
        """SELECT count(*) FROM (SELECT query_id FROM judgments
        GROUP BY query_id HAVING count(DISTINCT split) > 1)""",
    )
    assert report.added["documents"] == report.added["queries"] == lines - 4 - in_two_splits[0][0]
    assert rows(store, "SELECT DISTINCT label FROM documents ORDER BY label") == [
        ("negative",),
        ("positive",),
    ]
    assert report.added["judgments"] == 8 * (lines - 4)


def test_a_set_without_judgments_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sentence1, sentence2"):
        ingest(tmp_path / "s.duckdb", [str(SHARED / "stsb")])
    assert not list(tmp_path.iterdir())


def test_inference(tmp_path: Path) -> None:
    """Every row is stored, left out as neutral, or listed."""
    report = ingest(tmp_path / "s.duckdb", [str(SHARED / "nli")])
    labels = [
        line.rsplit("\t", 2)[1]
        for split in ("train", "test")
        for line in (SHARED / f"nli/{split}.tsv").read_text("utf-8").splitlines()[1:]
    ]
    left_out = {one.reason: one.rows for one in report.rejected}
    assert left_out["unmapped_relevance"] == labels.count("neutral")
    assert set(left_out) <= {"unmapped_relevance", "duplicate_row", "conflicting_judgment"}
