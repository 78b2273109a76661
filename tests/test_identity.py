"""Ids of queries and of documents are two name spaces, unless the user says that queries are documents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from miner.cli.main import group
from miner.evaluation.evaluate import EvaluationConfig, evaluate
from miner.evaluation.reranking import reranking_task
from miner.evaluation.result import Evaluation
from miner.evaluation.retrieval import retrieval_task
from miner.mining.config import MiningConfig, Rules
from miner.mining.pipeline import mine
from miner.sources import IngestReport, SourceConfig, ingest
from miner.store.corpus import queries_are_documents
from miner.store.database import Database
from miner.store.runs import find_run, staleness
from miner.store.triplets import known_pair_keys
from miner.text import text_key
from tests.sources_support import beir

THINGS = ("router", "printer", "kettle", "drone", "camera", "tablet", "heater", "scooter")
RESET = "To reset the {}, hold the power button of the {} for ten seconds until the light blinks."
WARRANTY = "The {} has a warranty of two years; keep the receipt of the {}."


def collection(folder: Path, prefix: str) -> Path:
    """Returns a BEIR folder in which the document of a query's id, without a prefix, answers it best."""
    corpus, queries = {}, {}
    for number, thing in enumerate(THINGS):
        corpus[f"{prefix}{number}"] = ("", RESET.format(thing, thing))
        corpus[f"{prefix}{100 + number}"] = ("", WARRANTY.format(thing, thing))
        queries[str(number)] = f"how do I reset or claim warranty for my {thing}"
    judged = [(str(number), f"{prefix}{100 + number}", 1) for number in range(len(THINGS))]
    return beir(folder, corpus, queries, train=judged[:4], test=judged[4:])


def taken_in(tmp_path: Path, prefix: str = "", same: bool | None = None) -> tuple[Path, IngestReport]:
    """Returns a new store and the report of its ingest."""
    path = tmp_path / f"{prefix}{same}.duckdb"
    source = collection(tmp_path / f"set{prefix}{same}", prefix)
    return path, ingest(path, [str(source)], SourceConfig(queries_are_documents=same))


def reasons(store: Database) -> dict[str, str]:
    run = mine(store, MiningConfig(rules=Rules(relative_margin=None)))
    rows = store.rows(
        "SELECT query_id, ltrim(doc_id, 'd'), coalesce(reason::VARCHAR, 'kept') FROM verdicts WHERE run = ?",
        [run.name],
    )
    return {f"{query} {doc}": reason for query, doc, reason in rows}


def measures(store: Database) -> list[Evaluation]:
    return [
        *evaluate(store, "bundled", EvaluationConfig()),
        *evaluate(store, "bundled", EvaluationConfig(task="retrieval", queries=3)),
    ]


def test_equal_ids_change_nothing(tmp_path: Path) -> None:
    found, measured, candidates = [], [], []
    for prefix in ("", "d"):
        path, report = taken_in(tmp_path, prefix)
        assert report.identity.other_text == (len(THINGS) if not prefix else 0)
        with Database.open(path) as store:
            found.append(reasons(store))
            measured.append([dict(one.means) for one in measures(store)])
            task = reranking_task(store, "test")
            pairs = zip(task.candidates.query.tolist(), task.candidates.doc.tolist(), strict=True)
            candidates.append({(query, task.retrieval.documents[doc]) for query, doc in pairs})
    assert found[0] == found[1]
    assert found[0]["0 0"] == "kept"
    assert measured[0] == measured[1]
    assert candidates[0] == candidates[1]


def test_queries_are_documents_where_the_user_says_so(tmp_path: Path) -> None:
    path, report = taken_in(tmp_path, "", True)
    assert report.identity.queries_are_documents
    assert report.identity.without_document == 0
    with Database.open(path) as store:
        found = reasons(store)
        (measured, _) = measures(store)
        shown = retrieval_task(store, "test").judgments.unranked
        keys = known_pair_keys(store, ("gold",)).to_pylist()
    assert [found[f"{number} {number}"] for number in range(4)] == ["is_query"] * 4
    assert measured.left_out == {"own_document": 4}
    assert len(shown.query) == 4
    pair = {"query_key": text_key("how do I reset or claim warranty for my drone"),
            "doc_key": text_key(RESET.format("drone", "drone"))}  # fmt: skip
    assert pair in keys


def test_what_was_said_stays_until_it_is_taken_back(tmp_path: Path) -> None:
    path, _ = taken_in(tmp_path, "", True)
    source = str(tmp_path / "setTrue")
    with Database.open(path) as store:
        mine(store, MiningConfig())
    assert ingest(path, [source]).identity.queries_are_documents
    assert not ingest(
        path, [source], SourceConfig(queries_are_documents=False)
    ).identity.queries_are_documents
    with Database.open(path) as store:
        assert not queries_are_documents(store)
        assert "queries_are_documents changed" in str(staleness(store, find_run(store, "r1")))
        assert mine(store, MiningConfig()).name == "r2"


def test_a_query_that_is_a_document_under_a_title_is_its_own_text(tmp_path: Path) -> None:
    text = "stealing from the rich to give to the poor is right"
    corpus = {"a1": ("Robin Hood", text), "a2": ("Robin Hood", "stealing is theft, and theft is wrong")}
    source = beir(tmp_path / "set", corpus, {"q1": text}, train=[("q1", "a2", 1)])
    with_flag = ingest(tmp_path / "s.duckdb", [str(source)])
    assert with_flag.identity.other_text == 0
    with Database.open(tmp_path / "s.duckdb") as store:
        assert reasons(store) == {"q1 a1": "is_query", "q1 a2": "judged_positive"}
        assert retrieval_task(store, "train").left_out == {"own_text": 1}


def said(store: Path, source: Path, *flags: str) -> str:
    result = CliRunner().invoke(group, ["ingest", str(store), str(source), *flags])
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_ingest_says_what_equal_ids_mean(tmp_path: Path) -> None:
    source = collection(tmp_path / "set", "")
    assert (
        "8 queries have the id of a document with another text; ids of queries and of documents are "
        "separate. If equal ids mean the same thing, add --set queries_are_documents=true"
    ) in said(tmp_path / "a.duckdb", source)
    flagged = said(tmp_path / "b.duckdb", source, "--set", "queries_are_documents=true")
    assert "queries are documents: a query is the document with the same id" in flagged
    others = collection(tmp_path / "others", "d")
    assert "8 queries have none" in said(tmp_path / "c.duckdb", others, "--set", "queries_are_documents=true")
    assert "id of a document" not in said(tmp_path / "d.duckdb", others)


def test_a_single_thing_is_written_in_the_singular(tmp_path: Path) -> None:
    documents = {
        "a": ("", "the red fox"),
        "b": ("", "the blue fish"),
        "c": ("", "a red fox"),
        "d": ("", "A red  fox"),
    }
    judged = {"train": [("q", "b", 1)], "test": [("q", "a", 1)]}
    source = beir(tmp_path / "set", documents, {"q": "a red fox"}, **judged)
    ingest(tmp_path / "s.duckdb", [str(source)])
    lines = CliRunner().invoke(group, ["evaluate", "bundled", str(tmp_path / "s.duckdb")]).stdout.splitlines()
    assert lines[0] == "s.duckdb test: retrieval, 1 query, 3 documents"
    assert lines[1] == (
        "left out of the rankings: 1 copy of another document (each text is ranked once), "
        "1 document that has the query's text, 1 document relevant to the query in another split only"
    )


@pytest.mark.parametrize("flag", [(), ("--json",)])
def test_evaluate_shows_what_was_left_out(tmp_path: Path, flag: tuple[str, ...]) -> None:
    path, _ = taken_in(tmp_path, "", True)
    result = CliRunner().invoke(group, ["evaluate", "bundled", str(path), *flag])
    assert result.exit_code == 0, result.output
    if flag:
        assert json.loads(result.stdout)["sections"][0]["left_out"] == {"own_document": 4}
    else:
        assert "left out of the rankings: 4 documents that are the query itself" in result.stdout
