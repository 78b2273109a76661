"""The public door: every function from Python, with a store or a path, keywords or a configuration."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict

import miner
from miner import AuditConfig, EncoderConfig, MiningConfig, Rules, Selection, SourceConfig, Store
from miner.errors import InputError, MinerError, StoreError, UsageError
from miner.store import database
from tests.tiny import tiny_bert

TOPICS = ("apple", "bread", "cheese", "dough", "egg", "flour")
ROWS = [
    {"query": f"how to {verb} {topic}", "positive": f"{topic} {number}: first {verb} the {topic}, then wait"}
    for topic in TOPICS
    for number in range(3)
    for verb in ("bake", "cut", "store")
]


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("ingested") / "s.duckdb"
    miner.ingest(file, ROWS)
    return file


@pytest.fixture
def path(tmp_path: Path, ingested: Path) -> Path:
    return shutil.copy(ingested, tmp_path / "s.duckdb")


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as opened:
        yield opened


def mined(store: Store, **settings: Any) -> miner.Run:
    return store.mine(**{"relative_margin": None, "negatives": 3, **settings})


def test_a_store_is_the_same_class_everywhere(path: Path) -> None:
    with Store.open(path) as opened, Store.create(path) as again:
        assert type(opened) is type(again) is miner.Store
        assert isinstance(opened, database.Database)
        run = opened.mine()
        assert type(run) is type(opened.run()) is type(run.decide(negatives=1)) is miner.Run


def test_a_store_is_made_where_there_is_none(tmp_path: Path) -> None:
    with Store.create(tmp_path / "new" / "s.duckdb") as made:
        assert made.sql("SELECT count(*) AS n FROM documents").to_pylist() == [{"n": 0}]
        report = made.ingest(ROWS[:6])
        assert report.added["queries"] == 3
    with pytest.raises(StoreError):
        Store.open(tmp_path / "none.duckdb")


def test_a_run_from_a_path_opens_its_store_for_each_call(path: Path) -> None:
    run = miner.mine(path, relative_margin=None, negatives=2, name="first")
    assert len(run.triplets()) > 0
    again = run.decide(negatives=1, name="second")
    assert [one.name for one in miner.runs(str(path))] == ["first", "second"]
    assert miner.find_run(path).name == again.name
    miner.remove_runs(path, "first", again)
    assert miner.runs(path) == []


def test_a_run_outlives_its_store(path: Path) -> None:
    with Store.open(path) as opened:
        run = mined(opened)
    assert opened.closed
    assert run.triplets(texts=True).num_rows == run.triplets().num_rows > 0


NO_SERVER = "http://127.0.0.1:9/v1#small"

WRITES: dict[str, Any] = {
    "ingest": lambda store, run, out: (store.ingest(ROWS[:1]), miner.ingest(store, ROWS[:1])),
    "dedup": lambda store, run, out: store.dedup(),
    "contamination": lambda store, run, out: store.contamination(store),
    "silver": lambda store, run, out: miner.silver(store),
    "mine": lambda store, run, out: store.mine(negatives=1),
    "decide": lambda store, run, out: run.decide(negatives=1),
    "audit": lambda store, run, out: run.audit(repeats=1),
    "sample_to_label": lambda store, run, out: run.sample_to_label(),
    "false_negative_rate": lambda store, run, out: run.false_negative_rate([]),
    "calibrate": lambda store, run, out: run.calibrate(0.9, repeats=1),
    "relabel": lambda store, run, out: run.relabel(),
    "relabel_by_people": lambda store, run, out: miner.relabel_by_people(store),
    "relabel_by_judge": lambda store, run, out: miner.relabel_by_judge(store),
    "judge": lambda store, run, out: miner.judge(store, NO_SERVER),
    "generate": lambda store, run, out: store.generate(NO_SERVER),
    "import_reviews": lambda store, run, out: miner.import_reviews(store, [], "anna"),
    "undo_relabel": lambda store, run, out: miner.undo_relabel(store),
    "undo_silver": lambda store, run, out: miner.undo_silver(store),
    "remove_runs": lambda store, run, out: miner.remove_runs(store, run),
    "train": lambda store, run, out: run.train(out),
    "train_reranker": lambda store, run, out: miner.train_reranker(store, out),
    "loop": lambda store, run, out: miner.loop(store, out),
}  # fmt: skip


def one_judgment(run: miner.Run) -> list[dict[str, Any]]:
    first = run.triplets().slice(0, 1).to_pylist()[0]
    return [{"query_id": first["query_id"], "doc_id": first["negative_id"], "relevance": 1}]


READS: dict[str, Any] = {
    "find_run": lambda store, run, out, base: store.run("first"),
    "runs": lambda store, run, out, base: store.runs(),
    "explain": lambda store, run, out, base: run.explain(run.triplets()["query_id"][0].as_py()),
    "diff": lambda store, run, out, base: run.diff(run),
    "triplets": lambda store, run, out, base: (run.triplets(), run.to_dataset()),
    "export_run": lambda store, run, out, base: run.export(out),
    "report": lambda store, run, out, base: store.report(out, run),
    "compare_with_judgments": lambda store, run, out, base: run.compare_with_judgments(one_judgment(run)),
    "sql": lambda store, run, out, base: store.sql("SELECT 1"),
    "plan_judging": lambda store, run, out, base: miner.plan_judging(store, NO_SERVER, of="selected"),
    "plan_generation": lambda store, run, out, base: miner.plan_generation(store, NO_SERVER, documents=2),
    "review_summary": lambda store, run, out, base: miner.review_summary(store, random=0.5),
    "export_reviews": lambda store, run, out, base: miner.export_reviews(store, out.with_suffix(".csv"), run),
    "relabel with dry_run": lambda store, run, out, base: run.relabel(dry_run=True, repeats=1),
    "evaluate": lambda store, run, out, base: store.evaluate(base),
    "bench": lambda store, run, out, base: miner.bench(
        store, out, arms=("easy", "hard-filtered"), training=EncoderConfig(base=str(base), max_steps=1)
    ),
    "tune": lambda store, run, out, base: miner.tune(
        store, out, arms=1, finalists=1, budget=1e-6, training=EncoderConfig(base=str(base), max_steps=1)
    ),
    "pretrain": lambda store, run, out, base: miner.pretrain(store, out, base=str(base), max_steps=1),
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("door") / "base")


@pytest.fixture
def to_read(path: Path) -> Iterator[tuple[Store, miner.Run]]:
    """A store that is open to read, with a run, a dev split and a test split."""
    for split in ("dev", "test"):
        rows = [{"query": f"{split} {topic}", "positive": f"{topic} for the {split}"} for topic in TOPICS]
        miner.ingest(path, rows, split=split)
    miner.mine(path, relative_margin=None, negatives=3, name="first")
    with Store.open(path, read_only=True) as opened:
        yield opened, opened.run()


def test_every_function_that_takes_a_store_is_one_that_writes_or_reads() -> None:
    functions = {name: getattr(miner, name) for name in miner.__all__ if name.islower()}
    takes = {name for name, one in functions.items() if {"store", "source"} & {*signature(one).parameters}}
    assert takes == {*WRITES, *READS} - {"relabel with dry_run"}


@pytest.mark.parametrize("name", WRITES)
def test_work_that_writes_refuses_a_store_that_was_opened_to_read(
    name: str, to_read: tuple[Store, miner.Run], tmp_path: Path
) -> None:
    store, run = to_read
    for _ in range(2):
        with pytest.raises(UsageError, match=r"was opened to read; open it without read_only=True"):
            WRITES[name](store, run, tmp_path / "out")
        store.close()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", READS)
def test_work_that_reads_leaves_the_store_as_it_is(
    name: str, to_read: tuple[Store, miner.Run], base: Path, tmp_path: Path
) -> None:
    store, run = to_read
    before = store.path.read_bytes()
    READS[name](store, run, tmp_path / "out", base)
    assert store.path.read_bytes() == before


def test_keywords_and_configurations_say_the_same(store: Store) -> None:
    rules = Rules(relative_margin=0.1)
    one = store.mine(MiningConfig(rules=rules, selection=Selection(negatives=8)))
    assert store.mine(relative_margin=0.1, negatives=8).run_id == one.run_id
    assert store.mine(rules=rules, negatives=8).run_id == one.run_id
    assert (
        store.mine(MiningConfig(selection=Selection(negatives=8)), relative_margin=0.1).run_id == one.run_id
    )


def test_a_named_rule_replaces_the_default_rule(store: Store) -> None:
    assert store.mine(percentile=5).config["rules"]["relative_margin"] is None
    assert store.mine(negatives=2).config["rules"]["relative_margin"] == 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"negative": 3}, r"unknown setting 'negative' \(did you mean 'negatives'\?\)"),
        ({"negatives": "3"}, "negatives must be a whole number"),
        ({"relative_margin": "none"}, "relative_margin must be a number"),
        ({"strategy": "hardest"}, "strategy must be one of top, random, ambiguous"),
        ({"rules": {"percentile": 5}}, r"rules must be a Rules\(…\)"),
        ({"config": Rules()}, r"config must be a MiningConfig\(…\)"),
    ],
)
def test_a_wrong_setting_is_a_usage_error(store: Store, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        store.mine(**settings)


def test_a_setting_that_several_parts_have_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'seed' is a setting of"):
        miner.loop(path, tmp_path / "models", seed=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rules(relative_margin="none"), "relative_margin"),  # type: ignore[arg-type]
        (lambda: Rules(percentile=120), "percentile must be a number from 0 to 100, got 120"),
        (lambda: Rules(reference_positive="highest"), "reference_positive must be one of"),
        (lambda: Selection(strategy="hardest"), "strategy must be one of"),
        (lambda: AuditConfig(repeats=0), "repeats"),
        (lambda: SourceConfig(format="xml"), "format"),
        (lambda: SourceConfig(max_bad=2), "max_bad"),
        (lambda: miner.ExportConfig(format="xml"), "format"),
        (lambda: miner.ExportConfig(negatives_per_row=0), "negatives_per_row"),
        (lambda: miner.ExportConfig(scores="yes"), "scores"),  # type: ignore[arg-type]
    ],
)
def test_constructors_check_as_the_command_line_does(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


CONFIGS = [
    kind
    for kind in (getattr(miner, name) for name in miner.__all__ if name[0].isupper())
    if is_dataclass(kind) and not issubclass(kind, miner.Run) and kind is not miner.LoopConfig
]


@pytest.mark.parametrize("value", [object(), -1e300, [3], {"a": 1}], ids=["object", "number", "list", "dict"])
@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_no_field_of_a_configuration_takes_anything(kind: Any, value: object) -> None:
    for part in fields(kind):
        if value == [3] and str(part.type).startswith("tuple[int"):
            continue
        with pytest.raises(UsageError):
            kind(**{part.name: value})


def test_a_path_in_a_configuration_may_be_a_text() -> None:
    assert miner.Dev(store="dev.duckdb").store == Path("dev.duckdb")  # type: ignore[arg-type]


def test_deciding_again_takes_any_setting(store: Store) -> None:
    run = mined(store)
    strict = run.decide(relative_margin=0.1, negatives=1, name="strict")
    assert (strict.config["rules"]["relative_margin"], strict.negatives) == (0.1, 1)
    assert strict.config["rules"]["percentile"] is None
    by_object = miner.decide(store, run, rules=Rules(skip_top=1), strategy="random", seed=7)
    assert by_object.config["rules"]["skip_top"] == 1
    assert by_object.config["selection"]["strategy"] == "random"
    assert miner.decide(store, "strict").config == strict.config
    with pytest.raises(UsageError, match="depth belongs to the search"):
        run.decide(depth=5)


def test_a_run_of_any_settings_is_decided_again(store: Store) -> None:
    run = store.mine(
        stemmer="none",
        depth=7,
        document_cap=3,
        reference_positive="each",
        overlaps=False,
        negatives=2,
        seed=5,
    )
    again = run.decide(skip_top=2)
    assert again.config["depth"] == 7
    assert again.config["selection"]["document_cap"] == 3
    assert again.config["rules"]["reference_positive"] == "each"


def test_triplets_are_arrow_and_pandas(store: Store) -> None:
    run = mined(store)
    found = run.triplets()
    assert found.column_names == list(miner.triplets(store).to_pandas().columns)
    assert pa.table(found).equals(found.table)
    texts = run.triplets(texts=True)
    assert set(texts.column_names) - set(found.column_names) == {"query", "positive", "negative"}
    first = texts.to_pylist()[0]
    known = {row["query"]: row["positive"] for row in ROWS}
    assert first["query"] in known
    assert texts["query_id"].to_pylist() == found["query_id"].to_pylist()


def test_a_dataset_holds_what_training_reads(store: Store) -> None:
    run = mined(store)
    dataset = run.triplets(texts=True).to_dataset()
    assert isinstance(dataset, Dataset)
    assert dataset.column_names == ["anchor", "positive", "negative"]
    assert dataset[0]["anchor"] == run.triplets(texts=True)["query"][0].as_py()
    assert run.to_dataset("n-tuple", negatives_per_row=2).column_names == [
        "anchor",
        "positive",
        "negative_1",
        "negative_2",
    ]
    assert run.to_dataset("labeled-pair", scores=True).column_names == ["anchor", "document", "score"]


def test_a_dataset_goes_straight_into_a_trainer(store: Store, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.training_args import SentenceTransformerTrainingArguments

    model = SentenceTransformer(str(tiny_bert(tmp_path / "tiny")), device="cpu")
    trainer = SentenceTransformerTrainer(
        model=model,
        train_dataset=mined(store).to_dataset(),
        loss=MultipleNegativesRankingLoss(model),
        args=SentenceTransformerTrainingArguments(
            str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=4, use_cpu=True, report_to=[]
        ),
    )
    assert trainer.train().global_step == 2


def test_a_run_is_exported(store: Store, tmp_path: Path) -> None:
    run, other = mined(store, name="one"), mined(store, name="two", percentile=50)
    report = run.export(tmp_path / "out", format="n-tuple", negatives_per_row=1)
    assert report.run == run.name != other.name
    assert report.data.is_file()


def test_quality_from_python(store: Store) -> None:
    run = mined(store)
    found = run.audit(repeats=2)
    assert found.run == run.name
    assert miner.audit(store.path, run.name, AuditConfig(repeats=2)) == found
    chosen = run.calibrate(0.9, repeats=2)
    again = run.decide(rules=chosen.chosen.rules, name="calibrated")
    assert again.name == "calibrated"
    report = run.relabel(probability=0.9, repeats=2, dry_run=True)
    assert report.again is None
    assert miner.undo_relabel(store) == 0


def test_a_recipe_goes_round(store: Store, tmp_path: Path) -> None:
    run = mined(store)
    calibration = run.calibrate(0.9, repeats=2)
    calibration.write_recipe(tmp_path / "strict.toml")
    again = run.decide(**miner.read_recipe(tmp_path / "strict.toml"))
    assert again.config["rules"] == run.decide(rules=calibration.chosen.rules).config["rules"]
    assert (tmp_path / "strict.png").is_file()
    (tmp_path / "strict.toml").write_text("relativ_margin = 1")
    with pytest.raises(UsageError, match="unknown key 'relativ_margin'"):
        miner.read_recipe(str(tmp_path / "strict.toml"))


def test_judgments_by_people_give_a_false_negative_rate(store: Store, tmp_path: Path) -> None:
    run = mined(store)
    pairs = store.sql("SELECT DISTINCT query_id, negative_id AS doc_id FROM triplets ORDER BY ALL LIMIT 4")
    judged = [{**pair, "relevance": number % 2} for number, pair in enumerate(pairs.to_pylist())]
    found = run.compare_with_judgments(judged)
    assert (found.matched, found.relevant["negative"].rate) == (4, 0.5)
    pd.DataFrame(judged).to_csv(tmp_path / "judged.tsv", index=False, sep="\t")
    assert miner.compare_with_judgments(store.path, tmp_path / "judged.tsv") == found
    assert miner.compare_with_judgments(store, pd.DataFrame(judged), run.name) == found
    assert "relevant" in found._repr_html_()
    for source, message in ((ROWS, "no columns query_id"), ([{**judged[0], "relevance": "?"}], "list:1: ")):
        with pytest.raises(InputError, match=message):
            run.compare_with_judgments(source)


def test_work_on_the_store_from_python(store: Store, tmp_path: Path) -> None:
    assert store.dedup(threshold=0.95).documents.texts == len(TOPICS) * 9
    miner.ingest(tmp_path / "test.duckdb", ROWS[:3], split="test")
    report = store.contamination(tmp_path / "test.duckdb")
    assert report.counts()["query"]["exact"] == 3
    run, other = mined(store, name="one"), mined(store, percentile=50, name="two")
    assert miner.diff(store, run, "two").after == other.name
    query = run.triplets()["query_id"][0].as_py()
    assert run.explain(query).run == run == miner.explain(store.path, query, "one").run
    with pytest.raises(UsageError):
        miner.sql(store, "DROP TABLE documents")


def tables() -> dict[str, Any]:
    frame = pd.DataFrame(ROWS)
    return {
        "dicts": ROWS,
        "pandas": frame,
        "filtered pandas": frame[frame["query"] != ""].iloc[::-1],
        "arrow": pa.Table.from_pylist(ROWS),
        "batch": pa.RecordBatch.from_pylist(ROWS),
        "dataset": Dataset.from_list(ROWS),
        "one of several": [Dataset.from_list(ROWS[:9]), pd.DataFrame(ROWS[9:])],
    }


@pytest.mark.parametrize("name", list(tables()))
def test_a_table_in_memory_is_what_its_file_is(name: str, tmp_path: Path) -> None:
    pd.DataFrame(ROWS).to_csv(tmp_path / "rows.csv", index=False)
    with Store.create(tmp_path / "file.duckdb") as one, Store.create(tmp_path / "memory.duckdb") as other:
        one.ingest(tmp_path / "rows.csv")
        other.ingest(tables()[name])
        for table in ("documents", "queries", "judgments"):
            query = f"SELECT * FROM {table} ORDER BY ALL"
            assert other.sql(query).equals(one.sql(query))


def test_splits_come_by_name(tmp_path: Path) -> None:
    splits = {"train": Dataset.from_list(ROWS[:9]), "validation": Dataset.from_list(ROWS[9:18])}
    for number, source in enumerate(
        (DatasetDict(splits), {"train": ROWS[:9], "dev": pd.DataFrame(ROWS[9:18])})
    ):
        report = miner.ingest(tmp_path / f"{number}.duckdb", source)
        assert report.splits == {"dev": 9, "train": 9}
    report = miner.ingest(tmp_path / "s.duckdb", ROWS[:9], split="test")
    assert report.splits == {"test": 9}


def test_layouts_in_memory(tmp_path: Path) -> None:
    labels = pd.DataFrame({"text": ["good", "fine", "bad", "poor"], "label": ["yes", "yes", "no", "no"]})
    assert miner.ingest(tmp_path / "1.duckdb", labels).added["judgments"] == 4
    graded = [{"query": "q", "positive": f"d{i}", "relevance": i % 2} for i in range(4)]
    report = miner.ingest(tmp_path / "2.duckdb", graded, relevance_column="relevance")
    assert (report.added["judgments"], report.splits) == (4, {"train": 2})
    lists = [{"query": "q", "pos": ["a", "b"], "neg": ["c"]}]
    assert miner.ingest(tmp_path / "3.duckdb", pa.Table.from_pylist(lists)).added["documents"] == 3
    named = pd.DataFrame({"q": ["a"], "d": ["b"]}, index=pd.Index(["x"], name="query_id"))
    settings = {"query_column": "q", "positive_column": "d", "query_id_column": "query_id"}
    with Store.create(tmp_path / "4.duckdb") as store:
        store.ingest(named, **settings)
        assert store.sql("SELECT query_id FROM queries").to_pylist() == [{"query_id": "x"}]


def test_documents_queries_and_judgments_as_tables(tmp_path: Path) -> None:
    documents = pd.DataFrame({"doc_id": ["1", "2"], "title": ["One", ""], "text": ["first", "second"]})
    queries = [{"query_id": 7, "text": "which is first?"}]
    judged = pd.DataFrame({"query-id": [7, 7], "corpus-id": [1, 2], "score": [1, 0], "iteration": [0, 0]})
    with Store.create(tmp_path / "s.duckdb") as store:
        report = store.ingest([documents, queries, judged], split="dev")
        assert report.splits == {"dev": 1}
        found = store.sql("SELECT query_id, doc_id, relevance, split FROM judgments ORDER BY ALL")
        assert [tuple(row.values()) for row in found.to_pylist()] == [
            ("7", "1", 1.0, "dev"),
            ("7", "2", 0.0, "dev"),
        ]
        with pytest.raises(InputError, match="bad_relevance"):
            store.ingest([{"query_id": 7, "doc_id": 1, "relevance": "yes please"}])


@pytest.mark.parametrize(
    ("source", "settings", "error", "message"),
    [
        ([{"query": "a", "positve": "b"}], {}, InputError, "positive"),
        ([{"query": "a", "positive": "b"}, {"query": "c"}], {}, InputError, "column 'positive' is empty"),
        (
            pd.DataFrame({"query": ["a", 1], "positive": ["b", "c"]}),
            {},
            InputError,
            "DataFrame: cannot be read",
        ),
        (42, {}, UsageError, "int is not a source"),
        ({"train": 42}, {}, UsageError, "int is not a source"),
        ([], {}, UsageError, "the list of sources is empty; give a file, or a table with at least one row"),
        ({}, {}, InputError, "dict: no rows to read"),
        ({"train": []}, {}, InputError, "dict/train: no rows to read"),
        (pd.DataFrame(), {}, InputError, "DataFrame: no rows to read"),
        (Dataset.from_list([]), {}, InputError, "Dataset: no rows to read"),
        ("", {}, InputError, "the name of a source is empty"),
        (ROWS, {"format": "beir"}, UsageError, "format beir is for files"),
        ({"train": ROWS}, {"hf_split": "tran"}, InputError, "did you mean 'train'"),
        (ROWS, {"queries": 3}, UsageError, "unknown setting 'queries'"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    tmp_path: Path, source: Any, settings: dict[str, Any], error: type[MinerError], message: str
) -> None:
    with pytest.raises(error, match=message):
        miner.ingest(tmp_path / "s.duckdb", source, **settings)
    assert not (tmp_path / "s.duckdb").exists()


def test_numbers_and_missing_values_of_rows() -> None:
    import numpy as np

    from miner.sources.memory import open_memory

    rows = [
        {"query": "a", "positive": "b", "id": np.int64(7)},
        {"query": "c", "positive": float("nan"), "id": 8},
    ]
    source = open_memory(rows, SourceConfig(query_id_column="id"))
    (part,) = source.parts
    assert part.queries is not None
    assert part.queries["query_id"].to_pylist() == ["7"]
    assert part.rejected is not None
    assert part.rejected["reason"].to_pylist() == ["empty_text"]


def test_the_page_on_python_is_true(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (root / "docs" / "python.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    names["store"].close()
    assert capsys.readouterr().out == "".join(re.findall(r"```text\n(.*?)```", page, re.DOTALL))
    listed = set(re.findall(r"`(\w+)`", page))
    functions = {name for name in miner.__all__ if name.islower()}
    assert functions <= listed
    for kind in (miner.Store, miner.Run):
        methods = {name for name, value in vars(kind).items() if callable(value) and not name.startswith("_")}
        assert methods - {"create"} <= listed


def test_the_objects_of_the_door_import_nothing_heavy() -> None:
    script = "import sys\nfrom miner import Store, Run, ingest, mine, train\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "datasets", "sklearn", "pandas", "rich"} & set(done.stdout.split())


def test_a_user_script_is_typed_and_runs(root: Path, tmp_path: Path) -> None:
    """mypy reads the package as an installed one: only `py.typed` says that its types count."""
    script = Path(shutil.copy(root / "tests" / "user_script.py", tmp_path))
    environment = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "miner.pth").write_text(f"{Path(miner.__file__).parent.parent}\n")
    options = ["--strict", f"--python-executable={environment}/bin/python", f"--cache-dir={tmp_path}/cache"]
    mypy = [sys.executable, "-m", "mypy", "--config-file=", *options]
    environ = {name: value for name, value in os.environ.items() if name not in ("MYPYPATH", "PYTHONPATH")}

    def check(file: Path) -> str:
        done = subprocess.run(
            [*mypy, file], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    assert check(script).startswith("Success")
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from miner import Store\nn: int = Store.open('x').mine().triplets()\n")
    assert 'type "Triplets"' in check(wrong)
    ran = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[0] == "24 24"
    assert ran.stderr == ""


@pytest.mark.parametrize("as_object", [True, False])
def test_swapped_arguments_are_named(tmp_path: Path, as_object: bool) -> None:
    path, out = tmp_path / "s.duckdb", tmp_path / "out"
    miner.ingest(path, ROWS)
    with miner.Store.open(path) as opened:
        store = opened if as_object else str(path)
        for function, other, order in (
            (miner.evaluate, "bundled", "store, model"), (miner.train, out, "source, out"),
            (miner.train_reranker, out, "store, out"), (miner.pretrain, out, "store, out"),
            (miner.bench, out, "store, out"), (miner.tune, out, "store, work"),
            (miner.loop, out, "store, out"),
            (miner.export_run, out, "store, out"), (miner.explain, "q1", "store, query_id"),
            (miner.ingest, ROWS, "store, sources"), (miner.ingest, "pairs.csv", "store, sources"),
        ):  # fmt: skip
            with pytest.raises(UsageError) as caught:
                function(other, store)  # type: ignore[operator]
            assert caught.value.message == f"{path} is a store, and the store comes first"
            assert caught.value.hint == f"call {function.__name__}({order})"  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="a store is a Store or its path, got 5; the store comes first"):
        miner.mine(5)  # type: ignore[arg-type]
