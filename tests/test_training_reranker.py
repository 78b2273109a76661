"""Training a reranker: it learns, its data is clean, a kill costs nothing, folds never see their own."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

from miner.collection.collection import Collection
from miner.engine.progress import Silent
from miner.errors import MinerError, ModelError, UsageError
from miner.mining.config import MiningConfig
from miner.mining.pipeline import mine
from miner.models.reranker import Reranker, fold_of
from miner.store.database import Database
from miner.store.models import is_trained_here, training_positives
from miner.training import steps
from miner.training.model_card import RerankerMetrics, RerankerReport
from miner.training.reranker import chance_precision, mean_average_precision, train_reranker
from miner.training.reranker_config import RerankerConfig
from miner.training.reranker_pairs import (
    KINDS,
    LabelledPairs,
    held_out_queries,
    labelled_pairs,
    read_judgments,
    sample_queries,
)
from tests import forking
from tests.stores import make_store
from tests.tiny import tiny_bert

TOPICS = ["lentils", "copper", "glaciers", "violins", "harbours", "moss", "lanterns", "ferries"]
QUERIES = 40


def fill(path: Path) -> Database:
    """Returns a store whose positives say "indeed" and whose other documents do not."""
    rng = random.Random(5)
    documents, queries, judgments = {}, {}, []
    for number in range(QUERIES):
        topic = TOPICS[number % len(TOPICS)]
        queries[f"q{number:02}"] = f"what about {topic} and {rng.choice(TOPICS)} number {number}"
        for answer in range(2):
            doc_id = f"right-{number:02}-{answer}"
            documents[doc_id] = f"indeed yes {number} part {answer}"
            judgments.append((f"q{number:02}", doc_id))
        for other in range(12):
            text = f"perhaps {topic} was {' '.join(rng.choices(TOPICS, k=4))} {number} {other}"
            documents[f"wrong-{number:02}-{other}"] = text
    judgments.append(("q00", "wrong-00-0", "test"))
    return make_store(path, documents, queries, judgments)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    with fill(tmp_path / "store.duckdb") as opened:
        yield opened


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("models") / "tiny", initializer_range=0.05)


@pytest.fixture(scope="module")
def config(base: Path) -> RerankerConfig:
    return RerankerConfig(
        base=str(base), max_steps=6, batch_size=16, learning_rate=3e-3, skip_top=3, depth=40, held_out=0.2
    )


def pairs_of(store: Database, config: RerankerConfig) -> LabelledPairs:
    collection = sample_queries(Collection.load(store, config.split), config)
    return labelled_pairs(read_judgments(store, config), collection, config)


def weights(folder: Path) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in load_file(folder / "model.safetensors").items()}


def as_ids(pairs: LabelledPairs) -> list[tuple[str, str, str]]:
    query = pairs.collection.query_column(pairs.query).to_pylist()
    doc = pairs.collection.doc_column(pairs.doc).to_pylist()
    return [(q, d, KINDS[k]) for q, d, k in zip(query, doc, pairs.kind, strict=True)]


class Notes(Silent):
    """Keeps what a training says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


def test_pairs_are_the_positives_with_mined_and_random_negatives(
    store: Database, config: RerankerConfig
) -> None:
    pairs = pairs_of(store, config)
    rows = as_ids(pairs)
    assert rows == as_ids(pairs_of(store, config))
    assert len({(q, d) for q, d, _ in rows}) == len(rows)
    positives = {(q, d) for q, d, kind in rows if kind == "positive"}
    assert positives == {(f"q{n:02}", f"right-{n:02}-{a}") for n in range(QUERIES) for a in range(2)}
    assert ("q00", "wrong-00-0") not in {(q, d) for q, d, _ in rows}, "judged positive in another split"
    for number in range(QUERIES):
        mine = [kind for q, _, kind in rows if q == f"q{number:02}"]
        assert mine.count("mined") == 8
        assert mine.count("random") == 4


def test_positives_withheld_for_an_audit_are_as_if_nobody_judged_them(
    store: Database, config: RerankerConfig
) -> None:
    config = replace(config, withheld=0.5, mined=0, random=500)
    rows = as_ids(pairs_of(store, config))
    kinds = {(q, d): kind for q, d, kind in rows}
    judged = {(f"q{n:02}", f"right-{n:02}-{a}") for n in range(QUERIES) for a in range(2)}
    positives = {pair for pair, kind in kinds.items() if kind == "positive"}
    assert positives < judged
    assert len(positives) == QUERIES, "one of each query's two"
    drawn = {pair for pair, kind in kinds.items() if kind == "random"}
    assert len(drawn & (judged - positives)) > QUERIES / 2, "what nobody judged may be taken for a negative"
    assert not drawn & positives
    assert rows == as_ids(pairs_of(store, config))
    assert rows != as_ids(pairs_of(store, replace(config, seed=14)))


def test_mined_negatives_come_from_the_rank_window(store: Database, config: RerankerConfig) -> None:
    from miner.retrieval.bm25 import Bm25
    from miner.retrieval.config import Bm25Config

    pairs = pairs_of(store, config)
    hits = Bm25(pairs.collection, Bm25Config()).search(range(QUERIES), config.depth)
    ranks = dict(zip(zip(hits.query, hits.doc, strict=True), hits.rank, strict=True))
    mined = pairs.where(pairs.kind == KINDS.index("mined"))
    found = [ranks[pair] for pair in zip(mined.query, mined.doc, strict=True)]
    assert min(found) == config.skip_top + 1
    assert max(found) <= config.depth


def test_texts_and_labels_of_the_positives_are_never_negatives(
    tmp_path: Path, config: RerankerConfig
) -> None:
    documents = {"p": "Red  fox", "same": "red fox", "query": "what fox", "empty": " "}
    documents |= {"label": "a fox", "n": "no fox"}
    with make_store(
        tmp_path / "s.duckdb",
        documents,
        {"q": "What fox"},
        [("q", "p"), ("q", "empty")],
        labels={"q": "animals", "label": "animals", "n": "other"},
    ) as store:
        rows = as_ids(pairs_of(store, replace(config, skip_top=0, random=9)))
    assert {(d, kind in ("mined", "random")) for _, d, kind in rows} == {("p", False), ("n", True)}
    assert len(rows) == 2, "n is mined, so it is not a random negative too"


def test_a_sample_of_queries_is_seeded(store: Database, config: RerankerConfig) -> None:
    few = replace(config, queries=7)
    drawn = {q for q, _, _ in as_ids(pairs_of(store, few))}
    assert len(drawn) == 7
    assert drawn == {q for q, _, _ in as_ids(pairs_of(store, few))}
    assert drawn != {q for q, _, _ in as_ids(pairs_of(store, replace(few, seed=14)))}


def test_held_out_queries_of_equal_text_go_together(tmp_path: Path, config: RerankerConfig) -> None:
    queries = {f"q{n}": f"Question  {n // 2}" for n in range(20)}
    with make_store(tmp_path / "s.duckdb", {"d": "x"}, queries, [(q, "d") for q in queries]) as store:
        held_out = held_out_queries(Collection.load(store, "train"), config)
    assert held_out.sum() == 4
    texts = [text for text, is_held_out in zip(sorted(queries), held_out, strict=True) if is_held_out]
    assert len({queries[q] for q in texts}) == 2


def test_batches_are_of_similar_length_and_of_both_labels() -> None:
    from datasets import Dataset

    from miner.training.reranker_trainer import LengthGroupedBatches

    rng = random.Random(3)
    labels = [float(number % 4 == 0) for number in range(900)]
    texts = ["x" * (rng.randrange(10, 40) if label else rng.randrange(20, 200)) for label in labels]
    rows = Dataset.from_dict({"query": ["q"] * 900, "document": texts, "label": labels})
    batches = LengthGroupedBatches(rows, batch_size=16, drop_last=False, seed=5)
    first = list(batches)
    assert sorted(i for batch in first for i in batch) == list(range(900))
    assert len(first) == len(batches)
    assert first == list(batches)
    for batch in first:
        assert 3 <= sum(labels[i] for i in batch) <= 5 or len(batch) < 16
        negatives = [len(texts[i]) for i in batch if not labels[i]]
        assert max(negatives) - min(negatives) < 40
    batches.set_epoch(1)
    assert list(batches) != first


def test_average_precision_is_the_textbooks() -> None:
    query = np.array([0, 0, 0, 0, 1, 1, 1, 2])
    positive = np.array([True, False, True, False, False, True, False, False])
    scores = np.array([0.9, 0.8, 0.7, 0.1, 0.5, 0.5, 0.1, 0.3])
    expected = ((1 / 1 + 2 / 3) / 2 + 1 / 2) / 2
    assert mean_average_precision(query, positive, scores) == pytest.approx(expected)
    assert 0.4 < chance_precision(query, positive) < 0.8


@pytest.mark.slow
def test_it_learns_and_leaves_a_usable_folder(
    store: Database, config: RerankerConfig, tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder

    out = tmp_path / "out"
    report = train_reranker(store, out, replace(config, epochs=3, max_steps=None, learning_rate=5e-3))
    metrics = report.metrics
    assert metrics.losses[0][-1] < 0.5 * metrics.losses[0][0]
    assert metrics.average_precision is not None
    assert metrics.chance is not None
    assert metrics.average_precision > metrics.chance + 0.3
    assert (metrics.queries, metrics.positives, metrics.mined, metrics.random) == (32, 64, 256, 128)
    assert (metrics.held_out_queries, metrics.held_out_pairs, metrics.steps) == (8, 112, 84)
    assert report.model == Reranker(str(out)).fingerprint
    assert not report.reused
    texts = ["what about moss"] * 2, ["indeed yes 3 part 1", "perhaps moss was copper"]
    scores = Reranker(str(out), dtype="fp32").score(*texts)
    assert scores[0] > scores[1]
    expected = CrossEncoder(str(out)).predict(list(zip(*texts, strict=True)))
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert CrossEncoder(str(out)).max_seq_length == 64
    assert not (tmp_path / "out.partial").exists()
    assert not [file for file in out.rglob("*") if file.suffix in (".bin", ".pt", ".pth")]
    text = (out / "README.md").read_text("utf-8")
    assert f"held-out queries: **{metrics.average_precision:.4f}**" in text
    assert "4 negatives drawn from BM25's ranks 4 to 40" in text
    assert metrics.fingerprint in text
    assert training_positives(store, report.model).num_rows == 64


def test_a_training_that_diverges_is_an_error_and_leaves_nothing(
    store: Database, config: RerankerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "CHECKPOINT_SECONDS", 0.0)
    store.release()  # which folds the log in, as the training does
    there = {path.name for path in tmp_path.iterdir()}
    for changes, reported in (
        (
            {"learning_rate": 1e30},
            "the loss is (nan|inf) by step [23] of 6; lower learning_rate, it was 1e",
        ),
        (
            {"learning_rate": 1e38, "warmup": 0, "max_steps": 1},
            "after step 1 not all weights are finite; lower",
        ),
    ):
        with pytest.raises(MinerError, match=f"training diverged: {reported}"):
            train_reranker(store, tmp_path / "out", replace(config, **changes))
        assert {path.name for path in tmp_path.iterdir()} == there


def test_what_the_settings_do_to_pairs_and_steps_is_reported(
    store: Database, config: RerankerConfig, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    notes, few = Notes(), replace(config, epochs=1, queries=5, max_steps=50, max_length=16)
    train_reranker(store, tmp_path / "few", few, notes)
    assert "max_steps=50 is more than the 4 steps of 1 epoch: raise epochs" in notes.said
    pairs = pairs_of(store, few)
    texts = pairs.of_queries(~held_out_queries(pairs.collection, few)).texts()
    long = sum(len(ids) > 16 for ids in AutoTokenizer.from_pretrained(few.base)(*texts)["input_ids"])
    assert 0 < long < len(texts[0])
    assert [note for note in notes.said if "longer" in note] == [
        f"{long} pairs are longer than 16 tokens: only the start is read"
    ]
    notes = Notes()
    train_reranker(store, tmp_path / "all", replace(config, max_steps=1), notes)
    assert not [note for note in notes.said if "longer" in note or "max_steps" in note]


def test_the_same_again_is_not_trained_again(store: Database, config: RerankerConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = train_reranker(store, out, config)
    before = (out / "model.safetensors").stat().st_mtime_ns
    again = train_reranker(store, out, replace(config, threads=1))
    assert again.reused
    assert again.metrics == first.metrics
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UsageError) as caught:
        train_reranker(store, out, replace(config, seed=99))
    assert str(caught.value) == (
        f"{out} holds a reranker from another training: seed 13, now 99; "
        "name another folder, or replace it with --force"
    )
    other = train_reranker(store, out, replace(config, seed=99), force=True)
    assert other.metrics.fingerprint != first.metrics.fingerprint
    with fill(tmp_path / "copy.duckdb") as copy:
        mine(copy, MiningConfig(depth=5, reranker=str(out), dtype="fp32"))
        assert training_positives(copy, other.model).num_rows == 0
        noted = train_reranker(copy, out, replace(config, seed=99))
        assert noted.reused
        assert training_positives(copy, noted.model).num_rows == 64
        assert is_trained_here(copy, noted.model)


def test_a_folder_of_something_else_is_left_alone(
    store: Database, config: RerankerConfig, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="exists and is not a reranker that miner trained"):
        train_reranker(store, tmp_path / "mine", config, force=True)
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match=r"new\.partial is in the way"):
        train_reranker(store, tmp_path / "new", config)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_folds_never_train_on_their_own_queries(
    store: Database, config: RerankerConfig, tmp_path: Path
) -> None:
    out = tmp_path / "folds"
    report = train_reranker(store, out, replace(config, folds=3, max_steps=2))
    texts = dict(store.rows("SELECT query_id, text FROM queries"))
    used: set[str] = set()
    for fold in range(3):
        table = training_positives(store, Reranker(str(out / f"fold-{fold}")).fingerprint)
        queries = set(table["query_id"].to_pylist())
        assert queries
        assert all(fold_of(texts[query], 3) != fold for query in queries)
        used |= queries
    assert len(used) == report.metrics.queries == 32
    ensemble = Reranker(str(out))
    assert (ensemble.folds, ensemble.name) == (3, str(out))
    assert ensemble.fingerprint == report.model
    assert training_positives(store, report.model).num_rows == 0
    assert report.metrics.steps == 6
    names = store.rows("SELECT DISTINCT name FROM models ORDER BY name")
    assert names == [(str(out),), *((f"{out}/fold-{fold}",) for fold in range(3))]


def training(store: str, out: str, base: str, fatal: int) -> None:
    """Trains with a checkpoint at every step, and is killed after so many."""
    steps.CHECKPOINT_SECONDS = 0.0
    config = RerankerConfig(
        base=base, epochs=2, max_steps=50, batch_size=16, learning_rate=3e-3, skip_top=3, depth=40,
        queries=10, held_out=0.2, dtype="fp32", threads=1,
    )  # fmt: skip
    with Database.open(Path(store)) as opened:
        train_reranker(opened, Path(out), config, forking.Deadly("training reranker", fatal))


@pytest.mark.slow
def test_killed_training_ends_with_the_same_weights(tmp_path: Path, base: Path) -> None:
    fill(tmp_path / "store.duckdb").close()
    undisturbed = forking.run(training, tmp_path / "store.duckdb", tmp_path / "whole", base, 0)
    assert undisturbed.code == 0, undisturbed.err
    killed, started = tmp_path / "killed", []
    for fatal in (3, 6, 0):
        ended = forking.run(training, tmp_path / "store.duckdb", killed, base, fatal)
        assert ended.code == (-signal.SIGKILL if fatal else 0), ended.err
        assert killed.exists() == (fatal == 0)
        started += ended.out.splitlines()
    assert started == ["training reranker 0", "training reranker 2", "training reranker 7"]
    assert weights(killed) == weights(tmp_path / "whole")


@pytest.mark.slow
def test_the_bundled_encoder_learns(store: Database, tmp_path: Path) -> None:
    settings = RerankerConfig(
        max_steps=40, batch_size=8, learning_rate=3e-4, skip_top=3, depth=40, held_out=0.3, threads=1
    )
    metrics = train_reranker(store, tmp_path / "out", settings).metrics
    assert sum(metrics.losses[0][-3:]) < sum(metrics.losses[0][:3])
    assert metrics.average_precision is not None
    assert metrics.chance is not None
    assert metrics.average_precision > metrics.chance


def test_errors_say_what_to_do(store: Database, config: RerankerConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError) as caught:
        train_reranker(store, out, replace(config, split="trian"))
    assert str(caught.value) == (
        "no query has a judged positive in split 'trian' (did you mean 'train'?); "
        "choose another split: test, train"
    )
    with pytest.raises(ModelError, match=r"no model folder at \./nowhere"):
        train_reranker(store, out, replace(config, base="./nowhere"))
    with pytest.raises(UsageError, match="no positives to train on: 0 queries, 0 pairs in fold"):
        train_reranker(store, out, replace(config, queries=2, folds=2))
    with pytest.raises(UsageError) as caught:
        RerankerConfig(skip_top=60)
    assert str(caught.value) == "depth must be more than skip_top (60), got 60"
    assert not out.exists()


def test_the_command_trains_and_prints_what_is_next(base: Path, tmp_path: Path) -> None:
    from miner.cli.train_reranker import _summary, command

    path = tmp_path / "a store.duckdb"
    fill(path).close()
    flags = ["--base", str(base), "--set", "max_steps=2", "--set", "skip_top=3", "--set", "depth=40"]
    flags += ["--set", "held_out=0.2"]
    result = CliRunner().invoke(command, [str(path), str(tmp_path / "out"), *flags], catch_exceptions=False)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"reranker   {tmp_path / 'out'}"
    assert lines[1] == ("trained    64 positives, 256 mined and 128 random negatives of 32 queries, 2 steps")
    assert lines[2].startswith("held out   average precision 0.")
    assert lines[3].startswith("scores     ")
    assert lines[4] == f"next       miner mine '{path}' --reranker {tmp_path / 'out'}"
    noted = json.loads((tmp_path / "out" / "metrics.json").read_text("utf-8"))
    del noted["versions"]
    large = replace(RerankerMetrics(**noted), positives=6045, mined=14426, random=1000, queries=1, steps=1)
    assert _summary(RerankerReport(tmp_path / "out", "", large, False), path).splitlines()[1] == (
        "trained    6,045 positives, 14,426 mined and 1,000 random negatives of 1 query, 1 step"
    )
