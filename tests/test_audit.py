"""The audit: hidden positives are decided on as if nobody had judged them, and no model runs."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from miner.arrays import drawn_share
from miner.auditing.audit import Audit, audit, compare_with_judgments
from miner.auditing.calibrate import calibrate
from miner.auditing.config import AuditConfig, CalibrationConfig
from miner.auditing.replay import Replay, ReplayEvidence, Trial
from miner.auditing.sweep import Counts, Sweep
from miner.cli.main import group
from miner.errors import InputError, UsageError
from miner.mining.config import MiningConfig, Rules, Selection
from miner.mining.pipeline import mine
from miner.sources.qrels import read_judgments
from miner.stats import clustered_rate
from miner.store import runs
from miner.store.audits import weak_positive_count, weak_positives
from miner.store.database import Database
from miner.store.duplicates import replace_duplicates
from miner.store.models import models_of_unknown_training, record_model, record_training
from miner.store.runs import StoredRun
from miner.store.scorers import Scorer
from miner.store.triplets import triplets as triplets_of
from tests.stores import make_store
from tests.test_oracle import encoder
from tests.tiny import tiny_bert

__all__ = ["encoder"]

WORDS = [
    f"{a}{b}" for a in ("alder", "birch", "cedar", "elm") for b in ("wood", "leaf", "bark", "root", "moss")
]
QUERIES = 12


def corpus(seed: int = 3) -> tuple[dict[str, str], dict[str, str], list[tuple[str, str]]]:
    """Returns documents of random words, queries, and four positives of each query, which share its words."""
    rng = random.Random(seed)
    queries, documents, judged = {}, {}, []
    for number in range(QUERIES):
        words = rng.sample(WORDS, 4)
        queries[f"q{number:02}"] = " ".join(words)
        for answer in range(4):
            doc_id = f"p{number:02}-{answer}"
            documents[doc_id] = " ".join(
                [*rng.sample(words, 2), *rng.sample(WORDS, 4), f"n{number}x{answer}"]
            )
            judged.append((f"q{number:02}", doc_id))
    for number in range(60):
        documents[f"x{number:02}"] = " ".join([*rng.sample(WORDS, 6), f"other{number}"])
    return documents, queries, judged


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    with make_store(tmp_path / "s.duckdb", *corpus()) as made:
        yield made


def negatives(store: Database, run: runs.StoredRun) -> dict[str, set[str]]:
    table = triplets_of(store, run).to_pylist()
    return {
        q: {r["negative_id"] for r in table if r["query_id"] == q} for q in {r["query_id"] for r in table}
    }


EXCLUSIONS = ("duplicate_of_candidate", "overlaps_positive", "duplicate_of_positive")
SETTINGS = [
    MiningConfig(rules=Rules(relative_margin=None)),
    MiningConfig(rules=Rules(relative_margin=0.2)),
    MiningConfig(rules=Rules(relative_margin=0.1, reference_positive="median")),
    MiningConfig(rules=Rules(percentile=20)),
    MiningConfig(rules=Rules(relative_percentile=0.5, skip_top=2)),
    MiningConfig(
        rules=Rules(relative_margin=0.1, reference_positive="each"), selection=Selection(negatives=2)
    ),
    MiningConfig(rules=Rules(max_score=4.0), selection=Selection(strategy="random")),
    MiningConfig(rules=Rules(relative_margin=None), selection=Selection(document_cap=2, negatives=3)),
]


def with_copies(documents: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Adds to documents copies of some positives: shouted, with more around them, and reworded.

    Returns the clusters too: of every shouted and every reworded copy, the document that it copies.
    """
    found, cluster = dict(documents), {}
    for number in range(0, QUERIES, 2):
        for answer in range(3):
            original = f"p{number:02}-{answer}"
            found[f"c{number:02}-{answer}"] = documents[original].upper()
            found[f"d{number:02}-{answer}"] = f"so: {documents[original]} indeed"
            found[f"e{number:02}-{answer}"] = " ".join(reversed(documents[original].split()))
            cluster |= {f"{kind}{number:02}-{answer}": original for kind in "cep"}
    return found, cluster


def made(path: Path, judged: list[tuple[str, str]]) -> Database:
    """Returns a store of the corpus with copies, clustered as `miner dedup` would, and these judgments."""
    documents, cluster = with_copies(corpus()[0])
    store = make_store(path, documents, corpus()[1], judged)
    table = {
        "id": list(cluster),
        "cluster": list(cluster.values()),
        "how": ["minhash"] * len(cluster),
        "similarity": [1.0] * len(cluster),
    }
    replace_duplicates(store, {"documents": pa.table(table)}, {})
    return store


def a_trial(path: Path, config: MiningConfig) -> tuple[Trial, list[tuple[str, str]]]:
    """Returns a decision of a store with copies, and the judged pairs that it hides."""
    judged = corpus()[2]
    with made(path, judged) as store:
        replay = Replay.of(store, mine(store, config))
        hidden = replay.hideable.draw(0.4, np.random.default_rng(1))
        trial = replay.decide(replay.hide(replay.hideable.hide(hidden)))
    return trial, [pair for pair, hide in zip(sorted(judged), hidden.tolist(), strict=True) if hide]


@pytest.mark.parametrize("config", SETTINGS)
def test_a_trial_is_what_mining_without_the_judgments_gives(tmp_path: Path, config: MiningConfig) -> None:
    """Copies of what is hidden come back as well, and one of them stands for it where it is left out."""
    _, queries, judged = corpus()
    trial, gone = a_trial(tmp_path / "s.duckdb", config)
    with made(tmp_path / "less.duckdb", [pair for pair in judged if pair not in gone]) as less:
        expected = negatives(less, mine(less, config))
        rows = less.rows("SELECT query_id, doc_id, reason::VARCHAR FROM verdicts")
        excluded = {(query, document) for query, document, reason in rows if reason in EXCLUSIONS}
        found = {(query, document) for query, document, _ in rows}
    assert gone
    selected = {pair for pair, flag in zip(sorted(judged), trial.selected.tolist(), strict=True) if flag}
    through_copies = {
        (q, d)
        for q, d in gone
        if (q, d) in excluded | (set(gone) - found)
        and any(d.replace("p", copy) in expected.get(q, set()) for copy in "ce")
    }
    assert selected == {(q, d) for q, d in gone if d in expected.get(q, set())} | through_copies
    counts = dict(zip(sorted(queries), trial.negatives.tolist(), strict=True))
    assert counts == {q: len(expected.get(q, set())) for q in queries}


def single_positive(path: Path, stand_ins: Sequence[str] = ()) -> Database:
    """Returns a store in which the even queries have a single positive, and the odd ones two.

    The queries in `stand_ins` have another positive than their own: one that no retriever finds.
    """
    documents, queries, judged = corpus()
    documents |= {"nowhere": "unheard of"}
    kept = [(q, d) for q, d in judged if d.endswith("0") or (d.endswith("1") and int(q[1:]) % 2)]
    replaced = [(q, "nowhere" if q in stand_ins else d) for q, d in kept]
    return make_store(path, documents, queries, replaced)


HIDDEN = ("q00", "q04", "q06")
SINGLE = [
    (Rules(max_score=3.0), None),
    (Rules(skip_top=3, max_rank=30), None),
    (Rules(relative_margin=None), None),
    (Rules(percentile=40), lambda scores, _: Rules(max_score=float(np.percentile(scores, 40)))),
    (Rules(relative_margin=0.1), lambda _, median: Rules(max_score=0.9 * median)),
    (Rules(absolute_margin=0.7), lambda _, median: Rules(max_score=median - 0.7)),
    (Rules(relative_margin=0.1, reference_positive="each"), lambda _, median: Rules(max_score=0.9 * median)),
]


@pytest.mark.parametrize(("rules", "equivalent"), SINGLE)
def test_a_hidden_single_positive_meets_the_rules_that_another_positive_would_leave(
    tmp_path: Path, rules: Rules, equivalent: Callable[[Any, float], Rules] | None
) -> None:
    """Nothing is mined for a query without a positive, so the oracle gives it one that affects nothing.

    Percentiles come from the other queries' positives. Margins start at the median score of those.
    """
    config = MiningConfig(rules=rules)
    with single_positive(tmp_path / "s.duckdb") as store:
        replay = Replay.of(store, mine(store, config))
        pairs = replay.hideable.table.select(["query_id", "doc_id"]).to_pylist()
        hidden = np.array([pair["query_id"] in HIDDEN for pair in pairs])
        assert hidden.sum() == 3
        assert replay.hideable.allowed.all()
        evidence = replay.hide(replay.hideable.hide(hidden))
        trial, (counts,) = replay.decide(evidence), swept(replay, evidence)
        visible = replay.hideable.positives.score[~hidden]
    with single_positive(tmp_path / "other.duckdb", HIDDEN) as other:
        same = rules if equivalent is None else equivalent(visible, float(np.median(visible)))
        expected = negatives(other, mine(other, replace(config, rules=same)))
    with single_positive(tmp_path / "less.duckdb") as less:
        less.execute("DELETE FROM judgments WHERE query_id IN ('q00', 'q04', 'q06')")
        expected = {q: expected.get(q, set()) for q in HIDDEN} | negatives(less, mine(less, config))
    names = sorted(corpus()[1])
    assert dict(zip(names, trial.negatives.tolist(), strict=True)) == {
        q: len(expected.get(q, set())) for q in names
    }
    selected = [pair["doc_id"] in expected.get(pair["query_id"], set()) for pair in pairs]
    assert trial.selected.tolist() == (hidden & selected).tolist()
    if rules.reference_positive != "each":
        assert counts.negatives.tolist() == trial.negatives.tolist()
        owner = replay.hideable.positives.owner
        assert counts.selected.tolist() == np.bincount(owner[trial.selected], minlength=12).tolist()


def swept(replay: Replay, evidence: ReplayEvidence) -> list[Counts]:
    """Returns the sweep's counts of the rules in force, if a sweep is possible with them."""
    if replay.config.rules.reference_positive == "each":
        replay = replace(replay, config=replace(replay.config, rules=Rules()))
    return Sweep(replay, evidence).counts([replay.config.rules])


def test_single_positives_are_hidden_and_the_audit_says_what_replaces_them(tmp_path: Path) -> None:
    documents, queries, judged = corpus()
    single = [pair for pair in judged if pair[1].endswith("0")]
    with make_store(tmp_path / "s.duckdb", documents, queries, single) as store:
        hideable = Replay.of(store, mine(store, MiningConfig())).hideable
        drawn = [hideable.draw(0.5, np.random.default_rng(seed)) for seed in range(20)]
        assert {int(one.sum()) for one in drawn} == {6}
        assert np.logical_or.reduce(drawn).all()
        assert hideable.draw(0.99, np.random.default_rng(0)).sum() == 11, "one of the run stays"
        margin = audit(store, mine(store, MiningConfig()), AuditConfig())
        percentile = audit(store, mine(store, MiningConfig(rules=Rules(percentile=80))), AuditConfig())
    assert (margin.hideable, margin.queries, margin.single_positive_queries) == (12, 12, 12)
    assert margin.fallback == "the median score of the visible positives"
    assert margin.as_text().splitlines()[:2] == [
        "12 of 12 known positives, of 12 queries, can be hidden.",
        "12 of the queries have one positive; if it is hidden, margins start at the median score of the "
        "visible positives.",
    ]
    assert percentile.fallback is None
    assert percentile.as_text().splitlines()[1].endswith("if it is hidden, the rules apply as usual.")
    assert percentile.hidden_positive_rate.of == margin.hidden_positive_rate.of > 0


def test_a_reranker_decides_of_copies_in_a_trial_as_in_mining(tmp_path: Path) -> None:
    config = MiningConfig(
        reranker=str(tiny_bert(tmp_path / "tiny", labels=1)), rules=Rules(relative_margin=None), dtype="fp32"
    )
    _, queries, judged = corpus()
    trial, gone = a_trial(tmp_path / "s.duckdb", config)
    with made(tmp_path / "less.duckdb", [pair for pair in judged if pair not in gone]) as less:
        expected = negatives(less, mine(less, config))
    counts = dict(zip(sorted(queries), trial.negatives.tolist(), strict=True))
    assert counts == {q: len(expected.get(q, set())) for q in queries}
    wrong = {(q, re.sub("^[ce]", "p", d)) for q, n in expected.items() for d in n} & set(gone)
    selected = {pair for pair, flag in zip(sorted(corpus()[2]), trial.selected.tolist(), strict=True) if flag}
    assert selected == wrong != set()


def test_a_copy_stands_for_what_it_keeps_out(tmp_path: Path) -> None:
    """If the candidate of a cluster is a copy of a hidden positive, that positive counts as selected."""
    documents = {"a": "apple pie", "b": "apple tart", "copy": "apple apple pies", "y": "apple jam"}
    judged = [("q", "a"), ("q", "b")]
    cluster = {"id": ["a", "copy"], "cluster": ["a", "a"], "how": ["minhash"] * 2, "similarity": [0.9] * 2}
    with make_store(tmp_path / "s.duckdb", documents, {"q": "apple apple"}, judged) as store:
        replace_duplicates(store, {"documents": pa.table(cluster)}, {})
        replay = Replay.of(store, mine(store, MiningConfig(rules=Rules(relative_margin=None))))
        trial = replay.decide(replay.hide(replay.hideable.hide(np.array([True, False]))))
    assert trial.selected.tolist() == [True, False]
    assert trial.negatives.tolist() == [2]


def test_the_encoder_decides_in_a_trial_as_in_mining(tmp_path: Path, encoder: Path) -> None:
    config = MiningConfig(encoder=str(encoder), rules=Rules(relative_margin=0.01))
    documents, queries, judged = corpus()
    with make_store(tmp_path / "s.duckdb", documents, queries, judged) as store:
        replay = Replay.of(store, mine(store, config))
        hidden = replay.hideable.draw(0.4, np.random.default_rng(2))
        trial = replay.decide(replay.hide(replay.hideable.hide(hidden)))
    left = [pair for pair, hide in zip(sorted(judged), hidden.tolist(), strict=True) if not hide]
    with make_store(tmp_path / "less.duckdb", documents, queries, left) as less:
        expected = negatives(less, mine(less, config))
    selected = {pair for pair, flag in zip(sorted(judged), trial.selected.tolist(), strict=True) if flag}
    assert selected == {(q, d) for q, d in set(judged) - set(left) if d in expected.get(q, set())}


def test_the_figures_add_up_and_repeat(store: Database) -> None:
    run = mine(store, MiningConfig(rules=Rules(relative_margin=None)))
    found = audit(store, run, AuditConfig(repeats=3))
    assert found == audit(store, run, AuditConfig(repeats=3))
    assert found != audit(store, run, AuditConfig(repeats=3, seed=14))
    assert found.hidden_positive_rate == found.outcomes["negative"]
    assert found.hidden_positive_rate.hits > 0
    assert (
        found.hidden_positive_rate.of
        == sum(rate.hits for rate in found.outcomes.values())
        == round(3 * found.hidden)
    )
    lost = found.outcomes.get("not_found")
    assert sum(rate.of for rate in found.by_rank.values()) == found.hidden_positive_rate.of - (
        lost.hits if lost else 0
    )
    assert sum(rate.hits for rate in found.by_rank.values()) == found.hidden_positive_rate.hits
    assert found.hidden_positive_rate.rate is not None
    assert (
        found.hidden_positive_rate.low <= found.hidden_positive_rate.rate <= found.hidden_positive_rate.high
    )
    assert found.hideable == found.positives == 4 * QUERIES
    (kept,) = store.rows(
        "SELECT result FROM audits WHERE run_id = ? AND settings LIKE '%\"seed\": 13%'", [run.run_id]
    )
    assert json.loads(kept[0]) == json.loads(json.dumps(found.as_json()))


def test_a_stricter_rule_selects_fewer_hidden_positives_and_leaves_easier_negatives(store: Database) -> None:
    def audited(margin: float | None) -> Audit:
        run = mine(store, MiningConfig(rules=Rules(relative_margin=margin)))
        return audit(store, run, AuditConfig())

    naive, strict = audited(None), audited(0.5)
    assert strict.hidden_positive_rate.hits < naive.hidden_positive_rate.hits
    ranks = [found.as_audited.rank or 0 for found in (naive, strict)]
    assert 0 < ranks[0] < ranks[1]


def with_model(run: StoredRun, kind: str, model: str) -> StoredRun:
    """Returns the run with another scorer, whose scores do not decide."""
    return replace(run, scorers=(*run.scorers, Scorer(len(run.scorers), kind, kind, model)))


def test_what_a_model_was_trained_on_is_never_hidden(store: Database) -> None:
    run = with_model(mine(store, MiningConfig()), "reranker", "a-model")
    seen = [("q00", "p00-1"), ("q01", "p01-0"), ("q01", "p01-1"), ("q01", "p01-2"), ("q01", "p01-3")]
    columns = {"query_id": [q for q, _ in seen], "doc_id": [d for _, d in seen]}
    record_training(store, "a-model", pa.table(columns))
    hideable = Replay.of(store, run).hideable
    for repeat in range(20):
        hidden = hideable.table.filter(
            pa.array(hideable.draw(0.9, np.random.default_rng(repeat)))
        ).to_pylist()
        assert not {(r["query_id"], r["doc_id"]) for r in hidden} & set(seen)
    assert hideable.cannot_hide() == {"trained": 5}


def test_the_base_of_a_model_counts_as_its_own_training(store: Database) -> None:
    store.execute("""INSERT INTO models VALUES ('base', 'encoder', 'b', '{"weights": "w"}')""")
    record_training(store, "base", pa.table({"query_id": ["q00"], "doc_id": ["p00-1"]}))
    record_training(store, "child", pa.table({"query_id": ["q02"], "doc_id": ["p02-1"]}), "w")
    rows = store.rows("SELECT query_id, doc_id FROM training_positives WHERE model = 'child' ORDER BY ALL")
    assert rows == [("q00", "p00-1"), ("q02", "p02-1")]


@pytest.mark.parametrize(
    ("base", "known", "reported"),
    [
        ({}, None, ["m"]),
        ({"training": "t", "base": None}, None, []),
        ({"training": "t", "base": "w"}, None, ["the base of m"]),
        ({"training": "t", "base": "w"}, {"weights": "w"}, ["the base of m"]),
        ({"training": "t", "base": "w"}, {"weights": "w", "training": "t", "base": None}, []),
        ({"training": "t", "base": "w"}, {"weights": "w", "training": "t", "base": "v"}, ["the base of b"]),
    ],
)
def test_what_a_base_was_trained_on_must_be_known_too(
    store: Database, base: dict[str, str], known: dict[str, str] | None, reported: list[str]
) -> None:
    run = with_model(mine(store, MiningConfig()), "reranker", "m1")
    record_model(store, "m1", "reranker", "m", base)
    if known is not None:
        record_model(store, "b1", "encoder", "b", known)
    assert models_of_unknown_training(store, run) == reported


def test_what_scored_given_candidates_and_vectors_is_unknown_too(tmp_path: Path) -> None:
    documents, queries, judged = corpus()
    (tmp_path / "es.trec").write_text("".join(f"{q} Q0 {d} 1 2.5 es\n" for q, d in judged), "utf-8")
    with make_store(tmp_path / "s.duckdb", documents, queries, judged) as store:
        rules = Rules(relative_margin=None, decide_by="bm25")
        run = mine(store, MiningConfig(candidates=(str(tmp_path / "es.trec"),), rules=rules))
        assert models_of_unknown_training(store, run) == ["what scored es"]
        shown = audit(store, run, AuditConfig(repeats=1)).as_text()
        assert (
            "The store does not know the training data of: what scored es. A model that was trained" in shown
        )
        assert models_of_unknown_training(store, mine(store, MiningConfig())) == []


def test_a_run_whose_models_know_every_positive_is_refused(store: Database) -> None:
    run = with_model(mine(store, MiningConfig()), "reranker", "a-model")
    store_pairs = store.table("SELECT query_id, doc_id FROM judgments")
    record_training(store, "a-model", store_pairs)
    with pytest.raises(UsageError, match="48 because a model of the run was trained on them") as caught:
        audit(store, run, AuditConfig())
    assert caught.value.hint == (
        f"train the reranker on fewer, with miner train-reranker {store.path} OUT --set withheld=0.3 "
        "or --folds 2, and mine with that"
    )
    with pytest.raises(UsageError) as caught:
        audit(store, with_model(run, "dense", "a-model"), AuditConfig())
    assert f"miner train {store.path} OUT --set withheld=0.3 and train the reranker" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        audit(store, with_model(mine(store, MiningConfig()), "dense", "a-model"), AuditConfig())
    assert caught.value.hint == (
        f"train the encoder on fewer, with miner train {store.path} OUT --set withheld=0.3, "
        "and mine with that"
    )


def test_positives_that_cannot_be_hidden_are_reported_with_what_to_do(tmp_path: Path) -> None:
    documents = {"a": "apple pie", "b": "apple cake", "c": "apple tart"}
    judged = [("one", "a"), ("one", "b"), ("two", "a"), ("two", "b")]
    queries = {"one": "apple", "two": "Apple"}
    with make_store(tmp_path / "s.duckdb", documents, queries, judged) as store:
        with pytest.raises(UsageError, match="4 because their query's text has several ids") as caught:
            audit(store, mine(store, MiningConfig()), AuditConfig())
        assert caught.value.hint == "give queries with the same text one id"


def test_a_copy_of_what_a_model_was_trained_on_is_never_hidden(tmp_path: Path) -> None:
    documents = {"a": "apple pie", "b": "apple pies", "c": "apple tart", "d": "pear", "e": "apple jam"}
    queries = {"q": "apple", "r": "apples", "s": "pear apple"}
    judged = [(query, document) for query in queries for document in "abc"]
    with make_store(tmp_path / "s.duckdb", documents, queries, judged) as store:
        clusters = {
            role: pa.table(
                {"id": ids, "cluster": ids[:1] * 2, "how": ["minhash"] * 2, "similarity": [1.0] * 2}
            )
            for role, ids in (("documents", ["a", "b"]), ("queries", ["q", "r"]))
        }
        replace_duplicates(store, clusters, {})
        run = with_model(mine(store, MiningConfig()), "reranker", "a-model")
        record_training(store, "a-model", pa.table({"query_id": ["q"], "doc_id": ["a"]}))
        rows = Replay.of(store, run).hideable.table.to_pylist()
    barred = {(row["query_id"], row["doc_id"]) for row in rows if row["cannot_hide"] == "trained"}
    assert barred == {("q", "a"), ("q", "b"), ("r", "a"), ("r", "b")}


def test_positives_of_shared_texts_and_of_other_splits_stay(tmp_path: Path) -> None:
    documents = {"a": "apple pie", "b": "apple cake", "c": "apple tart", "d": "pear tart", "e": "plum"}
    queries = {"one": "apple", "twin1": "tart", "twin2": "Tart", "other": "pear"}
    judged = [("one", "a"), ("twin1", "c"), ("twin1", "d"), ("twin2", "b"), ("twin2", "c"), ("other", "d")]
    with make_store(
        tmp_path / "s.duckdb", documents, queries, [*judged, ("other", "e"), ("other", "e", "test")]
    ) as s:
        hideable = Replay.of(s, mine(s, MiningConfig())).hideable
        assert hideable.cannot_hide() == {"same_text": 4, "other_split": 1}
        assert hideable.with_others().cannot_hide() == {"only": 1, "same_text": 4, "other_split": 1}


def test_copies_of_visible_positives_do_not_count_as_hidden(tmp_path: Path) -> None:
    documents = {"a": "apple pie crust", "b": "Apple  pie crust", "c": "pear", "x": "apple", "y": "apple jam"}
    judged = [("q", "a"), ("q", "b")]
    with make_store(tmp_path / "s.duckdb", documents, {"q": "apple"}, judged) as store:
        run = mine(store, MiningConfig(rules=Rules(relative_margin=None)))
        found = audit(store, run, AuditConfig(share=0.5))
    assert {name: rate.hits for name, rate in found.outcomes.items()} == {"duplicate_of_positive": 5}
    assert found.hidden_positive_rate.hits == 0


def test_an_audit_needs_no_model_and_the_command_says_what_it_found(store: Database, tmp_path: Path) -> None:
    mine(store, MiningConfig(rules=Rules(relative_margin=None)), name="naive")
    store.close()
    script = (
        "import sys\nfrom miner.cli.main import main\ntry:\n"
        f"    main(['audit', {str(store.path)!r}, '--set', 'repeats=2'])\nexcept SystemExit as end:\n"
        "    heavy = {'torch', 'transformers', 'sentence_transformers', 'faiss'} & set(sys.modules)\n"
        "    sys.exit(end.code or str(heavy) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    first, second, *_ = done.stdout.splitlines()
    assert first == "48 of 48 known positives, of 12 queries, can be hidden."
    assert second == "run naive: 16 of them hidden, 2 times (share 0.3, seed 13), and decided again"
    assert "Only labels of negatives measure those." in done.stdout


def test_neither_audit_nor_calibration_asks_for_the_models_of_the_run(
    store: Database, tmp_path: Path, encoder: Path
) -> None:
    models = tmp_path / "encoder", tmp_path / "reranker"
    shutil.copytree(encoder, models[0])
    tiny_bert(models[1], labels=1)
    run = mine(store, MiningConfig(encoder=str(models[0]), reranker=str(models[1]), dtype="fp32"))
    for model in models:
        shutil.rmtree(model)
    shutil.rmtree(store.vectors)
    found = audit(store, run, AuditConfig(repeats=2))
    assert found.hidden_positive_rate.of > 0
    calibrated = calibrate(store, run, 0.9, CalibrationConfig(repeats=2)).own
    assert (calibrated.share > 0.3) or (
        calibrated.all_queries.hidden_positive_rate.hits == found.hidden_positive_rate.hits
    )


def test_json_and_unknown_runs(store: Database) -> None:
    mine(store, MiningConfig())
    store.close()
    reported = CliRunner().invoke(group, ["audit", str(store.path), "--json"])
    assert json.loads(reported.stdout)["hidden_positive_rate"]["of"] > 0
    with pytest.raises(Exception, match="no run 'r7'"):
        CliRunner().invoke(group, ["audit", str(store.path), "--run", "r7"], catch_exceptions=False)


def test_people_judge_the_negatives(store: Database, tmp_path: Path) -> None:
    run = mine(store, MiningConfig(rules=Rules(relative_margin=0.2), selection=Selection(negatives=2)))
    pairs = sorted((q, d) for q, found in negatives(store, run).items() for d in found)
    file = tmp_path / "labels.tsv"
    lines = [f"{q}\t{d}\t{int(position < 3)}" for position, (q, d) in enumerate(pairs[:8])]
    file.write_text("query-id\tcorpus-id\tscore\n" + "\n".join(lines) + "\nq00\tnowhere\t1\n", "utf-8")
    rate = compare_with_judgments(store, run, read_judgments(file)).relevant["negative"]
    assert (rate.hits, rate.of) == (3, 8)
    trec = tmp_path / "labels.qrels"
    trec.write_text("\n".join(f"{q} 0 {d} 1" for q, d in pairs[:2]), "utf-8")
    assert compare_with_judgments(store, run, read_judgments(trec)).relevant["negative"].rate == 1.0
    trec.write_text("q 0 d many\n", "utf-8")
    with pytest.raises(InputError, match=r"labels.qrels:1: relevance 'many' is not a number"):
        read_judgments(trec)
    with pytest.raises(UsageError, match="none of the 1 judgments is about a candidate"):
        compare_with_judgments(
            store, run, pa.table({"query_id": ["no"], "doc_id": ["no"], "relevance": [1.0]})
        )


def test_weak_positives_score_below_their_negatives_everywhere(tmp_path: Path) -> None:
    documents = {"good": "red apple tree", "weak": "nothing of it", "x1": "red tree", "x2": "apple tree tall"}
    judged = [("q", "good"), ("q", "weak")]
    with make_store(tmp_path / "s.duckdb", documents, {"q": "red apple tree"}, judged) as store:
        run = mine(store, MiningConfig(rules=Rules(relative_margin=None)))
        rows = store.rows("SELECT doc_id, negatives FROM weak_positives WHERE run = ?", [run.name])
        assert rows == [("weak", 2)]


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.floats(0.01, 0.99),
    st.integers(0, 2**32),
    st.floats(0, 1),
)
def test_a_share_is_drawn_of_every_owner_and_one_is_left(
    sizes: list[int], share: float, seed: int, barred: float
) -> None:
    owner = np.repeat(np.arange(len(sizes)) * 3, sizes)
    rng = np.random.default_rng(seed)
    allowed = rng.random(len(owner)) >= barred
    drawn = drawn_share(owner, allowed, share, rng)
    assert not (drawn & ~allowed).any()
    for number, size in enumerate(sizes):
        mine_ = owner == number * 3
        most = min(int(np.ceil(share * size)), size - 1)
        least = min(int(np.floor(share * size)), size - 1, int(allowed[mine_].sum()))
        assert least <= drawn[mine_].sum() <= most


def test_rates_of_single_items_are_those_of_clopper_and_pearson() -> None:
    rate = clustered_rate([1] * 3 + [0] * 97, [1] * 100, 100)
    assert (rate.hits, rate.of, rate.rate) == (3, 100, 0.03)
    # With clusters of one, the linearised variance is n / (n - 1) times the binomial one.
    size = 99
    assert rate.low == pytest.approx(beta.ppf(0.025, 0.03 * size, size - 0.03 * size + 1))
    assert rate.high == pytest.approx(beta.ppf(0.975, 0.03 * size + 1, size - 0.03 * size))
    nothing = clustered_rate([0, 0], [10, 10], 20)
    assert (nothing.low, nothing.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20)))
    assert clustered_rate([], [], 0).rate is None


def test_the_interval_of_clustered_rates_holds_in_19_of_20_draws() -> None:
    """Clusters of 5 that are right or wrong together for the most part, as positives of a query are."""
    rng = np.random.default_rng(7)
    inside = 0
    for _ in range(400):
        chance = rng.beta(0.15, 4.85, 150)
        hits = rng.binomial(5, chance)
        rate = clustered_rate(hits, np.full(150, 5), 750)
        inside += rate.low <= 0.03 <= rate.high
    assert inside / 400 >= 0.93


def test_what_relabel_judged_is_never_hidden(store: Database) -> None:
    store.execute("INSERT INTO judgments VALUES ('q00', 'x01', 1, 'train', 'relabelled')")
    hideable = Replay.of(store, mine(store, MiningConfig())).hideable
    assert hideable.cannot_hide() == {"relabelled": 1}


def test_a_run_without_candidates_and_a_store_of_one_query(tmp_path: Path) -> None:
    documents = {"a": "apple pie", "b": "apple cake", "c": "pear tart"}
    judged = [("q", "a"), ("q", "b")]
    unmeasured = pytest.raises(UsageError, match="no negatives, so its hidden-positive rate is not measured")
    with make_store(tmp_path / "none.duckdb", documents, {"q": "zzz"}, judged) as store, unmeasured:
        audit(store, mine(store, MiningConfig()), AuditConfig(share=0.5))
    with make_store(tmp_path / "one.duckdb", documents, {"q": "apple"}, judged) as store:
        run = mine(store, MiningConfig(rules=Rules(relative_margin=None)))
        found = audit(store, run, AuditConfig(share=0.5))
        assert (found.hidden_positive_rate.hits, found.hidden_positive_rate.of) == (5, 5)


def test_judgments_are_reported_if_nothing_can_be_hidden(tmp_path: Path) -> None:
    documents = {"a": "apple pie", "b": "apple cake", "c": "apple tart"}
    with make_store(tmp_path / "s.duckdb", documents, {"q": "apple"}, [("q", "a")]) as store:
        mine(store, MiningConfig(rules=Rules(relative_margin=None)))
    (tmp_path / "labels.tsv").write_text("q\tb\t1\nq\tc\t0\n", "utf-8")
    reported = CliRunner().invoke(
        group, ["audit", str(tmp_path / "s.duckdb"), "--judged", str(tmp_path / "labels.tsv")]
    )
    assert reported.exit_code == 0, reported.output
    assert reported.stdout.splitlines()[0] == "2 of 2 judgments are about candidates of the run"
    assert reported.stdout.splitlines()[2].split()[:5] == ["selected", "as", "negatives", "2", "1"]
    assert "The false-negative rate is that of all negatives" in reported.stdout


def test_clusters_of_one_rate_tell_nothing_of_their_spread() -> None:
    assert clustered_rate([1], [2], 2).high > 0.9
    many = clustered_rate([1] * 50, [2] * 50, 100)
    assert many.low < 0.5 < many.high


def test_weak_positives_have_a_score_below_that_of_every_negative(tmp_path: Path) -> None:
    """What no scorer scored is not weak; one that did not score the positive does not save it."""
    documents = {name: f"text of {name}" for name in ("a", "b", "c", "x", "y")}
    judged = [("q", "a"), ("q", "b"), ("q", "c"), ("r", "a"), ("r", "b")]
    rows = {
        "es": [("q", "a", 9), ("q", "b", 1), ("q", "x", 3), ("q", "y", 2), ("r", "a", 5), ("r", "x", 4)],
        "os": [("q", "a", 9), ("q", "b", 2), ("q", "x", 8), ("q", "c", 1), ("r", "x", 6)],
    }
    for name, pairs in rows.items():
        text = "".join(f"{query} Q0 {doc} 1 {score} {name}\n" for query, doc, score in pairs)
        (tmp_path / f"{name}.trec").write_text(text, "utf-8")
    with make_store(tmp_path / "s.duckdb", documents, {"q": "one", "r": "two"}, judged) as store:
        for names, expected in ((["es"], [("q", "b")]), (["es", "os"], [("q", "b"), ("q", "c")])):
            files = tuple(str(tmp_path / f"{name}.trec") for name in names)
            rules = Rules(relative_margin=None, decide_by="es")
            run = mine(store, MiningConfig(bm25=False, candidates=files, rules=rules), name="-".join(names))
            chosen = store.rows("SELECT query_id, doc_id FROM kept WHERE run = ? AND slot > 0", [run.name])
            scores = [{(query, doc): score for query, doc, score in rows[name]} for name in names]
            assert expected == [pair for pair in judged if is_weak(pair, chosen, scores)]
            found = weak_positives(store, run).to_pylist()
            halves = [weak_positive_count(store, run, part) for part in (range(1), range(1, 100))]
            assert sum(halves) == len(found)
            assert [(row["query_id"], row["doc_id"]) for row in found] == expected
            number = "1 positive scores" if len(expected) == 1 else f"{len(expected)} positives score"
            note = f"{number} below all negatives of the query by every scorer that scored both"
            assert note in audit(store, run, AuditConfig(repeats=1)).as_text()


def is_weak(
    pair: tuple[str, str], chosen: list[tuple[str, str]], scores: list[dict[tuple[str, str], int]]
) -> bool:
    """The definition in docs/the-store.md, in plain Python."""
    below = []
    for known in scores:
        negatives = [known[one] for one in chosen if one[0] == pair[0] and one in known]
        if pair in known and negatives:
            below.append(known[pair] < min(negatives))
    return bool(below) and all(below)


def test_an_older_store_gets_the_views_of_this_version(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    with make_store(path, {"a": "text"}, {"q": "one"}, [("q", "a")]) as store:
        store.execute("CREATE OR REPLACE VIEW weak_positives AS SELECT 'old' AS run")
        store.set_meta("views", None)
    with Database.open(path) as store:
        columns = [name for name, *_ in store.rows("DESCRIBE weak_positives")]
    assert columns == ["run", "query_id", "doc_id", "negatives", "scores"]
