"""`miner bench`: the same training but for the negatives, compared query by query."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from miner.cli.bench import command
from miner.engine.files import locked
from miner.engine.progress import Advance
from miner.errors import MinerError, UsageError
from miner.evaluation.evaluate import EvaluationConfig, evaluate
from miner.mining.config import MiningConfig, Rules, Selection
from miner.mining.pipeline import mine
from miner.models.scratch import scratch_model
from miner.stats import Difference, holm
from miner.store.database import Database
from miner.store.runs import find_run
from miner.store.triplets import TextsById
from miner.training.encoder_config import EncoderConfig
from miner.workflows import bench_report
from miner.workflows.arms import arms_of, rows_of_arm
from miner.workflows.bench import BenchReport, Comparison, Trained, bench
from miner.workflows.bench_config import ARMS, BenchConfig, Size, parse_sizes
from tests.evaluation_support import judged_store
from tests.stores import make_store

TOPICS = 24
TRAINING = EncoderConfig(base="scratch", dimension=16, batch_size=8, epochs=6, evaluations=0)
SMALL = BenchConfig(arms=("in-batch", "easy", "bm25", "hard", "hard-filtered"), training=TRAINING)
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def name_of(topic: int) -> str:
    return f"{NUMBERS[topic // 12]} {NUMBERS[topic % 12]}"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mined store in which a question's words differ from its answer's; 16 queries train, 8 test."""
    documents = {f"d{t}": f"the answer about {name_of(t)} is green" for t in range(TOPICS)}
    documents |= {f"o{t}": f"some other text of {name_of(t)} and more" for t in range(TOPICS)}
    queries = {f"q{t}": f"question {name_of(t)}" for t in range(TOPICS)}
    judgments = [(f"q{t}", f"d{t}", "test" if t % 3 == 0 else "train") for t in range(TOPICS)]
    path = tmp_path_factory.mktemp("bench") / "s.duckdb"
    with make_store(path, documents, queries, judgments) as store:
        config = MiningConfig(encoder="bundled", depth=12, selection=Selection(negatives=3))
        mine(store, replace(config, rules=Rules(relative_margin=None)), name="all")
        mine(store, replace(config, rules=Rules(relative_margin=0.35)), name="strict")
        mine(store, replace(config, encoder=None), name="words")
    return path


@pytest.fixture
def store(path: Path) -> Iterator[Database]:
    with Database.open(path, read_only=True) as opened:
        yield opened


class Notes:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        yield lambda _: None

    def note(self, message: str) -> None:
        self.said.append(message)


def of_run(name: str, config: BenchConfig = SMALL) -> BenchConfig:
    return replace(config, run=name)


# --- arms


def test_arms_differ_in_their_negatives_alone(store: Database) -> None:
    config = of_run("all")
    arms = arms_of(store, config)
    order = list(range(len(arms.pairs)))[::-1]
    texts = TextsById(store)
    rows = {arm: rows_of_arm(texts, arms, arm, 13, config, order, 9) for arm in SMALL.arms}
    assert list(rows["in-batch"].texts) == ["anchor", "positive"]
    for arm in SMALL.arms[1:]:
        assert list(rows[arm].texts) == ["anchor", "positive", "negative"]
        assert rows[arm].texts["anchor"] == rows["in-batch"].texts["anchor"]
        assert rows[arm].texts["positive"] == rows["in-batch"].texts["positive"]
    assert len({tuple(rows[arm].texts["negative"]) for arm in ("easy", "bm25", "hard")}) == 3


@pytest.mark.parametrize("seed", range(5))
def test_no_negative_is_known_to_be_relevant(store: Database, seed: int) -> None:
    training = replace(TRAINING, seed=seed)
    arms = arms_of(store, replace(of_run("all"), training=training))
    for arm in set(arms.names) - {"in-batch"}:
        for (query, positive), negatives in arms.of(arm, seed).items():
            assert len(negatives) == len(set(negatives)) <= 3
            assert positive == query.replace("q", "d")
            assert positive not in negatives


def test_easy_negatives_are_drawn_with_the_seed(store: Database) -> None:
    def easy(seed: int) -> object:
        return arms_of(store, replace(of_run("all"), training=replace(TRAINING, seed=seed))).of("easy", seed)

    assert easy(1) == easy(1) != easy(2)
    several = arms_of(store, of_run("all"))
    assert list(several.easy) == [13, 14, 15]
    assert several.easy[13] != several.easy[14] != several.easy[15]
    rows = [
        rows_of_arm(TextsById(store), several, "easy", seed, SMALL, [3, 1, 2], 3).texts for seed in (13, 14)
    ]
    assert rows[0]["positive"] == rows[1]["positive"]
    assert rows[0]["negative"] != rows[1]["negative"]


def test_hard_is_what_the_encoder_ranks_best_whatever_the_rules_say(store: Database) -> None:
    arms = arms_of(store, of_run("strict"))
    found = {query: ids for (query, _), ids in arms.negatives["hard"].items()}
    expected = store.rows(
        """SELECT query_id, list(doc_id ORDER BY dense_rank)[:3] FROM candidates
        WHERE evidence = ? AND exclusion IS NULL AND dense_rank IS NOT NULL GROUP BY ALL""",
        [find_run(store, "strict").evidence],
    )
    assert found == {query: ids for query, ids in expected if query in found}
    assert arms.negatives["hard"] != arms.negatives["hard-filtered"]


def test_filtered_is_the_run(store: Database) -> None:
    config = replace(of_run("all"), arms=("hard-filtered", "run:all", "run:strict"))
    arms = arms_of(store, config)
    assert arms.negatives["hard-filtered"] == arms.negatives["run:all"] != arms.negatives["run:strict"]


def test_pairs_without_negatives_in_some_arm_are_left_out_of_all(store: Database) -> None:
    three = replace(of_run("all"), negatives_per_row=3, arms=("easy", "hard-filtered", "run:strict"))
    arms = arms_of(store, three)
    assert arms.left_out > 0
    assert all(len(arms.of(arm, 14)[pair]) == 3 for arm in arms.names for pair in arms.pairs)


def test_more_rows_than_pairs_take_the_next_negatives(store: Database) -> None:
    config = of_run("all", replace(SMALL, arms=("easy",)))
    arms = arms_of(store, config)
    pairs = len(arms.pairs)
    rows = rows_of_arm(TextsById(store), arms, "easy", 13, config, list(range(pairs)), 2 * pairs + 1)
    assert len(rows) == 2 * pairs + 1
    first, second = rows.texts["negative"][:pairs], rows.texts["negative"][pairs : 2 * pairs]
    assert rows.texts["anchor"][:pairs] == rows.texts["anchor"][pairs : 2 * pairs]
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_arms_that_a_run_has_no_evidence_for_are_left_out_or_refused(store: Database) -> None:
    assert set(arms_of(store, replace(of_run("words"), arms=())).names) == set(ARMS) - {"hard"}
    with pytest.raises(UsageError, match="run words did not search with dense: arm 'hard' has no negatives"):
        arms_of(store, of_run("words"))


# --- bench


@pytest.fixture(scope="module")
def result(path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[BenchReport, Path]:
    out = tmp_path_factory.mktemp("results") / "out"
    config = replace(of_run("all"), arms=("easy", "hard-filtered", "run:all"), sizes=(Size(8), Size(100)))
    report = bench(path, out, config)
    bench_report.write(report, out)
    return report, out


def test_every_arm_has_the_same_steps_and_seeds(result: tuple[BenchReport, Path]) -> None:
    report, _ = result
    assert {(one.rows, one.steps) for one in report.trained} == {(8, 6), (16, 12)}
    assert all(len(values) == 3 for one in report.trained for values in one.means.values())


def test_training_raises_the_measure(result: tuple[BenchReport, Path]) -> None:
    report, _ = result
    before = report.means_before["nDCG@10"]
    assert len(set(before)) == 3, "the table of each seed is another"
    assert all(one.mean("nDCG@10") > np.mean(before) for one in report.trained if one.rows == 16)


def test_an_arm_does_not_differ_from_itself(result: tuple[BenchReport, Path]) -> None:
    report, _ = result
    (same,) = [
        found
        for found in report.comparisons
        if {found.first.arm, found.second.arm} == {"hard-filtered", "run:all"} and found.first.rows == 16
    ]
    assert (same.difference.difference, same.difference.p, same.verdict) == (0, 1, "no difference shown")


def test_values_are_means_over_seeds_and_means_over_queries(result: tuple[BenchReport, Path]) -> None:
    report, _ = result
    for one in report.trained:
        assert one.mean("nDCG@10") == pytest.approx(float(one.values["nDCG@10"].mean()))
        assert len(one.values["nDCG@10"]) == len(report.before[0].ids) == 8


def test_the_table_reads_well(result: tuple[BenchReport, Path]) -> None:
    report, out = result
    text = re.sub(r"\d\.\d{4}", "#", bench_report.table(report))
    assert text.split("\n\n")[0] == (
        "s.duckdb test: retrieval, 8 queries, 48 documents\n"
        "run all: 16 positives; base scratch, loss mnr, 3 seeds, negatives per row 1"
    )
    lines = [" ".join(line.split()) for line in text.split("\n")[3:]]
    assert lines[:3] == [
        "arm triplets steps nDCG@10 over seeds MRR@10 MAP R@10 R@100",
        "before training # # – # # # # #",
        "easy 8 6 # # – # # # # #",
    ]
    assert "hard-filtered − easy, 8" in text
    assert "run:all − hard-filtered, 16" in text
    head = text.split("\n\n")[2].splitlines()[0]
    assert " ".join(head.split()) == "nDCG@10 difference 95 % interval each seed p p (Holm) verdict"
    assert bench_report.table(report) in (out / "README.md").read_text("utf-8")


def test_files_hold_the_result(result: tuple[BenchReport, Path]) -> None:
    report, out = result
    found = json.loads((out / "results.json").read_text("utf-8"))
    assert found["measure"] == "nDCG@10"
    assert found["before"] == {name: list(values) for name, values in report.means_before.items()}
    assert [(arm["arm"], arm["triplets"]) for arm in found["arms"]] == [
        (o.arm, o.rows) for o in report.trained
    ]
    assert len(found["arms"][0]["per_query"]["MAP"]) == len(found["ids"]) == 8
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    chart = (out / "curve.svg").read_text("utf-8")
    assert "<svg" in chart
    assert all(f">{size}<" in chart for size in {one.rows for one in report.trained}), "sizes on the axis"
    assert {path.name for path in out.iterdir()} == {
        "README.md", "cells", "curve.png", "curve.svg", "results.json",
    }  # fmt: skip


def test_started_again_it_repeats_nothing_and_a_lost_cell_alone(
    path: Path, result: tuple[BenchReport, Path], tmp_path: Path
) -> None:
    report, out = result
    shutil.copytree(out, tmp_path / "out")
    cells = sorted((tmp_path / "out" / "cells").iterdir())
    lost = json.loads(cells[0].read_text("utf-8"))
    cells[0].unlink()
    notes = Notes()
    again = bench(path, tmp_path / "out", report.config, notes)
    assert [note for note in notes.said if ", seed " in note and ":" not in note.split("triplets")[1]] == [
        lost["name"]
    ]
    assert "there are 16 pairs: larger sizes are cut to that" in notes.said
    assert bench_report.as_json(again) == bench_report.as_json(report)


def test_arms_may_have_sizes_of_their_own(path: Path, tmp_path: Path) -> None:
    config = replace(of_run("all"), arms=(), sizes=parse_sizes("easy=40,hard-filtered=8"))
    report = bench(path, tmp_path / "out", config)
    assert [(one.arm, one.rows, one.steps) for one in report.trained] == [
        ("hard-filtered", 8, 6),
        ("easy", 40, 30),
    ]
    (found,) = report.comparisons
    assert bench_report.table(report).splitlines()[-1].startswith("easy, 40 − hard-filtered, 8 ")
    assert found.difference.n == 8


def compared(first: tuple[float, ...], second: tuple[float, ...], p: float) -> Comparison:
    one, other = (
        Trained(arm, 8, 4, 0, {"MAP": means}, {}) for arm, means in (("hard", first), ("easy", second))
    )
    gap = float(np.mean(first) - np.mean(second))
    return Comparison(one, other, Difference("MAP", np.mean(first), np.mean(second), gap, 0, 1, p, 9), p)


@pytest.mark.parametrize(
    ("first", "p", "verdict"),
    [
        ((0.5, 0.75, 0.5), 0.01, "hard is ahead"),
        ((0.0, 0.125, 0.0), 0.01, "easy is ahead"),
        ((0.5, 0.75, 0.5), 0.05, "no difference shown"),
        ((0.5, 0.75, 0.125), 0.01, "no difference shown"),
        ((0.5, 0.75, 0.25), 0.01, "no difference shown"),
    ],
)
def test_who_is_ahead_is_so_with_every_seed(first: tuple[float, ...], p: float, verdict: str) -> None:
    found = compared(first, (0.25, 0.25, 0.25), p)
    assert found.per_seed == tuple(mean - 0.25 for mean in first)
    assert found.verdict == verdict


def test_prompts_are_the_bases_too(path: Path, tmp_path: Path) -> None:
    base, prompted = scratch_model("bundled", 8, 3), str(tmp_path / "prompted")
    base.save_pretrained(str(tmp_path / "base"))
    base.prompts = {"query": "answer green text: ", "document": ""}
    base.save_pretrained(prompted)
    training = EncoderConfig(base=str(tmp_path / "base"), query_prompt=base.prompts["query"], max_steps=1)
    config = replace(of_run("all"), arms=("easy",), sizes=(Size(8),), training=training)
    (before,) = bench(path, tmp_path / "out", config).before
    with Database.open(path, read_only=True) as store:
        plain, other = evaluate(store, training.base, EvaluationConfig(against=(prompted,)))
    assert dict(before.means) == pytest.approx(dict(other.means))
    assert dict(before.means) != pytest.approx(dict(plain.means))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_the_step_down_procedure(p_values: list[float]) -> None:
    corrected = holm(p_values)
    for alpha in (0.01, 0.05, 0.2):
        rejected = set()
        for step, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
            if p_values[place] * (len(p_values) - step) > alpha:
                break
            rejected.add(place)
        assert {place for place, p in enumerate(corrected) if p <= alpha} == rejected


# --- what is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 2}, "seeds must be a whole number from 3 to 1,000, got 2"),
        ({"arms": ("easy", "hrad")}, "no arm 'hrad' (did you mean 'hard'?)"),
        ({"arms": ("easy", "easy")}, "an arm is named twice"),
        ({"arms": ("easy",), "sizes": (Size(5, "hard"),)}, "a size for 'hard', which is not an arm"),
        ({"negatives_per_row": 0}, "negatives_per_row must be a whole number from 1 to 62, got 0"),
        ({"training": EncoderConfig(loss="cosine")}, "loss cosine does not use negatives"),
        (
            {"training": EncoderConfig(loss="triplet"), "negatives_per_row": 2},
            "2 negatives per row are too many for loss triplet, which takes at most 1",
        ),
        (
            {"training": EncoderConfig(loss="triplet"), "arms": ("in-batch", "easy")},
            "loss triplet needs a negative in every row, but arm in-batch has none",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        BenchConfig(**settings)  # type: ignore[arg-type]
    assert caught.value.message == message


@pytest.mark.parametrize("text", ["x", "0", "-5", "easy=", "=5", "esay=5", "1.5"])
def test_sizes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no size"):
        parse_sizes(text)


def test_sizes_are_read() -> None:
    assert parse_sizes("10, easy=200") == (Size(10), Size(200, "easy"))
    assert parse_sizes(None) == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "dev"}, "nothing is judged in split 'dev'"),
        ({"split": "train"}, "run all is of split 'train', which the bench measures on"),
        ({"sizes": (Size(99, "in-batch"),)}, "in-batch has at most one row for each of the 16 pairs, got 99"),
        ({"negatives_per_row": 9}, "no positive of all has 9 negatives in all of"),
        ({"run": "none"}, "no run 'none'"),
    ],
)
def test_what_the_store_lacks_is_refused(
    path: Path, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(MinerError) as caught:
        bench(path, tmp_path / "out", replace(of_run("all"), **settings))  # type: ignore[arg-type]
    assert message in caught.value.message
    assert not (tmp_path / "out" / "cells").exists()


def test_a_folder_of_somebody_else_is_left_alone(path: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "README.md").write_text("precious", "utf-8")
    with pytest.raises(UsageError, match="exists and is not the folder of a bench"):
        bench(path, tmp_path, of_run("all"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["README.md", "models"]
    assert (tmp_path / "README.md").read_text("utf-8") == "precious"


def test_two_benches_of_one_folder_do_not_meet(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with locked(out / "cells"), pytest.raises(MinerError, match="another process is writing"):
        bench(path, out, of_run("all"))
    assert not out.exists()


def test_graded_pairs_are_refused(tmp_path: Path) -> None:
    graded = [("p", "d", 0.0, "test"), ("q", "d", 1.0, "test"), ("r", "d", 2.5, "test")]
    judged_store(tmp_path / "s.duckdb", {"d": "x"}, {"p": "y", "q": "z", "r": "w"}, graded).close()
    with pytest.raises(UsageError, match="split 'test' has graded pairs"):
        bench(tmp_path / "s.duckdb", tmp_path / "out", SMALL)


def test_the_command_prints_the_table_or_json(path: Path, tmp_path: Path) -> None:
    given = [
        str(path), "--run", "all", "--arms", "easy,hard", "--sizes", "8", "--base", "scratch",
        "--set", "dimension=16", "--set", "batch_size=8", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    shown = CliRunner().invoke(command, given)
    assert shown.exit_code == 0, shown.output
    assert "hard − easy, 8" in shown.stdout
    as_json = json.loads(CliRunner().invoke(command, [*given, "--json"]).stdout)
    assert [arm["arm"] for arm in as_json["arms"]] == ["easy", "hard"]
    assert np.isfinite(as_json["comparisons"][0]["p"])


def test_a_report_of_other_arms_is_not_replaced_in_silence(
    result: tuple[BenchReport, Path], tmp_path: Path
) -> None:
    report, out = result
    assert not bench_report.replaces(report, tmp_path)
    assert not bench_report.replaces(report, out)
    other = replace(report, config=replace(report.config, seeds=report.config.seeds + 1))
    assert bench_report.replaces(other, out)
