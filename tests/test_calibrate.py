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

from miner.auditing.audit import audit
from miner.auditing.calibrate import calibrate, candidates, choose, name_of
from miner.auditing.config import AuditConfig
from miner.auditing.replay import Replay
from miner.auditing.report import audit_table, calibration_table, recipe
from miner.auditing.sweep import Sweep
from miner.cli.main import group
from miner.errors import UsageError
from miner.export import ExportConfig, export_run
from miner.mining import rules as ruling
from miner.mining.config import MiningConfig, Rules, Selection, read_recipe, with_values
from miner.mining.pipeline import config_of, decide_again, mine
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
    trial = replay.decide(replay.hide(hidden))
    (counts,) = Sweep(replay, replay.hide(hidden)).counts([rules])
    owner = replay.hideable.positives.owner
    assert (
        counts.selected.tolist()
        == np.bincount(owner[trial.selected], minlength=len(counts.selected)).tolist()
    )
    assert counts.negatives.tolist() == trial.negatives.tolist()
    assert counts.covered.mean() == pytest.approx(trial.left.coverage)
    total = counts.negatives.sum()
    if total:
        assert counts.ranks.sum() / total == pytest.approx(trial.left.rank)
        assert counts.margins.sum() / total == pytest.approx(trial.left.margin)


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
    naive = calibrate(store, run, 0.99, AuditConfig()).chosen.choosing_half
    found = calibrate(store, run, 0.1, AuditConfig())
    assert found.chosen.choosing_half.hidden_positive_rate.rate is not None
    assert (
        found.chosen.choosing_half.hidden_positive_rate.rate <= 0.1 < (naive.hidden_positive_rate.rate or 0)
    )
    assert found == calibrate(store, run, 0.1, AuditConfig())
    better = [
        one
        for one in found.sweep
        if (one.choosing_half.hidden_positive_rate.rate or 0) <= 0.1
        and one.choosing_half.per_query > found.chosen.choosing_half.per_query + 0.06
    ]
    assert not better, "no setting within the target leaves more"
    file = tmp_path / "recipe.toml"
    file.write_text(recipe(found), "utf-8")
    decided = decide_again(store, run, with_values(config_of(run), read_recipe(file)))
    assert config_of(decided).rules == found.chosen.rules


def test_every_rule_is_tried_and_the_rank_window_stays() -> None:
    tried = candidates(Rules(skip_top=4, max_rank=30, min_score=1.0), np.linspace(0, 5, 50))
    assert len(set(tried)) == len(tried) > 100
    for name in ("max_score", "absolute_margin", "relative_margin", "percentile", "relative_percentile"):
        assert sum(getattr(rules, name) is not None for rules in tried) >= 5
    assert {rules.max_rank for rules in tried} == {30}
    assert {rules.min_score for rules in tried} == {1.0}
    assert all(rules.skip_top < 30 for rules in tried)
    assert all(rules.max_score is None or rules.max_score >= 1.0 for rules in tried)


def test_a_target_that_nothing_meets_is_refused(store: Database, run: runs.StoredRun) -> None:
    found = calibrate(store, run, 0.1, AuditConfig())
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
        (Selection(bm25_quota=3), Rules(), "a run with bm25_quota 3 cannot be calibrated"),
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
        calibrate(store, run, 0.1, AuditConfig())


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
    assert "target 10.00 %" in reported.stdout
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


def test_keeping_the_coverage_finds_the_lowest_rate_with_as_much_coverage(
    store: Database, run: runs.StoredRun
) -> None:
    found = calibrate(store, run, None, AuditConfig())
    enough = [one for one in found.sweep if one.choosing_half.coverage >= found.own.choosing_half.coverage]
    assert found.chosen in enough
    assert found.chosen.choosing_half.hidden_positive_rate.rate == min(
        one.choosing_half.hidden_positive_rate.rate or 0.0 for one in enough
    )
    own, confirmed = found.own.confirming_half, found.chosen.confirming_half
    as_much = confirmed.coverage >= own.coverage and (confirmed.hidden_positive_rate.rate or 0) <= (
        own.hidden_positive_rate.rate or 0
    )
    assert found.confirmed == as_much
    assert (
        f"{'confirmed' if as_much else 'not confirmed'}: on the other half the hidden-positive rate is"
        in calibration_table(found)
    )
    assert recipe(found).startswith(
        f"# Calibrated on run {run.name}: {found.chosen.name}.\n"
        "# Lowest rate at the coverage of the run's own rules;"
    )


@pytest.mark.parametrize("rules", SETTINGS, ids=name_of)
def test_a_recipe_has_its_rules_and_no_others_whatever_it_is_applied_to(
    store: Database, run: runs.StoredRun, tmp_path: Path, rules: Rules
) -> None:
    found = calibrate(store, run, 0.5, AuditConfig(repeats=1))
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
    found = calibrate(store, run, 0.1, AuditConfig())
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
                found = calibrate(store, run, target, AuditConfig(share=0.5, seed=seed))
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
            found = calibrate(made, run, 0.05, AuditConfig(repeats=2, seed=seed))
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
    text = calibration_table(calibrate(store, run, 0.1, AuditConfig()))
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
