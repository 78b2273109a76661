"""`ingest --dev --test`: queries are divided by text, as the seed says, whatever the order of the rows."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from miner.cli.main import group
from miner.curation.contamination import ContaminationConfig
from miner.curation.dedup import DedupConfig, dedup
from miner.curation.silver_config import SilverConfig
from miner.errors import UsageError
from miner.evaluation.evaluate import EvaluationConfig
from miner.mining.config import MiningConfig
from miner.mining.pipeline import mine
from miner.sources import SourceConfig, ingest
from miner.store.database import Database
from miner.store.division import Division
from miner.text import normalise
from miner.training.pretrain_config import PretrainConfig
from miner.training.reranker_config import RerankerConfig
from miner.workflows.bench_config import BenchConfig
from miner.workflows.train import Dev
from tests.sources_support import beir, dump, rows, write

fractions = st.floats(0.0, 0.3)
groups = st.sets(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=60)


def _tsv(path: Path, pairs: list[tuple[str, str]]) -> str:
    return str(write(path, "query\tpositive\n" + "".join(f"{q}\t{p}\n" for q, p in pairs)))


def _pairs(number: int, start: int = 0) -> list[tuple[str, str]]:
    return [(f"question {i}", f"answer {i}") for i in range(start, start + number)]


def _splits(store: Path) -> dict[str, str]:
    """Returns the split of every query text."""
    found = rows(store, "SELECT DISTINCT text, split FROM queries JOIN judgments USING (query_id)")
    assert len(dict(found)) == len(found), "a text is in two splits"
    return dict(found)


def _count(store: Path) -> dict[str, int]:
    return dict(Counter(_splits(store).values()))


@given(groups, fractions, fractions, st.integers(0, 9), st.randoms())
@example({1, 2, 3}, 0.1, 0.1, 13, None)
def test_every_split_gets_its_fraction_in_any_order(keys, dev, test, seed, random) -> None:  # type: ignore[no-untyped-def]
    division = Division(dev, test, seed)
    found = division.assign(keys, "train")
    assert set(found) == keys
    counts = Counter(found.values())
    for name, share in (("dev", dev), ("test", test)):
        assert counts[name] == (max(1, int(share * len(keys) + 0.5)) if share else 0)
    assert counts["train"] >= 1
    shuffled = sorted(keys)
    if random is not None:
        random.shuffle(shuffled)
    assert division.assign(shuffled, "train") == found


@given(groups, fractions, fractions, st.data())
def test_what_is_known_stays_and_counts(keys: set[int], dev: float, test: float, data: st.DataObject) -> None:
    division = Division(dev, test, 13)
    whole = division.assign(keys, "train")
    kept = {key: whole[key] for key in data.draw(st.sets(st.sampled_from(sorted(keys))))}
    assert division.assign(keys, "train", kept) == whole


@settings(max_examples=10, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["", " ", "!"])), min_size=8, max_size=30
    ),
    st.randoms(),
)
def test_equal_texts_stay_together_in_any_order_of_rows(parts, random) -> None:  # type: ignore[no-untyped-def]
    """Case and white space differ between the texts of one letter; so do their ids."""
    pairs = [(f"What is {a}{end}" if end != " " else f"what  IS {a}", f"answer {a}") for a, end in parts]
    pairs += [(f"plain {number}", "answer") for number in range(4)]
    found = []
    with tempfile.TemporaryDirectory() as name:
        for number in range(2):
            store = Path(name) / f"{number}.duckdb"
            ingest(store, _tsv(Path(name) / f"{number}.tsv", pairs), SourceConfig(dev=0.2, test=0.2))
            found.append(_splits(store))
            random.shuffle(pairs)
    assert found[0] == found[1]
    assert set(found[0].values()) == {"train", "dev", "test"}
    texts: dict[str, set[str]] = {}
    for text, split in found[0].items():
        texts.setdefault(normalise(text), set()).add(split)
    assert all(len(splits) == 1 for splits in texts.values())


def test_the_command_says_how_many_queries_each_split_got(tmp_path: Path) -> None:
    source, store = _tsv(tmp_path / "pairs.tsv", _pairs(50)), tmp_path / "s.duckdb"
    done = CliRunner().invoke(group, ["ingest", str(store), source, "--dev", "0.1", "--test", "0.2"])
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines()[-2:] == [
        "positives by split: dev 5, test 10, train 35",
        "queries by split: dev 5, test 10, train 35",
    ]
    assert _count(store) == {"dev": 5, "test": 10, "train": 35}


def test_the_seed_and_the_text_alone_decide(tmp_path: Path) -> None:
    source = _tsv(tmp_path / "pairs.tsv", _pairs(40))
    config = SourceConfig(dev=0.2, test=0.2)
    for name in ("a", "b"):
        ingest(tmp_path / f"{name}.duckdb", source, config)
    assert dump(tmp_path / "a.duckdb") == dump(tmp_path / "b.duckdb")
    ingest(tmp_path / "c.duckdb", source, SourceConfig(dev=0.2, test=0.2, seed=14))
    assert _splits(tmp_path / "c.duckdb") != _splits(tmp_path / "a.duckdb")
    before = dump(tmp_path / "a.duckdb")
    ingest(tmp_path / "a.duckdb", source, config)
    assert dump(tmp_path / "a.duckdb") == before


def test_more_rows_leave_the_queries_that_the_store_has_where_they_are(tmp_path: Path) -> None:
    store, config = tmp_path / "s.duckdb", SourceConfig(dev=0.2, test=0.2)
    ingest(store, _tsv(tmp_path / "a.tsv", _pairs(20)), config)
    first = _splits(store)
    ingest(store, _tsv(tmp_path / "b.tsv", _pairs(40)), config)
    second = _splits(store)
    assert {text: second[text] for text in first} == first
    assert _count(store) == {"dev": 8, "test": 8, "train": 24}


def test_copies_that_dedup_found_stay_together(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    documents = _tsv(
        tmp_path / "a.tsv", [(f"how do I reset the router {i} times today", "x") for i in range(9)]
    )
    ingest(store, documents, SourceConfig(split="other"))
    with Database.open(store) as opened:
        dedup(opened, DedupConfig(threshold=0.7))
        assert opened.rows("SELECT count(DISTINCT cluster) FROM duplicates WHERE role = 'queries'") == [(1,)]
    pairs = [(f"How do I reset the router {i} times today", f"answer {i}") for i in range(9)]
    ingest(store, _tsv(tmp_path / "b.tsv", [*pairs, *_pairs(9)]), SourceConfig(dev=0.3, test=0.3))
    found = rows(
        store,
        """SELECT DISTINCT split FROM queries JOIN judgments USING (query_id)
        WHERE split <> 'other' AND contains(text, 'router')""",
    )
    assert len(found) == 1


def test_positives_and_negatives_go_with_their_query(tmp_path: Path) -> None:
    lines = "".join(f"question {i}\tanswer {i}\tother {i}\n" for i in range(10))
    source = str(write(tmp_path / "triplets.tsv", f"query\tpositive\tnegative\n{lines}"))
    store = tmp_path / "s.duckdb"
    ingest(store, source, SourceConfig(dev=0.2))
    assert _count(store) == {"dev": 2, "train": 8}
    assert rows(store, "SELECT split, relevance, count(*) FROM judgments GROUP BY ALL ORDER BY ALL") == [
        ("dev", 0.0, 2), ("dev", 1.0, 2), ("train", 0.0, 8), ("train", 1.0, 8),
    ]  # fmt: skip


def test_a_beir_folder_with_train_alone_is_divided(tmp_path: Path) -> None:
    texts = {f"d{i}": f"document {i}" for i in range(10)}
    queries = {f"q{i}": f"query {i}" for i in range(10)}
    judged = [(f"q{i}", f"d{i}", 1) for i in range(9)] + [("q9", "d9", 0)]
    folder = beir(tmp_path / "set", texts, queries, train=judged)
    store = tmp_path / "s.duckdb"
    report = ingest(store, str(folder), SourceConfig(test=0.3))
    assert dict(report.queries) == {"test": 3, "train": 6}
    assert rows(store, "SELECT split FROM judgments WHERE query_id = 'q9'") == [("train",)]


def test_labelled_texts_have_no_positive_in_another_split(tmp_path: Path) -> None:
    lines = "".join(f"text {i} of {label}\t{label}\n" for label in ("a", "b") for i in range(30))
    source, store = str(write(tmp_path / "all.tsv", f"text\tlabel\n{lines}")), tmp_path / "s.duckdb"
    config = SourceConfig(dev=0.2, test=0.2)
    report = ingest(store, source, config)
    assert dict(report.queries) == {"dev": 12, "test": 12, "train": 36}
    crossing = """SELECT count(*) FROM judgments a JOIN judgments b
        ON a.doc_id[3:] = b.query_id[3:] WHERE a.split <> b.split"""
    assert rows(store, crossing) == [(0,)]
    before = dump(store)
    ingest(store, source, config)
    assert dump(store) == before
    with pytest.raises(UsageError, match=r"would be in two splits.*into a new store"):
        ingest(store, source, SourceConfig(dev=0.2, test=0.2, seed=14))
    assert dump(store) == before


def test_sources_with_splits_are_refused(tmp_path: Path) -> None:
    store, config = tmp_path / "s.duckdb", SourceConfig(dev=0.1)
    _tsv(tmp_path / "set/train.tsv", _pairs(9))
    dev = _tsv(tmp_path / "set/dev.tsv", _pairs(9, 9))
    with pytest.raises(UsageError, match=r"divide a single split; splits of .*set: dev, train"):
        ingest(store, str(tmp_path / "set"), config)
    with pytest.raises(UsageError, match=r"divide a training split; split of .*dev.tsv: dev"):
        ingest(store, dev, config)
    other = beir(tmp_path / "beir", {"d": "x"}, {"q": "y"}, other=[("q", "d", 1)])
    with pytest.raises(UsageError, match="divide a single split; splits of the sources: other, train"):
        ingest(store, [str(tmp_path / "set/train.tsv"), str(other)], config)
    assert not store.exists()
    ingest(store, dev, SourceConfig(dev=0.1, split="train"))
    assert _count(store) == {"dev": 1, "train": 8}


def test_too_few_queries_and_wrong_fractions_are_refused(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    two = _tsv(tmp_path / "two.tsv", _pairs(2))
    with pytest.raises(UsageError, match="no query is left for split train: the sources have 2 queries"):
        ingest(store, two, SourceConfig(dev=0.1, test=0.1))
    ingest(store, two)
    with pytest.raises(
        UsageError, match=r"no query is left for split dev: .* 2 of which the store has already"
    ):
        ingest(store, two, SourceConfig(dev=0.1))
    with pytest.raises(UsageError, match=r"must leave queries to train on, got 0\.5 and 0\.5"):
        ingest(store, two, SourceConfig(dev=0.5, test=0.5))
    with pytest.raises(UsageError, match="dev must be a number"):
        ingest(store, two, SourceConfig(dev=1))
    assert _count(store) == {"train": 2}


def test_queries_with_positives_in_several_splits_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "faq.csv"
    file.write_text("query,positive\n" + "".join(f"how {i},so {i}\n" for i in range(20)), "utf-8")
    divided = ingest(tmp_path / "s.duckdb", str(file), SourceConfig(dev=0.1, test=0.1))
    assert (divided.splits, divided.in_several_splits) == ({"dev": 2, "test": 2, "train": 16}, 0)
    again = ingest(tmp_path / "s.duckdb", str(file), SourceConfig())
    assert (again.splits, again.in_several_splits) == ({"dev": 2, "test": 2, "train": 20}, 4)


def _ingest(store: Path, source: str, *options: str) -> list[str]:
    done = CliRunner().invoke(group, ["ingest", str(store), source, *options])
    assert done.exit_code == 0, done.output
    return [line for line in done.stderr.splitlines() if line.startswith("note: ")]


def test_other_fractions_and_another_seed_say_that_queries_stay_in_their_split(tmp_path: Path) -> None:
    source, store = _tsv(tmp_path / "a.tsv", _pairs(20)), tmp_path / "s.duckdb"
    assert _ingest(store, source, "--dev", "0.2", "--test", "0.2") == []
    before = _splits(store)
    assert _ingest(store, source, "--dev", "0.2", "--test", "0.2") == []
    advice = (
        "split: --dev, --test and the seed divide only queries that the store does not have; to divide all "
        "again, ingest into a new store"
    )
    assert _ingest(store, source, "--dev", "0.4", "--test", "0.2") == [
        f"note: 4 queries stay in their {advice}"
    ]
    (note,) = _ingest(store, source, "--dev", "0.2", "--test", "0.2", "--set", "seed=14")
    assert note.endswith(f"queries stay in their {advice}")
    assert _splits(store) == before
    one = ingest(store, source, SourceConfig(dev=0.15, test=0.2))
    assert one.kept_split == 1


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Validation", "DEV"])
def test_every_name_of_the_dev_split_means_dev(tmp_path: Path, name: str) -> None:
    source, store = _tsv(tmp_path / "a.tsv", _pairs(9)), tmp_path / "s.duckdb"
    assert _ingest(store, source, "--split", name) == [f"note: split {name} is called dev in a store"]
    assert _count(store) == {"dev": 9}
    by_name = tmp_path / "folder"
    _tsv(by_name / f"{name}.tsv", _pairs(9))
    ingest(tmp_path / "t.duckdb", str(by_name))
    assert _count(tmp_path / "t.duckdb") == {"dev": 9}


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (MiningConfig, "split"), (EvaluationConfig, "split"), (SilverConfig, "split"), (Dev, "split"),
        (ContaminationConfig, "split"), (BenchConfig, "split"), (RerankerConfig, "split"),
        (SourceConfig, "split"), (PretrainConfig, "without"),
    ],
)  # fmt: skip
def test_commands_take_every_name_of_a_split(config: type, field: str) -> None:
    for text, name in (("validation", "dev"), ("val", "dev"), ("Test", "test"), ("fold-1", "fold-1")):
        assert getattr(config(**{field: text}), field) == name


def test_a_misspelt_split_is_pointed_out(tmp_path: Path) -> None:
    source, store = _tsv(tmp_path / "a.tsv", _pairs(9)), tmp_path / "s.duckdb"
    assert _ingest(store, source, "--split", "tset") == [
        "note: split tset is none of train, dev and test, which commands look for (did you mean 'test'?); if "
        "so, ingest into a new store"
    ]
    folder = beir(tmp_path / "set", {"d": "x"}, {"q": "y"}, trian=[("q", "d", 1)])
    (note,) = _ingest(tmp_path / "t.duckdb", str(folder))
    assert "(did you mean 'train'?)" in note
    for deliberate in ("fold-1", "test2", "holdout"):
        assert _ingest(tmp_path / f"{deliberate}.duckdb", source, "--split", deliberate) == []


def test_a_split_of_an_earlier_version_is_explained(tmp_path: Path) -> None:
    source, store = _tsv(tmp_path / "a.tsv", _pairs(9)), tmp_path / "s.duckdb"
    ingest(store, source)
    with Database.open(store) as opened:
        opened.execute("UPDATE judgments SET split = 'validation'")
        with pytest.raises(UsageError) as caught:
            mine(opened, MiningConfig(split="validation"))
    assert str(caught.value) == (
        "no query has a judged positive in split 'dev'; the store has it as 'validation', a name of split "
        "dev that this version of miner does not keep: ingest its sources into a new store"
    )
