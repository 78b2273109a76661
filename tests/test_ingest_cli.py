"""miner ingest as the user sees it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from miner.cli.ingest import SETTINGS
from miner.cli.main import main
from miner.sources import SourceConfig
from tests.sources_support import beir, jsonl, rows, write


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["ingest", *map(str, arguments)])
    captured = capsys.readouterr()
    assert captured.out == ""
    return int(ended.value.code or 0), captured.err


def test_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = {f"d{i}": f"text {i}" for i in range(1200)}
    folder = beir(tmp_path / "set", documents, {"q": "?"}, train=[("q", "d1", 1)], dev=[("q", "d2", 1)])
    with (folder / "corpus.jsonl").open("a") as file:
        file.write(jsonl({"_id": "e", "text": ""}, {"_id": "n", "text": "a\0b"}))
    store = tmp_path / "s.duckdb"
    code, said = _run(capsys, store, folder)
    assert code == 0
    assert said == (
        f"read {folder} as BEIR: _id = id, title = title, text = text, qrels = judgments\n"
        f'  {folder}/corpus.jsonl:1: document "text 0"\n'
        f'  {folder}/queries.jsonl:1: query "?"\n'
        f"  {folder}/qrels/dev.tsv:2: query id q; relevant id d2\n"
        "documents        1,201 added\n"
        "queries              1 added\n"
        "judgments            2 added\n"
        "positives by split: dev 1, train 1\n"
        "warning: 1 query has positives in more than one split: what is trained on must not be measured\n"
        "cleaned: 1 text had NUL characters or lone surrogates\n"
        "left out: 1 empty_text\n"
        f"  {folder}/corpus.jsonl:1201: document 'e' has no text\n"
        f'list all: miner sql {store} "SELECT * FROM rejected"\n'
    )
    _, said = _run(capsys, store, folder)
    assert "\ndocuments            0 added, 1,201 already there\n" in said


def test_failure_says_what_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "set/train.tsv", "question\tanswer\na\tb\n")
    code, said = _run(capsys, tmp_path / "s.duckdb", tmp_path / "set", "--query-column", "qestion")
    assert code == 1
    assert said == (
        f"Error: {tmp_path}/set/train.tsv: no columns 'qestion' (did you mean 'question'?) and 'positive' "
        "for pairs\n"
        "  its columns: question, answer; name yours with --positive-column\n"
    )
    assert not (tmp_path / "s.duckdb").exists()


def test_several_sources_are_all_or_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write(tmp_path / "good.tsv", "query\tpositive\na\tb\n")
    bad = write(tmp_path / "bad.jsonl", '{"query": "a", "positive": "b"}\n{')
    code, said = _run(capsys, tmp_path / "s.duckdb", good, bad)
    assert code == 1
    assert said.startswith(f"Error: {bad}:2: broken JSON (")
    assert not (tmp_path / "s.duckdb").exists()
    code, _ = _run(capsys, tmp_path / "s.duckdb", good)
    assert code == 0
    assert rows(tmp_path / "s.duckdb", "SELECT count(*) FROM judgments") == [(1,)]


@pytest.mark.parametrize(
    "arguments",
    [[], ["s.duckdb"], ["s.duckdb", "x", "--set", "max_bad=2"], ["s.duckdb", "x", "--format", "bier"]],
)
def test_wrong_use_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = _run(capsys, *arguments)
    assert code == 2


def test_every_field_is_a_setting_with_help_and_the_same_default() -> None:
    settings = SETTINGS.tables[""]
    assert set(settings) == {field.name for field in fields(SourceConfig)}
    for field in fields(SourceConfig):
        assert settings[field.name].help
        assert settings[field.name].default == field.default


@pytest.mark.parametrize("is_there", [True, False])
def test_a_source_given_as_the_store_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], is_there: bool
) -> None:
    source, store = tmp_path / "pairs.csv", tmp_path / "my.duckdb"
    source.write_text("query,positive\na,b\n")
    content = source.read_bytes()
    if is_there:
        _run(capsys, store, source)
    for words, swapped in (
        ((source, store), f"miner ingest {store} {source}"),
        ((source, source), f"miner ingest my.duckdb {source} {source}"),
        ((tmp_path, store), f"miner ingest {store} {tmp_path}"),
        (("hf:imdb", store), f"miner ingest {store} hf:imdb"),
        (("python:asyncio", store, source), f"miner ingest {store} python:asyncio {source}"),
    ):
        code, said = _run(capsys, *words)
        assert (code, said) == (
            2,
            f"Error: {words[0]} is a source, not a store: the store comes first\n  {swapped}\n",
        )
    assert source.read_bytes() == content
    assert store.exists() == is_there


def test_a_store_is_not_a_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, store = tmp_path / "pairs.csv", tmp_path / "my.duckdb"
    source.write_text("query,positive\na,b\n")
    _run(capsys, store, source)
    assert _run(capsys, tmp_path / "other.duckdb", store) == (
        1,
        f"Error: {store} is a store, not a source\n  name the files that it was made from\n",
    )
