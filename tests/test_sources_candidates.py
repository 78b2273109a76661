"""Readers of candidates: what was written is read, in every format; what is wrong is named with its line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.errors import InputError
from miner.sources.candidates import read_candidates
from tests.sources_support import jsonl, write

Row = tuple[str, str, int, float]


def read(path: Path) -> list[tuple[Any, ...]]:
    table = read_candidates(path).table
    return [tuple(row.values()) for row in table.to_pylist()]


def refused(path: Path, text: str | bytes | None = None) -> str:
    """The message and the hint for a bad file, without its folder."""
    if text is not None:
        write(path, text)
    with pytest.raises(InputError) as caught:
        read_candidates(path)
    return str(caught.value).replace(f"{path.parent}/", "")


def as_csv(rows: Sequence[Row], sign: str) -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=sign, lineterminator="\n")
    writer.writerow(["query_id", "doc_id", "rank", "score"])
    writer.writerows((query, doc, rank, repr(score)) for query, doc, rank, score in rows)
    return out.getvalue()


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [{"query-id": q, "corpus-id": d, "rank": r, "score": s} for q, d, r, s in rows]


def as_run(rows: Sequence[Row]) -> str:
    return "".join(f"{q} Q0\t{d}  {r} {s!r} tag\n" for q, d, r, s in rows)


PLAIN = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=8)
WITH_SIGNS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8
).filter(lambda text: text == text.strip())
SCORE = st.floats(allow_nan=False, allow_infinity=False)


def rows_of(ids: st.SearchStrategy[str]) -> st.SearchStrategy[list[Row]]:
    return st.lists(
        st.tuples(ids, ids, st.integers(0, 2**31 - 1), SCORE),
        min_size=1,
        max_size=12,
        unique_by=lambda r: r[:2],
    )


@settings(max_examples=80, deadline=None)
@given(rows_of(PLAIN))
def test_a_run_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> None:
    rows = [
        (q, d, r, s) for q, d, r, s in rows if len(f"{q} {d}".split()) == 2
    ]  # exotic white space in an id
    if rows:
        assert read(write(tmp_path_factory.mktemp("c") / "x.run", as_run(rows))) == rows


@settings(max_examples=80, deadline=None)
@given(rows_of(WITH_SIGNS), st.sampled_from([".csv", ".jsonl", ".json", ".parquet"]))
def test_a_table_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], suffix: str
) -> None:
    path = tmp_path_factory.mktemp("c") / f"x{suffix}"
    if suffix == ".csv":
        write(path, as_csv(rows, ","))
    elif suffix == ".jsonl":
        write(path, jsonl(*as_json(rows)))
    elif suffix == ".json":
        write(path, json.dumps(as_json(rows)))
    else:
        pq.write_table(pa.Table.from_pylist(as_json(rows)), path)
    assert read(path) == rows


@settings(max_examples=40, deadline=None)
@given(rows_of(PLAIN.filter(lambda text: '"' not in text)))
def test_a_tsv_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> None:
    assert read(write(tmp_path_factory.mktemp("c") / "x.tsv", as_csv(rows, "\t"))) == rows


def test_ids_keep_their_zeros_and_stay_texts(tmp_path: Path) -> None:
    expected = [("051", "NA", None, 1.0), ("1.10", "null", None, 2.0), ("2020-01-01", "1e3", None, 3.0)]
    plain = "qid,docid,score\n" + "".join(f"{q},{d},{s}\n" for q, d, _, s in expected)
    assert read(write(tmp_path / "x.csv", plain)) == expected
    rows = [{"qid": q, "docid": d, "score": s} for q, d, _, s in expected]
    assert read(write(tmp_path / "x.jsonl", jsonl(*rows))) == expected


@pytest.mark.parametrize(
    ("line", "ids"),
    [
        ('{"qid": 1, "docid": 20, "score": 1}', ("1", "20")),
        ('{"qid": 1.10, "docid": "a", "score": 1}', ("1.10", "a")),
        ('{"qid": 123456789012345678901, "docid": "a", "score": 1}', ("123456789012345678901", "a")),
    ],
)
def test_numbers_as_ids_are_texts_as_written(tmp_path: Path, line: str, ids: tuple[str, str]) -> None:
    more = '{"qid": "q", "docid": "d", "score": 2.5}'
    assert read(write(tmp_path / "x.jsonl", f"{line}\n\n{more}\n")) == [
        (*ids, None, 1.0),
        ("q", "d", None, 2.5),
    ]


def test_column_names_of_the_field_are_known_in_any_case(tmp_path: Path) -> None:
    for query, doc, score in (
        ("query_id", "doc_id", "score"), ("query-id", "corpus-id", "score"), ("qid", "docid", "similarity"),
        ("topic", "docno", "Score"), ("Query_ID", "document_id", "SCORE"),
    ):  # fmt: skip
        path = write(tmp_path / "x.csv", f"{score},{doc},{query}\n1.5,d,q\n")
        assert read(path) == [("q", "d", None, 1.5)]


def test_a_packed_file_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    run, table = b"\xef\xbb\xbfq Q0 d 1 2.5 x\n", b"\xef\xbb\xbfqid,docid,score\nq,d,2.5\n"
    for name, content in (("x.run", run), ("x.csv", table)):
        assert [row[:2] for row in read(write(tmp_path / name, content))] == [("q", "d")]
        assert [row[3] for row in read(write(tmp_path / f"{name}.gz", gzip.compress(content)))] == [2.5]


def test_ranks_may_be_missing_beside_scores(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "qid,docid,rank,score\nq,a,2,1\nq,b,,2\n")
    assert read(path) == [("q", "a", 2, 1.0), ("q", "b", None, 2.0)]


def test_columns_that_are_not_read_are_listed(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "qid,docid,score,run,text\nq,a,2,r,…\n")
    assert read_candidates(path).note == f"{path}: not read: columns run, text"


@pytest.mark.parametrize("name", ["run.dev.tsv", "rank.txt", "rank", "run.tsv.gz"])
def test_runs_of_three_fields(tmp_path: Path, name: str) -> None:
    def written(text: str) -> Path:
        return write(tmp_path / name, gzip.compress(text.encode()) if name.endswith(".gz") else text)

    path = written("q\ta\t0.91\nq\tb\t3\n\nr\ta\t-0.5\n")
    assert read(path) == [("q", "a", None, 0.91), ("q", "b", None, 3.0), ("r", "a", None, -0.5)]
    assert read_candidates(path).note == f"{path}: read as query, document and score"
    path = written("7\t12\t2\n8\t12\t1\n7\t13\t1\n")
    assert read(path) == [("7", "12", 2, None), ("8", "12", 1, None), ("7", "13", 1, None)]
    assert read_candidates(path).note == f"{path}: read as query, document and rank"
    assert [row[2] for row in read(written("q a 0\nq b 1\nr a 0\n"))] == [0, 1, 0]


@pytest.mark.parametrize("name", ["run", "run.txt", "run.dev", "run.txt.gz"])
def test_a_header_makes_a_text_file_a_table(tmp_path: Path, name: str) -> None:
    text = "query_id\tdoc_id\tscore\nq\ta\t2\nq\tb\t1\n"
    path = write(tmp_path / name, gzip.compress(text.encode()) if name.endswith(".gz") else text)
    assert read(path) == [("q", "a", None, 2.0), ("q", "b", None, 1.0)]


@given(st.lists(st.tuples(st.sampled_from("qrs"), st.integers(-2, 5)), min_size=1, max_size=9))
def test_whole_numbers_are_ranks_only_if_each_query_has_all_from_the_first(
    rows: list[tuple[str, int]],
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "run.tsv"
        path.write_text("".join(f"{query}\td{row}\t{rank}\n" for row, (query, rank) in enumerate(rows)))
        ranks: dict[str, list[int]] = {}
        for query, rank in rows:
            ranks.setdefault(query, []).append(rank)
        sound = any(
            all(sorted(own) == list(range(first, first + len(own))) for own in ranks.values())
            for first in (0, 1)
        ) and any(len(own) > 1 for own in ranks.values())
        if sound:
            assert [row[2] for row in read(path)] == [rank for _, rank in rows]
        else:
            assert "as in judgments" in refused(path)


RUN = "q Q0 a 1 2 x\n\nq Q0 b 2 1 x\n"
TABLE = "qid,docid,score\nq,a,1\n"
LINES = '{"qid": "q", "docid": "a", "score": 1}\n\n'
WRONG: list[tuple[str, str | bytes, str]] = [
    (
        "x.run",
        f"{RUN}q Q0 c 3 1\n",
        "4: 5 fields; a line of a TREC run is `query Q0 document rank score name`",
    ),
    ("x.run", f"{RUN}q Q0 c 3 nan x\n", "4: the score is nan, not a finite number"),
    ("x.run", f"{RUN}q Q0 c 3 -inf x\n", "4: the score is -inf, not a finite number"),
    ("x.run", f"{RUN}q Q0 c 1.5 1 x\n", "4: the rank is 1.5, not a rank"),
    ("x.run", f"{RUN}q Q0 c -1 1 x\n", "4: the rank is -1, not a rank"),
    ("x.run", f"{RUN}q Q0 c three 1 x\n", "4: the rank is 'three', not a finite number"),
    ("x.run", "q Q0 a 1 2 x\nq Q0 \xff 2 1 x\n".encode("latin-1"), "2: not UTF-8 (byte 0xff at column 6)"),
    ("x.run", "", " the file is empty"),
    ("qrels.txt", "q 0 a 1\n", "1: 4 fields, as in judgments; a TREC run has 6"),
    (
        "qrels.txt",
        "q\ta\t1\nq\tb\t1\n",
        " 3 fields, as in judgments: the third has whole numbers that are not 1, 2, 3 … for each query; to "
        "read them as ranks or scores, write query_id, doc_id, rank or query_id, doc_id, score as a first "
        "line, between tabs; miner ingest reads judgments",
    ),
    ("qrels.tsv", "q\ta\t1\nr\ta\t1\n", " 3 fields, as in judgments"),
    ("x.tsv", "q\ta\t7\nq\tb\t5\n", " 3 fields, as in judgments"),
    ("x.tsv", "q\ta\t0\nq\tb\t1\nr\ta\t1\nr\tb\t2\n", " 3 fields, as in judgments"),
    ("x.tsv", "q\ta\t0.5\nq\tb\n", "2: 2 fields; a line of such a run is `query document score`"),
    ("x.tsv", "q\ta\t0.5\nq\tb\tbad\n", "2: the score or rank is 'bad', not a finite number"),
    ("x.tsv", "q\ta\t0.5\nq\ta\t0.4\n", "2: query 'q' and document 'a' were in an earlier row"),
    ("x.csv", "1,7,1\n", " the file seems to have no header, its first row is 1, 7, 1; write a header line"),
    ("x.tsv", "q\ta\t1\t2\n", " the file seems to have no header, its first row is q, a, 1, 2"),
    ("x.csv", "qid,docid,scor\nq,a,1\n", " no column 'score' (did you mean 'scor'?)"),
    ("x.csv", "quid,docid,score\nq,a,1\n", " no column 'query_id' (did you mean 'quid'?)"),
    ("x.csv", f"{TABLE}\nq,b\n", "4: 2 fields where the header has 3"),
    (
        "x.csv",
        'qid,docid,score,text\nq,a,1,"a\nb"\nq,b,?,c\n',
        "4: column 'score' is '?', not a finite number",
    ),
    ("x.csv", f"{TABLE}q,,2\n", "3: column 'docid' is empty"),
    ("x.csv", f"{TABLE}q,b,\n", "3: column 'score' is missing"),
    ("x.csv", f"{TABLE}q,\xff,2\n".encode("latin-1"), "3: not UTF-8 (byte 0xff at column 3)"),
    ("x.jsonl", f'{LINES}{{"qid": "q", "docid": "b"}}\n', "3: column 'score' is missing"),
    (
        "x.jsonl",
        f'{LINES}{{"qid": "q", "docid": "b", "score": NaN}}\n',
        "3: column 'score' is nan, not a finite",
    ),
    ("x.jsonl", f'{LINES}{{"qid": "q", \n', "3: broken JSON (Expecting property name"),
    ("x.jsonl", '{"qid": "q", "docid": ["a"], "score": 1}\n', "1: 'docid' holds a list, not text"),
    ("x.json", "[]\n", " no column 'query_id'"),
]


@pytest.mark.parametrize(("name", "text", "message"), WRONG)
def test_what_is_wrong_is_named_with_its_line(
    tmp_path: Path, name: str, text: str | bytes, message: str
) -> None:
    assert refused(tmp_path / name, text).startswith(f"{name}:{message}")


def test_a_pair_that_occurs_twice_and_a_file_without_rows_are_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "x.run", f"{RUN}q Q0 a 3 1 x\n") == (
        "x.run:4: query 'q' and document 'a' were in an earlier row (1 pair occurs more than once); "
        "give every pair one row"
    )
    assert (
        refused(tmp_path / "x.csv", "qid,docid,score\n") == "x.csv has no candidates; name a file with rows"
    )


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("score", [1.0, math.nan], "x.parquet:2: column 'score' is nan, not a finite number"),
        ("score", [1.0, None], "x.parquet:2: column 'score' is missing"),
        ("score", [True, False], "x.parquet: column 'score' has values of type bool"),
        ("rank", [1, -1], "x.parquet:2: column 'rank' is -1, not a rank"),
    ],
)
def test_bad_values_of_parquet_are_named_with_their_row(
    tmp_path: Path, column: str, values: list[Any], message: str
) -> None:
    pq.write_table(pa.table({"qid": ["q", "q"], "docid": ["a", "b"], column: values}), tmp_path / "x.parquet")
    assert refused(tmp_path / "x.parquet").startswith(message)


def test_ids_of_parquet_are_texts_or_whole_numbers(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    pq.write_table(
        pa.table({"qid": [1, 2], "docid": pa.array(["a", "b"]).dictionary_encode(), "score": [1, 2]}), file
    )
    assert read(file) == [("1", "a", None, 1.0), ("2", "b", None, 2.0)]
    pq.write_table(pa.table({"qid": [1.0, 2.0], "docid": ["a", "b"], "score": [1, 2]}), file)
    assert refused(file) == (
        "x.parquet: column 'qid' has values of type double; write ids as texts or whole numbers"
    )


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "run.trec", RUN)
    assert "did you mean 'run.trec'?" in refused(tmp_path / "run.trek")
    (tmp_path / "folder").mkdir()
    assert refused(tmp_path / "folder").startswith("folder: a folder, not a file of candidates")
    assert refused(tmp_path / "folder").endswith("; a folder of vectors is for --vectors")
    assert refused(tmp_path / "other").endswith(
        "name a TREC run, a table, or a folder with documents, queries and scores"
    )
    with pytest.raises(InputError) as caught:
        read_candidates("hf:lightonai/embeddings-fine-tuning:fiqa")
    assert str(caught.value) == (
        "hf:lightonai/embeddings-fine-tuning:fiqa: candidates are local files, not a data set of the hub; "
        "download it, and name the file or folder: hf download lightonai/embeddings-fine-tuning "
        "--repo-type dataset --local-dir embeddings-fine-tuning"
    )


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ("1 nan es", "the score is nan, not a finite number"),
        ("1 inf es", "the score is inf, not a finite number"),
        ("1 abc es", "the score is 'abc', not a finite number"),
        ("one 2.5 es", "the rank is 'one', not a finite number"),
        ("nan 2.5 es", "the rank is nan, not a finite number"),
        ("first best es", "the rank is 'first', not a finite number"),
    ],
)
def test_a_bad_value_is_named_in_the_first_line_as_in_any_other(
    tmp_path: Path, number: int, fields: str, what: str
) -> None:
    lines = ["c1 Q0 d1 1 2.5 es"] * (number - 1) + [f"c1 Q0 d2 {fields}", "c2 Q0 d1 1 0.5 es"]
    for name in ("run.trec", "run.txt", "run"):
        (tmp_path / name).write_text("\n".join(lines), "utf-8")
        with pytest.raises(InputError) as caught:
            read_candidates(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}:{number}: {what}; write a finite number in each row"


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_pairs_of_rows_with_texts_are_the_same_in_any_pieces(
    piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miner.sources.row_candidates._PIECE", piece)
    rows = [
        {"query_id": f"q{q}", "query": "a", "pos": ["p"], "pos_id": [f"p{q}"], "neg": ["n", "m"],
         "neg_id": [f"n{q}", "m"], "pos_scores": [3.0], "neg_scores": [2.0 - q, 1.0]}
        for q in range(3)
    ]  # fmt: skip
    found = read_candidates(write(tmp_path / "rows.jsonl", jsonl(*rows))).table
    assert [(row["query_id"], row["doc_id"], row["score"]) for row in found.to_pylist()] == [
        ("q0", "p0", 3.0), ("q1", "p1", 3.0), ("q2", "p2", 3.0), ("q0", "n0", 2.0), ("q0", "m", 1.0),
        ("q1", "n1", 1.0), ("q1", "m", 1.0), ("q2", "n2", 0.0), ("q2", "m", 1.0),
    ]  # fmt: skip
    assert [found[name].chunk(0).dictionary.to_pylist() for name in ("query_id", "doc_id")] == [
        ["q0", "q1", "q2"],
        ["p0", "p1", "p2", "n0", "m", "n1", "n2"],
    ]


def test_rows_with_texts_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    rows = [
        {"query": "a", "pos": ["p"], "neg": ["n", "m"], "neg_scores": [2.0, 1.0]},
        {"query": "a", "pos": ["p"], "neg": ["n", ""], "neg_scores": [2.0, 1.0]},
        {"query": "", "pos": ["p"], "neg": ["n"], "neg_scores": [2.0]},
        {"query": ["a", "list"], "pos": ["p"], "neg": ["n"], "neg_scores": [2.0]},
    ]
    file = write(tmp_path / "rows.jsonl", jsonl(*rows))
    found = read_candidates(file)
    assert found.table["score"].to_pylist() == [2.0, 1.0]
    left = "2 rows without a query or with a fault, 1 passage without a text, 1 passage without a score"
    assert found.note == f"{file}: left out: {left}"
