"""Calibration: the sweep counts what deciding gives, the choice meets its target, the recipe repeats it."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from miner.auditing import replay as replaying
from miner.auditing.audit import audit
from miner.auditing.calibrate import calibrate, frontier
from miner.auditing.choice import choose, frontier_of
from miner.auditing.config import AuditConfig, CalibrationConfig
from miner.auditing.grid import candidates, families
from miner.auditing.replay import NegativesLeft, Replay, Replays, sorted_rows
from miner.auditing.report import audit_table, calibration_table, recipe
from miner.auditing.sweep import Sweep
from miner.cli.main import group
from miner.collection.exclusion import Exclusions
from miner.errors import UsageError
from miner.export import ExportConfig, export_run
from miner.mining import rules as ruling
from miner.mining.config import MiningConfig, Rules, Selection, read_recipe, with_values
from miner.mining.pipeline import config_of, decide_again, mine
from miner.mining.rules import name_of
from miner.stats import Rate
from miner.store import runs
from miner.store.audits import calibrated_on
from miner.store.database import Database
from tests.stores import make_store
from tests.test_audit import corpus


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A store in which some candidates are judged not relevant: no rule drops those for scoring high."""
    documents, queries, judged = corpus(5)
    rng = random.Random(1)
    with make_store(tmp_path_factory.mktemp("calibrate") / "s.duckdb", documents, queries, judged) as made:
        for query in queries:
            for doc in rng.sample([d for d in documents if (query, d) not in judged], 6):
                made.execute("INSERT INTO judgments VALUES (?, ?, 0, 'train', 'gold')", [query, doc])
        yield made


@pytest.fixture(scope="module")
def run(store: Database) -> runs.StoredRun:
    return mine(store, MiningConfig(depth=60), name="base")


SETTINGS = [
    Rules(relative_margin=None),
    Rules(relative_margin=0.1),
    Rules(relative_margin=-0.2, reference_positive="best"),
    Rules(relative_margin=0.3, reference_positive="median", skip_top=3),
    Rules(absolute_margin=0.5, reference_positive="median"),
    Rules(percentile=30, max_rank=25),
    Rules(relative_percentile=0.4, reference_positive="best"),
    Rules(relative_percentile=1.0),
    Rules(relative_margin=0.05, max_score=3.0, min_score=1.0),
    Rules(max_score=2.0, min_score=1.9),
    Rules(min_score=4.0, percentile=1),
    Rules(relative_margin=0.5, skip_top=90),
]


@pytest.mark.parametrize("rules", SETTINGS, ids=name_of)
@pytest.mark.parametrize("negatives", [1, 4, 40])
def test_the_sweep_counts_what_deciding_gives(
    store: Database, run: runs.StoredRun, rules: Rules, negatives: int
) -> None:
    replay = Replay.of(store, run)
    selection = Selection(negatives=negatives)
    replay = replace(replay, config=replace(replay.config, rules=rules, selection=selection))
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
    sums = counts.sums(np.ones(len(counts.negatives), dtype=np.bool_))
    assert replace(sums, margins=trial.left.margins) == trial.left
    assert float(sums.margins) == pytest.approx(float(trial.left.margins))


@pytest.mark.parametrize("rows", [1, 97, 400])
def test_ranges_of_queries_make_no_difference(
    store: Database, run: runs.StoredRun, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Every figure is the same, however many candidates are read at a time."""
    settings = CalibrationConfig(repeats=2, allow_rank_window=True)
    capped = replace(config_of(run), selection=Selection(document_cap=2), rules=Rules(percentile=60))
    others = [run, decide_again(store, run, capped, name=f"capped {rows}")]

    def _all() -> list[object]:
        found = [calibrate(store, run, target, settings).as_json() for target in (0.3, None)]
        return [*found, *(audit(store, one, AuditConfig(repeats=2)).as_json() for one in others)]

    once = _all()
    assert len(Replays.of(store, run).ranges()) == 1
    monkeypatch.setattr(replaying, "ROWS", rows)
    assert len(Replays.of(store, run).ranges()) > 1
    assert _all() == once


@pytest.mark.parametrize("seed", range(4))
def test_exclusions_with_positives_hidden_are_those_of_the_other_positives(
    store: Database, run: runs.StoredRun, seed: int
) -> None:
    replay = Replay.of(store, run)
    hidden = replay.hideable.hide(replay.hideable.draw(0.6, np.random.default_rng(seed)))
    restorable, left = replay.restorable, replay.exclusions(hidden)
    of = np.isin(restorable.rows, left.rows)
    gone = restorable.positives[hidden.flags]
    known = restorable.known[~np.isin(restorable.known, gone)]
    plain = Exclusions(restorable.texts.collection, known, restorable.negatives, True, ())
    assert (plain.of_candidates(restorable.query[of], restorable.doc[of]) == left.reasons).all()
    assert len(left.rows) > 10


@given(st.lists(st.floats(-4, 4), min_size=1, max_size=30), st.floats(0, 100))
def test_a_percentile_of_sorted_scores_is_that_of_numpy(scores: list[float], percent: float) -> None:
    known = np.sort(scores)
    assert ruling.percentile_of(known, percent) == np.percentile(known, percent)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-1.0, 0.0, 0.5, np.nan])), max_size=40))
def test_rows_are_sorted_as_numpy_does(rows: list[tuple[int, float]]) -> None:
    query = np.sort(np.array([query for query, _ in rows], dtype=np.int32))
    score, doc = np.array([score for _, score in rows]), np.arange(len(rows), dtype=np.int32)[::-1] * 7 % 41
    assert (sorted_rows(query, score, doc) == np.lexsort((doc, -score, query))).all()


@given(
    st.lists(st.floats(-4, 4, width=16), min_size=1, max_size=30),
    st.lists(st.floats(-5, 5, width=16), min_size=1, max_size=20),
    st.floats(-0.5, 1.5),
    st.floats(0, 100),
)
def test_bounds_and_rules_say_the_same(
    positives: list[float], scores: list[float], share: float, percentile: float
) -> None:
    """A score passes every rule exactly if it is no higher than the bound."""
    known, score = np.sort(positives), np.array(scores)
    reference = np.resize(known, len(score))
    rules = Rules(relative_percentile=share, percentile=percentile)
    dropped = ruling.distribution(known, score) > share * ruling.distribution(known, reference)
    dropped |= score > np.percentile(known, percentile)
    assert (score > ruling.highest(rules, reference, known)).tolist() == dropped.tolist()


def test_the_choice_meets_its_target_and_the_recipe_repeats_it(
    store: Database, run: runs.StoredRun, tmp_path: Path
) -> None:
    naive = calibrate(store, run, 0.99, CalibrationConfig()).chosen.choosing_half
    found = calibrate(store, run, 0.1, CalibrationConfig())
    assert found.chosen.choosing_half.hidden_positive_rate.rate is not None
    assert (
        found.chosen.choosing_half.hidden_positive_rate.rate <= 0.1 < (naive.hidden_positive_rate.rate or 0)
    )
    assert found == calibrate(store, run, 0.1, CalibrationConfig())
    better = [
        one
        for one in found.sweep
        if one.choosing_half.hidden_positive_rate.high <= 0.1
        and one.all_queries.per_query > found.chosen.all_queries.per_query + 0.06
    ]
    stricter = dict(families([one.rules for one in found.sweep]))
    rates = {one.rules: one.choosing_half.hidden_positive_rate.high for one in found.sweep}
    assert all(
        any(max(map(rates.__getitem__, alike[: alike.index(one.rules)]), default=0) > 0.1
            for alike in stricter.values() if one.rules in alike)
        for one in better
    ), "a setting that leaves more has a stricter one that does not meet the target"  # fmt: skip
    file = tmp_path / "recipe.toml"
    file.write_text(recipe(found), "utf-8")
    decided = decide_again(store, run, with_values(config_of(run), read_recipe(file)))
    assert config_of(decided).rules == found.chosen.rules


def test_every_rule_is_tried_and_a_rank_window_only_if_allowed(store: Database, run: runs.StoredRun) -> None:
    hideable = Replay.of(store, run).hideable
    base = Rules(skip_top=4, max_rank=30, min_score=1.0)
    assert {rules.skip_top for rules in candidates(base, hideable)} == {0}
    tried = candidates(base, hideable, rank_window=True)
    assert {1, 4, 20} <= {rules.skip_top for rules in tried}
    assert len(set(tried)) == len(tried) > 100
    for name in ("max_score", "absolute_margin", "relative_margin", "percentile", "relative_percentile"):
        assert sum(getattr(rules, name) is not None for rules in tried) >= 5
    assert {rules.max_rank for rules in tried} == {30}
    assert {rules.min_score for rules in tried} == {1.0}
    assert all(rules.skip_top < 30 for rules in tried)
    assert all(rules.max_score is None or rules.max_score >= 1.0 for rules in tried)


def test_a_target_that_nothing_meets_is_refused(store: Database, run: runs.StoredRun) -> None:
    found = calibrate(store, run, 0.1, CalibrationConfig())
    selecting = [one for one in found.sweep if one.choosing_half.hidden_positive_rate.hits]
    with pytest.raises(
        UsageError, match=r"no setting has a hidden-positive rate of at most 0 %: the lowest is .* % with"
    ) as caught:
        choose(selecting, 0.0, 5)
    assert "mine with a reranker" in caught.value.hint


@pytest.mark.parametrize(
    ("selection", "rules", "match"),
    [
        (Selection(strategy="random"), Rules(), "a run with strategy random cannot be calibrated"),
        (Selection(document_cap=3), Rules(), "a run with document_cap 3 cannot be calibrated"),
        (Selection(quota=("bm25=3",)), Rules(), "a run with quota bm25=3 cannot be calibrated"),
        (
            Selection(),
            Rules(reference_positive="each"),
            "a run with reference positive each cannot be calibrated",
        ),
    ],
)
def test_other_selections_are_refused(
    store: Database, selection: Selection, rules: Rules, match: str
) -> None:
    run = mine(store, MiningConfig(depth=60, selection=selection, rules=rules))
    with pytest.raises(UsageError, match=match):
        calibrate(store, run, 0.1, CalibrationConfig())


def contents(path: Path) -> dict[str, str]:
    """Every table but `meta`, as text."""
    with Database.open(path, read_only=True) as store:
        names = [name for (name,) in store.rows("SELECT table_name FROM duckdb_tables()") if name != "meta"]
        return {name: str(sorted(map(str, store.rows(f"FROM {name}")))) for name in names}


def test_the_command_writes_recipe_and_chart_and_notes_only_what_it_chose(tmp_path: Path) -> None:
    documents, queries, judged = corpus(5)
    path = tmp_path / "s.duckdb"
    with make_store(path, documents, queries, judged) as store:
        mine(store, MiningConfig(depth=60), name="base")
    before = contents(path)
    out = tmp_path / "strict.toml"
    reported = CliRunner().invoke(group, ["calibrate", str(path), "--target", "0.1", "--out", str(out)])
    assert reported.exit_code == 0, reported.output
    assert contents(path) == before
    assert "a hidden-positive rate of at most 10.00 %" in reported.stdout
    assert "the run's own: relative_margin 0.05, reference positive lowest" in reported.stdout
    assert out.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in out.with_suffix(".svg").read_text("utf-8")
    other = tmp_path / "precious.toml"
    other.write_text("not ours", "utf-8")
    refused = CliRunner().invoke(group, ["calibrate", str(path), "--target", "0.1", "--out", str(other)])
    assert "was not written by miner calibrate and would be lost" in str(refused.exception)
    assert other.read_text("utf-8") == "not ours"
    figure = tmp_path / "figure.svg"
    figure.write_text("not ours", "utf-8")
    beside = ["calibrate", str(path), "--target", "0.1", "--out", str(figure.with_suffix(".toml"))]
    refused = CliRunner().invoke(group, beside)
    assert "figure.svg does not belong to" in str(refused.exception)
    assert figure.read_text("utf-8") == "not ours"
    assert not figure.with_suffix(".toml").exists()
    over = CliRunner().invoke(group, ["calibrate", str(path), "--target", "0.2", "--out", str(out)])
    assert over.exit_code == 0, over.output
    CliRunner().invoke(group, ["calibrate", str(path), "--target", "0.1", "--out", str(out)])
    again = CliRunner().invoke(group, ["decide", str(path), "--config", str(out), "--name", "strict"])
    assert again.exit_code == 0, again.output
    given = ["calibrate", str(path), "--run", "base", "--target", "0.1", "--json"]
    as_json = CliRunner().invoke(group, given)
    found = json.loads(as_json.stdout)
    assert found["chosen"]["name"] in reported.stdout
    assert found["chosen"]["confirming_half"]["hidden_positive_rate"]["of"] > 0
    audits = {
        run: CliRunner().invoke(group, ["audit", str(path), "--run", run, "--json"]).stdout
        for run in ("base", "strict")
    }
    assert json.loads(audits["base"])["calibrated_on"] is None
    noted = json.loads(audits["strict"])["calibrated_on"]
    assert noted["run"] == "base"
    assert noted["hidden_positive_rate"] == found["chosen"]["confirming_half"]["hidden_positive_rate"]
    shown = CliRunner().invoke(group, ["audit", str(path), "--run", "strict"]).stdout
    optimistic = "on half of these queries, so the hidden-positive rate is optimistic."
    assert f"miner calibrate chose these rules {optimistic}" in shown
    with Database.open(path) as opened:
        export_run(opened, tmp_path / "out", ExportConfig(run="strict"))
    card = " ".join((tmp_path / "out" / "README.md").read_text("utf-8").split())
    assert f"`miner calibrate` chose the rules {optimistic}" in card


def as_mined(store: Database, run: runs.StoredRun, rules: Rules) -> NegativesLeft:
    """Returns the negatives that deciding again with these rules leaves."""
    replay = Replay.of(store, run)
    replay = replace(replay, config=replace(replay.config, rules=rules))
    return NegativesLeft.of(replay.decide(replay.mined).left)


def test_keeping_the_coverage_takes_the_strictest_setting_of_the_rule_with_the_lowest_rate(
    store: Database, run: runs.StoredRun
) -> None:
    found = calibrate(store, run, None, CalibrationConfig())
    left, own = (as_mined(store, run, one.rules) for one in (found.chosen, found.own))
    assert (
        left.coverage == found.chosen.all_queries.coverage >= own.coverage == found.own.all_queries.coverage
    )
    assert left.rank == pytest.approx(found.chosen.all_queries.rank)
    (alike,) = (alike for _, alike in families([o.rules for o in found.sweep]) if found.chosen.rules in alike)
    stricter = alike[: alike.index(found.chosen.rules)]
    assert all(as_mined(store, run, rules).coverage < own.coverage for rules in stricter)
    limit = found.own.confirming_half.hidden_positive_rate.rate
    assert found.confirmed == (found.chosen.confirming_half.hidden_positive_rate.high <= limit)
    verdict = "confirmed" if found.confirmed else "not confirmed"
    assert f"\n{verdict}: on the other half the rate is" in calibration_table(found)


def test_a_setting_counts_with_its_highest_rate_over_the_shares(store: Database, run: runs.StoredRun) -> None:
    found = calibrate(store, run, 0.3, CalibrationConfig(repeats=2))
    assert found.shares == (0.3, 0.6, 1.0)
    replay = Replay.of(store, run)
    rates = {}
    for number, share in enumerate(found.shares):
        draws = [
            replay.hideable.draw(share, np.random.default_rng([13, 2 * number + repeat]), min(share, 0.6))
            for repeat in range(2)
        ]
        trials = [replay.decide(replay.hide(replay.hideable.hide(hidden))) for hidden in draws]
        rates[share] = sum(t.selected.sum() for t in trials) / sum(t.hidden.sum() for t in trials)
    assert draws[0].sum() == 3 * len(set(replay.hideable.positives.owner.tolist())), "all but one"
    assert found.own.all_queries.hidden_positive_rate.rate == pytest.approx(max(rates.values()))
    assert found.own.share == max(rates, key=lambda share: rates[share])


def test_confirmed_needs_the_whole_interval_within_the_target(store: Database, run: runs.StoredRun) -> None:
    found = calibrate(store, run, 0.3, CalibrationConfig())
    for rate, confirmed in (
        (Rate(1, 100, 0.01, 0.0, 0.29), True),
        (Rate(1, 100, 0.01, 0.0, 0.31), False),
        (Rate(0, 0, None, 0.0, 1.0), False),
    ):
        half = replace(found.chosen.confirming_half, hidden_positive_rate=rate)
        other = replace(found, chosen=replace(found.chosen, confirming_half=half))
        assert other.confirmed == confirmed
    half = replace(half, hidden_positive_rate=Rate(1, 100, 0.01, 0.0, 0.31))
    text = calibration_table(replace(found, chosen=replace(found.chosen, confirming_half=half)))
    assert (
        "not confirmed: on the other half the rate is 1.00 %, but its interval ends at 31.00 %, above" in text
    )


def test_the_frontier_has_one_row_for_equal_settings(store: Database, run: runs.StoredRun) -> None:
    found = calibrate(store, run, 0.3, CalibrationConfig())
    figures = [
        (one.all_queries.hidden_positive_rate.rate, one.all_queries.per_query, one.all_queries.margin)
        for one in found.frontier()
    ]
    assert len(set(figures)) == len(figures)
    twice = replace(found, sweep=found.sweep * 2)
    assert twice.frontier() == found.frontier()
    assert frontier_of(found.sweep * 2) == frontier_of(found.sweep)
    plain = frontier(store, run, CalibrationConfig())
    assert {one.rules for one in plain} <= {one.rules for one in (found.own, *found.sweep)}


def test_a_query_with_a_single_positive_has_one_reference(tmp_path: Path) -> None:
    documents, queries, judged = corpus(5)
    single = [pair for pair in judged if pair[1].endswith("0")]
    with make_store(tmp_path / "s.duckdb", documents, queries, single) as made:
        run = mine(made, MiningConfig(depth=60))
        found = calibrate(made, run, None, CalibrationConfig())
    assert found.shares == (0.3, 0.6)
    assert {one.rules.reference_positive for one in found.sweep} == {"lowest"}
    assert "30 % and 60 % of each query's positives hidden" in calibration_table(found)


def test_a_rank_window_of_the_run_is_left_out_and_the_report_says_so(store: Database) -> None:
    run = mine(store, MiningConfig(depth=60, rules=Rules(skip_top=7)), name="window")
    found = calibrate(store, run, 0.5, CalibrationConfig())
    assert {one.rules.skip_top for one in found.sweep} == {0}
    assert found.own.rules.skip_top == 7
    assert "leave out the run's own skip_top 7: a rank window drops known" in calibration_table(found)
    allowed = calibrate(store, run, 0.5, CalibrationConfig(allow_rank_window=True))
    assert 7 in {one.rules.skip_top for one in allowed.sweep}
    assert "rank window" not in calibration_table(allowed)


def test_the_recipe_of_a_kept_coverage_says_what_it_is(store: Database, run: runs.StoredRun) -> None:
    found = calibrate(store, run, None, CalibrationConfig(repeats=1))
    assert recipe(found).startswith(
        f"# Calibrated on run {run.name}: {found.chosen.name}.\n"
        "# Lowest hidden-positive rate at the coverage of the run's own rules: "
    )


@pytest.mark.parametrize("rules", SETTINGS, ids=name_of)
def test_a_recipe_has_its_rules_and_no_others_whatever_it_is_applied_to(
    store: Database, run: runs.StoredRun, tmp_path: Path, rules: Rules
) -> None:
    found = calibrate(store, run, 0.5, CalibrationConfig(repeats=1))
    (tmp_path / "r.toml").write_text(
        recipe(replace(found, chosen=replace(found.chosen, rules=rules))), "utf-8"
    )
    values = read_recipe(tmp_path / "r.toml")
    for other in (
        Rules(),
        Rules(percentile=9.0, skip_top=2),
        Rules(min_score=1.0, reference_positive="median"),
    ):
        assert with_values(MiningConfig(rules=other), values).rules == rules
    if rules.percentile is not None and rules.relative_margin is None:
        assert "relative_margin" not in values


def test_figures_of_another_selection_or_search_are_not_used_for_this_run(
    store: Database, run: runs.StoredRun
) -> None:
    found = calibrate(store, run, 0.1, CalibrationConfig())
    rules = found.chosen.rules
    config = replace(config_of(run), rules=rules)
    exact = calibrated_on(store, decide_again(store, run, config))
    assert exact is not None
    assert exact["hidden_positive_rate"]["hits"] == found.chosen.confirming_half.hidden_positive_rate.hits
    many = decide_again(store, run, replace(config, selection=Selection(negatives=40)))
    shallow = mine(store, replace(config, depth=20))
    assert [calibrated_on(store, one) for one in (many, shallow)] == [
        {"run": "base", "hidden_positive_rate": None}
    ] * 2
    assert "measured on run base, whose candidates were found, scored or selected differently" in (
        audit_table(audit(store, many, AuditConfig()), "s")
    )
    other = decide_again(store, run, replace(config, rules=Rules(relative_margin=0.77)))
    assert calibrated_on(store, other) is None


def one_query_to_hide(path: Path) -> Database:
    """A store in which one query has two positives, and those of all others are judged in two splits."""
    words = {f"q{number}": f"fruit{number} apple" for number in range(6)}
    documents = {f"d{number}": f"fruit{number} apple pie" for number in range(6)} | {
        "more": "fruit0 apple jam"
    }
    pairs = [(f"q{number}", f"d{number}") for number in range(6)]
    judged = [*pairs, ("q0", "more"), *((*pair, "dev") for pair in pairs[1:])]
    return make_store(path, documents, words, judged)


@pytest.mark.parametrize("target", [None, 0.5])
def test_a_half_without_hidden_positives_chooses_and_confirms_nothing(
    tmp_path: Path, target: float | None
) -> None:
    reported = []
    with one_query_to_hide(tmp_path / "s.duckdb") as store:
        run = mine(store, MiningConfig(rules=Rules(relative_margin=None)))
        for seed in range(8):
            try:
                found = calibrate(store, run, target, CalibrationConfig(seed=seed))
            except UsageError as error:
                reported.append(str(error))
                continue
            assert found.chosen.confirming_half.hidden_positive_rate.rate is None
            assert not found.confirmed
            assert "not confirmed: no positive of the other half may be hidden" in calibration_table(found)
    assert 0 < len(reported) < 8
    assert all(
        "has no positive that may be hidden" in one or "no setting has a hidden-positive rate" in one
        for one in reported
    )


@pytest.mark.slow
def test_the_other_half_has_the_rate_expected_of_it_in_nine_of_ten_draws(tmp_path: Path) -> None:
    rng = random.Random(5)
    words = [f"{a}{b}" for a in "bcdfghjklm" for b in "aeiou"]
    documents, queries, judged = {}, {}, []
    for number in range(80):
        own = rng.sample(words, 4)
        queries[f"q{number}"] = " ".join(own)
        for answer in range(5):
            documents[f"p{number}-{answer}"] = " ".join(
                [*rng.sample(own, rng.randint(1, 3)), *rng.sample(words, 4)]
            )
            judged.append((f"q{number}", f"p{number}-{answer}"))
    with make_store(tmp_path / "s.duckdb", documents, queries, judged) as made:
        run = mine(made, MiningConfig(rules=Rules(relative_margin=None)))
        inside, rates = 0, []
        for seed in range(50):
            found = calibrate(made, run, 0.05, CalibrationConfig(repeats=2, seed=seed))
            rate = found.chosen.confirming_half.hidden_positive_rate.rate
            assert rate is not None
            rates.append(rate)
            inside += found.expected.low <= rate <= found.expected.high
    assert len(set(rates)) > 10, "there is something to be wrong about"
    assert inside >= 45


def test_a_target_and_the_coverage_are_two_things(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--target and --keep-coverage exclude each other"):
        CliRunner().invoke(
            group, ["calibrate", str(tmp_path / "s.duckdb"), "--target", "0.1", "--keep-coverage"],
            catch_exceptions=False,
        )  # fmt: skip


def test_the_table_shows_both_halves(store: Database, run: runs.StoredRun) -> None:
    text = calibration_table(calibrate(store, run, 0.1, CalibrationConfig()))
    for line in ("half that chose", "half that confirms", "expected on the other half"):
        assert line in text


def test_a_calibration_needs_no_model(store: Database, run: runs.StoredRun, tmp_path: Path) -> None:
    path = tmp_path / "copy.duckdb"
    store.execute("CHECKPOINT")
    shutil.copyfile(store.path, path)
    script = (
        "import sys\nfrom miner.cli.main import main\ntry:\n"
        f"    main(['calibrate', {str(path)!r}, '--run', 'base', '--target', '0.2', '--set', 'repeats=2'])\n"
        "except SystemExit as end:\n"
        "    heavy = {'torch', 'transformers', 'sentence_transformers', 'faiss'} & set(sys.modules)\n"
        "    sys.exit(end.code or str(heavy) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "run base" in done.stdout
