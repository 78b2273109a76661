"""Calibration over several scorers: how well each separates hidden positives, and what each one decides."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from miner.auditing.audit import require_hideable
from miner.auditing.calibrate import Calibration, calibrate, frontier
from miner.auditing.choice import SweptRules, choose, frontier_of
from miner.auditing.config import CalibrationConfig
from miner.auditing.labels import SampleConfig, draw_sample, keep_labels
from miner.auditing.replay import Replays
from miner.auditing.separation import chances, chances_of, comparable, separations
from miner.auditing.sweep import Sweep
from miner.cli.main import group
from miner.errors import UsageError
from miner.mining.config import MiningConfig, Rules, Selection, read_recipe, with_values
from miner.mining.pipeline import config_of, decide_again, mine
from miner.store import runs
from miner.store.audits import calibrated_on
from miner.store.database import Database
from miner.store.evidence import positive_scores
from miner.store.verdicts import verdicts_of
from tests.stores import make_store
from tests.tiny import tiny_bert

QUERIES = 40
WORDS = [f"{a}{b}" for a in "bdfgklm" for b in "aeiou"]
ONCE = CalibrationConfig(repeats=2)
ALL = CalibrationConfig(repeats=2, scorers="all")


def corpus() -> tuple[dict[str, str], dict[str, str], list[tuple[str, str]]]:
    """Returns documents of random words, queries, and three positives of each that share some words."""
    rng = random.Random(5)
    queries, documents, judged = {}, {}, []
    for number in range(QUERIES):
        own = rng.sample(WORDS, 4)
        queries[f"q{number:02}"] = " ".join(own)
        for answer in range(3):
            doc_id = f"p{number:02}-{answer}"
            documents[doc_id] = " ".join(
                [*rng.sample(own, rng.randint(0, 2)), *rng.sample(WORDS, 4), f"n{number}x{answer}"]
            )
            judged.append((f"q{number:02}", doc_id))
    for number in range(40):
        documents[f"x{number:02}"] = " ".join([*rng.sample(WORDS, 6), f"other{number}"])
    return documents, queries, judged


def trec(path: Path, scores: dict[tuple[str, str], float]) -> str:
    """Writes scores as a TREC run; returns its path."""
    lines = [
        f"{query} Q0 {doc} 1 {score!r} {path.stem}\n"
        for (query, doc), score in sorted(scores.items(), key=lambda one: (one[0][0], -one[1]))
    ]
    path.write_text("".join(lines), "utf-8")
    return str(path)


@pytest.fixture(scope="module")
def given_scores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Scores by a good scorer and by a bad one of every pair, and by one of pairs without most positives."""
    folder, rng = tmp_path_factory.mktemp("scores"), random.Random(11)
    documents, queries, judged = corpus()
    pairs, known = [(query, doc) for query in queries for doc in documents], set(judged)
    good = {pair: rng.gauss(4.0 * (pair in known), 1.0) + 5 for pair in pairs}
    bad = {pair: rng.gauss(0.3 * (pair in known), 1.0) for pair in pairs}
    # One positive in twenty has no score by the bad scorer.
    bad = {pair: score for pair, score in bad.items() if pair not in judged[::20]}
    few = {pair: score for pair, score in bad.items() if pair not in known or pair[1].endswith("0")}
    return {
        name: trec(folder / f"{name}.trec", one) for name, one in (("good", good), ("bad", bad), ("few", few))
    }


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    with make_store(tmp_path / "s.duckdb", *corpus()) as made:
        yield made


def mined(
    store: Database, given_scores: dict[str, str], *names: str, rules: Rules | None = None
) -> runs.StoredRun:
    """A run with BM25, which decides, and the named scores."""
    files = tuple(given_scores[name] for name in names)
    rules = rules or Rules(relative_margin=0.05, decide_by="bm25")
    return mine(store, MiningConfig(candidates=files, depth=60, rules=rules), name="base")


def numbered(scores: dict[int, list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """The query of each score, and the scores."""
    pairs = [(query, score) for query, several in scores.items() for score in several]
    return np.array([query for query, _ in pairs], dtype=np.int64), np.array(
        [s for _, s in pairs], dtype=float
    )


SCORES = st.lists(st.integers(-3, 3).map(lambda n: n / 2), max_size=8)


@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=6))
def test_the_chance_is_the_share_of_pairs_in_which_the_positive_scores_higher(
    queries: list[tuple[list[float], list[float]]],
) -> None:
    owner, positive = numbered({number: one for number, (one, _) in enumerate(queries)})
    query, candidate = numbered({number: other for number, (_, other) in enumerate(queries)})
    found = chances(owner, positive, query, candidate, len(queries))
    for chance, (positives, candidates) in zip(found, queries, strict=True):
        pairs = [(p > c) + (p == c) / 2 for p in positives for c in candidates]
        if not pairs:
            assert np.isnan(chance)
            continue
        assert chance == pytest.approx(sum(pairs) / len(pairs))
        known = [1] * len(positives) + [0] * len(candidates)
        assert chance == pytest.approx(roc_auc_score(known, positives + candidates))


def by_pair(store: Database, run: runs.StoredRun, view: str) -> dict[str, dict[tuple[str, str], float]]:
    found: dict[str, dict[tuple[str, str], float]] = defaultdict(dict)
    rows = store.rows(f"SELECT scorer, query_id, doc_id, score FROM {view} WHERE run = ?", [run.name])
    for scorer, query, doc, score in rows:
        if score is not None:
            found[scorer][query, doc] = score
    return found


def test_the_separation_is_that_of_the_pairs_that_every_compared_scorer_scored(
    store: Database, given_scores: dict[str, str]
) -> None:
    run = mined(store, given_scores, "good", "bad", "few")
    found = calibrate(store, run, 0.5, ONCE)
    assert [one.scorer for one in found.separation] == ["good", "bm25", "bad"]
    assert [one.kind for one in found.separation] == ["imported", "bm25", "imported"]
    scores, positives = by_pair(store, run, "scores"), by_pair(store, run, "positive_scores")
    verdicts = verdicts_of(store, run).to_pylist()
    excluded = {"judged_positive", "duplicate_of_positive", "duplicate_of_candidate", "overlaps_positive"}
    free = [(row["query_id"], row["doc_id"]) for row in verdicts if row["outcome"] not in excluded]
    retrieved = {(row["query_id"], row["doc_id"]) for row in verdicts}
    names = [one.scorer for one in found.separation]
    for one in found.separation:
        per_query = []
        for number in range(QUERIES):
            query = f"q{number:02}"
            own = [
                positives[one.scorer][pair]
                for pair in positives[one.scorer]
                if pair[0] == query and pair in retrieved and all(pair in positives[name] for name in names)
            ]
            others = [
                scores[one.scorer][pair]
                for pair in free
                if pair[0] == query and all(pair in scores[name] for name in names)
            ]
            if own and others:
                per_query.append(np.mean([(p > c) + (p == c) / 2 for p in own for c in others]))
        assert one.queries == len(per_query)
        assert one.chance == pytest.approx(np.mean(per_query))
        assert one.low < one.chance < one.high
    best, bm25, bad = found.separation
    assert best.behind == 0
    assert not best.is_worse
    assert bad.is_worse
    assert bad.behind == pytest.approx(best.chance - bad.chance)
    assert bad.behind_low < bad.behind < bad.behind_high
    assert bad.chance < bm25.chance < best.chance


def test_a_scorer_without_most_positives_is_left_out_and_the_report_says_so(
    store: Database, given_scores: dict[str, str]
) -> None:
    found = calibrate(store, mined(store, given_scores, "few", "good"), 0.5, ONCE)
    assert list(found.left_out) == ["few"]
    assert found.left_out["few"].startswith("of 120 positives that can be hidden, ")
    assert f"scorer few is left out: {found.left_out['few']}" in found.as_text()
    assert found.tried == ("bm25", "good")


def test_a_positive_without_a_score_by_a_compared_scorer_is_never_hidden(
    store: Database, given_scores: dict[str, str]
) -> None:
    run = mined(store, given_scores, "good", "bad")
    found = calibrate(store, run, 0.5, ALL)
    assert found.cannot_hide == {"not_scored": 6}
    alone = calibrate(store, run, 0.5, replace(ONCE, scorers="deciding"))
    assert alone.cannot_hide == {}
    hidden = {
        one.share: {
            other.all_queries.hidden_positive_rate.of for other in found.sweep if other.share == one.share
        }
        for one in found.sweep
    }
    assert all(len(numbers) == 1 for numbers in hidden.values()), "the same positives for every scorer"
    assert {one.rules.decide_by for one in found.sweep} == {"bm25", "good", "bad"}


RULES = [
    Rules(relative_margin=None),
    Rules(relative_margin=0.1),
    Rules(absolute_margin=0.5, reference_positive="median"),
    Rules(percentile=30, max_rank=25),
    Rules(relative_percentile=0.4, reference_positive="best"),
]


@pytest.mark.parametrize("name", ["bm25", "good", "bad"])
def test_the_sweep_of_a_scorer_counts_what_deciding_by_it_gives(
    store: Database, given_scores: dict[str, str], name: str
) -> None:
    run = mined(store, given_scores, "good", "bad")
    replays = Replays.of(store, run)
    compared, _ = comparable(replays)
    hideable = replays.hideable.scored_by([one.positives for one in compared])
    whole = replace(replays, hideable=hideable, others=run.scorers).whole()
    (scores,) = (one for one in compared if one.scorer.name == name)
    replay = whole.by(scores.scorer, hideable.by(scores.positives))
    for number, rules in enumerate(RULES):
        named = replace(rules, decide_by=name)
        again = replace(replay, config=replace(replay.config, rules=named))
        flags = whole.hideable.draw(0.5, np.random.default_rng(number))
        assert flags.sum() > 20
        assert (flags == again.hideable.draw(0.5, np.random.default_rng(number))).all()
        hidden = again.hideable.hide(flags)
        exclusions = whole.exclusions(whole.hideable.hide(flags))
        trial = again.decide(again.hide(hidden))
        (counts,) = Sweep(again, again.hide_with(hidden, exclusions)).counts([named])
        owner = whole.hideable.positives.owner
        selected = np.bincount(owner[trial.selected], minlength=len(counts.selected))
        assert counts.selected.tolist() == selected.tolist()
        assert counts.negatives.tolist() == trial.negatives.tolist()
        # Nothing is hidden: the same as a run that this scorer decides.
        decided = decide_again(store, run, replace(config_of(run), rules=named), name=f"by {name} {number}")
        rows = verdicts_of(store, decided).to_pylist()
        assert Sweep(again, again.mined).counts([named])[0].negatives.sum() == sum(
            row["outcome"] == "negative" for row in rows
        )


def test_the_chosen_rules_name_the_scorer_and_their_recipe_applies_it(
    store: Database, given_scores: dict[str, str], tmp_path: Path
) -> None:
    run = mined(store, given_scores, "good", "bad")
    found = calibrate(store, run, 0.1, ONCE)
    assert found.tried == ("bm25", "good")
    assert found.chosen.rules.decide_by == "good"
    alone = calibrate(store, run, 0.1, replace(ONCE, scorers="deciding"))
    ranks = [one.chosen.all_queries.rank or 0.0 for one in (found, alone)]
    assert ranks[0] < ranks[1], "its negatives are harder"
    assert (alone.tried, alone.separation, alone.left_out) == (("bm25",), (), {})
    assert {one.rules.decide_by for one in alone.sweep} == {"bm25"}
    assert repr(found).startswith("Calibration of run 'base': ")
    assert ", by good, " in repr(found)
    found.write_recipe(tmp_path / "strict.toml")
    values = read_recipe(tmp_path / "strict.toml")
    assert values["decide_by"] == "good"
    again = decide_again(store, run, with_values(config_of(run), values), name="strict")
    assert again.deciding.name == "good"
    assert config_of(again).rules == found.chosen.rules
    coverage = sum(row["outcome"] == "negative" for row in verdicts_of(store, again).to_pylist())
    assert coverage / QUERIES == pytest.approx(found.chosen.all_queries.per_query)
    noted = calibrated_on(store, again)
    assert noted is not None
    assert noted["hidden_positive_rate"] is not None
    assert noted["hidden_positive_rate"]["hits"] == found.chosen.confirming_half.hidden_positive_rate.hits


def test_a_scorer_that_decides_by_default_is_named_in_tables_and_not_in_rules(
    store: Database, given_scores: dict[str, str]
) -> None:
    run = mined(store, given_scores, "bad", "good", rules=Rules(relative_margin=0.05))
    assert run.deciding.name == "good"
    found = calibrate(store, run, 0.1, ONCE)
    assert found.chosen.rules.decide_by is None
    assert found.tried == ("good", "bm25")
    assert found.name_of(found.chosen).endswith(", by good")
    assert f"chosen: {found.name_of(found.chosen)}" in found.as_text()
    assert "good separates hidden positives best" in found.as_text()
    assert "the rules were tried on the scores of good and bm25; --set scorers=all tries" in found.as_text()
    assert found == calibrate(store, run, 0.1, ONCE)
    assert {one.rules.decide_by for one in frontier(store, run, replace(ONCE, scorers="deciding"))} == {None}


def test_a_difference_that_is_not_shown_is_called_so(store: Database, given_scores: dict[str, str]) -> None:
    files = {**given_scores, "twin": given_scores["good"].replace("good.trec", "twin.trec")}
    text = Path(given_scores["good"]).read_text("utf-8")
    Path(files["twin"]).write_text(text, "utf-8")
    found = calibrate(store, mined(store, files, "good", "twin"), 0.5, ONCE)
    assert "its difference from twin is not shown" in found.as_text()
    other = next(one for one in found.separation if one.scorer == "twin")
    assert (other.behind, other.p) == (0, 1)


def test_a_lowest_score_of_the_runs_own_scorer_is_not_one_of_another(
    store: Database, given_scores: dict[str, str]
) -> None:
    rules = Rules(relative_margin=0.05, min_score=0.5, max_rank=40, decide_by="bm25")
    found = calibrate(store, mined(store, given_scores, "good", rules=rules), 0.5, ONCE)
    least = {(one.rules.decide_by, one.rules.min_score, one.rules.max_rank) for one in found.sweep}
    assert least == {("bm25", 0.5, 40), ("good", None, 40)}


def test_settings_of_several_scorers_are_compared_by_rank(
    store: Database, given_scores: dict[str, str]
) -> None:
    found = calibrate(store, mined(store, given_scores, "good"), 0.5, ONCE)
    low = replace(found.chosen.all_queries, rank=5.0, margin=9.0)
    high = replace(found.chosen.all_queries, rank=50.0, margin=0.1)

    def setting(scorer: str, figures: object, percentile: float) -> SweptRules:
        rules = Rules(percentile=percentile, decide_by=scorer)
        return replace(found.chosen, rules=rules, all_queries=figures)

    easy, hard = setting("good", high, 30), setting("bm25", low, 30)
    assert choose([easy, hard], 0.5, 5) == hard
    assert frontier_of([easy, hard]) == [hard]
    same = setting("good", low, 20)
    assert choose([same, easy], 0.5, 5) == easy, "the margin counts among settings of one scorer"


def test_with_labels_the_rules_are_tried_on_several_scorers_too(
    store: Database, given_scores: dict[str, str]
) -> None:
    run = mined(store, given_scores, "good", "bad")
    pairs = draw_sample(store, run, SampleConfig(1000)).pairs.select(["query_id", "doc_id"]).to_pylist()
    rng = random.Random(4)
    keep_labels(store, run, [{**pair, "relevance": int(rng.random() < 0.1)} for pair in pairs])
    found = calibrate(store, run, 0.9, ALL)
    assert found.labels == len(pairs)
    by_scorer = defaultdict(list)
    for one in found.sweep:
        assert one.false_negatives is not None
        by_scorer[one.rules.decide_by].append(one.false_negatives.dropped)
    assert sorted(map(str, by_scorer)) == ["bad", "bm25", "good"]
    # The dropped ones are those of the labelled run, whichever scorer selects.
    assert max(by_scorer["good"]) > 0


def test_the_report_and_its_json_say_which_scorer_separates_best(
    store: Database, given_scores: dict[str, str]
) -> None:
    run = mined(store, given_scores, "good", "bad", "few")
    path = store.path
    store.close()
    command = ["calibrate", str(path), "--run", run.name, "--target", "0.5", "--set", "repeats=2"]
    shown = CliRunner().invoke(group, command, catch_exceptions=False).stdout
    assert "good separates hidden positives best" in shown
    found = json.loads(CliRunner().invoke(group, [*command, "--json"], catch_exceptions=False).stdout)
    assert [one["scorer"] for one in found["separation"]] == ["good", "bm25", "bad"]
    assert set(found["separation"][0]) >= {"chance", "low", "high", "queries", "behind", "p", "kind"}
    assert list(found["left_out"]) == ["few"]
    assert found["tried"] == ["bm25", "good"]
    with pytest.raises(UsageError, match="scorers"):
        CliRunner().invoke(group, [*command, "--set", "scorers=some"], catch_exceptions=False)


def test_a_rerank_depth_takes_no_score_from_a_retriever_that_decides(store: Database, tmp_path: Path) -> None:
    reranker = tiny_bert(tmp_path / "reranker", labels=1, seed=1)
    config = MiningConfig(
        reranker=(str(reranker),), rerank_depth=5, dtype="fp32", depth=60, rules=Rules(decide_by="bm25"),
        selection=Selection(negatives=2),
    )  # fmt: skip
    run = mine(store, config, name="reranked")
    replay = replace(Replays.of(store, run), others=run.scorers).whole()
    copied = replay.hideable.draw(1.0, np.random.default_rng(1))
    score = replay.hide(replay.hideable.hide(copied)).candidates["score"]
    assert score.null_count == 0
    found: Calibration = calibrate(store, run, None, ONCE)
    assert found.tried[0] == "bm25"
    scores = positive_scores(store, run, run.scorers[-1])
    other = replay.by(run.scorers[-1], replay.hideable.by(scores))
    by_reranker = other.hide(other.hideable.hide(copied)).candidates["score"]
    assert by_reranker.null_count > len(by_reranker) / 2


def test_queries_without_a_pair_have_no_separation(store: Database, given_scores: dict[str, str]) -> None:
    run = mined(store, given_scores, "good")
    replays = Replays.of(store, run)
    require_hideable(store, run, replays.hideable)
    compared, _ = comparable(replays)
    nobody = replace(replays.hideable, scored=np.zeros_like(replays.hideable.scored))
    queries, values, below_depth = chances_of(replace(replays, hideable=nobody), compared)
    assert len(queries) == len(values) == below_depth == 0
    assert separations(compared, values) == ()


def share_above(positives: list[float], candidates: list[float]) -> float:
    """The share of pairs in which the positive scores higher; equal scores count half."""
    return float(np.mean([(p > c) + (p == c) / 2 for p in positives for c in candidates]))


def within_depths(
    pool: list[tuple[str, int, str]], config: MiningConfig, first: dict[str, float], reached: set[str]
) -> set[str]:
    """Returns the documents of a query's pool (id, fused rank, reason) within the depths, in plain Python.

    `first` are the scores of the first reranker, `reached` the candidates that an adaptive run scored.
    """
    left = [one for one in pool if one[1] <= (config.rerank_depth or len(pool))]
    free = [doc for doc, _, reason in left if reason not in EXCLUDED]
    if config.cascade_depth is not None:
        # A positive is where it would be if nobody had judged it: among the candidates that can be negatives.
        return {
            doc
            for doc, *_ in left
            if sum((-first[other], other) < (-first[doc], doc) for other in free) < config.cascade_depth
        }
    if config.rerank == "adaptive" and not reached.issuperset(free):
        last = max(rank for doc, rank, reason in left if doc in reached and reason not in EXCLUDED)
        left = [one for one in left if one[1] <= last]
    return {doc for doc, *_ in left}


EXCLUDED = ("judged_positive", "overlaps_positive", "duplicate_of_positive", "duplicate_of_candidate")
DEPTHS: dict[str, dict[str, Any]] = {
    "all": {},
    "rerank_depth": {"rerank_depth": 15},
    "cascade": {"rerank_depth": 40, "cascade_depth": 8},
    "adaptive": {"rerank": "adaptive", "rules": Rules(percentile=60)},
}


@pytest.fixture(scope="module")
def rerankers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("rerankers")
    return [str(tiny_bert(folder / name, labels=1, seed=seed)) for name, seed in (("a", 1), ("b", 5))]


@pytest.mark.parametrize("name", DEPTHS)
def test_positives_are_compared_down_to_the_depth_that_candidates_are_scored_to(
    store: Database, rerankers: list[str], name: str
) -> None:
    used = rerankers[: 2 if name == "cascade" else 1]
    config = MiningConfig(
        reranker=tuple(used), dtype="fp32", depth=60, selection=Selection(negatives=3), **DEPTHS[name]
    )
    run = mine(store, config, name=name)
    found = calibrate(store, run, None if name == "all" else 0.9, ONCE)
    whole = replace(config, rerank="all", rerank_depth=None, cascade_depth=None)
    everything = mine(store, whole, name="whole")
    scores = by_pair(store, everything, "scores")
    reached = by_pair(store, run, "scores")[run.scorers[-1].name]
    pools = defaultdict(list)
    for query, *row in store.rows(
        "SELECT query_id, doc_id, fused_rank, reason::VARCHAR FROM verdicts WHERE run = ?",
        [name],
    ):
        pools[query].append(tuple(row))
    expected, compared, below = defaultdict(list), 0, 0
    for query, pool in pools.items():
        first = {doc: scores[run.rerankers[0].name][query, doc] for doc, *_ in pool}
        within = within_depths(pool, config, first, {doc for of, doc in reached if of == query})
        judged = [doc for doc, _, reason in pool if reason == "judged_positive"]
        own = [doc for doc in judged if doc in within]
        others = [doc for doc, _, reason in pool if reason not in EXCLUDED and doc in within]
        compared, below = compared + bool(own and others), below + len(judged) - len(own)
        for scorer in [one.name for one in run.scorers] if own and others else ():
            expected[scorer].append(
                share_above(*([scores[scorer][query, doc] for doc in docs] for docs in (own, others)))
            )
    assert found.below_depth == below
    assert (below > 0) == (name != "all")
    assert {one.scorer for one in found.separation} == {one.name for one in run.scorers}
    for one in found.separation:
        assert one.queries == compared > 10
        assert one.chance == pytest.approx(np.mean(expected[one.scorer]))
    assert (f"not compared: {below} positives below the depth" in found.as_text()) == (name != "all")
