"""A judge's grades as predictions beside people's labels: right by hand, unbiased, narrower if it is good."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from miner.auditing.estimate import Design, Labelled
from miner.auditing.labels import FalseNegativeRate, SampleConfig, draw_sample, keep_labels
from miner.export import certificate
from miner.html_report.facts import gather
from miner.html_report.page import render
from miner.judging.config import JudgeConfig
from miner.judging.judge import judge
from miner.mining.config import MiningConfig, Selection
from miner.mining.pipeline import mine
from miner.store.database import Database
from miner.store.runs import find_run
from tests.judge_support import KIND
from tests.serving import Server
from tests.stores import make_store
from tests.test_labels import collection, fill

DRAWN, LABELLED = 80, 60


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server(KIND, "--threshold", "0.6")
    yield running
    running.kill()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    documents, queries, judged, _ = collection()
    with make_store(tmp_path / "s.duckdb", documents, queries, judged) as made:
        mine(made, MiningConfig(selection=Selection(negatives=4)), name="mined")
        yield made


def estimated(store: Database, server: Server, folder: Path, of: str) -> FalseNegativeRate:
    """Draws a sample, has a judge grade it or all negatives, labels the first rows, and estimates."""
    run = find_run(store)
    draw_sample(store, run, SampleConfig(DRAWN), folder / "sample.csv")
    judge(store, run, [server.model], JudgeConfig(of=of, check=0))
    filled = fill(folder / "sample.csv", collection()[-1], LABELLED)
    return keep_labels(store, find_run(store), filled)


def by_hand(store: Database, of: str) -> tuple[float, float]:
    """Returns the rate with and without the judge by the sums of the formula, without arrays."""
    rows = store.rows("SELECT query_id, unnest(doc_ids), unnest(grades) FROM judge_answers")
    graded = {(query, doc): grade >= 2 for query, doc, grade in rows}
    drawn = store.rows(
        """SELECT query_id, doc_id, stratum, predicted, relevance
        FROM sampled LEFT JOIN labels USING (query_id, doc_id)"""
    )
    (strata,) = [json.loads(text) for (text,) in store.rows("SELECT strata FROM samples")]
    sizes, chances = strata["negatives"], strata["predicted"]
    total = sum(sizes)
    labelled: dict[int, list[tuple[float, float, float]]] = {h: [] for h in range(len(sizes))}
    of_sample: dict[int, list[float]] = {h: [] for h in range(len(sizes))}
    for query, doc, stratum, chance, relevance in drawn:
        of_sample[stratum].append(float(graded[query, doc]))
        if relevance is not None:
            labelled[stratum].append((float(relevance > 0), float(graded[query, doc]), chance))

    def rate(column: int, means: list[float], items: list[int]) -> float:
        """Sums over strata of share times (mean of label minus weight times prediction, plus the mean)."""
        above = below = 0.0
        for h, rows in labelled.items():
            n, share = len(rows), sizes[h] / total
            y_mean, f_mean = sum(row[0] for row in rows) / n, sum(row[column] for row in rows) / n
            covariance = sum((row[0] - y_mean) * (row[column] - f_mean) for row in rows) / (n - 1)
            variance = sum((row[column] - f_mean) ** 2 for row in rows) / (n - 1)
            cost = share**2 * (1 / n - 1 / items[h])
            above, below = above + cost * covariance, below + cost * variance
        weight = max(0.0, above / below) if below else 0.0
        result = 0.0
        for h, rows in labelled.items():
            rest = sum(row[0] - weight * row[column] for row in rows) / len(rows)
            result += sizes[h] / total * (rest + weight * means[h])
        return result

    if of == "sampled":
        means = [sum(values) / len(values) for values in of_sample.values()]
        items = [len(values) for values in of_sample.values()]
    else:
        means, items = means_of_all(store, graded), sizes
    assert min(map(len, labelled.values())) >= 2  # else strata are joined
    return rate(1, means, items), rate(2, chances, sizes)


def means_of_all(store: Database, graded: dict[tuple[str, str], bool]) -> list[float]:
    """Returns the share that the judge calls relevant among the negatives of each stratum."""
    from miner.auditing.graded import unjudged_negatives

    table, chance, rows = unjudged_negatives(store, find_run(store))
    design = Design.of(chance[rows], DRAWN)
    ids = table.take(rows).select(["query_id", "doc_id"]).to_pylist()
    by_stratum: dict[int, list[bool]] = {}
    for stratum, one in zip(design.stratum.tolist(), ids, strict=True):
        by_stratum.setdefault(stratum, []).append(graded[one["query_id"], one["doc_id"]])
    return [sum(values) / len(values) for _, values in sorted(by_stratum.items())]


@pytest.mark.parametrize("of", ["sampled", "selected"])
def test_the_rate_is_that_of_the_formula(store: Database, server: Server, tmp_path: Path, of: str) -> None:
    found = estimated(store, server, tmp_path, of)
    with_judge, without = by_hand(store, of)
    assert found.rate == pytest.approx(with_judge)
    assert found.without_judge is not None
    assert found.without_judge[0] == pytest.approx(without)
    assert found.low < found.rate < found.high
    assert (found.judge, found.labels, found.unlabelled) == (server.name, LABELLED, DRAWN - LABELLED)
    assert found.graded == (DRAWN if of == "sampled" else 160)
    text = found.as_text()
    assert f"judge {server.name} for {found.graded} negatives serve as predictions" in text
    assert f"grades of judge `{server.name}`" in certificate.render(certificate.facts(store, find_run(store)))
    page = render(gather(store, find_run(store), None, []))
    assert f"The grades of judge {server.name} for {found.graded} negatives serve as predictions" in page
    again = draw_sample(store, find_run(store), SampleConfig(DRAWN))
    assert again.labelled == LABELLED  # the judge's grades do not change what a seed draws


def test_grades_of_a_part_of_the_sample_are_not_used(store: Database, server: Server, tmp_path: Path) -> None:
    run = find_run(store)
    draw_sample(store, run, SampleConfig(DRAWN), tmp_path / "sample.csv")
    judge(store, run, [server.model], JudgeConfig(of="sampled", check=0, budget="50 requests"))
    filled = fill(tmp_path / "sample.csv", collection()[-1], LABELLED)
    found = keep_labels(store, find_run(store), filled)
    assert (found.judge, found.graded, found.without_judge) == (None, 0, None)


def population(seed: int, items: int = 2_000) -> tuple[np.ndarray, np.ndarray]:
    """Returns which items are relevant, and a rough chance of each."""
    random = np.random.default_rng(seed)
    logit = random.normal(0, 2, items)
    relevant = (random.random(items) < 1 / (1 + np.exp(3.5 - logit))).astype(float)
    return relevant, 1 / (1 + np.exp(3.5 - 0.5 * logit - random.normal(0, 1, items)))


@pytest.mark.parametrize("sensitivity", [0.9, 0.1])
@pytest.mark.parametrize("drawn", [600, 2_000])
def test_the_interval_contains_the_share_however_good_the_judge_is(sensitivity: float, drawn: int) -> None:
    covered, errors, widths = [], [], []
    for seed in range(60):
        relevant, chance = population(seed)
        random = np.random.default_rng(1_000 + seed)
        grade = (random.random(len(chance)) < np.where(relevant > 0, sensitivity, 0.1)).astype(float)
        design = Design.of(chance, drawn)
        sample = design.draw(seed)
        first = sample[:150]
        strata = len(design.population)
        items = np.bincount(design.stratum[sample], minlength=strata)
        of_chance = np.bincount(design.stratum, chance, strata) / design.population
        means = np.bincount(design.stratum[sample], grade[sample], strata) / items
        ones = np.ones(len(first))
        known = design.stratum[first], relevant[first]
        plain = Labelled(*known, chance[first], ones, design.population, of_chance).estimate()
        rate, low, high = Labelled(
            *known, grade[first], ones, design.population, means, items, of_chance
        ).estimate()
        covered.append(low <= relevant.mean() <= high)
        errors.append(rate - relevant.mean())
        widths.append((high - low) / (plain[2] - plain[1]))
    assert np.mean(covered) >= 0.9
    assert abs(np.mean(errors)) < 0.4 * np.std(errors)
    assert np.mean(widths) < (0.95 if sensitivity == 0.9 else 1.15)
