"""Adaptive reranking: what is scored, what is selected, and what a run depends on."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from miner.auditing.calibrate import calibrate
from miner.auditing.config import CalibrationConfig
from miner.auditing.replay import Replay
from miner.errors import UsageError
from miner.mining.adaptive import FIRST
from miner.mining.config import MiningConfig, Rules, Selection
from miner.mining.diff import differences
from miner.mining.explain import explain
from miner.mining.pipeline import decide_again, mine
from miner.mining.shortfalls import shortfalls
from miner.store.database import Database
from miner.store.evidence import score_facts
from miner.store.runs import StoredRun, find_run, remove_runs
from miner.store.triplets import triplets as triplets_of
from miner.store.verdicts import reason_counts
from tests.cache_support import Notes
from tests.stores import make_store
from tests.tiny import tiny_bert

TEXT = "red blue green fox dog cat runs sleeps eats quickly slowly today house tree river stone"
WORDS = TEXT.split()
DOCUMENTS = {
    f"d{i:02}": " ".join(WORDS[(i * step + i // 5) % len(WORDS)] for step in (1, 2, 3, 5)) for i in range(60)
}
QUERIES = {f"q{i:02}": " ".join(WORDS[(i * step + 1) % len(WORDS)] for step in (1, 4, 6)) for i in range(12)}
JUDGED = [(f"q{i:02}", f"d{(9 * i + turn) % 60:02}") for i in range(12) for turn in range(1 + i % 3)]


@pytest.fixture(scope="module")
def rerankers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("rerankers")
    return [str(tiny_bert(folder / name, labels=1, seed=seed)) for name, seed in (("a", 1), ("b", 5))]


def opened(path: Path) -> Database:
    return make_store(path, DOCUMENTS, QUERIES, JUDGED)


def config_of(rerankers: list[str], **given: Any) -> MiningConfig:
    selection = Selection(negatives=given.pop("negatives", 2), **given.pop("selection", {}))
    rules = given.pop("rules", Rules(percentile=50))
    given = {"rerank": "adaptive", "reranker": rerankers[:1], **given}
    return MiningConfig(dtype="fp32", rules=rules, selection=selection, **given)


def decided(store: Database, run: StoredRun) -> dict[str, list[dict[str, Any]]]:
    """The candidates of each query by fused rank, with reason, slot and score."""
    columns = ("doc_id", "fused_rank", "reason", "slot", "score", "judged_negative")
    found = defaultdict(list)
    for query, *row in store.rows(
        f"""SELECT query_id, doc_id, fused_rank, reason::VARCHAR, slot, score, judged_negative
        FROM verdicts WHERE run = '{run.name}' ORDER BY query_id, fused_rank"""
    ):
        found[query].append(dict(zip(columns, row, strict=True)))
    return found


def outcome(store: Database, run: StoredRun) -> Any:
    """Everything that a run decided, by name. Scores are rounded: they differ in the last bits by batch."""
    triplets = triplets_of(store, run).to_pylist()
    rows = [row for found in decided(store, run).values() for row in found]
    return [[_rounded(row) for row in found] for found in (rows, triplets)]


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in row.items()}


def scored(store: Database) -> set[tuple[str, str]]:
    return set(store.rows("SELECT query_id, doc_id FROM rerank_scores"))


def rounds_in_plain_python(everything: list[dict[str, Any]], bound: float, negatives: int) -> set[str]:
    """The candidates of one query that are scored: twice as many until enough are at most `bound`."""
    free = [row for row in everything if row["reason"] in (None, "percentile")]
    size = FIRST * negatives
    while size < len(free) and sum(row["score"] <= bound for row in free[:size]) < negatives:
        size *= 2
    return {row["doc_id"] for row in free[:size]}


@pytest.mark.parametrize("percentile", [10, 30, 60, 100])
@pytest.mark.parametrize("negatives", [1, 2, 4])
def test_rounds_are_those_of_plain_python(
    tmp_path: Path, rerankers: list[str], percentile: float, negatives: int
) -> None:
    config = config_of(rerankers, negatives=negatives, rules=Rules(percentile=percentile), depth=40)
    with opened(tmp_path / "s.duckdb") as store:
        adaptive = decided(store, mine(store, config, name="adaptive"))
        every = decided(store, mine(store, replace(config, rerank="all"), name="all"))
        ((bound,),) = store.rows(
            f"""SELECT quantile_cont(score, {percentile / 100}) FROM positive_scores
            WHERE run = 'all' AND kind = 'reranker'"""
        )
    for query, rows in every.items():
        expected = rounds_in_plain_python(rows, bound, negatives)
        assert {row["doc_id"] for row in adaptive[query] if row["reason"] in (None, "percentile")} == expected
        kept = [row for row in rows if row["doc_id"] in expected and row["score"] <= bound]
        best = sorted(kept, key=lambda row: (-row["score"], row["doc_id"]))[:negatives]
        chosen = sorted((row for row in adaptive[query] if row["slot"]), key=lambda row: row["slot"])
        assert [row["doc_id"] for row in chosen] == [row["doc_id"] for row in best]


def test_a_run_does_not_depend_on_what_others_scored(tmp_path: Path, rerankers: list[str]) -> None:
    config = config_of(rerankers)
    with opened(tmp_path / "a.duckdb") as store:
        alone = outcome(store, mine(store, config, name="r"))
        few = len(scored(store))
    with opened(tmp_path / "b.duckdb") as store:
        mine(store, replace(config, rerank="all"))
        assert few < len(scored(store)), "adaptive reranking scores fewer pairs"
        assert outcome(store, mine(store, config, name="r")) == alone


def test_another_rule_goes_on_where_the_first_stopped(tmp_path: Path, rerankers: list[str]) -> None:
    loose, strict = config_of(rerankers), config_of(rerankers, rules=Rules(percentile=5))
    with opened(tmp_path / "a.duckdb") as store:
        mine(store, loose, name="loose")
        before = store.rows("SELECT rowid, * FROM rerank_scores ORDER BY rowid")
        went_on = outcome(store, mine(store, strict, name="strict"))
        after = store.rows("SELECT rowid, * FROM rerank_scores ORDER BY rowid")
        assert after[: len(before)] == before
        assert len(after) > len(before)
        assert len(scored(store)) == len(after), "no pair is scored twice"
    with opened(tmp_path / "b.duckdb") as store:
        assert outcome(store, mine(store, strict, name="strict")) == went_on


def test_deciding_again_sees_what_was_scored_and_says_what_it_lacks(
    tmp_path: Path, rerankers: list[str]
) -> None:
    strict = config_of(rerankers, rules=Rules(percentile=5))
    with opened(tmp_path / "s.duckdb") as store:
        run = mine(store, config_of(rerankers), name="loose")
        pairs = scored(store)
        again = decide_again(store, run, strict, name="again")
        assert scored(store) == pairs
        assert any("miner mine with these rules scores what is missing" in one.hint
                   for one in shortfalls(store, again))  # fmt: skip
        before = outcome(store, again)
        mined = mine(store, strict, name="mined")
        assert mined.run_id != again.run_id
        assert reason_counts(store, mined)["selected"] > reason_counts(store, again)["selected"]
        assert decide_again(store, run, strict, name="again").run_id == again.run_id
        assert outcome(store, find_run(store, "again")) == before
        # The rules of the run itself give the run itself.
        assert decide_again(store, run, config_of(rerankers), name="loose").run_id == run.run_id


RULES = st.one_of(
    st.builds(lambda p: Rules(percentile=p), st.integers(1, 100)),
    st.builds(lambda m: Rules(relative_margin=m), st.floats(-1, 0.5)),
    st.builds(
        lambda p, n: Rules(percentile=p, reference_positive="each", skip_top=n),
        st.integers(1, 100),
        st.integers(0, 3),
    ),
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rules=RULES,
    negatives=st.integers(1, 6),
    cap=st.one_of(st.none(), st.integers(1, 6)),
    positives=st.sampled_from(["all", "best"]),
    quota=st.sampled_from([(), ("bm25=1",)]),
    depths=st.sampled_from([(None, None), (7, None)]),
)
def test_a_query_is_short_only_if_nothing_is_left_to_score(
    tmp_path_factory: pytest.TempPathFactory, rerankers: list[str], rules: Rules, negatives: int,
    cap: int | None, positives: str, quota: tuple[str, ...], depths: tuple[int | None, int | None],
) -> None:  # fmt: skip
    selection = {"document_cap": cap, "positives": positives, "quota": quota}
    config = config_of(
        rerankers, rules=rules, negatives=negatives, selection=selection, rerank_depth=depths[0]
    )
    with opened(tmp_path_factory.mktemp("any") / "s.duckdb") as store:
        run = mine(store, config, name="r")
        left = {
            query
            for (query,) in store.rows(
                """SELECT DISTINCT query_id FROM verdicts JOIN candidates USING (query_id, doc_id, fused_rank)
                WHERE run = 'r' AND evidence = ? AND reason = 'not_reranked' AND fused_rank <= ?
                    AND best_rank > ?""",
                [run.evidence, depths[0] or 10_000, rules.skip_top],
            )
        }
        triplets = defaultdict(set)
        for row in triplets_of(store, run).to_pylist():
            triplets[row["query_id"], row["positive_id"]].add(row["negative_id"])
        owned = [pair for pair in JUDGED if pair[0] in left]
        for query in left:
            per_positive = [len(triplets[pair]) for pair in owned if pair[0] == query]
            enough = [number >= negatives for number in per_positive]
            assert all(enough) if positives == "all" else any(enough)


def test_an_audit_decides_what_the_run_decided(tmp_path: Path, rerankers: list[str]) -> None:
    with opened(tmp_path / "s.duckdb") as store:
        run = mine(store, config_of(rerankers), name="r")
        replay = Replay.of(store, run)
        assert replay.decide(replay.mined).negatives.sum() == reason_counts(store, run)["selected"]
        notes = Notes()
        found = calibrate(store, run, 0.5, CalibrationConfig(repeats=2, scorers="deciding"), progress=notes)
        again = decide_again(store, run, replace(config_of(rerankers), rules=found.chosen.rules))
        assert reason_counts(store, again)["selected"] > 0
        assert any("rerank=all" in note for note in notes.said)


def test_strategies_that_draw_from_all_candidates_score_all(tmp_path: Path, rerankers: list[str]) -> None:
    with opened(tmp_path / "s.duckdb") as store:
        notes = Notes()
        run = mine(store, config_of(rerankers, selection={"strategy": "random"}), progress=notes)
        assert not run.is_adaptive
        assert "not_reranked" not in reason_counts(store, run)
        decides = config_of(rerankers, rules=Rules(decide_by="bm25", percentile=50))
        assert not mine(store, decides, progress=notes).is_adaptive
        assert [one for one in notes.said if "no effect" in one] == [
            "rerank=adaptive has no effect, as strategy random draws from all candidates that the rules "
            "keep: every candidate is scored",
            "rerank=adaptive has no effect, as bm25 decides: every candidate is scored",
        ]


def test_in_a_cascade_only_the_last_reranker_stops_early(tmp_path: Path, rerankers: list[str]) -> None:
    with opened(tmp_path / "s.duckdb") as store:
        config = replace(config_of(rerankers), reranker=rerankers, cascade_depth=8)
        run = mine(store, config, name="r")
        counts = dict(store.rows("SELECT scorer, count(*) FROM scores WHERE run = 'r' GROUP BY ALL"))
        assert counts["b"] < counts["a"]
        by_first: dict[str, list[tuple[float, str]]] = defaultdict(list)
        for query, doc, score in store.rows(
            """SELECT query_id, doc_id, a.score
            FROM verdicts JOIN scores a USING (run, query_id, doc_id)
            WHERE run = 'r' AND a.scorer = 'a' AND reason IS DISTINCT FROM 'judged_positive'"""
        ):
            by_first[query].append((-score, doc))
        for query, rows in decided(store, run).items():
            best = {doc for _, doc in sorted(by_first[query])[:8]}
            assert {row["doc_id"] for row in rows if row["reason"] in (None, "percentile")} <= best


def test_removing_the_last_run_forgets_what_was_scored_for_it(tmp_path: Path, rerankers: list[str]) -> None:
    with opened(tmp_path / "s.duckdb") as store:
        config = config_of(rerankers)
        first = outcome(store, mine(store, config, name="r"))
        again = decide_again(store, find_run(store, "r"), config_of(rerankers, rules=Rules(percentile=90)))
        remove_runs(store, ["r"])
        assert store.rows("SELECT count(*) > 0 FROM scored WHERE evidence = ?", [again.reranking]) == [
            (True,)
        ]
        remove_runs(store, [again.name])
        assert store.rows("SELECT count(*) FROM scored") == [(0,)]
        pairs = len(scored(store))
        assert outcome(store, mine(store, config, name="r")) == first
        assert len(scored(store)) == pairs, "the scores of pairs stay"


def test_whether_to_score_all_belongs_to_the_search(tmp_path: Path, rerankers: list[str]) -> None:
    with opened(tmp_path / "s.duckdb") as store:
        run = mine(store, config_of(rerankers))
        with pytest.raises(UsageError, match="rerank belongs to the search"):
            decide_again(store, run, replace(config_of(rerankers), rerank="all"))
    with pytest.raises(UsageError, match="rerank has no effect without a reranker"):
        MiningConfig(rerank="adaptive")


def test_mining_says_how_much_was_reranked(tmp_path: Path, rerankers: list[str]) -> None:
    with opened(tmp_path / "s.duckdb") as store:
        notes = Notes()
        mine(store, config_of(rerankers), progress=notes)
        pairs = len(scored(store)) - len(JUDGED)
        assert any(f"of reranking scored {pairs} candidates of" in note for note in notes.said)


def test_all_is_scored_if_nothing_is_kept(tmp_path: Path, rerankers: list[str]) -> None:
    with opened(tmp_path / "s.duckdb") as store:
        run = mine(store, config_of(rerankers, rules=Rules(max_score=-1e9)))
        counts = reason_counts(store, run)
        assert counts["max_score"] > 0
        assert "not_reranked" not in counts


def test_what_no_score_can_keep_is_not_scored(tmp_path: Path, rerankers: list[str]) -> None:
    with opened(tmp_path / "s.duckdb") as store:
        run = mine(store, config_of(rerankers, rules=Rules(max_rank=4, percentile=1)), name="r")
        best = store.rows(
            """SELECT max(best_rank) FROM verdicts JOIN candidates USING (query_id, doc_id, fused_rank)
            WHERE run = 'r' AND evidence = ? AND reason IS DISTINCT FROM 'judged_positive'
                AND score IS NOT NULL""",
            [run.evidence],
        )
        assert best == [(4,)]


def test_a_run_shows_only_the_scores_that_it_used(tmp_path: Path, rerankers: list[str]) -> None:
    config = config_of(rerankers)
    shown = []
    for name, before in (("a", ()), ("b", ("all",))):
        with opened(tmp_path / f"{name}.duckdb") as store:
            for way in before:
                mine(store, replace(config, rerank=way), name=way)
            run = mine(store, config, name="r")
            rows = store.rows(
                """SELECT scorer, query_id, doc_id, rank, round(score, 5) FROM scores
                WHERE run = 'r' ORDER BY ALL"""
            )
            texts = [explain(store, query, "r").as_text(1000) for query in QUERIES]
            shown.append((rows, texts, score_facts(store, run, run.deciding).pairs))
            left = store.rows(
                """SELECT count(*) FROM scores JOIN verdicts v USING (run, query_id, doc_id)
                WHERE run = 'r' AND scores.kind = 'reranker' AND reason = 'not_reranked'"""
            )
            assert left == [(0,)]
    assert shown[0] == shown[1]


def test_two_runs_that_scored_for_other_rules_say_so(tmp_path: Path, rerankers: list[str]) -> None:
    strict = config_of(rerankers, rules=Rules(percentile=5))
    with opened(tmp_path / "s.duckdb") as store:
        run = mine(store, config_of(rerankers), name="loose")
        decide_again(store, run, strict, name="again")
        mine(store, strict, name="mined")
        found = differences(store, "again", "mined")
        assert found.causes == ("the reranker scored as far as other rules needed",)


def test_deciding_again_by_another_strategy_says_what_it_sees(tmp_path: Path, rerankers: list[str]) -> None:
    with opened(tmp_path / "s.duckdb") as store:
        run = mine(store, config_of(rerankers), name="r")
        notes = Notes()
        decide_again(store, run, config_of(rerankers, selection={"strategy": "random"}), progress=notes)
        assert any("only as far as the rules it was mined with" in note for note in notes.said)


@pytest.mark.parametrize("cascade", [None, 8])
def test_workers_change_nothing(tmp_path: Path, rerankers: list[str], cascade: int | None) -> None:
    shown = []
    for workers in (1, 2, 4):
        with opened(tmp_path / f"{workers}.duckdb") as store:
            names = rerankers if cascade else rerankers[:1]
            config = config_of(
                rerankers, reranker=names, cascade_depth=cascade, selection={"document_cap": 2}
            )
            mine(store, config, name="r", workers=workers)
            tables = [
                store.rows(f"SELECT * FROM {table} ORDER BY ALL")
                for table in ("rerank_scores", "scored", "decisions", "selected", "scores")
            ]
            shown.append(repr(tables))
    assert shown[0] == shown[1] == shown[2]
