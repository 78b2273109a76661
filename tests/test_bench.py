"""`miner bench`: the same training but for the negatives, compared query by query."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import AP, RR, R, nDCG

from miner.cli.bench import command
from miner.engine.files import locked
from miner.engine.progress import Advance
from miner.errors import MinerError, UsageError
from miner.evaluation.evaluate import EvaluationConfig, evaluate
from miner.mining.config import MiningConfig, Rules, Selection
from miner.mining.pipeline import mine
from miner.models.names import resolve
from miner.models.scratch import scratch_model
from miner.stats import Difference, compare_values, holm
from miner.store.database import Database
from miner.store.triplets import TextsById
from miner.training.encoder_config import EncoderConfig
from miner.workflows import bench_report
from miner.workflows.arms import arms_of, rows_of_arm
from miner.workflows.bench import bench
from miner.workflows.bench_config import ARMS, BenchConfig, Size, parse_sizes
from miner.workflows.bench_result import BenchReport, Comparison, Trained, compared
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
        """SELECT query_id, list(doc_id ORDER BY rank)[:3]
        FROM scores JOIN runs r ON r.name = run JOIN candidates c USING (evidence, query_id, doc_id)
        WHERE run = 'strict' AND kind = 'dense' AND exclusion IS NULL AND rank IS NOT NULL GROUP BY ALL""",
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
    with pytest.raises(
        UsageError, match="run words did not search with a retriever beside BM25: arm 'hard' has no negatives"
    ):
        arms_of(store, of_run("words"))


def test_a_run_without_triplets_is_refused(tmp_path: Path) -> None:
    judgments = [("q1", "d1", "train"), ("q2", "d2", "test")]
    texts = {"d1": "alpha", "d2": "beta"}
    with make_store(tmp_path / "s.duckdb", texts, {"q1": "alpha", "q2": "beta"}, judgments) as store:
        mine(store, MiningConfig(), name="none")
        with pytest.raises(UsageError, match="no positive of none has 1 negatives in all of"):
            arms_of(store, of_run("none", replace(SMALL, arms=("easy", "hard-filtered"))))


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
    before = report.base.means["nDCG@10"]
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
        assert len(one.values["nDCG@10"]) == len(report.ids) == 8


def test_the_table_reads_well(result: tuple[BenchReport, Path]) -> None:
    report, out = result
    text = re.sub(r"\d\.\d{4}", "#", bench_report.table(report))
    assert text.split("\n\n")[0] == (
        "s.duckdb test: retrieval, 8 queries, 48 documents\n"
        "run all: 16 positives; base scratch, loss mnr, 3 seeds, negatives per row 1"
    )
    lines = [" ".join(line.split()) for line in text.split("\n")[3:]]
    assert lines[:3] == [
        "arm triplets steps nDCG@10 over seeds uncontaminated MRR@10 MAP R@10 R@100 against bundled",
        "untrained base # # – # # # # # #",
        "off-the-shelf bundled # # # # # #",
    ]
    assert lines[3].startswith("easy 8 6 # # – # # # # # # ")
    assert "hard-filtered − easy, 8" in text
    assert "run:all − hard-filtered, 16" in text
    heads = [" ".join(part.splitlines()[0].split()) for part in text.split("\n\n")]
    assert "nDCG@10 difference 95 % interval each seed p p (Holm) verdict" in heads
    assert bench_report.table(report) in (out / "README.md").read_text("utf-8")


def test_files_hold_the_result(result: tuple[BenchReport, Path]) -> None:
    report, out = result
    found = json.loads((out / "results.json").read_text("utf-8"))
    assert found["measure"] == "nDCG@10"
    base, shelf = found["untrained"]
    assert (base["model"], shelf["model"]) == ("scratch", "bundled")
    assert base["means"] == {name: list(values) for name, values in report.base.means.items()}
    assert len(shelf["per_query"]["MAP"]) == 8
    assert found["contaminated"] == {
        "queries": 1, "of": 8, "how": {"near": 1}, "as": {"query": 1}, "ids": ["q12"],
    }  # fmt: skip
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
    stored = {cell: json.loads(cell.read_text("utf-8")) for cell in (tmp_path / "out" / "cells").iterdir()}
    cell = min(cell for cell, figures in stored.items() if "name" in figures)
    lost = stored[cell]
    cell.unlink()
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
    assert "\neasy, 40 − hard-filtered, 8 " in bench_report.table(report)
    assert found.difference.n == 8


def of_means(first: tuple[float, ...], second: tuple[float, ...], p: float) -> Comparison:
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
    found = of_means(first, (0.25, 0.25, 0.25), p)
    assert found.per_seed == tuple(mean - 0.25 for mean in first)
    assert found.verdict == verdict


def trained(arm: str, **values: list[float]) -> Trained:
    """An arm whose trainings all have the same values per query."""
    columns = {name: np.array(column) for name, column in values.items()}
    means = {name: (float(np.mean(column)),) * 3 for name, column in columns.items()}
    return Trained(arm, 8, 4, 0, means, columns)


def test_a_verdict_names_every_measure_that_moved_the_other_way() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0.3, 0.6, 40).tolist()
    up, down = [x + 0.1 for x in base], [x - 0.1 for x in base]
    noise = [x + (0.19 if number % 2 else -0.2) for number, x in enumerate(base)]
    easy = trained("easy", MAP=base, R=base, P=base, Q=base)
    measures = ["MAP", "R", "P", "Q"]
    (found,) = compared([(trained("hard", MAP=up, R=down, P=noise, Q=up), easy)], measures)
    assert found.verdict == "hard is ahead; easy is ahead in R"
    assert [one.difference.measure for one in found.exceptions] == ["R"]
    assert found.others[1].difference.difference < 0, "moved the other way, but that is not shown"
    assert found.others[1].verdict == "no difference shown"
    (found,) = compared([(trained("hard", MAP=noise, R=down, P=up, Q=up), easy)], measures)
    assert found.verdict == "no difference shown; hard is ahead in P, Q; easy is ahead in R"
    (found,) = compared([(trained("hard", MAP=up, R=up, P=noise, Q=base), easy)], measures)
    assert found.verdict == "hard is ahead"


def test_holm_corrects_every_measure_for_the_number_of_comparisons() -> None:
    rng = np.random.default_rng(1)
    lines = [trained(name, MAP=rng.random(30).tolist(), R=rng.random(30).tolist()) for name in "abc"]
    pairs = [(lines[0], lines[1]), (lines[0], lines[2]), (lines[1], lines[2])]
    found = compared(pairs, ["MAP", "R"])
    assert [one.holm for one in found] == holm([one.difference.p for one in found])
    others = [one.others[0] for one in found]
    assert [one.holm for one in others] == holm([one.difference.p for one in others])
    for (first, second), one in zip(pairs, found, strict=True):
        expected = compare_values("MAP", first.values["MAP"], second.values["MAP"])
        assert asdict(one.difference) == pytest.approx(asdict(expected), abs=1e-12)
    assert compared([], ["MAP"]) == ()


def with_interval(low: float, high: float, p: float, corrected: float, gaps: tuple[float, ...]) -> Comparison:
    found = of_means(tuple(0.25 + gap for gap in gaps), (0.25, 0.25, 0.25), p)
    return replace(found, difference=replace(found.difference, low=low, high=high), holm=corrected)


def test_an_interval_that_excludes_0_beside_no_difference_is_explained() -> None:
    up = (0.1, 0.1, 0.1)
    ahead, unclear = with_interval(0.01, 0.2, 0.001, 0.01, up), with_interval(-0.1, 0.2, 0.4, 0.8, up)
    assert bench_report.intervals_beside([ahead, unclear]) is None
    beside = with_interval(0.01, 0.2, 0.03, 0.06, up)
    start = "An interval excludes 0 beside 'no difference shown': "
    text = "the interval is for one comparison, p (Holm) is corrected for all 2"
    assert bench_report.intervals_beside([ahead, beside]) == f"{start}{text}."
    of_seeds = with_interval(-0.2, -0.01, 0.001, 0.01, (0.1, -0.3, -0.1))
    found = bench_report.intervals_beside([beside, of_seeds])
    assert found == f"{start}{text}; the seeds do not agree on the sign."
    at_limit = with_interval(0.001, 0.2, 0.0501, 0.0501, up)
    found = bench_report.intervals_beside([at_limit])
    assert found == f"{start}interval and test are two methods, which may differ at the limit."


# --- untrained models


def by_ir_measures(path: Path, ids: tuple[str, ...]) -> dict[str, float]:
    """The bundled model's measures on the test split, from its own vectors by ir-measures."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(resolve("bundled").path), device="cpu")
    with Database.open(path, read_only=True) as store:
        documents = dict(store.rows("SELECT doc_id, text FROM document_texts"))
        queries = dict(store.rows("SELECT query_id, text FROM queries"))
        judged = store.rows("SELECT query_id, doc_id, relevance FROM judgments WHERE split = 'test'")
    assert {query for query, _, _ in judged} == set(ids)
    vectors = model.encode(list(documents.values()), normalize_embeddings=True)
    run = [
        ir_measures.ScoredDoc(query, doc, float(score))
        for query in ids
        for doc, score in zip(
            documents, vectors @ model.encode(queries[query], normalize_embeddings=True), strict=True
        )
    ]
    qrels = [ir_measures.Qrel(query, doc, int(relevance)) for query, doc, relevance in judged]
    found = ir_measures.calc_aggregate([nDCG @ 10, RR @ 10, AP, R @ 10], qrels, run)
    names = {"nDCG@10": nDCG @ 10, "MRR@10": RR @ 10, "MAP": AP, "R@10": R @ 10}
    return {name: found[measure] for name, measure in names.items()}


@pytest.fixture(scope="module")
def from_bundled(path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[BenchReport, Path]:
    out = tmp_path_factory.mktemp("bundled") / "out"
    training = EncoderConfig(base="bundled", max_steps=1, batch_size=8)
    return bench(path, out, replace(of_run("all"), arms=("easy",), sizes=(Size(8),), training=training)), out


def test_the_untrained_base_has_the_figures_of_ir_measures(
    path: Path, from_bundled: tuple[BenchReport, Path]
) -> None:
    report, _ = from_bundled
    assert report.off_the_shelf is None, "the base is one"
    for name, value in by_ir_measures(path, report.ids).items():
        assert report.base.mean(name) == pytest.approx(value, abs=1e-6)
        assert report.base.means[name] == (report.base.mean(name),)
    (found,) = report.against
    assert (found.first, found.second) == (report.trained[0], report.base)
    expected = report.trained[0].mean("nDCG@10") - report.base.mean("nDCG@10")
    assert found.difference.difference == pytest.approx(expected)
    assert found.per_seed == tuple(
        one - report.base.mean("nDCG@10") for one in report.trained[0].means["nDCG@10"]
    )
    head, base, *_ = bench_report.table(report).split("\n\n")[1].splitlines()
    assert head.endswith("against the base")
    assert base.startswith(f"untrained base                    {report.base.mean('nDCG@10'):.4f}")


def test_the_base_is_measured_once(
    path: Path, from_bundled: tuple[BenchReport, Path], tmp_path: Path
) -> None:
    report, out = from_bundled
    shutil.copytree(out, tmp_path / "out")
    alone = shutil.copy(path, tmp_path / path.name)  # without its vectors
    again = bench(alone, tmp_path / "out", report.config)
    assert bench_report.as_json(again) == bench_report.as_json(report)
    assert not list(tmp_path.glob("*.vectors/**/*")), "nothing is encoded again"


def test_scratch_is_compared_with_the_encoder_of_the_run(
    path: Path, result: tuple[BenchReport, Path]
) -> None:
    report, _ = result
    shelf = report.off_the_shelf
    assert shelf is not None
    assert (shelf.model, shelf.arm) == ("bundled", "off-the-shelf bundled")
    with Database.open(path, read_only=True) as store:
        (expected,) = evaluate(store, "bundled", EvaluationConfig())
    assert dict(shelf.evaluations[0].means) == pytest.approx(dict(expected.means))
    assert {one.second.arm for one in report.against} == {shelf.arm}, "a random table is no reference"
    assert len(report.against) == len(report.trained)


def test_the_off_the_shelf_encoder_may_be_named(path: Path, tmp_path: Path) -> None:
    scratch_model("bundled", 8, 3).save_pretrained(str(tmp_path / "table"))
    config = replace(of_run("words"), arms=("easy",), sizes=(Size(8),), off_the_shelf=str(tmp_path / "table"))
    report = bench(path, tmp_path / "out", config)
    assert [one.arm for one in report.untrained] == ["untrained base", "off-the-shelf table"]
    without = bench(path, tmp_path / "out", replace(config, off_the_shelf=None))
    assert [one.model for one in without.untrained] == ["scratch", "bundled"], "run words has no encoder"
    with pytest.raises(MinerError, match=r"no model folder at \./nowhere"):
        bench(path, tmp_path / "new", replace(config, off_the_shelf="./nowhere"))
    assert not (tmp_path / "new").exists()


def test_trainings_that_make_the_base_worse_are_reported(from_bundled: tuple[BenchReport, Path]) -> None:
    report, _ = from_bundled
    (found,) = report.against
    up = replace(found, holm=0.01, first=of_means((0.9, 0.9, 0.9), (0, 0, 0), 0.01).first)
    for gap, word in ((-0.25, "behind -0.2500"), (0.25, "ahead +0.2500")):
        means = {name: (report.base.mean(name) + gap,) * 3 for name in report.base.means}
        first = replace(report.trained[0], means=means)
        moved = replace(up, first=first, difference=replace(found.difference, difference=gap), others=())
        text = bench_report.table(replace(report, trained=(first,), against=(moved,)))
        assert word in text
        assert ("This training makes the base worse, with easy 8: lower learning_rate" in text) == (gap < 0)
    text = bench_report.table(replace(report, against=(replace(found, holm=1.0, others=()),)))
    assert "No arm is ahead of untrained base in nDCG@10: change the training." in text


# --- contamination


def test_queries_that_occur_in_train_are_counted_and_left_out_of_a_mean(tmp_path: Path) -> None:
    documents = {f"d{t}": f"the answer about {name_of(t)} is green and of some length" for t in range(TOPICS)}
    queries = {f"q{t}": f"what is there to ask of {name_of(t)} today" for t in range(TOPICS)}
    judgments = [(f"q{t}", f"d{t}", "test" if t % 3 == 0 else "train") for t in range(TOPICS)]
    queries["q0"] = queries["q4"]  # the same text
    queries["q3"] = queries["q5"].upper()
    queries["q6"] = documents["d7"]
    documents["d15"] = queries["q9"] = "a positive, but that of a test query alone"
    with make_store(tmp_path / "s.duckdb", documents, queries, judgments) as store:
        mine(store, MiningConfig(depth=12, rules=Rules(relative_margin=None)), name="all")
    report = bench(tmp_path / "s.duckdb", tmp_path / "out", replace(of_run("all"), arms=("easy",)))
    found = report.contaminated
    assert (found.ids, found.of) == (("q0", "q12", "q3", "q6"), 8), "q12 has the words of q1"
    assert found.how == {"exact": 2, "normalised": 1, "near": 1}
    assert found.roles == {"query": 3, "document": 1}
    rows = [number for number, query in enumerate(report.ids) if query not in found.ids]
    for line in (*report.trained, *report.untrained):
        expected = np.mean([line.values["nDCG@10"][row] for row in rows])
        assert report.without_contaminated(line) == pytest.approx(expected)
    text = report.as_text()
    assert (
        "contamination: 4 of 8 queries of split test also occur in the training texts "
        "(2 exact, 1 normalised, 1 near),\n3 as queries and 1 as positives. "
        "They may raise nDCG@10; the column uncontaminated leaves them out.\n"
        "To remove training queries: miner contamination STORE STORE --set split=test --remove, "
        "then mine again."
    ) in text
    assert "contaminated=4 of 8 queries" in repr(report)


def test_without_contamination_there_is_no_column(tmp_path: Path) -> None:
    documents = {f"d{t}": f"an answer about {name_of(t)}" for t in range(9)}
    queries = {f"q{t}": f"question about {NUMBERS[t]}" for t in range(6)}
    judgments = [(f"q{t}", f"d{t}", "test" if t < 2 else "train") for t in range(6)]
    with make_store(tmp_path / "s.duckdb", documents, queries, judgments) as store:
        mine(store, MiningConfig(depth=5, rules=Rules(relative_margin=None)), name="all")
    report = bench(tmp_path / "s.duckdb", tmp_path / "out", replace(of_run("all"), arms=("easy",)))
    text = report.as_text()
    assert "contamination: none of the 2 queries of split test occurs in the training texts" in text
    assert "uncontaminated" not in text


def test_prompts_are_the_bases_too(path: Path, tmp_path: Path) -> None:
    base, prompted = scratch_model("bundled", 8, 3), str(tmp_path / "prompted")
    base.save_pretrained(str(tmp_path / "base"))
    base.prompts = {"query": "answer green text: ", "document": ""}
    base.save_pretrained(prompted)
    training = EncoderConfig(base=str(tmp_path / "base"), query_prompt=base.prompts["query"], max_steps=1)
    config = replace(of_run("all"), arms=("easy",), sizes=(Size(8),), training=training)
    (before,) = bench(path, tmp_path / "out", config).base.evaluations
    with Database.open(path, read_only=True) as store:
        plain, other = evaluate(store, training.base, EvaluationConfig(against=(prompted,)))
    assert dict(before.means) == pytest.approx(dict(other.means))
    assert dict(before.means) != pytest.approx(dict(plain.means))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_the_step_down_procedure(p_values: list[float]) -> None:
    corrected = holm(p_values)
    for alpha in (0.01, 0.05, 0.2):
        rejected = set()
        for step, position in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
            if p_values[position] * (len(p_values) - step) > alpha:
                break
            rejected.add(position)
        assert {position for position, p in enumerate(corrected) if p <= alpha} == rejected


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
