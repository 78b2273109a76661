"""Labels: a sample of a run's negatives is drawn, filled in, read back, and gives the false-negative rate."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

import miner
from miner.auditing.calibrate import calibrate
from miner.auditing.config import CalibrationConfig
from miner.auditing.labels import SampleConfig, draw_sample, false_negative_rate, keep_labels
from miner.auditing.replay import Replay, Replays
from miner.auditing.sweep import Sweep
from miner.auditing.transfer import MOST_DROPPED, LabelledChances
from miner.cli.main import group
from miner.errors import InputError, UsageError
from miner.mining.config import MiningConfig, Rules, Selection
from miner.mining.pipeline import config_of, decide_again, mine
from miner.stats import exact_interval
from miner.store import labels as stored
from miner.store import runs
from miner.store.database import Database
from miner.store.verdicts import verdicts_of
from tests.stores import make_store

WORDS = [f"{a}{b}" for a in ("alder", "birch", "cedar", "elm") for b in ("wood", "leaf", "bark", "root")]
QUERIES = 40


def collection() -> tuple[dict[str, str], dict[str, str], list[tuple[str, str]], set[tuple[str, str]]]:
    """Returns documents, queries, one judged positive of each, and all relevant pairs, judged or not."""
    rng = random.Random(5)
    queries, documents, judged, relevant = {}, {}, [], set()
    for number in range(QUERIES):
        query_id, words = f"q{number:02}", rng.sample(WORDS, 4)
        queries[query_id] = " ".join(words)
        for answer in range(3):
            doc_id = f"p{number:02}-{answer}"
            documents[doc_id] = " ".join(
                [*rng.sample(words, 3), *rng.sample(WORDS, 2), f"n{number}x{answer}"]
            )
            relevant.add((query_id, doc_id))
        judged.append((query_id, f"p{number:02}-0"))
    for number in range(100):
        documents[f"x{number:02}"] = " ".join([*rng.sample(WORDS, 6), f"other{number}"])
    return documents, queries, judged, relevant


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    documents, queries, judged, _ = collection()
    with make_store(tmp_path / "s.duckdb", documents, queries, judged) as made:
        config = MiningConfig(selection=Selection(negatives=4))
        mine(made, config, name="mined")
        yield made


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8-sig") as text:
        return list(csv.DictReader(text, delimiter="\t" if file.suffix == ".tsv" else ","))


def fill(file: Path, truth: set[tuple[str, str]], first: int | None = None) -> Path:
    """Fills in the relevance of the first rows, as a person would; returns the new file."""
    rows = rows_of(file)
    for row in rows[:first]:
        row["relevance"] = str(int((row["query_id"], row["doc_id"]) in truth))
    filled = file.with_stem(file.stem + "-filled")
    with filled.open("w", newline="", encoding="utf-8") as text:
        writer = csv.DictWriter(text, list(rows[0]), delimiter="\t" if file.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return filled


def true_rate(store: Database, run: runs.StoredRun) -> float:
    truth = collection()[-1]
    pairs = store.rows("SELECT query_id, doc_id FROM verdicts WHERE run = ? AND slot IS NOT NULL", [run.name])
    return sum(pair in truth for pair in pairs) / len(pairs)


def test_from_the_shell_a_sample_is_drawn_filled_in_and_estimated(store: Database, tmp_path: Path) -> None:
    path, truth = store.path, collection()[-1]
    expected = true_rate(store, runs.find_run(store))
    store.close()
    sample = tmp_path / "sample.csv"
    drawn = CliRunner().invoke(group, ["audit", str(path), "--label", "60", "--out", str(sample)])
    assert drawn.exit_code == 0, drawn.output
    assert "60 of 160 negatives drawn to label" in drawn.output
    assert "labels for 4 points" in drawn.output
    assert "points" in drawn.output
    rows = rows_of(sample)
    assert list(rows[0]) == ["query_id", "doc_id", "query", "document", "relevance"]
    assert len(rows) == 60
    assert {row["relevance"] for row in rows} == {""}
    assert [row["query_id"] for row in rows] != sorted(row["query_id"] for row in rows)
    filled = fill(sample, truth)
    read = CliRunner().invoke(group, ["audit", str(path), "--labels", str(filled), "--json"])
    assert read.exit_code == 0, read.output
    rate = json.loads(read.stdout)["false_negative_rate"]
    assert rate["low"] <= expected <= rate["high"]
    assert rate["low"] < rate["rate"] < rate["high"]
    assert (rate["labels"], rate["unlabelled"], rate["negatives"]) == (60, 0, 160)
    assert rate["sources"] == {"person": 60}
    later = CliRunner().invoke(group, ["audit", str(path)])
    assert "false-negative rate" in later.output
    assert "60 by a person" in later.output


def test_labels_of_every_negative_give_the_true_rate(store: Database, tmp_path: Path) -> None:
    run, truth = runs.find_run(store), collection()[-1]
    draw_sample(store, run, SampleConfig(1000), tmp_path / "all.tsv")
    found = keep_labels(store, run, fill(tmp_path / "all.tsv", truth))
    assert found.rate == found.low == found.high == pytest.approx(true_rate(store, run))
    assert found.per_query == pytest.approx(found.rate)  # every query has four negatives


def test_the_same_command_draws_the_same_sample(store: Database, tmp_path: Path) -> None:
    run = runs.find_run(store)
    one = draw_sample(store, run, SampleConfig(30), tmp_path / "one.csv")
    two = draw_sample(store, run, SampleConfig(30), tmp_path / "two.csv")
    assert one.pairs.equals(two.pairs)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    other = draw_sample(store, run, SampleConfig(30, seed=14))
    assert not other.pairs.equals(one.pairs)
    assert len(stored.samples_of(store, run)) == 2


def test_a_larger_sample_has_the_labels_of_a_smaller_one(store: Database, tmp_path: Path) -> None:
    run, truth = runs.find_run(store), collection()[-1]
    draw_sample(store, run, SampleConfig(40), tmp_path / "small.csv")
    keep_labels(store, run, fill(tmp_path / "small.csv", truth))
    large = draw_sample(store, run, SampleConfig(80), tmp_path / "large.csv")
    assert large.pairs.num_rows == 80
    assert large.labelled >= 35
    assert sum(row["relevance"] != "" for row in rows_of(tmp_path / "large.csv")) == large.labelled
    found = keep_labels(store, run, fill(tmp_path / "large.csv", truth))
    assert found.labels == 80


def test_more_labels_are_suggested_only_if_there_are_more_negatives(store: Database) -> None:
    run = runs.find_run(store)
    some, everything = (draw_sample(store, run, SampleConfig(labels)).as_text() for labels in (159, 160))
    assert some.endswith("four times as many labels halve the width; a larger sample keeps these labels")
    assert everything.endswith("all negatives without a judgment: if all are labelled, the rate is exact")


def test_rows_without_a_relevance_are_not_labelled(store: Database, tmp_path: Path) -> None:
    run, truth = runs.find_run(store), collection()[-1]
    draw_sample(store, run, SampleConfig(80), tmp_path / "sample.csv")
    found = keep_labels(store, run, fill(tmp_path / "sample.csv", truth, first=50))
    assert (found.labels, found.unlabelled) == (50, 30)
    assert "30 pairs of the sample have no label" in found.as_text()
    assert found.low <= true_rate(store, run) <= found.high


def test_a_new_label_replaces_the_old_one(store: Database, tmp_path: Path) -> None:
    run, notes = runs.find_run(store), []
    draw_sample(store, run, SampleConfig(20), tmp_path / "sample.csv")
    keep_labels(store, run, fill(tmp_path / "sample.csv", set()))
    everything = {(row["query_id"], row["doc_id"]) for row in rows_of(tmp_path / "sample.csv")}
    found = keep_labels(store, run, fill(tmp_path / "sample.csv", everything), notes.append)
    assert found.rate == pytest.approx(1.0)
    assert notes == ["20 pairs had another relevance before: the new one counts"]
    assert store.rows("SELECT count(*), min(origin) FROM labels") == [(20, "sample-filled.csv")]


def test_judged_negatives_need_no_label_and_count_as_right(tmp_path: Path) -> None:
    documents, queries, judged, truth = collection()
    with make_store(tmp_path / "j.duckdb", documents, queries, judged) as store:
        first = mine(store, MiningConfig(selection=Selection(negatives=4)), name="first")
        wrong = store.rows("SELECT query_id, doc_id FROM verdicts WHERE slot = 1 ORDER BY ALL LIMIT 15")
        store.insert(
            "judgments",
            pa.table(
                {
                    "query_id": [query for query, _ in wrong],
                    "doc_id": [doc for _, doc in wrong],
                    "relevance": [0.0] * 15,
                }
            ),
            split="train",
            source="given",
        )
        run = mine(store, MiningConfig(selection=Selection(negatives=4)), name="second")
        sample = draw_sample(store, run, SampleConfig(1000), tmp_path / "s.csv")
        assert sample.judged >= 15
        assert sample.pairs.num_rows == sample.negatives - sample.judged
        assert not {tuple(pair) for pair in wrong} & {
            (row["query_id"], row["doc_id"]) for row in rows_of(tmp_path / "s.csv")
        }
        found = keep_labels(store, run, fill(tmp_path / "s.csv", truth))
        others = truth - {tuple(pair) for pair in wrong}
        pairs = store.rows("SELECT query_id, doc_id FROM verdicts WHERE run = 'second' AND slot IS NOT NULL")
        assert found.rate == pytest.approx(sum(pair in others for pair in pairs) / len(pairs))
        assert found.judged == sample.judged
        assert first.run_id != run.run_id


def test_the_list_of_runs_has_the_rate_of_those_with_labels(store: Database) -> None:
    run = labelled(store)
    rate = false_negative_rate(store, run)
    assert rate is not None
    decide_again(store, run, config_of(run), name="other")
    store.close()
    found = CliRunner().invoke(group, ["runs", str(store.path), "--json"])
    own, other = json.loads(found.stdout)
    assert own["false_negative_rate"] == {
        "rate": rate.rate, "low": rate.low, "high": rate.high, "labels": 160,
    }  # fmt: skip
    assert other["false_negative_rate"] is None
    table = CliRunner().invoke(group, ["runs", str(store.path)]).stdout.splitlines()
    assert " false-negative rate  hidden-positive rate" in table[0]
    assert f"  {rate.interval}  " in table[1]
    assert "no labels" in table[2]


def test_labels_outlive_their_run_and_fill_later_samples(store: Database, tmp_path: Path) -> None:
    run, truth = runs.find_run(store), collection()[-1]
    draw_sample(store, run, SampleConfig(60), tmp_path / "sample.csv")
    keep_labels(store, run, fill(tmp_path / "sample.csv", truth))
    again = decide_again(store, run, MiningConfig(selection=Selection(negatives=3)), name="fewer")
    runs.remove_runs(store, ["mined"])
    assert store.rows("SELECT count(*) FROM samples UNION ALL SELECT count(*) FROM sampled") == [(0,), (0,)]
    assert store.rows("SELECT count(*) FROM labels") == [(60,)]
    assert false_negative_rate(store, again) is None
    assert draw_sample(store, again, SampleConfig(60)).labelled > 20


def test_the_sample_of_a_removed_run_is_drawn_again_the_same(store: Database, tmp_path: Path) -> None:
    run, truth = runs.find_run(store), collection()[-1]
    draw_sample(store, run, SampleConfig(60), tmp_path / "sample.csv")
    filled, config = fill(tmp_path / "sample.csv", truth), config_of(run)
    store.close()
    removed = CliRunner().invoke(group, ["runs", str(store.path), "--remove", "mined"])
    assert "also removed: the samples to label of mined; labels that were read stay" in removed.stderr
    with Database.open(store.path) as opened:
        again = mine(opened, config, name="mined")
        with pytest.raises(UsageError, match="has no sample") as error:
            keep_labels(opened, again, filled)
        assert "the same --label N and seed draw the same sample again" in error.value.hint
        draw_sample(opened, again, SampleConfig(60), tmp_path / "again.csv")
        assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "sample.csv").read_bytes()
        assert keep_labels(opened, again, filled).labels == 60
    CliRunner().invoke(group, ["decide", str(store.path), "--run", "mined", "--name", "plain"])
    removed = CliRunner().invoke(group, ["runs", str(store.path), "--remove", "plain"])
    assert "samples to label" not in removed.stderr


def test_what_a_spreadsheet_would_run_is_quoted(tmp_path: Path) -> None:
    documents, queries, judged, _ = collection()
    documents |= {f"f{number}": f"=1+1 {' '.join(WORDS[:6])} {number}" for number in range(30)}
    with make_store(tmp_path / "f.duckdb", documents, queries, judged) as store:
        run = mine(store, MiningConfig(selection=Selection(negatives=8)))
        draw_sample(store, run, SampleConfig(1000), tmp_path / "s.csv")
        texts = [row["document"] for row in rows_of(tmp_path / "s.csv")]
        assert any(text.startswith("'=1+1") for text in texts)
        assert not any(text.startswith("=") for text in texts)


def save(file: Path, rows: list[dict[str, str]], separator: str = ",", mark: bool = True) -> Path:
    """Saves rows as a spreadsheet does."""
    with file.open("w", newline="", encoding="utf-8-sig" if mark else "utf-8") as text:
        writer = csv.DictWriter(text, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    return file


def test_a_sample_begins_with_the_mark_that_spreadsheets_need(store: Database, tmp_path: Path) -> None:
    run = runs.find_run(store)
    for name, mark in (("s.csv", True), ("s.tsv", False)):
        draw_sample(store, run, SampleConfig(20), tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(b"\xef\xbb\xbf") == mark
        assert keep_labels(store, run, fill(tmp_path / name, set())).labels == 20


@pytest.mark.parametrize("mark", [True, False])
def test_what_a_spreadsheet_with_decimal_commas_saves_is_read(
    store: Database, tmp_path: Path, mark: bool
) -> None:
    run, truth = runs.find_run(store), collection()[-1]
    draw_sample(store, run, SampleConfig(60), tmp_path / "s.csv")
    expected = keep_labels(store, run, fill(tmp_path / "s.csv", truth))
    rows = [
        {**row, "relevance": f"{int((row['query_id'], row['doc_id']) in truth)},0"}
        for row in rows_of(tmp_path / "s.csv")
    ]
    renamed = [{name.title(): value for name, value in row.items()} for row in rows]
    for separator in (";", ","):
        assert keep_labels(store, run, save(tmp_path / "saved.csv", renamed, separator, mark)) == expected


def two_negatives(store: Database) -> list[str]:
    """Returns the first two negatives of the first query."""
    rows = store.rows("SELECT doc_id FROM verdicts WHERE slot IS NOT NULL ORDER BY query_id, slot LIMIT 2")
    return [doc for (doc,) in rows]


def test_ids_that_a_spreadsheet_changes_are_found_again(store: Database, tmp_path: Path) -> None:
    one, two = two_negatives(store)
    documents, queries, judged, _ = collection()
    names = {doc: f"{'=+-@'[number % 4]}{doc}" for number, doc in enumerate(documents)}
    names |= {doc: f"{number:03}" for number, doc in enumerate(documents) if number % 3 == 0}
    names |= {one: "'-1", two: "-1"}
    numbered = {query: f"{number:03}" for number, query in enumerate(queries)}
    with make_store(
        tmp_path / "i.duckdb",
        {names[doc]: text for doc, text in documents.items()},
        {numbered[query]: text for query, text in queries.items()},
        [(numbered[query], names[doc]) for query, doc in judged],
    ) as changed:
        run = mine(changed, MiningConfig(selection=Selection(negatives=4)))
        sample = draw_sample(changed, run, SampleConfig(1000), tmp_path / "s.csv")
        rows, drawn = rows_of(tmp_path / "s.csv"), sample.pairs.select(["query_id", "doc_id"]).to_pylist()
        assert {pair["doc_id"] for pair in drawn} >= {"'-1", "-1"}
        assert not any(row["doc_id"].startswith(("=", "+", "-", "@")) for row in rows)
        for row in rows:
            row["query_id"] = str(int(row["query_id"]))
            row["doc_id"] = str(int(row["doc_id"])) if row["doc_id"].isdecimal() else row["doc_id"]
            row["relevance"] = "1" if row["doc_id"].startswith("'") else "0"
        found = keep_labels(changed, run, save(tmp_path / "saved.csv", rows))
        assert (found.labels, found.unlabelled) == (len(drawn), 0)
        kept = {
            (query, doc): int(value)
            for query, doc, value in changed.rows("SELECT query_id, doc_id, relevance FROM labels")
        }
        assert kept == {tuple(pair.values()): int(not pair["doc_id"].isdecimal()) for pair in drawn}
        # A table in memory has the ids as they are.
        keep_labels(changed, run, [{**pair, "relevance": int(pair["doc_id"] == "'-1")} for pair in drawn])
        assert {doc for (doc,) in changed.rows("SELECT doc_id FROM labels WHERE relevance > 0")} == {"'-1"}


def test_an_id_that_may_be_one_of_two_is_refused(store: Database, tmp_path: Path) -> None:
    documents, queries, judged, _ = collection()
    renamed = dict(zip(two_negatives(store), ("04", "004"), strict=True))
    documents = {renamed.get(doc, doc): text for doc, text in documents.items()}
    judged = [(query, renamed.get(doc, doc)) for query, doc in judged]
    with make_store(tmp_path / "t.duckdb", documents, queries, judged) as changed:
        run = mine(changed, MiningConfig(selection=Selection(negatives=4)))
        pairs = draw_sample(changed, run, SampleConfig(1000)).pairs.to_pylist()
        both = [{row["query_id"] for row in pairs if row["doc_id"] == name} for name in ("04", "004")]
        query = min(both[0] & both[1])
        with pytest.raises(InputError, match="'4' are not in the sample"):
            keep_labels(changed, run, [{"query_id": query, "doc_id": "4", "relevance": 1}])
        assert keep_labels(changed, run, [{"query_id": query, "doc_id": "04", "relevance": 1}]).labels == 1
        twice = [{"query_id": query, "doc_id": "04", "relevance": label} for label in ("", "1")]
        with pytest.raises(InputError, match="occur twice, and the sample has ids that differ"):
            keep_labels(changed, run, twice)


def test_labels_of_another_run_are_refused_with_its_name(store: Database, tmp_path: Path) -> None:
    run, truth = runs.find_run(store), collection()[-1]
    draw_sample(store, run, SampleConfig(100), tmp_path / "s.csv")
    filled = fill(tmp_path / "s.csv", truth)
    other = decide_again(store, run, MiningConfig(selection=Selection(negatives=1)), name="fewer")
    draw_sample(store, other, SampleConfig(10))
    with pytest.raises(InputError, match="run 'fewer'; these are labels of run mined") as error:
        keep_labels(store, other, filled)
    assert error.value.hint == "read them for that run: --run mined"
    assert keep_labels(store, run, filled).labels == 100


def test_the_stored_rate_is_the_one_that_was_returned(store: Database, tmp_path: Path) -> None:
    run, truth = runs.find_run(store), collection()[-1]
    assert stored.false_negative_rate_of(store, run) is None
    draw_sample(store, run, SampleConfig(50), tmp_path / "sample.csv")
    assert stored.false_negative_rate_of(store, run) is None
    found = keep_labels(store, run, fill(tmp_path / "sample.csv", truth))
    assert stored.false_negative_rate_of(store, run) == found.as_json()


def test_from_python_a_table_of_labels_is_read(store: Database) -> None:
    path, truth = store.path, collection()[-1]
    store.close()
    run = miner.Store.open(path).run()
    with pytest.raises(UsageError, match="has no labels"):
        run.false_negative_rate()
    sample = run.sample_to_label(labels=60)
    assert repr(sample) == "LabelSample of run 'mined': 60 of 160 negatives to label"
    labels = [
        {**row, "relevance": int((row["query_id"], row["doc_id"]) in truth)}
        for row in sample.pairs.to_pylist()
    ]
    found = run.false_negative_rate(labels)
    assert repr(found).startswith("False-negative rate of run 'mined': ")
    assert run.false_negative_rate() == found
    assert miner.false_negative_rate(path) == found
    assert "of 160 negatives are relevant" in found._repr_html_()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relevance": "maybe"}, "s.csv:2: relevance 'maybe' is not a number"),
        ({"relevance": "1", "doc_id": "nowhere"}, "s.csv:2: query 'q.*' and document 'nowhere' are not in"),
        ({}, "no row has a relevance"),
    ],
)
def test_wrong_labels_leave_the_store_as_it_was(
    store: Database, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    run, file = runs.find_run(store), tmp_path / "s.csv"
    draw_sample(store, run, SampleConfig(20), file)
    rows = rows_of(file)
    rows[0] |= change
    rows[1]["relevance"] = "1" if change else ""
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(InputError, match=message):
        keep_labels(store, run, file)
    assert store.rows("SELECT count(*) FROM labels") == [(0,)]


def test_a_pair_with_two_labels_is_refused(store: Database) -> None:
    run = runs.find_run(store)
    row = draw_sample(store, run, SampleConfig(20)).pairs.to_pylist()[0]
    with pytest.raises(InputError, match="two different labels"):
        keep_labels(store, run, [{**row, "relevance": 1}, {**row, "relevance": 0}])


def test_labels_without_a_sample_are_refused_with_what_to_do(store: Database) -> None:
    run = runs.find_run(store)
    with pytest.raises(UsageError, match="has no sample") as error:
        keep_labels(store, run, [{"query_id": "q00", "doc_id": "x01", "relevance": 1}])
    assert "miner audit" in error.value.hint
    draw_sample(store, run, SampleConfig(20))
    with pytest.raises(InputError, match="no column relevance"):
        keep_labels(store, run, [{"query_id": "q00", "doc_id": "x01"}])


def test_a_file_that_may_hold_labels_is_never_replaced(store: Database, tmp_path: Path) -> None:
    file = tmp_path / "sample.csv"
    file.write_text("mine")
    with pytest.raises(UsageError, match="exists and may hold labels"):
        draw_sample(store, runs.find_run(store), SampleConfig(20), file)
    assert file.read_text() == "mine"
    assert not stored.samples_of(store, runs.find_run(store))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label", "20"], "--label needs a file"),
        (["--out", "s.csv"], "--out is for the sample"),
        (["--label", "20", "--labels", "s.csv"], "--label only draws a sample"),
        (["--label", "20", "--out", "s.parquet"], "end its name in .csv or .tsv"),
        (["--labels", "nowhere.csv"], "nowhere.csv: no such file"),
        (["--label", "1", "--out", "s.csv"], "must be a whole number from 2"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    store: Database, tmp_path: Path, options: list[str], message: str
) -> None:
    draw_sample(store, runs.find_run(store), SampleConfig(20))
    store.close()
    found = CliRunner().invoke(group, ["audit", str(store.path), *options])
    assert found.exit_code != 0
    assert message in f"{found.output} {found.exception} {getattr(found.exception, 'hint', '')}"
    assert not list(tmp_path.glob("s.csv"))


def test_a_run_without_negatives_has_nothing_to_label(tmp_path: Path) -> None:
    documents, queries, judged, _ = collection()
    with make_store(tmp_path / "n.duckdb", documents, queries, judged) as store:
        run = mine(store, MiningConfig(rules=miner.Rules(max_score=-1.0)))
        with pytest.raises(UsageError, match="it has no negatives"):
            draw_sample(store, run, SampleConfig(20))


def labelled(store: Database, labels: int = 1000) -> runs.StoredRun:
    """Labels negatives of the run from the truth; returns the run."""
    run, truth = runs.find_run(store), collection()[-1]
    pairs = draw_sample(store, run, SampleConfig(labels)).pairs.select(["query_id", "doc_id"]).to_pylist()
    keep_labels(
        store,
        run,
        [{**pair, "relevance": int((pair["query_id"], pair["doc_id"]) in truth)} for pair in pairs],
    )
    return run


def test_with_labels_calibrate_goes_by_the_false_negative_rate(store: Database) -> None:
    run = labelled(store)
    found = calibrate(store, run, 0.3, CalibrationConfig(repeats=1))
    assert found.labels == 160
    assert all(one.false_negatives is not None for one in found.sweep)
    assert found.chosen.false_negatives is not None
    assert found.chosen.rate == found.chosen.false_negatives.rate <= 0.3
    assert "false-negative rate by labels of at most 30.00 %" in found.as_text()
    assert found.confirmed == (found.chosen.false_negatives.high <= 0.3)
    without = calibrate(store, run, 0.3, CalibrationConfig(repeats=1, use_labels=False))
    assert without.labels == 0
    assert without.chosen.false_negatives is None


def test_labels_support_no_setting_of_candidates_that_their_run_dropped(store: Database) -> None:
    run = labelled(store)
    found = calibrate(store, run, 0.3, CalibrationConfig(repeats=1))
    assert found.own.false_negatives is not None
    assert found.own.false_negatives.dropped == 0
    before = {(row["query_id"], row["doc_id"]): row["outcome"] for row in verdicts_of(store, run).to_pylist()}
    for one in found.sweep:
        again = decide_again(store, run, MiningConfig(**vars(config_of(run)) | {"rules": one.rules}))
        negatives = [
            before[row["query_id"], row["doc_id"]]
            for row in verdicts_of(store, again).to_pylist()
            if row["outcome"] == "negative"
        ]
        assert one.false_negatives is not None
        share = sum(outcome not in ("negative", "kept") for outcome in negatives) / max(1, len(negatives))
        assert one.false_negatives.dropped == pytest.approx(share), one.name
        assert one.supported == (share <= MOST_DROPPED)
    assert {one.supported for one in found.sweep} == {True, False}
    assert found.chosen.supported
    assert "settings cannot be chosen: more than 25 % of their negatives" in found.as_text()


def test_the_predicted_rate_of_the_labelled_run_is_near_its_true_rate(store: Database) -> None:
    run = labelled(store)
    replay = Replay.of(store, run)
    sweep = Sweep(replay, replay.mined)
    chances = LabelledChances.of(Replays.of(store, run), 13)
    assert chances is not None
    (rate,) = chances.rates(chances.count(sweep, [replay.config.rules]))
    assert rate.rate == pytest.approx(true_rate(store, run), abs=0.02)
    assert rate.low <= rate.rate <= rate.high
    rows, negatives = sweep.negatives(replay.config.rules)
    trial = replay.decide(replay.mined)
    assert negatives == len(rows) == int(trial.negatives.sum())


def test_without_a_relevant_label_the_prediction_is_as_sure_as_the_number_of_labels(store: Database) -> None:
    run = runs.find_run(store)
    pairs = draw_sample(store, run, SampleConfig(50)).pairs.select(["query_id", "doc_id"]).to_pylist()
    keep_labels(store, run, [{**pair, "relevance": 0} for pair in pairs])
    replay = Replay.of(store, run)
    sweep = Sweep(replay, replay.mined)
    chances = LabelledChances.of(Replays.of(store, run), 13)
    assert chances is not None
    (rate,) = chances.rates(chances.count(sweep, [replay.config.rules]))
    assert (rate.rate, rate.low) == (0, 0)
    assert rate.high == pytest.approx(exact_interval(0.0, 50)[1])


def test_no_setting_meets_a_target_of_zero_by_labels(store: Database) -> None:
    with pytest.raises(UsageError, match="false-negative rate by labels of at most 0 %"):
        calibrate(store, labelled(store), 0.0, CalibrationConfig(repeats=1))


def test_labels_of_another_run_count_only_once_the_rows_around_them_have_labels(store: Database) -> None:
    run, truth = runs.find_run(store), collection()[-1]
    strict = decide_again(store, run, MiningConfig(selection=Selection(negatives=2)), name="strict")

    def _label(pairs: list[dict[str, str]]) -> list[dict[str, object]]:
        return [
            {
                "query_id": pair["query_id"],
                "doc_id": pair["doc_id"],
                "relevance": int((pair["query_id"], pair["doc_id"]) in truth),
            }
            for pair in pairs
        ]

    keep_labels(store, strict, _label(draw_sample(store, strict, SampleConfig(1000)).pairs.to_pylist()))
    drawn = draw_sample(store, run, SampleConfig(100))
    assert 10 < drawn.labelled < 90
    assert false_negative_rate(store, run) is None
    assert LabelledChances.of(Replays.of(store, run), 13) is None
    rows = drawn.pairs.to_pylist()
    known = [row for row in rows if row["relevance"] is not None]
    with pytest.raises(UsageError, match=r"the labels are stored, but give no false-negative rate"):
        keep_labels(store, run, [{**row, "relevance": int(row["relevance"])} for row in known])
    found = keep_labels(store, run, _label(rows[:50]))
    last = max(number for number, row in enumerate(rows[:50]) if row["relevance"] is None)
    assert found.labels == last + 1
    assert keep_labels(store, run, _label(rows)).labels == 100
    # Drawn again, a sample keeps its time, and so its labels.
    draw_sample(store, run, SampleConfig(100))
    again = false_negative_rate(store, run)
    assert again is not None
    assert again.labels == 100


def test_more_relevant_labels_never_make_the_upper_end_lower_than_none(store: Database) -> None:
    run = runs.find_run(store)
    pairs = draw_sample(store, run, SampleConfig(80)).pairs.select(["query_id", "doc_id"]).to_pylist()
    replay = Replay.of(store, run)
    sweep = Sweep(replay, replay.mined)
    highs = []
    for relevant in range(4):
        keep_labels(
            store, run, [{**pair, "relevance": int(number < relevant)} for number, pair in enumerate(pairs)]
        )
        chances = LabelledChances.of(Replays.of(store, run), 13)
        assert chances is not None
        counts = chances.count(sweep, [replay.config.rules, Rules(percentile=20.0)])
        highs += [rate.high for rate in chances.rates(counts)]
    assert min(highs) >= exact_interval(0.0, 80)[1] - 1e-12


def test_calibrate_shows_the_estimate_of_the_audit_for_the_labelled_run(store: Database) -> None:
    run = labelled(store)
    rate = false_negative_rate(store, run)
    own = calibrate(store, run, 0.3, CalibrationConfig(repeats=1)).own.false_negatives
    assert rate is not None
    assert own is not None
    assert (own.rate, own.low, own.high) == (rate.rate, rate.low, rate.high)
    assert rate.rate >= rate.relevant / rate.negatives
    assert rate.low >= rate.relevant / rate.negatives


def test_from_the_shell_calibrate_can_leave_the_labels_out(store: Database) -> None:
    labelled(store)
    store.close()
    found = CliRunner().invoke(
        group, ["calibrate", str(store.path), "--target", "0.9", "--set", "use_labels=false", "--json"]
    )
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["labels"] == 0


def test_negatives_by_class_alone_can_be_labelled(tmp_path: Path) -> None:
    rows = [{"text": f"{' '.join(WORDS[n % 16 : n % 16 + 3])} {n}", "label": "ab"[n % 2]} for n in range(30)]
    miner.ingest(tmp_path / "l.duckdb", rows)
    run = miner.mine(tmp_path / "l.duckdb", negatives=3)
    sample = run.sample_to_label(labels=20)
    assert sample.pairs.num_rows == 20
    found = run.false_negative_rate(
        [
            {"query_id": row["query_id"], "doc_id": row["doc_id"], "relevance": 0}
            for row in sample.pairs.to_pylist()
        ]
    )
    assert found.rate == 0
    with pytest.raises(UsageError) as caught:
        run.audit()
    assert "miner audit --label 200 --out sample.csv" in str(caught.value.hint)


def test_the_number_of_labels_for_a_width_is_said_beforehand(store: Database) -> None:
    sample = draw_sample(store, runs.find_run(store), SampleConfig(60))
    assert set(sample.needed) == set(sample.widths)
    for rate, number in sample.needed.items():
        assert number <= sample.negatives
        if sample.widths[rate] <= 0.04:
            assert number <= 60
        elif number < sample.negatives:
            assert number > 60
    assert sample.as_json()["needed"]["0.05"] == sample.needed[0.05]


def test_an_emptied_cell_takes_its_label_back(store: Database, tmp_path: Path) -> None:
    run, truth, notes = runs.find_run(store), collection()[-1], list[str]()
    draw_sample(store, run, SampleConfig(20), tmp_path / "sample.csv")
    keep_labels(store, run, fill(tmp_path / "sample.csv", truth))
    assert keep_labels(store, run, fill(tmp_path / "sample.csv", truth, first=15), notes.append).labels == 15
    assert notes == ["5 labels of an earlier reading of this file removed: the cells are empty now"]
    assert store.rows("SELECT count(*) FROM labels") == [(15,)]
    # A file that was drawn before another one was labelled does not take its labels.
    draw_sample(store, run, SampleConfig(40), tmp_path / "large.csv")
    keep_labels(store, run, fill(tmp_path / "large.csv", truth))
    keep_labels(store, run, fill(tmp_path / "sample.csv", truth, first=15))
    assert store.rows("SELECT count(*) FROM labels") == [(40,)]


def test_the_run_of_the_sample_is_found_and_calibrate_names_runs_with_labels(
    store: Database, tmp_path: Path
) -> None:
    run, truth = runs.find_run(store), collection()[-1]
    draw_sample(store, run, SampleConfig(40), tmp_path / "sample.csv")
    decide_again(store, run, MiningConfig(selection=Selection(negatives=2)), name="later")
    store.close()
    filled = fill(tmp_path / "sample.csv", truth)
    found = CliRunner().invoke(group, ["audit", str(store.path), "--labels", str(filled), "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["false_negative_rate"]["run"] == "mined"
    assert "run mined, the only one with a sample" in found.stderr
    arguments = ["calibrate", str(store.path), "--target", "0.9", "--set", "repeats=1"]
    calibrated = CliRunner().invoke(group, arguments)
    assert calibrated.exit_code == 0, calibrated.output
    assert "run later has no labels of its own, so hidden positives decide" in calibrated.stderr
    assert "run mined has: name it with --run" in calibrated.stderr
