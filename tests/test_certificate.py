"""The certificate of an export: what was measured, what never was, and the command that repeats it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from miner.auditing.labels import SampleConfig, draw_sample, keep_labels
from miner.cli.main import group
from miner.export import ExportConfig, export_run
from miner.mining.config import MiningConfig, Rules
from miner.mining.pipeline import mine
from miner.store.database import Database
from miner.store.runs import changed_since, find_run
from miner.store.silver import replace_silver
from tests.stores import make_store
from tests.test_audit import corpus


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with make_store(tmp_path / "s.duckdb", *corpus()) as opened:
        mine(opened, MiningConfig(rules=Rules(relative_margin=0.1)), name="mined")
    return tmp_path / "s.duckdb"


def run(*arguments: str | Path) -> str:
    done = CliRunner().invoke(group, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_what_was_never_measured_is_said_with_the_command(store: Path, tmp_path: Path) -> None:
    run("export", store, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text("utf-8")
    assert "**Hidden-positive rate: not measured** (`miner audit STORE --run mined`)." in card
    assert (
        "**False-negative rate: not measured.** Nobody labelled a sample of these negatives "
        "(`miner audit STORE --run mined --label 200 --out sample.csv`)."
    ) in card
    assert "Not checked for copies: `miner dedup STORE`." in card
    assert "Not checked for evaluation texts in the training data (contamination)" in card
    assert "- 48 of source `gold` in split `train`, 48 relevant" in card
    found = json.loads((tmp_path / "out/manifest.json").read_text("utf-8"))["certificate"]
    measured = ("false_negative_rate", "audit", "copies", "contamination")
    assert [found[name] for name in measured] == [None, None, None, None]


def test_the_card_carries_what_was_measured(store: Path, tmp_path: Path) -> None:
    audit = json.loads(run("audit", store, "--set", "repeats=3", "--set", "seed=5", "--json"))
    with make_store(tmp_path / "other.duckdb", {"e": "nothing alike"}, {"t": "new"}, [("t", "e", "test")]):
        pass
    run("dedup", store, "--set", "threshold=0.95")
    run("contamination", store, tmp_path / "other.duckdb")
    run("export", store, tmp_path / "out")
    run("export", store, tmp_path / "again")
    card = (tmp_path / "out/README.md").read_text("utf-8")
    rate = audit["hidden_positive_rate"]
    assert (
        f"**Hidden-positive rate: {100 * rate['rate']:.2f} %** of hidden positives were selected as "
        f"negatives (95 % interval {100 * rate['low']:.2f} % to {100 * rate['high']:.2f} %)."
    ) in card
    assert "The hidden-positive rate is not the false-negative rate." in card
    assert "**False-negative rate: not measured.**" in card, "hidden positives do not measure it"
    assert "`miner audit STORE --run mined --set share=0.3 --set repeats=3 --set seed=5`" in card
    assert "Copies (mining uses one document of each cluster): none" in card
    assert (
        "- of other.duckdb, split test: 0 of 2 texts (`miner contamination STORE other.duckdb "
        "--set split=test --set threshold=0.9 --set ngram=8 --set contained=0.8`)." in card
    )
    assert "none (`miner dedup STORE --set cosine=0.97 --set threshold=0.95`)." in card
    assert "run it again" not in card
    found = json.loads((tmp_path / "out/manifest.json").read_text("utf-8"))["certificate"]
    assert found["audit"]["hidden_positive_rate"] == audit["hidden_positive_rate"]
    assert found["copies"]["settings"]["threshold"] == 0.95
    assert card == (tmp_path / "again/README.md").read_text("utf-8")


def test_the_card_carries_the_false_negative_rate_and_its_labels(store: Path, tmp_path: Path) -> None:
    with Database.open(store) as opened:
        mined = find_run(opened, "mined")
        sample = draw_sample(opened, mined, SampleConfig(60, seed=5))
        draw_sample(opened, mined, SampleConfig(20, seed=5))
        labels = [
            {**row, "relevance": int(number % 12 == 0)} for number, row in enumerate(sample.pairs.to_pylist())
        ]
        expected = keep_labels(opened, mined, labels)
    run("export", store, tmp_path / "out")
    found = json.loads((tmp_path / "out/manifest.json").read_text("utf-8"))["certificate"]
    assert found["audit"] is None, "nobody has hidden a positive"
    assert found["false_negative_rate"] == asdict(expected)
    assert found["false_negative_rate"]["sources"] == {"person": 60}
    card = (tmp_path / "out/README.md").read_text("utf-8")
    assert (
        f"**False-negative rate: {100 * expected.rate:.2f} %** of the negatives are relevant to their query "
        f"(95 % interval {100 * expected.low:.2f} % to {100 * expected.high:.2f} %); the mean over queries "
        f"is {100 * expected.per_query:.2f} % ({100 * expected.per_query_low:.2f} % to "
        f"{100 * expected.per_query_high:.2f} %). It is estimated from 60 labels of a random sample of the "
        f"{expected.negatives:,} negatives: 60 by a person. Estimator: stratified sampling with a "
        "prediction-powered control variate (PPI++). Measured with `miner audit STORE --run mined --label "
        "60 --set seed=5 --out sample.csv` and `miner audit STORE --run mined --labels sample.csv`."
    ) in card
    assert "**Hidden-positive rate: not measured**" in card, "labels do not measure it"
    assert "were judged not relevant" not in card
    assert run("export", store, tmp_path / "out") == ""  # the same export again


def test_negatives_that_were_judged_are_counted(store: Path, tmp_path: Path) -> None:
    with Database.open(store) as opened:
        negatives = "SELECT query_id, doc_id FROM verdicts WHERE slot = 1 ORDER BY ALL LIMIT 3"
        opened.execute(
            f"INSERT INTO judgments SELECT query_id, doc_id, 0, 'train', 'gold' FROM ({negatives})"
        )
        again = mine(opened, MiningConfig(rules=Rules(relative_margin=0.1)), name="again")
        sample = draw_sample(opened, again, SampleConfig(20))
        rows = [{**row, "relevance": 0} for row in sample.pairs.to_pylist()]
        judged = keep_labels(opened, again, rows).judged
        assert judged >= 3
        export_run(opened, tmp_path / "out", ExportConfig())
    card = (tmp_path / "out/README.md").read_text("utf-8")
    assert f"{judged:,} of the negatives were judged not relevant before, and count as right." in card


def test_scores_are_not_called_relevant(store: Path, tmp_path: Path) -> None:
    pairs = pa.table({"query_id": ["q00", "q01"], "doc_id": ["x00", "x01"], "relevance": [0.2, 0.9]})
    with Database.open(store) as opened:
        for soft, expected in ((True, "scores from 0 to 1"), (False, "2 relevant")):
            replace_silver(opened, pairs, "train", {"soft": soft})
            opened.execute("CHECKPOINT")
            export_run(opened, tmp_path / expected.replace(" ", "-"), ExportConfig())
            card = (tmp_path / expected.replace(" ", "-") / "README.md").read_text("utf-8")
            assert f"- 2 of source `silver` in split `train`, {expected}" in card


def test_what_leaves_a_store_that_changed_says_so(store: Path, tmp_path: Path) -> None:
    with Database.open(store) as opened:
        opened.execute("INSERT INTO judgments VALUES ('q00', 'x00', 1, 'train', 'gold')")
    expected = "judgments changed since run mined was mined: mine again to use the current data"
    scratch = ("--base", "scratch", "--set", "max_steps=2", "--set", "evaluations=0")
    for arguments in (
        ("export", store, tmp_path / "out"),
        ("train", store, tmp_path / "model", *scratch),
        ("decide", store, "--relative-margin", "0.2"),
    ):
        done = CliRunner().invoke(group, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output
        assert expected in done.stderr.replace("\n", " ")
    assert "**The store's judgments changed after this run was mined.**" in (
        tmp_path / "out/README.md"
    ).read_text("utf-8")


def test_a_query_without_its_judgments_is_not_a_changed_query(store: Path) -> None:
    with Database.open(store) as opened:
        mined = find_run(opened, "mined")
        opened.execute("DELETE FROM judgments WHERE query_id = 'q00'")
        assert changed_since(opened, mined) == ["judgments"]
        opened.execute("INSERT INTO queries VALUES ('new', 'asked since', 1, NULL)")
        opened.execute("INSERT INTO judgments VALUES ('new', 'x00', 1, 'train', 'gold')")
        assert changed_since(opened, mined) == ["queries", "judgments"]
        opened.execute("DELETE FROM judgments WHERE query_id = 'new'")
        opened.execute("UPDATE queries SET text = 'another text' WHERE query_id = 'q00'")
        assert changed_since(opened, mined) == ["queries", "judgments"]


def test_what_was_looked_for_in_other_texts_says_so(store: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        with make_store(
            tmp_path / folder / "e.duckdb", {"e": "not alike"}, {"t": "new"}, [("t", "e", "test")]
        ):
            pass
        run("contamination", store, tmp_path / folder / "e.duckdb")
    run("dedup", store)
    with Database.open(store) as opened:
        opened.execute(
            "INSERT INTO documents (doc_id, title, text, text_key, label) "
            "VALUES ('late', '', 'not alike', 1, NULL)"
        )
    run("export", store, tmp_path / "out")
    found = json.loads((tmp_path / "out/manifest.json").read_text("utf-8"))["certificate"]
    assert [one["changed_since"] for one in found["contamination"]] == [["documents"], ["documents"]]
    assert found["copies"]["changed_since"] == ["documents"]
    card = (tmp_path / "out/README.md").read_text("utf-8")
    assert card.count("**The store's documents changed since: run it again.**") == 3
