"""The mining loop: rounds follow each other, stop when dev no longer rises, and are not repeated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from miner.auditing.replay import Replay
from miner.cli.loop import _table
from miner.cli.main import group
from miner.errors import MinerError, UsageError
from miner.mining.config import MiningConfig, Rules
from miner.store import runs
from miner.store.database import Database
from miner.store.models import training_positives
from miner.store.triplets import triplet_count
from miner.training.encoder_config import EncoderConfig
from miner.workflows import loop as workflow
from miner.workflows.loop import LoopConfig, loop
from miner.workflows.train import withheld_positives
from tests.stores import make_store
from tests.test_audit import corpus
from tests.tiny import tiny_bert


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_bert(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    documents, queries, judged = corpus()
    last = sorted(queries)[-3:]
    with make_store(
        tmp_path / "s.duckdb",
        documents,
        queries,
        [(q, d, "dev" if q in last else "train") for q, d in judged],
    ):
        pass
    return tmp_path / "s.duckdb"


@pytest.fixture
def config(encoder: str) -> LoopConfig:
    return LoopConfig(
        mining=MiningConfig(encoder=encoder, rules=Rules(relative_margin=None)),
        training=EncoderConfig(
            base="scratch", tokenizer=encoder, epochs=8, batch_size=8, dimension=32, evaluations=0
        ),
        rounds=2,
        withheld=0.3,
    )


def test_rounds_mine_with_the_model_of_the_round_before(
    store: Path, config: LoopConfig, tmp_path: Path
) -> None:
    report = loop(store, tmp_path / "out", config)
    assert report.measure == "nDCG@10"
    first = report.rounds[0]
    assert first.score > report.before, "eight epochs teach more than a BERT with drawn weights knows"
    with Database.open(store) as opened:
        for one, encoder in zip(report.rounds, [*config.mining.encoder, first.model], strict=False):
            run = runs.find_run(opened, one.run)
            assert run.config["encoder"] == [encoder]
            assert triplet_count(opened, run) == one.triplets
        assert len(report.rounds) == 2
        assert report.stopped == (report.rounds[1].score <= first.score)
    assert report.best == max(report.rounds, key=lambda one: one.score).model
    assert loop(store, tmp_path / "out", config) == report


def test_the_first_encoder_is_to_be_beaten_only_where_training_starts_from_it(
    store: Path, config: LoopConfig, encoder: str, tmp_path: Path
) -> None:
    still = EncoderConfig(base="scratch", tokenizer=encoder, max_steps=1, learning_rate=1e-9, batch_size=8)
    report = loop(store, tmp_path / "other", replace(config, training=still))
    assert [one.number for one in report.rounds] == [1, 2]
    scores = {encoder: report.before} | {one.model: one.score for one in report.rounds}
    assert (report.encoder, scores[report.best]) == (encoder, max(scores.values()))
    same = EncoderConfig(base=encoder, max_steps=1, learning_rate=1e-9, batch_size=8)
    report = loop(store, tmp_path / "same", replace(config, training=same))
    assert [one.number for one in report.rounds] == [1]
    assert (report.stopped, report.best) == (True, encoder)


def test_the_encoder_of_the_first_round_can_be_the_best_model(
    store: Path, config: LoopConfig, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scored(_: Path, model: str, *__: object) -> tuple[str, float]:
        return "nDCG@10", 0.6 if model == encoder else 0.3 if model.endswith("1") else 0.4

    monkeypatch.setattr(workflow, "_score", scored)
    report = loop(store, tmp_path / "out", config)
    assert [one.score for one in report.rounds] == [0.3, 0.4]
    assert (report.best, report.stopped) == (encoder, False)
    assert _table(report).splitlines()[4] == (
        f"all rounds are finished; the best model: {encoder}, which mined the first round: no trained model "
        "scores higher on dev"
    )


def test_withheld_positives_stay_for_the_audit_of_every_round(
    store: Path, config: LoopConfig, tmp_path: Path
) -> None:
    report = loop(store, tmp_path / "out", config)
    with Database.open(store) as opened:
        second = runs.find_run(opened, "out-2")
        withheld = withheld_positives(opened, second, 0.3, config.training.seed)
        seen = training_positives(opened, str(second.scorers[-1].model))
        pairs = {(r["query_id"], r["doc_id"]) for r in seen.to_pylist()}
        kept = {(r["query_id"], r["positive_id"]) for r in withheld.to_pylist()}
        assert kept
        assert pairs
        assert not kept & pairs
        hideable = Replay.of(opened, second).hideable
        table = hideable.table.filter(hideable.table["cannot_hide"].is_null()).to_pylist()
        assert {(row["query_id"], row["doc_id"]) for row in table} == kept
    assert all(one.hidden_positive_rate is not None for one in report.rounds)


def test_without_withheld_positives_the_second_round_says_that_it_has_no_audit(
    store: Path, config: LoopConfig, tmp_path: Path
) -> None:
    report = loop(store, tmp_path / "out", replace(config, withheld=0.0))
    assert report.rounds[0].hidden_positive_rate is not None
    assert report.rounds[1].hidden_positive_rate is None


def test_every_round_hides_the_same_positives(store: Path, config: LoopConfig, tmp_path: Path) -> None:
    report = loop(store, tmp_path / "out", config)
    with Database.open(store) as opened:
        withheld = withheld_positives(opened, runs.find_run(opened, "out-1"), 0.3, config.training.seed)
    first, second = (one.hidden_positive_rate.of for one in report.rounds if one.hidden_positive_rate)
    assert 0 < first == second <= config.audit.repeats * withheld.num_rows


def test_a_folder_of_other_rounds_is_refused_before_anything_is_done(
    store: Path, config: LoopConfig, tmp_path: Path
) -> None:
    loop(store, tmp_path / "out", replace(config, rounds=1))
    other = replace(config, mining=replace(config.mining, depth=7))
    with pytest.raises(UsageError, match="holds rounds of other settings: depth 100 → 7"):
        loop(store, tmp_path / "out", other)
    with pytest.raises(MinerError, match="no-such-model"):
        loop(store, tmp_path / "none", replace(config, training=EncoderConfig(base="no-such-model")))
    assert not (tmp_path / "none").exists()
    assert [one.number for one in loop(store, tmp_path / "more", replace(config, rounds=1)).rounds] == [1]


def test_what_makes_no_sense_is_refused(store: Path, config: LoopConfig, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="loop mines with one encoder"):
        replace(config, mining=MiningConfig())
    with pytest.raises(UsageError, match="split 'train' is trained on"):
        replace(config, dev_split="train")
    with pytest.raises(UsageError, match="nothing is judged in split 'test'") as caught:
        loop(store, tmp_path / "out", replace(config, dev_split="test"))
    assert caught.value.hint == "choose one with --set dev_split: dev"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "corpus.jsonl").write_text("{}", "utf-8")
    with pytest.raises(UsageError, match="data is not empty, and miner loop did not make it"):
        loop(store, tmp_path / "data", config)
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["corpus.jsonl"]
    named = MiningConfig(encoder="bundled", query_prompt="bundled=query: ")
    with pytest.raises(
        UsageError, match="query_prompt names an encoder, and the encoder of loop has another"
    ):
        LoopConfig(named, EncoderConfig())


def test_the_error_for_a_store_of_the_training_split_alone_says_to_ingest_another(
    store: Path, config: LoopConfig, tmp_path: Path
) -> None:
    with Database.open(store) as opened:
        opened.execute("DELETE FROM judgments WHERE split = 'dev'")
    with pytest.raises(UsageError, match="nothing is judged in split 'dev'") as caught:
        loop(store, tmp_path / "out", config)
    assert caught.value.hint == (
        "the store has only split 'train', which is for training: ingest other judgments with "
        f"miner ingest {store} SOURCE --split dev"
    )


def test_the_command(store: Path, encoder: str, tmp_path: Path) -> None:
    arguments = ["loop", str(store), str(tmp_path / "out"), "--rounds", "1", "--set", f"encoder={encoder}"]
    arguments += [
        "--set",
        "training.base=scratch",
        "--set",
        f"tokenizer={encoder}",
        "--set",
        "max_steps=6",
        "--set",
        "batch_size=8",
    ]
    reported = CliRunner().invoke(group, arguments)
    assert reported.exit_code == 0, reported.output
    head, before, first, *_ = reported.stdout.splitlines()
    assert head.split() == [
        "round",
        "run",
        "triplets",
        "hidden-positive",
        "rate",
        "coverage",
        "nDCG@10",
        "model",
    ]
    assert before.split()[0] == "0"
    assert first.split()[:2] == ["1", "out-1"]
