"""Reviewing by hand: every press is a row, the pairs are in the order of what an answer would change, and the
figures follow from the answers. Files come back as they went.

Answers become labels, and judgments that can be undone.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, roc_auc_score

import miner
from miner.agreement import (
    ALPHA,
    KAPPA,
    MISSING,
    agreement,
    coincidences_of,
    krippendorff_alpha,
)
from miner.auditing.labels import SampleConfig, draw_sample, false_negative_rate
from miner.auditing.relabel import relabel_by_people
from miner.cli.main import group
from miner.errors import InputError, UsageError
from miner.mining.config import MiningConfig, Selection
from miner.mining.pipeline import decide_again, mine
from miner.review.exchange import COLUMNS, export_reviews, import_reviews
from miner.review.queue import Queue, QueueConfig, _mixed
from miner.review.session import Session
from miner.review.summary import LIKELIEST, RANDOMLY, SUSPECTED, summarise
from miner.store import labels as stored_labels
from miner.store import relabel as relabelled
from miner.store import reviews as stored
from miner.store.database import Database
from miner.store.reviews import CHOSEN, NOT_RELEVANT, RANDOM, RELEVANT, SAMPLE, UNDONE, UNSURE, Press
from miner.store.runs import StoredRun, find_run, remove_runs
from tests.stores import make_store
from tests.test_labels import collection
from tests.test_relabel import everything

Pair = tuple[str, str]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    documents, queries, judged, _ = collection()
    with make_store(tmp_path / "s.duckdb", documents, queries, judged) as made:
        mine(made, MiningConfig(selection=Selection(negatives=4)), name="mined")
        yield made


def truth() -> set[Pair]:
    return collection()[-1]


def session(store: Database, **some: float) -> Session:
    return Session(store, find_run(store, "mined"), QueueConfig(**some))  # type: ignore[arg-type]


def answer_all(made: Session, reviewer: str, first: int | None = None) -> None:
    """Answers as somebody would who knows the truth."""
    for at in range(len(made.queue))[:first]:
        made.answer(at, RELEVANT if made.queue.pair(at) in truth() else NOT_RELEVANT, reviewer, 2.0)


# --- rows


def test_every_press_is_a_row_and_the_latest_counts(store: Database) -> None:
    made = session(store)
    made.answer(0, RELEVANT, "anna", 2.5)
    made.answer(0, NOT_RELEVANT, "anna", 1.0)
    made.answer(0, UNSURE, "ben", 9e9)
    made.answer(1, RELEVANT, "anna", math.nan)
    assert made.undo("anna")["at"] == 1
    rows = store.rows("SELECT number, answer, reviewer, stratum, seconds FROM reviews ORDER BY number")
    assert rows == [
        (1, RELEVANT, "anna", CHOSEN, 2.5),
        (2, NOT_RELEVANT, "anna", CHOSEN, 1.0),
        (3, UNSURE, "ben", CHOSEN, 86_400.0),
        (4, RELEVANT, "anna", CHOSEN, 0.0),
        (5, UNDONE, "anna", CHOSEN, 0.0),
    ]
    current = stored.answers(store).to_pylist()
    first = made.queue.pair(0)
    assert [(row["query_id"], row["doc_id"], row["answer"], row["reviewer"]) for row in current] == [
        (*first, NOT_RELEVANT, "anna"),
        (*first, UNSURE, "ben"),
    ]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One store for all examples of a property."""
    documents, queries, judged, _ = collection()
    path = tmp_path_factory.mktemp("shared") / "s.duckdb"
    with make_store(path, documents, dict(list(queries.items())[:3]), judged[:3]) as made:
        mine(made, MiningConfig(selection=Selection(negatives=4)), name="mined")
        yield made


_PRESS = st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.sampled_from([RELEVANT, UNSURE, "undo"]))


@settings(max_examples=40)
@given(presses=st.lists(_PRESS, max_size=12))
def test_a_session_says_what_a_new_one_reads(shared: Database, presses: list[tuple[str, int, str]]) -> None:
    shared.execute("DELETE FROM reviews")
    one = session(shared)
    for name, at, answer in presses:
        if answer == "undo":
            one.undo(name)
        else:
            one.answer(at, answer, name, 1.0)
    again = session(shared)
    for name in "ab":
        assert again.state(name) == one.state(name)
        for at in range(4):
            assert again.item(at, name)["answer"] == one.item(at, name)["answer"]
    for name in "ab":
        assert again.undo(name)["at"] == one.undo(name)["at"], "both undo the latest answer"


def test_answers_outlive_the_run_and_are_there_in_the_next(store: Database) -> None:
    made = session(store)
    answer_all(made, "anna", 10)
    run = find_run(store, "mined")
    decide_again(store, run, MiningConfig(selection=Selection(negatives=3)), name="next")
    remove_runs(store, ["mined"])
    again = Session(store, find_run(store, "next"), QueueConfig())
    assert again.state("anna")["answered"] > 5
    report = summarise(store, find_run(store, "next"), QueueConfig())
    assert report.reviewed == again.state("anna")["answered"]
    assert all(group.reviewed == 0 for group in report.groups), (
        "another run's negatives are another population"
    )


# --- order


def test_suspected_pairs_come_first_the_likeliest_before(store: Database) -> None:
    run = find_run(store, "mined")
    queue = Queue.of(store, run, QueueConfig(random=0))
    assert set(queue.strata) == {CHOSEN}
    suspected = int(queue.suspected.sum())
    assert queue.suspected[:suspected].all()
    assert len(queue) == suspected + 160
    relevant = np.array([queue.pair(at) in truth() for at in range(len(queue))])
    for part in (relevant[:suspected], relevant[suspected:]):
        assert roc_auc_score(part, -np.arange(len(part))) > 0.55, "the likeliest come first"


def test_random_pairs_are_mixed_in_evenly_and_are_random(store: Database) -> None:
    run = find_run(store, "mined")
    queue = Queue.of(store, run, QueueConfig(random=0.2, seed=3))
    again = Queue.of(store, run, QueueConfig(random=0.2, seed=3))
    assert [queue.pair(at) for at in range(50)] == [again.pair(at) for at in range(50)]
    drawn = [at for at, stratum in enumerate(queue.strata) if stratum == RANDOM]
    assert len(drawn) == 32
    assert not queue.suspected[drawn].any()
    assert max(after - before for before, after in pairwise(drawn)) == 5
    others = Queue.of(store, run, QueueConfig(random=0.2, seed=4))
    both = {queue.pair(at) for at in drawn} & {
        others.pair(at) for at, stratum in enumerate(others.strata) if stratum == RANDOM
    }
    assert len(both) < 16
    assert sorted(map(queue.pair, range(len(queue)))) == sorted(map(others.pair, range(len(others))))
    assert set(Queue.of(store, run, QueueConfig(random=1)).strata) == {RANDOM, CHOSEN}


@given(st.integers(0, 40), st.integers(0, 40), st.floats(0, 1))
def test_mixing_keeps_both_orders_and_loses_nothing(chosen: int, drawn: int, share: float) -> None:
    mixed = _mixed(np.arange(chosen), 100 + np.arange(drawn), share).tolist()
    assert [one for one in mixed if one < 100] == list(range(chosen))
    assert [one - 100 for one in mixed if one >= 100] == list(range(drawn))


def test_the_sample_of_an_audit_comes_first_and_gets_labels(store: Database, tmp_path: Path) -> None:
    run = find_run(store, "mined")
    sample = draw_sample(store, run, SampleConfig(40))
    made = session(store)
    pairs = list(zip(sample.pairs["query_id"].to_pylist(), sample.pairs["doc_id"].to_pylist(), strict=True))
    assert [made.queue.pair(at) for at in range(40)] == pairs
    assert made.queue.strata[:41] == [SAMPLE] * 40 + [CHOSEN]
    answer_all(made, "anna", 60)
    found = false_negative_rate(store, run)
    assert found is not None
    assert (found.labels, found.sources) == (40, {"person": 40})
    labels = set(store.rows("SELECT query_id, doc_id, relevance, origin FROM labels"))
    assert labels == {(*pair, float(pair in truth()), "miner review") for pair in pairs}
    made.undo("anna")
    assert len(labels) == 40, "the latest answer is of no sampled pair"
    other = NOT_RELEVANT if pairs[0] in truth() else RELEVANT
    made.answer(0, other, "ben", 1.0)
    assert store.rows("SELECT count(*) FROM labels") == [(39,)], "two who disagree give no label"
    made.answer(0, other, "carl", 1.0)
    ((now,),) = store.rows("SELECT relevance FROM labels WHERE query_id = ? AND doc_id = ?", list(pairs[0]))
    assert now == float(other == RELEVANT)


def test_a_label_that_was_read_from_a_file_stays_if_people_say_the_same(store: Database) -> None:
    run = find_run(store, "mined")
    pairs = draw_sample(store, run, SampleConfig(5)).pairs.select(["query_id", "doc_id"])
    stored_labels.keep_labels(store, pairs.append_column("relevance", [[1.0] * 5]), "sample.csv")
    made = session(store)
    made.answer(0, RELEVANT, "anna", 1.0)
    made.undo("anna")
    assert store.rows("SELECT DISTINCT origin, count(*) FROM labels GROUP BY ALL") == [("sample.csv", 5)]


# --- figures


def test_the_random_pairs_estimate_the_rate_and_the_likeliest_do_not(store: Database) -> None:
    made = session(store, random=0.5)
    answer_all(made, "anna")
    report = made.summary()
    groups = {one["name"]: one for one in report["groups"]}
    pairs = store.rows("SELECT query_id, doc_id FROM verdicts WHERE run = 'mined' AND slot IS NOT NULL")
    true = sum(pair in truth() for pair in pairs) / len(pairs)
    assert groups[RANDOMLY]["relevant"]["low"] <= true <= groups[RANDOMLY]["relevant"]["high"]
    assert groups[RANDOMLY]["pairs"] == groups[LIKELIEST]["pairs"] == 80
    assert groups[SUSPECTED]["relevant"]["rate"] > true
    assert report["reviewed"] == report["pairs"] == len(made.queue)
    assert report["agreement"] is None


def test_undecided_pairs_are_in_no_share_and_conflicts_are_listed(store: Database) -> None:
    made = session(store)
    for at, (anna, ben) in enumerate(
        [(RELEVANT, RELEVANT), (RELEVANT, NOT_RELEVANT), (UNSURE, UNSURE), (UNSURE, NOT_RELEVANT)]
    ):
        made.answer(at, anna, "anna", 1.0)
        made.answer(at, ben, "ben", 3.0)
    report = summarise(store, made.run, queue=made.queue)
    assert (report.reviewed, report.reviewers, report.seconds) == (4, {"anna": 4, "ben": 4}, 2.0)
    reviewed = sum(one.reviewed for one in report.groups)
    decided = sum(one.relevant.of for one in report.groups)
    assert (reviewed, decided, sum(one.undecided for one in report.groups)) == (4, 2, 2)
    assert [(one.query_id, one.doc_id) for one in report.conflicts] == [made.queue.pair(1)]
    assert report.conflicts[0].answers == {"anna": RELEVANT, "ben": NOT_RELEVANT}
    assert report.agreement is not None
    assert (report.agreement.measure, report.agreement.units) == (KAPPA, 2)
    assert "1 conflict" in report.as_text()
    made.answer(1, RELEVANT, "carl", 1.0)
    found = summarise(store, made.run, queue=made.queue).agreement
    assert found is not None
    assert found.measure == ALPHA


# --- agreement

_KRIPPENDORFF = """1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 ."""


def test_alpha_is_that_of_the_published_examples() -> None:
    """The examples A and C of Krippendorff 2011, Computing Krippendorff's Alpha-Reliability."""
    rows = [
        [MISSING if one == "." else int(one) - 1 for one in line.split()]
        for line in _KRIPPENDORFF.split("\n")
    ]
    ratings = np.array(rows).T
    assert float(krippendorff_alpha(coincidences_of(ratings, 5).sum(axis=0))) == pytest.approx(
        0.743, abs=5e-4
    )
    found = agreement(ratings, np.arange(12), categories=5)
    assert (found.measure, found.units, found.value) == (ALPHA, 11, pytest.approx(0.743, abs=5e-4))
    two = np.array([[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]).T
    assert float(krippendorff_alpha(coincidences_of(two, 2).sum(axis=0))) == pytest.approx(0.095, abs=5e-4)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60))
def test_kappa_is_that_of_sklearn_and_lies_in_its_interval(ratings: list[tuple[int, int]]) -> None:
    table = np.array(ratings)
    found = agreement(table, np.arange(len(table)))
    if len(np.unique(table)) == 1:
        assert found.value is None
        assert found.low is None
        return
    assert found.value == pytest.approx(cohen_kappa_score(table[:, 0], table[:, 1], labels=[0, 1]))
    assert found.low is None or found.low - 1e-9 <= found.value + 0.5
    assert found.observed == pytest.approx((table[:, 0] == table[:, 1]).mean())


def test_the_interval_of_kappa_covers_the_true_one_also_for_clusters() -> None:
    """Two raters of 40 queries with 5 pairs each; both err on 15 %, more so in some queries."""
    rng = np.random.default_rng(5)

    def _rated(queries: int) -> tuple[np.ndarray, np.ndarray]:
        clusters = np.repeat(np.arange(queries), 5)
        relevant = rng.random(5 * queries) < 0.4
        error = np.repeat(rng.beta(0.6, 3.4, queries), 5)
        said = [relevant ^ (rng.random(5 * queries) < error) for _ in range(2)]
        return np.column_stack(said).astype(int), clusters

    many, _ = _rated(200_000)
    true = cohen_kappa_score(many[:, 0], many[:, 1])
    covered = 0
    for _ in range(60):
        found = agreement(*_rated(40))
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= true <= found.high
    assert covered >= 52


# --- files


def test_answers_go_to_csv_and_come_back(store: Database, tmp_path: Path) -> None:
    made = session(store)
    answer_all(made, "=anna", 20)
    answer_all(made, "ben", 5)
    run = find_run(store, "mined")
    pairs, answers = export_reviews(store, run, QueueConfig(), tmp_path / "out.csv")
    assert (pairs, answers) == (len(made.queue), 25)
    with (tmp_path / "out.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == pairs + 5
    assert rows[0]["reviewer"] == "'=anna", "no spreadsheet runs it"
    with pytest.raises(UsageError, match="exists"):
        export_reviews(store, run, QueueConfig(), tmp_path / "out.csv")
    before = sorted(tuple(row.values())[2:8] for row in stored.answers(store).to_pylist())
    store.execute("DELETE FROM reviews")
    found = import_reviews(store, run, tmp_path / "out.csv")
    assert (found.added, found.unchanged, found.empty) == (25, 0, pairs - 20)
    after = sorted(tuple(row.values())[2:8] for row in stored.answers(store).to_pylist())
    assert after == before
    assert import_reviews(store, run, tmp_path / "out.csv").added == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("query_id,doc_id,answer\nq00,x01,relevant\n", "does not say whose answers"),
        ("query_id,doc_id,answer,reviewer\nq00,x01,yes,anna\n", "unknown answer 'yes'"),
        ("query_id,doc_id,answer,reviewer\nq00,nothing,relevant,anna\n", "'nothing' is not in the store"),
        ("query_id,doc_id,answer,reviewer\nq00,x01,relevant,\n", "a reviewer's name"),
        ("query_id,doc_id,reviewer\nq00,x01,anna\n", "no column answer"),
        (
            "query_id,doc_id,answer,reviewer\nq00,x01,relevant,anna\nq00,x01,unsure,anna\n",
            "this pair has another answer",
        ),
    ],
)
def test_a_wrong_file_changes_nothing(store: Database, tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "answers.csv"
    file.write_text(content)
    with pytest.raises((InputError, UsageError), match=message):
        import_reviews(store, find_run(store), file)
    assert store.rows("SELECT count(*) FROM reviews") == [(0,)]


def test_argilla_and_label_studio_get_what_they_import(store: Database, tmp_path: Path) -> None:
    made = session(store)
    made.answer(0, RELEVANT, "anna", 1.0)
    made.answer(0, UNSURE, "ben", 1.0)
    path = store.path
    store.close()
    records = json.loads(miner.export_reviews(path, tmp_path / "a.argilla.json").read_text("utf-8"))
    query_id, doc_id = made.queue.pair(0)
    assert len(records) == len({one["id"] for one in records}) == len(made.queue)
    first = records[0]
    assert set(first) == {"id", "fields", "metadata", "suggestions", "responses", "vectors"}
    assert first["suggestions"] == {"relevance": {"value": RELEVANT, "score": None, "agent": "anna, ben"}}
    assert first["metadata"] == {"query_id": query_id, "doc_id": doc_id, "group": SUSPECTED}
    documents, queries, _, _ = collection()
    assert first["fields"] == {
        "query": queries[query_id],
        "positives": documents[f"p{query_id[1:]}-0"],
        "candidate": documents[doc_id],
    }
    done = CliRunner().invoke(group, ["review", str(path), "--export", str(tmp_path / "l.label-studio.json")])
    assert done.exit_code == 0, done.output
    tasks = json.loads((tmp_path / "l.label-studio.json").read_text("utf-8"))
    said = [(one["model_version"], one["result"][0]["value"]["choices"]) for one in tasks[0]["predictions"]]
    assert said == [("anna", [RELEVANT]), ("ben", [UNSURE])]
    assert tasks[1]["predictions"] == []


# --- judgments


def test_what_people_call_relevant_becomes_judgments_and_can_be_undone(store: Database) -> None:
    run = find_run(store, "mined")
    made = session(store)
    answer_all(made, "anna", 60)
    for at in range(4):  # two conflicts are decided by a third person, two stay
        made.answer(at, NOT_RELEVANT if made.queue.pair(at) in truth() else RELEVANT, "ben", 1.0)
    for at in range(2):
        made.answer(at, RELEVANT, "carl", 1.0)
    before = everything(store)
    dry = relabel_by_people(store, run, dry_run=True)
    assert everything(store) == before
    report = relabel_by_people(store, run)
    assert (report.answered, report.conflicts, report.relabelled) == (60, 2, dry.relabelled)
    reviewed = set(store.rows("SELECT query_id, doc_id FROM judgments WHERE source = 'reviewed'"))
    wanted = {made.queue.pair(at) for at in range(4, 60)} & truth() | {made.queue.pair(at) for at in range(2)}
    assert reviewed == wanted
    again = find_run(store, report.again)
    assert again.evidence != run.evidence
    second = relabel_by_people(store, again)
    assert (second.known, second.relabelled, second.again) == (len(wanted), 0, None)
    judgments, gone, _ = relabelled.remove_relabelled(store)
    assert (judgments, gone) == (len(wanted), [report.again])
    assert everything(store) == before


def test_a_relabelling_that_was_killed_is_finished(store: Database) -> None:
    run = find_run(store)
    answer_all(session(store), "anna", 30)
    before = everything(store)
    wanted = relabel_by_people(store, run, dry_run=True).relabelled
    pairs = stored.votes(store, run).select(["query_id", "doc_id"])
    some = [pair["doc_id"][:3] == f"p{pair['query_id'][1:]}" for pair in pairs.to_pylist()]
    pairs = pairs.filter(pa.array(some))
    relabelled.add_relabelled(store, pairs, "train", {"run": run.name, "run_id": run.run_id}, "reviewed")
    report = relabel_by_people(store, run)
    assert (report.known, report.relabelled) == (pairs.num_rows, wanted - pairs.num_rows)
    assert report.again is not None
    relabelled.remove_relabelled(store)
    assert everything(store) == before


def test_from_the_shell(store: Database, tmp_path: Path) -> None:
    path = store.path
    run = find_run(store)
    empty = CliRunner().invoke(group, ["relabel", str(path), "--by", "people"])
    assert "nobody answered" in str(empty.exception)
    answer_all(session(store), "anna", 30)
    store.close()
    shown = CliRunner().invoke(group, ["review", str(path), "--summary"])
    assert shown.exit_code == 0, shown.output
    assert "30 of 270 pairs reviewed" in shown.output
    as_json = json.loads(CliRunner().invoke(group, ["review", str(path), "--json"]).output)
    assert as_json["reviewers"] == {"anna": 30}
    done = CliRunner().invoke(group, ["relabel", str(path), "--by", "people", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["run"] == run.name
    assert report["relabelled"] == report["relevant"] > 5
    wrong = CliRunner().invoke(group, ["relabel", str(path), "--by", "people", "--probability", "0.5"])
    assert "--probability has no effect with --by people" in str(wrong.exception)
    unread = CliRunner().invoke(group, ["review", str(path), "--summary", "--port", "80"])
    assert "--port has no effect without the page" in str(unread.exception)
    undone = CliRunner().invoke(group, ["relabel", str(path), "--undo"])
    assert f"removed: {report['relabelled']} relabelled judgments" in undone.output


def test_the_library_does_what_the_command_does(store: Database, tmp_path: Path) -> None:
    answer_all(session(store), "anna", 30)
    assert miner.review_summary(store).reviewers == {"anna": 30}
    out = miner.export_reviews(store, tmp_path / "x.csv")
    assert miner.import_reviews(store, out).unchanged == 30
    table = [{"query_id": "q00", "doc_id": "x01", "answer": RELEVANT}]
    assert miner.import_reviews(store, table, "ben").added == 1
    assert miner.relabel_by_people(store).relabelled > 5
    assert miner.undo_relabel(store) > 5


def test_presses_of_a_run_without_pairs_are_refused(tmp_path: Path) -> None:
    with make_store(tmp_path / "none.duckdb", {"a": "apple pie"}, {"q": "apple"}, [("q", "a")]) as store:
        run: StoredRun = mine(store, MiningConfig())
        with pytest.raises(UsageError, match="has nothing to review"):
            Queue.of(store, run, QueueConfig())
    with pytest.raises(UsageError, match="random must be"):
        QueueConfig(random=1.5)


def test_many_presses_are_one_transaction(store: Database) -> None:
    run = find_run(store)
    press = Press("q00", "x01", RELEVANT, "anna", CHOSEN, 1.0)
    wrong = Press("q00", "x02", RELEVANT, None, CHOSEN, 1.0)  # type: ignore[arg-type]
    with pytest.raises(duckdb.ConstraintException):
        stored.add_presses(store, run, [press, wrong])
    assert store.rows("SELECT count(*) FROM reviews") == [(0,)]
