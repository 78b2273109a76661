"""Relabelling: hidden positives come back, the report is right, and undoing leaves the store as it was."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from miner.auditing.audit import audit
from miner.auditing.config import AuditConfig
from miner.auditing.probability import Facts, Probability
from miner.auditing.relabel import RelabelConfig, relabel
from miner.auditing.replay import Replay
from miner.auditing.report import limits
from miner.cli.main import group
from miner.curation.dedup import DedupConfig, dedup
from miner.errors import ModelError, UsageError
from miner.mining.config import MiningConfig, Rules
from miner.mining.pipeline import decide_again, mine
from miner.schema import FREE
from miner.store import relabel as relabelled
from miner.store import runs
from miner.store.corpus import content_hashes
from miner.store.database import Database
from miner.store.triplets import triplets as triplets_of
from miner.store.verdicts import suspected
from tests.stores import make_store
from tests.test_oracle import encoder
from tests.tiny import tiny_bert

__all__ = ["encoder"]

TOPICS = [
    f"{a}{b}" for a in ("oak", "iron", "salt", "wool", "glass") for b in ("mill", "gate", "ford", "ton")
]
CONFIG = MiningConfig(rules=Rules(relative_margin=0.0))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    """Queries with six relevant documents, four of them judged; the relevant ones say three of its words."""
    rng = random.Random(8)
    documents, queries, judged = {}, {}, []
    for number, topic in enumerate(TOPICS):
        words = [topic, f"word{number}", f"term{number}"]
        queries[f"q{number:02}"] = " ".join(words)
        for answer in range(6):
            doc_id = f"d{number:02}-{answer}"
            documents[doc_id] = " ".join(
                [*words, *rng.sample(TOPICS, rng.randint(1, 4)), f"x{number}y{answer}"]
            )
            if answer < 4:
                judged.append((f"q{number:02}", doc_id))
    for number in range(150):
        documents[f"n{number:03}"] = " ".join([*rng.sample(TOPICS, 4), f"other{number}"])
    with make_store(tmp_path / "s.duckdb", documents, queries, judged) as made:
        yield made


def everything(store: Database) -> dict[str, list[tuple[object, ...]]]:
    """Every table of the store, its rows in order."""
    tables = [name for (name,) in store.rows("SELECT table_name FROM duckdb_tables() ORDER BY table_name")]
    return {name: store.rows(f"FROM {name} ORDER BY ALL") for name in tables}


def test_unjudged_positives_become_judgments_and_the_run_is_decided_again(store: Database) -> None:
    run = mine(store, CONFIG)
    report = relabel(store, run, RelabelConfig(probability=0.5))
    made = store.rows("SELECT query_id, doc_id, relevance, split FROM judgments WHERE source = 'relabelled'")
    assert len(made) == report.relabelled >= 8
    assert all(doc[1:3] == query[1:] and doc[-2:] in ("-4", "-5") for query, doc, _, _ in made)
    assert {(relevance, split) for _, _, relevance, split in made} == {(1.0, "train")}
    again = runs.find_run(store, report.again)
    assert again.evidence != run.evidence
    triplets = triplets_of(store, again).to_pylist()
    assert not {(t["query_id"], t["negative_id"]) for t in triplets} & {(q, d) for q, d, _, _ in made}
    assert {(q, d) for q, d, _, _ in made} <= {(t["query_id"], t["positive_id"]) for t in triplets}
    assert report.recall.hits > 10
    assert report.precision.hits == report.recall.hits
    assert (report.precision.rate or 0) > 0.2, "the two of each query that nobody judged count as wrong"


def test_undo_leaves_the_store_as_it_was(store: Database) -> None:
    run = mine(store, CONFIG)
    before = everything(store)
    first = relabel(store, run, RelabelConfig(probability=0.9))
    second = relabel(store, runs.find_run(store, first.again), RelabelConfig(probability=0.3))
    assert everything(store) != before
    judgments, gone, resting = relabelled.remove_relabelled(store)
    assert judgments == first.relabelled + second.relabelled > 0
    assert gone == [name for name in (first.again, second.again) if name]
    assert resting == []
    assert everything(store) == before
    assert relabelled.remove_relabelled(store) == (0, [], [])


def test_runs_that_rest_on_relabelled_judgments_stay_and_are_named(store: Database) -> None:
    report = relabel(store, mine(store, CONFIG), RelabelConfig())
    again = runs.find_run(store, report.again)
    decide_again(store, again, replace(CONFIG, rules=Rules(relative_margin=0.3)), name="mine too")
    assert relabelled.remove_relabelled(store)[2] == ["mine too"]
    assert store.rows("SELECT name FROM runs ORDER BY name") == [("mine too",), ("r1",)]
    assert triplets_of(store, runs.find_run(store, "mine too")).num_rows > 0


def test_a_run_of_other_texts_is_refused(store: Database) -> None:
    run = mine(store, CONFIG)
    store.execute(
        "INSERT INTO documents (doc_id, title, text, text_key, label) VALUES ('new', '', 'oakmill', 1, NULL)"
    )
    before = everything(store)
    with pytest.raises(UsageError, match="documents changed since run 'r1' was mined"):
        relabel(store, run, RelabelConfig())
    assert everything(store) == before
    store.execute("DELETE FROM documents WHERE doc_id = 'new'")
    store.execute("DELETE FROM judgments WHERE query_id = 'q00'")
    with pytest.raises(UsageError) as caught:
        relabel(store, run, RelabelConfig())
    assert caught.value.message == "judgments changed since run 'r1' was mined"
    assert caught.value.hint == (
        f"mine again with the same options, and relabel that run: miner mine {store.path}"
    )


def test_a_kill_between_judging_and_deciding_costs_nothing(store: Database) -> None:
    run = mine(store, CONFIG)
    dry = relabel(store, run, RelabelConfig(), dry_run=True)
    assert dry.again is None
    assert relabelled.relabellings(store) == []
    pairs = suspected(store, run).select(["query_id", "doc_id"]).slice(0, dry.relabelled // 2)
    relabelled.add_relabelled(store, pairs, "train", {"run": run.name})
    report = relabel(store, run, RelabelConfig())
    assert report.again is not None
    assert len(relabelled.relabellings(store)) == 1, "what was begun is finished, and nothing else begun"
    assert relabelled.relabellings(store)[0]["made"]["name"] == report.again


def test_undo_takes_along_the_run_that_a_kill_left_half_made(store: Database) -> None:
    run = mine(store, CONFIG)
    before = everything(store)
    pairs = suspected(store, run).select(["query_id", "doc_id"])
    relabelled.add_relabelled(store, pairs, "train", {"run": run.name, "run_id": run.run_id})
    inputs = {**run.inputs, "judgments": content_hashes(store, "train")["judgments"]}
    begun = replace(run, run_id="half", name="half", evidence="none", inputs=inputs, status="running")
    runs.begin_run(store, begun)
    other = replace(begun, run_id="other", name="other", config={**run.config, "depth": 7})
    runs.begin_run(store, other)
    assert relabelled.remove_relabelled(store)[0] == pairs.num_rows > 0
    assert {one.name for one in runs.runs(store)} == {"r1", "other"}, "what else is unfinished stays"
    runs.remove_runs(store, ["other"])
    assert everything(store) == before


def test_a_model_that_is_gone_is_reported_before_anything_is_written(store: Database, tmp_path: Path) -> None:
    reranker = tiny_bert(tmp_path / "tiny", labels=1)
    run = mine(store, replace(CONFIG, reranker=str(reranker), dtype="fp32"))
    before = everything(store)
    shutil.rmtree(reranker)
    with pytest.raises(ModelError, match="no model folder at"):
        relabel(store, run, RelabelConfig(probability=0.05))
    assert everything(store) == before
    assert relabel(store, run, RelabelConfig(probability=0.05), dry_run=True).relabelled > 0


def test_undo_takes_back_what_an_encoder_a_reranker_and_clusters_took_part_in(
    store: Database, tmp_path: Path, encoder: Path
) -> None:
    reranker = tiny_bert(tmp_path / "tiny", labels=1)
    dedup(store, DedupConfig(threshold=0.7))
    models = {"encoder": str(encoder), "reranker": str(reranker), "rerank_depth": 30}
    run = mine(store, replace(CONFIG, depth=20, dtype="fp32", **models))  # type: ignore[arg-type]
    before = everything(store)
    assert relabel(store, run, RelabelConfig(probability=0.05)).relabelled > 0
    assert everything(store) != before
    relabelled.remove_relabelled(store)
    after = everything(store)
    scores = after.pop("rerank_scores"), before.pop("rerank_scores")
    assert after == before
    assert set(scores[0]) >= set(scores[1]), "scores stay, as all evidence does"


def test_the_same_call_again_finds_nothing_more(store: Database) -> None:
    run = mine(store, CONFIG)
    first = relabel(store, run, RelabelConfig(probability=0.4))
    assert first.relabelled > 0
    judged = store.rows("SELECT count(*) FROM judgments WHERE source = 'relabelled'")
    again = relabel(store, run, RelabelConfig(probability=0.4))
    assert (again.relabelled, again.again) == (0, None)
    assert (again.recall, again.precision) == (first.recall, first.precision)
    assert store.rows("SELECT count(*) FROM judgments WHERE source = 'relabelled'") == judged


def test_chances_are_learnt_on_the_other_half_and_mean_what_they_say(store: Database) -> None:
    run = mine(store, CONFIG)
    replay = Replay.of(store, run)
    facts = Facts.of(store, run, replay)
    draws = [replay.hideable.draw(0.3, np.random.default_rng([1, r])) for r in range(8)]
    trials = [replay.hide(replay.hideable.hide(hidden)) for hidden in draws]
    learnt = Probability(facts, trials[:4], 1)
    chances, hits = [], []
    for trial in trials[4:]:
        chance = learnt.of(trial)
        row = replay.row[trial.hidden]
        open_ = trial.candidates["exclusion"].to_numpy() == FREE
        positive = np.zeros(len(chance), dtype=np.bool_)
        positive[row[row >= 0]] = True
        chances.append(chance[open_])
        hits.append(positive[open_])
    chance, hit = np.concatenate(chances), np.concatenate(hits)
    assert ((chance >= 0) & (chance <= 1)).all()
    assert chance.mean() == pytest.approx(hit.mean(), abs=0.01)
    likely = chance > 0.3
    assert chance[likely].mean() == pytest.approx(hit[likely].mean(), abs=0.15)
    again = Probability(facts, trials[:4], 1).of(trials[5])
    assert np.array_equal(again, learnt.of(trials[5]))


def test_an_audit_calls_only_relabelled_positives_relabelled_and_names_judgments_that_are_gone(
    store: Database,
) -> None:
    store.execute("INSERT INTO judgments VALUES ('q00', 'n001', 1, 'train', 'relabelled')")
    run = mine(store, CONFIG)
    store.execute("DELETE FROM judgments WHERE query_id = 'q01'")
    report = audit(store, run, AuditConfig())
    assert report.cannot_hide == {"gone": 4, "relabelled": 1}
    assert limits(report.cannot_hide, [])[0] == (
        "These positives cannot be hidden: 4 no longer judged; 1 judged by miner relabel, not by people."
    )


def test_a_run_with_one_positive_a_query_cannot_be_learnt_from(tmp_path: Path) -> None:
    documents = {"a": "apple pie", "b": "apple cake", "c": "apple tart"}
    with make_store(tmp_path / "s.duckdb", documents, {"q": "apple"}, [("q", "a")]) as store:
        with pytest.raises(UsageError, match="no positive of run 'r1' can be hidden"):
            relabel(store, mine(store, CONFIG), RelabelConfig())
        assert relabelled.relabellings(store) == []


def test_the_command_says_what_it_did_and_takes_it_back(store: Database) -> None:
    mine(store, CONFIG)
    store.close()
    path = str(store.path)
    dry = CliRunner().invoke(group, ["relabel", path, "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert "relabelled  none: --dry-run" in dry.stdout.splitlines()
    assert dry.stdout.splitlines()[-1].endswith("relevant is unknown: read some of them.")
    reported = CliRunner().invoke(group, ["relabel", path, "--set", "repeats=3"])
    assert "decided again as run r2" in reported.stdout
    back = CliRunner().invoke(group, ["relabel", path, "--undo"])
    assert back.stdout.startswith("removed: ")
    assert back.stdout.endswith(" relabelled judgments and run r2\n")
    with pytest.raises(UsageError, match="--undo and --dry-run exclude each other"):
        CliRunner().invoke(group, ["relabel", path, "--undo", "--dry-run"], catch_exceptions=False)
    for option in (["--run", "r1"], ["--probability", "0.9"], ["--set", "share=0.2"]):
        with pytest.raises(UsageError, match=f"{option[0]} has no effect with --undo"):
            CliRunner().invoke(group, ["relabel", path, "--undo", *option], catch_exceptions=False)
    with pytest.raises(UsageError, match="probability must be a number above 0"):
        RelabelConfig(probability=2)
    assert AuditConfig().share == 0.3
