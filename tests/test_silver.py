"""Silver judgments: what a cross-encoder is sure of, kept apart from gold, made again for nothing."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

import miner.mining.scoring
from miner.auditing.audit import audit
from miner.auditing.config import AuditConfig
from miner.cli.silver import command, summary
from miner.collection.collection import Collection
from miner.curation.silver import HeldOut, SilverReport, reranker_folder, silver
from miner.curation.silver_config import SilverConfig
from miner.engine.progress import Advance
from miner.errors import ModelError, UsageError
from miner.mining.config import MiningConfig, with_values
from miner.mining.pipeline import mine
from miner.store import corpus
from miner.store import corpus as evaluating
from miner.store.database import Database
from miner.store.rerank_scores import known_scores
from miner.store.select import Limits, select
from miner.store.silver import (
    is_soft,
    judged_pairs,
    remove_silver,
    silver_count,
    silver_origin,
    silver_queries,
)
from miner.text import text_keys
from miner.training.reranker import train_reranker
from miner.training.reranker_config import RerankerConfig
from tests import forking
from tests.stores import make_store
from tests.test_training_reranker import QUERIES, TOPICS, fill
from tests.tiny import tiny_bert

BM25 = SilverConfig(encoder="none", positive=0.6, negative=0.1, dtype="fp32")


def add_unjudged(store: Database) -> None:
    """Adds queries that nobody judged, each with documents that answer it and one that says so."""
    queries = {f"u{n:02}": f"what about {topic} number {500 + n}" for n, topic in enumerate(TOPICS)}
    queries["x00"] = queries["u00"].upper()
    documents = {f"new-{n:02}": f"indeed yes {500 + n} part {n}" for n in range(len(TOPICS))}
    documents["echo"] = queries["u00"]
    for table, key, texts in (("queries", "query_id", queries), ("documents", "doc_id", documents)):
        columns = {
            key: list(texts),
            "text": list(texts.values()),
            "text_key": text_keys(texts.values()),
            "label": pa.nulls(len(texts), pa.string()),
        }
        if table == "documents":
            columns["title"] = [""] * len(texts)
        store.insert(table, pa.table(columns))


def judgments(store: Database) -> list[tuple[object, ...]]:
    return store.rows("SELECT query_id, doc_id, relevance, split, source FROM judgments ORDER BY ALL")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("models") / "tiny", initializer_range=0.05)


def training(base: Path) -> RerankerConfig:
    return RerankerConfig(
        base=str(base), epochs=3, batch_size=16, learning_rate=5e-3, skip_top=3, depth=40, held_out=0.3
    )


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with unjudged queries, and beside it, in `reranker`, one that learnt that "indeed" is right."""
    folder = tmp_path_factory.mktemp("silver")
    with fill(folder / "store.duckdb") as store:
        add_unjudged(store)
        train_reranker(store, folder / "reranker", training(base))
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    (tmp_path / "store.duckdb").write_bytes((trained / "store.duckdb").read_bytes())
    (tmp_path / "reranker").symlink_to(trained / "reranker")
    return tmp_path


@pytest.fixture
def store(folder: Path) -> Iterator[Database]:
    with Database.open(folder / "store.duckdb") as opened:
        yield opened


@pytest.fixture
def config(folder: Path) -> SilverConfig:
    return replace(BM25, reranker=str(folder / "reranker"))


def test_sure_pairs_become_silver_judgments(store: Database, config: SilverConfig) -> None:
    gold = judgments(store)
    report = silver(store, config)
    rows = store.rows("SELECT query_id, doc_id, relevance, split FROM judgments WHERE source = 'silver'")
    scores = {(q, d): s for q, d, s in known_scores(store, report.fingerprint).to_pandas().values.tolist()}
    assert report.positives + report.negatives == len(rows) > 0
    assert report.positives > 0
    assert report.negatives > 0
    for query, doc, relevance, split in rows:
        score = scores[query, doc]
        assert split == "train"
        assert relevance == (score if score >= config.positive else 0.0)
        assert score >= config.positive or score <= config.negative
    assert {(q, d) for q, d, *_ in gold}.isdisjoint((q, d) for q, d, *_ in rows)
    assert ("u00", "echo") not in {(q, d) for q, d, *_ in rows}, "a query's own text is no answer"
    assert [row for row in judgments(store) if row[4] != "silver"] == gold
    per_query = [[pair[0] for pair in rows].count(q) for q, *_ in rows]
    assert max(per_query) <= config.per_query
    right = [relevance for _, doc, relevance, _ in rows if not doc.startswith("wrong")]
    wrong = [relevance for _, doc, relevance, _ in rows if doc.startswith("wrong")]
    assert sum(r > 0 for r in right) > sum(r > 0 for r in wrong)
    assert report.held_out is not None
    assert report.held_out.positives == 22
    assert 0 < report.held_out.above <= 1
    assert silver_origin(store) == {
        "split": "train", "reranker": report.fingerprint, "encoder": "none", "query_set": "all", "depth": 20,
        "per_query": 10, "positive": 0.6, "negative": 0.1, "dtype": "fp32", "name": config.reranker,
        "soft": False, "not_probabilities": None,
    }  # fmt: skip


class Counting:
    """Keeps the tasks that have anything to do, and what is said."""

    def __init__(self) -> None:
        self.worked: list[str] = []
        self.said: list[str] = []

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        yield lambda _: self.worked.append(name)

    def note(self, message: str) -> None:
        self.said.append(message)


def test_what_calls_nothing_positive_is_not_said_to_be_right() -> None:
    held_out = HeldOut(positives=3, above=0.0, below=1.0, precision=float("nan"))
    report = SilverReport(
        reranker="r", fingerprint="f", queries=2, pairs=9, unscored=0, positives=0, negatives=9, replaced=0,
        expected=float("nan"), not_probabilities=None, held_out=held_out,
    )  # fmt: skip
    reported = summary(report, SilverConfig()).splitlines()
    assert reported[-1] == "           no silver positive for these queries"
    assert "nan" not in "\n".join(reported)


def test_scores_that_may_be_no_probabilities_are_reported(
    store: Database, base: Path, config: SilverConfig, tmp_path: Path
) -> None:
    """A score of 0.9 of any other reranker does not say how many of such pairs are relevant."""
    from sentence_transformers import CrossEncoder

    CrossEncoder(str(tiny_bert(tmp_path / "raw", labels=1))).save_pretrained(str(tmp_path / "foreign"))
    short = replace(training(base), max_steps=2, held_out=0.05)
    train_reranker(store, tmp_path / "few", short)
    train_reranker(store, tmp_path / "none", replace(short, held_out=0.3, probabilities=False))
    for name, why in (
        ("foreign", "miner did not train it"),
        ("few", "28 held-out pairs, at least 50 are needed"),
        ("none", "trained with probabilities=false"),
    ):
        reported, lax = Counting(), replace(config, reranker=str(tmp_path / name), positive=0.11)
        report = silver(store, lax, progress=reported)
        assert report.not_probabilities == why
        assert f"{tmp_path}/{name} is not known to give probabilities: {why}" in reported.said
        assert f"expected   unknown: the scores may not be probabilities ({why})" in summary(report, lax)
        assert "are relevant, by the reranker's own scores" not in summary(report, lax)
        assert (silver_origin(store) or {})["not_probabilities"] == why
    reported = Counting()
    assert silver(store, config, progress=reported).not_probabilities is None
    assert not any("probabilities" in note for note in reported.said)


def test_grades_that_are_not_read_are_reported(store: Database, base: Path, config: SilverConfig) -> None:
    own, short = replace(config, reranker=None), replace(training(base), max_steps=1)
    same = "treats every relevance above 0 alike"
    plain, named, trained = Counting(), Counting(), Counting()
    silver(store, config, progress=plain)
    store.execute("UPDATE judgments SET relevance = 3 WHERE query_id = 'q01' AND source = 'gold'")
    silver(store, config, progress=named)
    silver(store, own, training=short, progress=trained)
    assert not any("graded" in note for note in plain.said)
    assert f"gold judgments are graded: miner silver {same}" in named.said
    assert f"gold judgments are graded: loss bce {same}" in trained.said


def test_a_soft_pass_keeps_every_score(store: Database, config: SilverConfig) -> None:
    strict = replace(config, positive=0.99)
    hard = silver(store, strict)
    soft = replace(config, soft=True, positive=0.9)
    again = Counting()
    report = silver(store, soft, progress=again)
    assert "reranking" not in again.worked
    assert (report.pairs, report.replaced) == (hard.pairs, hard.positives + hard.negatives)
    scores = {(q, d): s for q, d, s in known_scores(store, report.fingerprint).to_pandas().values.tolist()}
    rows = store.rows("SELECT query_id, doc_id, relevance FROM judgments WHERE source = 'silver'")
    assert len(rows) == report.pairs == silver_count(store)
    assert all(relevance == scores[query, doc] for query, doc, relevance in rows)
    assert any(strict.negative < relevance < strict.positive for *_, relevance in rows)
    assert is_soft(store)
    pairs = judged_pairs(store, "train", ("silver",))
    assert pairs["relevance"].to_pylist() == [relevance for *_, relevance in sorted(rows)]
    reported = summary(report, soft).splitlines()
    assert reported[0] == (
        f"silver     {report.pairs:,} soft judgments in split 'train': the scores of all unjudged pairs of "
        "48 queries"
    )
    assert reported[1] == (
        f"           {report.positives:,} score 0.9 or more and would be positives, "
        f"{report.negatives:,} score 0.1 or less and would be negatives"
    )
    silver(store, config)
    assert not is_soft(store)
    with pytest.raises(UsageError) as caught:
        replace(config, soft=True)
    assert str(caught.value) == (
        "thresholds have no effect with --soft, which keeps every score; "
        "leave out positive and negative, or soft"
    )


def test_again_changes_nothing_and_other_thresholds_cost_no_scoring(
    store: Database, config: SilverConfig
) -> None:
    before, hashes = judgments(store), corpus.content_hashes(store, "train")
    first = silver(store, config)
    made = judgments(store)
    again = Counting()
    assert silver(store, config, progress=again) == replace(first, replaced=first.positives + first.negatives)
    assert "reranking" not in again.worked
    assert judgments(store) == made
    strict = silver(store, replace(config, positive=0.95, negative=0.01), progress=again)
    assert "reranking" not in again.worked
    assert silver_count(store) == strict.positives + strict.negatives < len(made) - len(before)
    assert remove_silver(store) == strict.positives + strict.negatives
    assert judgments(store) == before
    assert silver_origin(store) is None
    assert corpus.content_hashes(store, "train") == hashes


@pytest.mark.parametrize("soft", [False, True])
def test_nothing_else_reads_silver(store: Database, config: SilverConfig, soft: bool) -> None:
    settings = MiningConfig()
    gold = mine(store, settings, name="gold")
    collection, hidden = Collection.load(store, "train"), audit(store, gold, AuditConfig(repeats=2))
    graded = evaluating.graded_pairs(store, "train")
    silver(store, replace(config, query_set="all", soft=soft, positive=0.9 if soft else config.positive))
    assert silver_count(store) > 0
    assert audit(store, gold, AuditConfig(repeats=2)) == hidden
    assert evaluating.graded_pairs(store, "train") == graded
    assert Collection.load(store, "train").queries == collection.queries
    again = mine(store, settings, name="gold")
    assert (again.run_id, again.evidence) == (gold.run_id, gold.evidence)
    known = {(r["query_id"], r["doc_id"]) for r in corpus.known_positives(store).to_pylist()}
    judged = "SELECT query_id, doc_id FROM judgments WHERE relevance > 0 AND source <> 'silver'"
    assert known == set(store.rows(judged))


def test_exported_scores_are_the_rerankers_probabilities(store: Database, config: SilverConfig) -> None:
    rules = {"reranker": config.reranker, "dtype": "fp32", "relative_margin": "none"}
    run = mine(store, with_values(MiningConfig(), rules), name="soft")
    (row,) = store.rows(
        """SELECT count(*), bool_and(t.positive_score = p.score AND t.negative_score = n.score),
            min(t.negative_score) >= 0 AND max(t.positive_score) <= 1
        FROM triplets t
        JOIN rerank_scores p ON p.reranker = $1 AND p.query_id = t.query_id AND p.doc_id = t.positive_id
        JOIN rerank_scores n ON n.reranker = $1 AND n.query_id = t.query_id AND n.doc_id = t.negative_id
        WHERE t.run_id = $2""",
        [run.deciding.model, run.run_id],
    )
    assert row[0] == store.rows("SELECT count(*) FROM triplets WHERE run_id = ?", [run.run_id])[0][0] > 0
    assert row[1:] == (True, True)


def test_the_guides_query_finds_scores_and_reranker(folder: Path, config: SilverConfig) -> None:
    guide = (Path(__file__).parent.parent / "docs" / "silver.md").read_text("utf-8")
    (query,) = re.findall(r"```sql\n(.*?)```", guide, re.DOTALL)
    with Database.open(folder / "store.duckdb") as store:
        report = silver(store, config)
    with select(folder / "store.duckdb", query, Limits()) as result:
        rows = result.arrow().read_all().to_pylist()
    assert len(rows) == report.positives + report.negatives
    assert {row["reranker"] for row in rows} == {report.fingerprint}
    assert all(row["relevance"] in (row["score"], 0.0) for row in rows)


def test_no_query_is_judged_elsewhere(tmp_path: Path) -> None:
    queries = {"a": "one", "b": "two", "c": "Two", "d": "three", "e": "four", "f": "FOUR"}
    gold = [("a", "p"), ("c", "p", "test"), ("e", "p"), ("b", "p")]
    with make_store(tmp_path / "s.duckdb", {"p": "x"}, queries, gold) as store:
        found = {
            w: silver_queries(store, "train", w)["query_id"].to_pylist()
            for w in ("judged", "unjudged", "all")
        }
    assert found == {"judged": ["a", "e", "f"], "unjudged": ["d"], "all": ["a", "d", "e", "f"]}


def test_judged_pairs_are_gold_silver_or_both(tmp_path: Path) -> None:
    queries = {"a": "one", "b": "two", "c": "three"}
    gold = [("a", "p"), ("c", "p", "test")]
    with make_store(tmp_path / "s.duckdb", {"p": "x", "n": "y"}, queries, gold) as store:
        rows = [("a", "p", 0.9), ("a", "n", 0.8), ("b", "p", 0.7), ("b", "n", 0.0), ("c", "n", 0.9)]
        columns = dict(
            zip(("query_id", "doc_id", "relevance"), map(list, zip(*rows, strict=True)), strict=True)
        )
        store.insert("judgments", pa.table(columns), split="train", source="silver")
        only_gold = judged_pairs(store, "train")
        assert only_gold.drop_columns(["query_id", "doc_id"]).to_pylist() == [
            {"query": "one", "document": "x", "relevance": 1.0, "source": "gold"}
        ]
        both = judged_pairs(store, "train", ("gold", "silver")).to_pylist()
        only_silver = judged_pairs(store, "train", ("silver",)).to_pylist()
        with pytest.raises(UsageError) as caught:
            judged_pairs(store, "train", ("sliver",))
        assert str(caught.value) == (
            "unknown source of judgments 'sliver' (did you mean 'silver'?); use gold or silver"
        )
        with pytest.raises(
            UsageError, match="split 'dev' has no judgments of source silver; make silver ones"
        ):
            judged_pairs(store, "dev", ("silver",))
    kept = [("a", "n", 0.8), ("b", "n", 0.0), ("b", "p", 0.7)]
    assert [(r["query_id"], r["doc_id"], r["relevance"]) for r in only_silver] == kept, (
        "no silver judgment of a pair that people judged, nor of a query that is judged in test"
    )
    assert [(r["query_id"], r["doc_id"], r["source"]) for r in both] == [
        ("a", "n", "silver"), ("a", "p", "gold"), ("b", "n", "silver"), ("b", "p", "silver"),
    ]  # fmt: skip


def test_errors_say_what_to_do(store: Database, config: SilverConfig, tmp_path: Path) -> None:
    before = judgments(store)
    with pytest.raises(UsageError) as caught:
        replace(config, positive=0.1, negative=0.2)
    assert str(caught.value) == (
        "negative must be less than positive, got 0.2 and 0.1; "
        "give thresholds with 0 <= negative < positive <= 1"
    )
    with pytest.raises(UsageError, match=r"query_set must be one of .*did you mean 'judged'"):
        replace(config, query_set="jugded")
    with pytest.raises(
        UsageError, match=r"nothing is judged in split 'tset' of .* \(did you mean 'test'\?\)"
    ):
        silver(store, replace(config, split="tset"))
    import torch
    from sentence_transformers import CrossEncoder

    raw = CrossEncoder(str(tiny_bert(tmp_path / "raw", labels=1)), activation_fn=torch.nn.Identity())
    raw.save_pretrained(str(tmp_path / "logits"))
    with pytest.raises(ModelError) as refused:
        silver(store, replace(config, reranker=str(tmp_path / "logits"), positive=0.5, negative=0.4))
    assert "not probabilities; train one that gives probabilities: miner train-reranker STORE OUT" in str(
        refused.value
    )
    assert judgments(store) == before


def test_the_command_makes_and_undoes(folder: Path) -> None:
    path = str(folder / "store.duckdb")
    flags = [
        "--reranker",
        str(folder / "reranker"),
        "--set",
        "encoder=none",
        "--set",
        "positive=0.6",
        "--set",
        "dtype=fp32",
    ]
    made = CliRunner().invoke(command, [path, *flags], catch_exceptions=False).stdout.splitlines()
    assert made[0].startswith("silver     ")
    assert made[0].endswith(" unjudged pairs of 48 queries"), "q00 is judged in test, so it is left out"
    assert made[1].endswith(" pairs with a score between 0.1 and 0.6")
    assert made[2].endswith(" of the positives are relevant, by the reranker's own scores")
    assert made[3].startswith("held out   22 gold positives of queries that it was not trained on: ")
    with Database.open(path) as store:
        count = silver_count(store)
    undone = CliRunner().invoke(command, [path, "--undo"], catch_exceptions=False)
    assert undone.stdout == f"removed    {count:,} silver judgments\n"
    with Database.open(path) as store:
        assert silver_count(store) == 0


@pytest.mark.slow
def test_it_trains_its_own_reranker_and_asks_the_encoder_too(
    store: Database, base: Path, config: SilverConfig
) -> None:
    own = replace(config, reranker=None, encoder="bundled", query_set="unjudged", depth=5)
    settings = replace(training(base), max_steps=3)
    report = silver(store, replace(own, positive=0.11, negative=0.1), training=settings)
    assert report.reranker == str(reranker_folder(store))
    assert report.queries == 9
    assert report.held_out is None
    again = silver(store, replace(own, positive=0.11, negative=0.1), training=settings)
    assert again.fingerprint == report.fingerprint
    bm25 = silver(store, replace(own, encoder="none", positive=0.11, negative=0.1), training=settings)
    assert bm25.pairs < report.pairs


def pass_of(path: str, reranker: str, fatal: int) -> None:
    """Makes silver judgments in small chunks, and is killed after so many."""
    miner.mining.scoring.CHUNK = 100
    with Database.open(Path(path)) as store:
        silver(store, replace(BM25, reranker=reranker), progress=forking.Deadly("rerank", fatal))


@pytest.mark.slow
def test_a_killed_pass_goes_on(folder: Path, config: SilverConfig) -> None:
    path, other = folder / "store.duckdb", folder / "other.duckdb"
    other.write_bytes(path.read_bytes())
    with Database.open(other) as store:
        silver(store, config)
        whole = judgments(store)
    started = []
    for fatal in (2, 1, 0):
        ended = forking.run(pass_of, path, folder / "reranker", fatal)
        assert ended.code == (-signal.SIGKILL if fatal else 0), ended.err
        started.append(ended.out.strip())
        if fatal:
            with Database.open(path) as store:
                assert silver_count(store) == 0, "all judgments come at once, at the end"
    assert started == ["rerank 0", "rerank 2", "rerank 3"]
    with Database.open(path) as store:
        assert judgments(store) == whole


def test_the_store_the_tests_begin_with(trained: Path) -> None:
    with Database.open(trained / "store.duckdb") as store:
        assert corpus.counts(store)["queries"] == QUERIES + len(TOPICS) + 1
