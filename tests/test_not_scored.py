"""A pair without a finite score never decides anything, never becomes a triplet, and is counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miner.auditing.audit import audit
from miner.auditing.calibrate import calibrate
from miner.auditing.config import AuditConfig, CalibrationConfig
from miner.auditing.probability import Facts, Probability
from miner.auditing.replay import Replay
from miner.auditing.sweep import Sweep
from miner.collection.collection import Collection
from miner.curation.silver import SilverConfig, silver
from miner.engine.progress import Advance
from miner.errors import ModelError, UsageError
from miner.evaluation.compare import compare
from miner.evaluation.evaluate import EvaluationConfig, evaluate, measure
from miner.evaluation.labels import label_task
from miner.evaluation.result import Encode
from miner.evaluation.similarity import similarity_task
from miner.mining.config import MiningConfig, Rules, Selection
from miner.mining.pipeline import decide_again, mine
from miner.models.encoder import Vectors
from miner.models.reranker import Reranker
from miner.retrieval import nearest
from miner.retrieval.bm25 import Bm25
from miner.retrieval.config import Bm25Config, DenseConfig
from miner.retrieval.dense import Dense
from miner.store import audits as auditing
from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.store.triplets import triplets as triplets_of
from miner.store.verdicts import reason_counts
from tests.evaluation_support import judged_store
from tests.stores import make_store
from tests.test_audit import corpus
from tests.tiny import tiny_bert, word_table

NAN, INF = float("nan"), float("inf")
WORDS = {
    "tt": [0, 0], "qq": [1, 0], "qnan": [NAN, 0], "p9": [9, 0], "p4": [4, 0], "pnan": [NAN, 1],
    "n8": [8, 0], "n3": [3, 0], "n1": [1, 0], "nnan": [1, NAN], "ninf": [INF, 0], "nneg": [-INF, 0],
}  # fmt: skip
"""By dot product with "tt qq", "tt X" scores a quarter of X's number."""


class Notes:
    """A progress that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        """Yields a function that does nothing."""
        yield lambda _: None

    def note(self, message: str) -> None:
        """Keeps a line."""
        self.said.append(message)

    @property
    def warnings(self) -> list[str]:
        """The lines that warn."""
        return [line.removeprefix("warning: ") for line in self.said if line.startswith("warning: ")]


NEGATIVES = ("n8", "n3", "n1", "nnan", "ninf", "nneg", "unknown")


@pytest.fixture
def mined(tmp_path: Path) -> Iterator[tuple[Database, Path]]:
    """q1 has scored positives and one without, q2 has none, q3 has no vector itself."""
    folder = word_table(tmp_path / "table", WORDS, "dot")
    documents = {name: f"tt {name}" for name in ("p9", "p4", "pnan", *NEGATIVES)}
    documents["unknown"] = "unheard of tt2"
    queries = {"q1": "tt qq", "q2": "qq tt", "q3": "tt qnan"}
    judged = [("q1", "p9"), ("q1", "p4"), ("q1", "pnan"), ("q2", "pnan"), ("q3", "p4")]
    with make_store(tmp_path / "s.duckdb", documents, queries, judged) as store:
        yield store, folder


def config(folder: Path, **rules: Any) -> MiningConfig:
    return MiningConfig(
        encoder=str(folder), dtype="fp32", overlaps=False, stopwords="none", rules=Rules(**rules),
        selection=Selection(negatives=7),
    )  # fmt: skip


def reasons(store: Database, run: StoredRun, query: str) -> dict[str, str]:
    rows = store.rows(
        "SELECT doc_id, coalesce(reason::VARCHAR, 'kept') FROM verdicts WHERE run = ? AND query_id = ?",
        [run.name, query],
    )
    return {doc: reason for doc, reason in rows if reason != "judged_positive"}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"relative_margin": None}, {"n8": "kept", "n3": "kept", "n1": "kept"}),
        ({"relative_margin": 0.0}, {"n8": "relative_margin", "n3": "kept", "n1": "kept"}),
        ({"relative_margin": 0.0, "reference_positive": "best"}, {"n8": "kept", "n3": "kept", "n1": "kept"}),
        (
            {"absolute_margin": 0.5, "reference_positive": "median"},
            {"n8": "absolute_margin", "n3": "kept", "n1": "kept"},
        ),
        ({"relative_margin": 0.0, "reference_positive": "each"}, {"n8": "kept", "n3": "kept", "n1": "kept"}),
        ({"percentile": 0}, {"n8": "percentile", "n3": "kept", "n1": "kept"}),
        ({"max_score": 0.5}, {"n8": "max_score", "n3": "max_score", "n1": "kept"}),
        ({"min_score": 0.5}, {"n8": "kept", "n3": "kept", "n1": "min_score"}),
        ({"relative_percentile": 0.5}, {"n8": "relative_percentile", "n3": "kept", "n1": "kept"}),
    ],
)
def test_only_finite_scores_decide(
    mined: tuple[Database, Path], rules: dict[str, Any], expected: dict[str, str]
) -> None:
    store, folder = mined
    run = mine(store, config(folder, **{"relative_margin": None, **rules}))
    unscored = dict.fromkeys(("nnan", "ninf", "nneg"), "not_scored")
    assert reasons(store, run, "q1") == expected | unscored
    assert set(reasons(store, run, "q2").values()) == {"not_scored"}
    assert set(reasons(store, run, "q3").values()) == {"not_scored"}
    triplets = triplets_of(store, run).to_pylist()
    assert {row["query_id"] for row in triplets} == {"q1"}
    assert {row["positive_id"] for row in triplets} <= {"p9", "p4"}
    assert all(np.isfinite([row["positive_score"], row["negative_score"]]).all() for row in triplets)
    assert {row["negative_id"] for row in triplets} == {d for d, why in expected.items() if why == "kept"}


@pytest.mark.parametrize(
    ("strategy", "positives"),
    [("random", "best"), ("ambiguous", "all"), ("stratified", "all"), ("mixed", "best")],
)
def test_no_strategy_selects_them(mined: tuple[Database, Path], strategy: str, positives: str) -> None:
    store, folder = mined
    selection = Selection(negatives=7, strategy=strategy, positives=positives)
    settings = config(folder, relative_margin=None)
    rows = triplets_of(
        store, mine(store, MiningConfig(**{**vars(settings), "selection": selection}))
    ).to_pylist()
    assert {row["negative_id"] for row in rows} == {"n8", "n3", "n1"}
    assert {row["positive_id"] for row in rows} == ({"p9"} if positives == "best" else {"p9", "p4"})


def test_they_are_counted_and_reported_with_the_models_name(mined: tuple[Database, Path]) -> None:
    store, folder = mined
    notes = Notes()
    run = mine(store, config(folder), progress=notes)
    assert notes.warnings == [
        f"{folder} has no vector for 5 documents and 1 query: its search ignores these texts",
        f"{folder} gives no finite score to 14 candidates and 3 positives, of 27 pairs: pairs without "
        "a score are never selected",
        f"2 queries get no negatives, because no positive has a finite score by {folder}",
    ]
    decided = Notes()
    decide_again(store, run, config(folder, percentile=90, relative_margin=None), progress=decided)
    assert decided.warnings == notes.warnings[1:]
    again = Notes()
    mine(store, config(folder), progress=again)
    assert f"run {run.name} is already finished; there is nothing to do" in again.said
    assert again.warnings == notes.warnings[1:]
    assert reason_counts(store, run)["not_scored"] == store.rows(
        "SELECT count(*) FROM decided WHERE run_id = ? AND reason = 'not_scored'", [run.run_id]
    )[0][0]  # fmt: skip


@pytest.mark.parametrize("backend", ["faiss", "torch"])
@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
def test_a_text_without_a_vector_is_no_hit_and_no_query(
    tmp_path: Path, similarity: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "torch":
        monkeypatch.setattr(nearest, "_faiss_block", nearest._torch_block)
    words = {"a": [1, 0], "b": [0.9, 0.1], "bad": [NAN, 1], "huge": [INF, 1]}
    folder = word_table(tmp_path / "m", words, similarity)
    documents = {"d1": "bad", "d2": "a", "d3": "huge", "d4": "b", "d5": "zzz", "d6": "bad bad"}
    queries = {"q1": "bad", "q2": "a", "q3": "zzz"}
    with make_store(tmp_path / "s.duckdb", documents, queries, [(q, "d2") for q in queries]) as store:
        retriever = Dense(store, Collection.load(store, "train"), DenseConfig(str(folder), dtype="fp32"))
        hits = retriever.search(range(3), 10)
        assert hits.query.tolist() == [1, 1]
        assert hits.doc.tolist() == [1, 3]
        assert retriever.gaps() == {"documents": 4, "queries": 2}
        query, doc = (side.ravel().astype(np.int32) for side in np.indices((3, 6)))
        scores = retriever.score_pairs(query, doc)
        assert np.isfinite(scores).tolist() == [
            (q, d) in ((1, 1), (1, 3)) for q, d in zip(query, doc, strict=True)
        ]


def test_a_store_without_any_vector_has_no_hits(tmp_path: Path) -> None:
    folder = word_table(tmp_path / "m", {"a": [NAN, 1]})
    with make_store(tmp_path / "s.duckdb", {"d": "a"}, {"q": "b"}, [("q", "d")]) as store:
        retriever = Dense(store, Collection.load(store, "train"), DenseConfig(str(folder), dtype="fp32"))
        assert len(retriever.search(range(1), 5).doc) == 0


@pytest.mark.filterwarnings("ignore:.*(overflow|invalid value).*:RuntimeWarning")
@pytest.mark.parametrize(("backend", "variant"), [("bm25s", "bm25+"), ("rank-bm25", "okapi")])
def test_a_bm25_score_that_is_not_finite_is_no_hit(tmp_path: Path, backend: str, variant: str) -> None:
    texts = {"d1": "salt water", "d2": "salt salt lake", "d3": "fresh water"}
    query = f"salt water {'lake ' * 9}"
    with make_store(tmp_path / "s.duckdb", texts, {"q": query}, [("q", "d3")]) as store:
        collection = Collection.load(store, "train")
        retriever = Bm25(collection, Bm25Config(k1=1e308, backend=backend, variant=variant))
        hits = retriever.search(range(1), 5)
        scores = retriever.score_pairs(np.zeros(3, dtype=np.int32), np.arange(3, dtype=np.int32))
    assert not np.isfinite(scores[1])  # "lake" nine times, times k1 + 1
    assert np.isfinite(hits.score).all()
    assert 1 not in hits.doc


# Rerankers


def reranker(folder: Path, change: str) -> Path:
    """A real cross-encoder that gives NaN to pairs with the word "cloth", or one score to all."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tiny_bert(folder, labels=1)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        if change == "nan":
            cloth = tokenizer.convert_tokens_to_ids("cloth")
            model.bert.embeddings.word_embeddings.weight[cloth].fill_(NAN)
        else:
            model.classifier.weight.zero_()
    model.save_pretrained(folder)
    return folder


THINGS = ["router", "printer", "kettle", "drone", "camera", "tablet", "heater", "scooter"]


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("things")
    documents = {f"r{t}": f"reset the {t}" for t in THINGS} | {
        f"c{t}": f"a cloth for the {t}" for t in THINGS
    }
    documents |= {f"w{t}": f"two years for the {t}" for t in THINGS}
    queries = {f"q{t}": f"my {t}" for t in THINGS}
    judged = [(f"q{t}", f"{'c' if i < 3 else 'r'}{t}") for i, t in enumerate(THINGS)]
    make_store(
        folder / "s.duckdb", documents, queries, [*judged, *((q, d, "test") for q, d in judged)]
    ).close()
    reranker(folder / "nan", "nan")
    reranker(folder / "constant", "constant")
    return folder


@pytest.fixture
def opened(things: Path, tmp_path: Path) -> Iterator[Database]:
    (tmp_path / "s.duckdb").write_bytes((things / "s.duckdb").read_bytes())
    with Database.open(tmp_path / "s.duckdb") as store:
        yield store


def test_a_reranker_that_gives_nan_is_named_and_its_pairs_left_out(opened: Database, things: Path) -> None:
    notes = Notes()
    settings = MiningConfig(reranker=str(things / "nan"), dtype="fp32", rules=Rules(relative_margin=None))
    run = mine(opened, settings, progress=notes)
    counts = reason_counts(opened, run)
    # Three queries have no scored positive: their two candidates; of five the text with "cloth".
    assert (counts["not_scored"], counts["selected"]) == (3 * 2 + 5, 5)
    assert notes.warnings == [
        f"{things / 'nan'} gives no finite score to 5 candidates and 3 positives, of 24 pairs: pairs "
        "without a score are never selected",
        f"3 queries get no negatives, because no positive has a finite score by {things / 'nan'}",
    ]
    for row in triplets_of(opened, run).to_pylist():
        assert row["negative_id"].startswith("w")
        assert np.isfinite([row["positive_score"], row["negative_score"]]).all()


def test_what_was_not_reranked_keeps_its_own_reason(opened: Database, things: Path) -> None:
    settings = MiningConfig(reranker=str(things / "nan"), rerank_depth=1, rules=Rules(relative_margin=None))
    counts = reason_counts(opened, mine(opened, settings))
    assert counts["not_reranked"] > 0
    assert counts["not_scored"] > 0


def test_a_reranker_that_gives_every_pair_one_score_is_warned_about(opened: Database, things: Path) -> None:
    notes = Notes()
    mine(opened, MiningConfig(reranker=str(things / "constant"), dtype="fp32"), progress=notes)
    assert notes.warnings == [
        f"{things / 'constant'} gives all 24 pairs the same score, 0.5: it cannot rank them"
    ]


def test_evaluation_warns_of_a_reranker_that_gives_every_pair_one_score(
    opened: Database, things: Path
) -> None:
    notes = Notes()
    evaluate(opened, str(things / "constant"), EvaluationConfig(split="test"), notes)
    assert notes.warnings == [
        f"{things / 'constant'} gives all 24 pairs the same score, 0.5: it cannot rank them, "
        "so its measures are meaningless"
    ]


def test_silver_warns_of_a_reranker_that_gives_every_pair_one_score(opened: Database, things: Path) -> None:
    opened.execute("DELETE FROM judgments WHERE split = 'test'")
    notes = Notes()
    name = str(things / "constant")
    report = silver(opened, SilverConfig(reranker=name, query_set="all", encoder="none"), progress=notes)
    assert notes.warnings == [
        f"{name} gives all {report.pairs:,} pairs the same score, 0.5: it cannot rank them, so its "
        "judgments are meaningless"
    ]


def test_reranking_leaves_them_unranked_and_says_so(opened: Database, things: Path) -> None:
    notes = Notes()
    model = Reranker(str(things / "nan"), dtype="fp32")
    settings = EvaluationConfig(split="test", task="reranking")
    for _ in range(2):
        (found,) = measure(opened, [model], settings, notes)
        assert found.unscored == {"candidates": 8}
        assert found.values["MRR@10"][[0, 3, 4]].tolist() != [0, 0, 0]
    assert notes.warnings == [f"{things / 'nan'} has no finite score for 8 candidates (not ranked)"] * 2
    wiped = [q for q, value in zip(found.ids, found.values["nDCG@10"].tolist(), strict=True) if value == 0]
    assert wiped == sorted(f"q{t}" for t in THINGS[:3])
    # NaN is a score that is known: the second time nothing was scored again.
    assert opened.rows("SELECT count(*), count(DISTINCT (query_id, doc_id)) FROM rerank_scores") == [(24, 24)]


def test_silver_judgments_are_made_of_finite_scores(opened: Database, things: Path) -> None:
    opened.execute("DELETE FROM judgments WHERE split = 'test'")
    notes = Notes()
    settings = SilverConfig(
        reranker=str(things / "nan"), query_set="all", encoder="none", soft=True, dtype="fp32"
    )
    report = silver(opened, settings, progress=notes)
    assert report.unscored > 0
    assert any("gives no finite score to" in line for line in notes.warnings)
    rows = opened.rows("SELECT relevance, doc_id FROM judgments WHERE source = 'silver'")
    assert len(rows) == report.pairs
    assert all(np.isfinite(relevance) and not doc.startswith("c") for relevance, doc in rows)


# Audits


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, StoredRun]]:
    """A run of BM25 of which some scores were lost: NaN and infinite ones, of positives too."""
    documents, queries, judged = corpus(5)
    with make_store(tmp_path_factory.mktemp("damaged") / "s.duckdb", documents, queries, judged) as store:
        run = mine(store, MiningConfig(depth=60))
        for column in ("scores", "positives"):
            store.execute(
                f"""UPDATE scored SET {column} = list_transform({column}, lambda score, place:
                    CASE hash(query_no, place, '{column}') % 13 WHEN 0 THEN 'nan'::DOUBLE
                        WHEN 1 THEN 'inf'::DOUBLE WHEN 2 THEN '-inf'::DOUBLE ELSE score END)"""
            )
        store.execute(
            "UPDATE scored SET positives = list_transform(positives, lambda score: 'nan'::DOUBLE)"
            " WHERE query_no = 1"
        )
        yield store, decide_again(store, run, MiningConfig(depth=60), name="again")


SETTINGS = [
    Rules(relative_margin=None),
    Rules(relative_margin=0.1),
    Rules(relative_margin=-0.2, reference_positive="best"),
    Rules(absolute_margin=0.5, reference_positive="median", relative_margin=None),
    Rules(percentile=30, max_rank=25, relative_margin=None),
    Rules(relative_percentile=0.4, relative_margin=None),
]


@pytest.mark.parametrize("rules", SETTINGS)
def test_the_sweep_counts_what_deciding_gives(damaged: tuple[Database, StoredRun], rules: Rules) -> None:
    from dataclasses import replace

    replay = Replay.of(*damaged)
    replay = replace(replay, config=replace(replay.config, rules=rules))
    hidden = replay.hideable.draw(0.4, np.random.default_rng(3))
    evidence = replay.hide(replay.hideable.hide(hidden))
    trial = replay.decide(evidence)
    (counts,) = Sweep(replay, evidence).counts([rules])
    owner = replay.hideable.positives.owner
    assert (
        counts.selected.tolist()
        == np.bincount(owner[trial.selected], minlength=len(counts.selected)).tolist()
    )
    assert counts.negatives.tolist() == trial.negatives.tolist()
    assert counts.negatives[1] == 0
    sums = counts.sums(np.ones(len(counts.negatives), dtype=np.bool_))
    assert float(sums.margins) == pytest.approx(float(trial.left.margins))


def test_a_positive_without_a_score_is_never_hidden(damaged: tuple[Database, StoredRun]) -> None:
    store, run = damaged
    replay = Replay.of(store, run)
    scored = np.isfinite(replay.hideable.positives.score)
    assert 0 < (~scored).sum() < len(scored)
    assert not (replay.hideable.allowed & ~scored).any()
    assert replay.hideable.cannot_hide()["not_scored"] == (~scored).sum()
    for hidden in replay.hideable.draws(AuditConfig(share=0.9, repeats=5)):
        assert not (hidden & ~scored).any()
        kept = np.bincount(replay.hideable.positives.owner[scored & ~hidden], minlength=2)
        owned = np.bincount(replay.hideable.positives.owner[scored], minlength=2)
        assert (kept[owned > 0] > 0).all()
    found = audit(store, run, AuditConfig(repeats=3))
    assert found.cannot_hide["not_scored"] == (~scored).sum()
    assert found.hidden_positive_rate.rate is not None
    calibrated = calibrate(store, run, None, CalibrationConfig(repeats=3))
    assert all(np.isfinite(one.all_queries.per_query) for one in calibrated.sweep)


def test_chances_come_from_finite_scores(damaged: tuple[Database, StoredRun]) -> None:
    store, run = damaged
    replay = Replay.of(store, run)
    draws = replay.hideable.draws(AuditConfig(repeats=2))
    trials = [replay.hide(replay.hideable.hide(flags)) for flags in draws]
    chance = Probability(Facts.of(store, run, replay), trials, 13).of(trials[0])
    comparable = np.isfinite(replay.score) & replay.hideable.positives.has_scored[replay.query]
    assert np.isfinite(chance).tolist() == comparable.tolist()
    weak = auditing.weak_positives(store, run).to_pylist()
    assert all(np.isfinite(one["lowest_negative"]) for row in weak for one in row["scores"])


# Evaluation


def placed(places: dict[str, list[float]]) -> Encode:
    def encode(texts: Any, role: str) -> Vectors:
        return np.array([places.get(text, [NAN, NAN]) for text in texts], dtype=np.float32)

    return encode


def test_retrieval_says_what_has_no_vector(tmp_path: Path) -> None:
    folder = word_table(tmp_path / "m", {"a": [1, 0], "b": [0, 1]})
    documents = {"d1": "zzz", "d2": "a", "d3": "b"}
    judged = [("q1", "d2", 1, "test"), ("q2", "d3", 1, "test"), ("q3", "d1", 1, "test")]
    notes = Notes()
    with judged_store(
        tmp_path / "s.duckdb", documents, {"q1": "a a", "q2": "yyy", "q3": "b a"}, judged
    ) as store:
        (found,) = evaluate(store, str(folder), EvaluationConfig(split="test", task="retrieval"), notes)
    assert found.values["nDCG@10"].tolist() == [1, 0, 0]  # no vector of the query; none of the document
    assert found.unscored == {"queries": 1, "documents": 1}
    assert notes.warnings == [
        f"{folder} has no finite vector for 1 of 3 queries (counted as 0) and 1 of 3 documents (never found)"
    ]


def test_graded_pairs_without_a_vector_are_left_out(tmp_path: Path) -> None:
    places = {"a": [1.0, 0.0], "b": [0.8, 0.6], "c": [0.6, 0.8], "d": [0.0, 1.0]}
    texts = {name: name for name in ("a", "b", "c", "d", "x", "y")}
    graded = [("a", "b", 0.9), ("a", "c", 0.5), ("a", "d", 0.1), ("a", "x", 0.0), ("y", "b", 1.0)]
    with judged_store(
        tmp_path / "s.duckdb", texts, texts, [(q, d, g, "test") for q, d, g in graded]
    ) as store:
        task = similarity_task(store, "test")
    found = task.measure(placed(places))
    assert found.means["Spearman"] == pytest.approx(1.0)
    assert found.unscored == {"pairs": 2}
    whole = task.measure(placed(places | {"x": [0.5, 0.5], "y": [0.5, 0.5]}))
    difference = compare(whole, found)[0]
    assert (difference.n, difference.first, difference.second) == (3, pytest.approx(1), pytest.approx(1))
    with pytest.raises(UsageError) as caught:
        task.measure(placed({"a": [1.0, 0.0], "b": [0.8, 0.6]}))
    assert caught.value.message == "the model has vectors for both texts of only 1 of 5 pairs"


def test_labels_count_what_cannot_be_found_as_missed(tmp_path: Path) -> None:
    places = {"q": [1.0, 0.0], "a": [0.9, 0.1], "c": [0.0, 1.0]}
    documents = {"a": "a", "b": "b", "c": "c"}
    with judged_store(
        tmp_path / "s.duckdb", documents, {"q": "q"}, [("q", d, 1, "test") for d in documents],
        labels={"q": "x", "a": "x", "b": "x", "c": "y"},
    ) as store:  # fmt: skip
        found = label_task(store, "test").measure(placed(places))
    assert found.means["MAP"] == 0.5  # the first of two is found at rank 1, the other never
    assert found.unscored == {"documents": 1}


def test_a_reranker_without_any_finite_score_makes_no_silver(opened: Database, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    folder = tiny_bert(tmp_path / "lost", labels=1)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.bias.fill_(NAN)
    model.save_pretrained(folder)
    opened.execute("DELETE FROM judgments WHERE split = 'test'")
    with pytest.raises(ModelError, match="gives no finite score to any of"):
        silver(opened, SilverConfig(reranker=str(folder), query_set="all", encoder="none"))
