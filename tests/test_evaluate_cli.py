"""`miner evaluate` as the user sees it, and what it makes of models, tasks and stores."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from miner.cli.main import main
from miner.errors import ModelError, UsageError
from miner.evaluation.compare import compare
from miner.evaluation.evaluate import (
    EvaluationConfig,
    encoder_task,
    evaluate,
    open_models,
    task_of_split,
)
from miner.evaluation.report import EvaluationReport, ModelFacts, Section, StoreSplit, as_json, store_split
from miner.evaluation.result import Evaluation, from_values
from miner.evaluation.table import table
from miner.models.encoder import Encoder
from miner.models.reranker import Reranker
from miner.store.database import Database
from miner.store.models import record_training
from tests.evaluation_support import judged_store, letters
from tests.tiny import tiny_bert

TOPICS = {
    "bake bread at home": "knead flour, water and yeast, let the dough rise, then put it into a hot oven",
    "repair a flat bicycle tyre": "take off the wheel, find the hole in the tube and glue a patch on it",
    "grow tomatoes on a balcony": "tomato plants in pots need sun, water every day and a stick to climb",
    "learn to play the guitar": "practise chords on the strings slowly with a metronome",
    "remove a stain of red wine": "put salt on the spilled wine, then wash the cloth with cold water",
    "train a puppy to sit": "hold a treat above the young dog's nose and say the command",
    "prepare for a job interview": "read about the employer and rehearse answers to common questions",
    "save money on electricity": "switch off lamps and unplug chargers to lower the power bill",
    "brew strong coffee": "grind the beans finely and pour nearly boiling water over them",
    "paint the walls of a room": "cover the floor, tape the edges and use a roller with two coats",
    "write a sorting algorithm": "quicksort partitions an array around a pivot and recurses",
    "calm a crying baby": "rock the infant gently, sing, and check the nappy",
    "build a camp fire": "stack dry twigs, light tinder and add larger logs in the woods",
    "clean a fish tank": "replace part of the aquarium's water and scrub algae off the glass",
    "catch an early flight": "pack the evening before and be at the airport two hours ahead",
    "knit a woollen scarf": "cast on stitches with needles and yarn, row after row",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with `random`, an encoder, and `cross`, a reranker."""
    folder = tmp_path_factory.mktemp("models")
    tiny_bert(folder / "random")
    tiny_bert(folder / "cross", labels=1)
    return folder


PROGRESS = re.compile(r"\w+: [\d,]+ of [\d,]+ \w+, about [\d:]+ left$")
"""What a slow machine reports meanwhile."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Returns a store on which a model of English has everything right."""
    queries = {f"q{i:02}": text for i, text in enumerate(TOPICS)}
    documents = {f"d{i:02}": text for i, text in enumerate(TOPICS.values())}
    judgments = [(f"q{i:02}", f"d{i:02}", 1.0, "test") for i in range(len(TOPICS))]
    judged_store(tmp_path / "my.duckdb", documents, queries, judgments).close()
    return tmp_path / "my.duckdb"


def graded(path: Path) -> Path:
    """Returns a store of graded pairs, one for a query."""
    texts = list(TOPICS)
    queries = {f"q{i}": text for i, text in enumerate(texts)}
    documents = {"d0": texts[0], "d1": TOPICS[texts[0]], "d2": texts[1]}
    judgments = [("q0", "d0", 5.0, "test"), ("q1", "d1", 3.0, "test"), ("q2", "d2", 0.0, "test")]
    judged_store(path, documents, queries, judgments).close()
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *map(str, arguments)])
    captured = capsys.readouterr()
    said = "".join(line for line in captured.err.splitlines(True) if not PROGRESS.match(line))
    return int(ended.value.code or 0), captured.out, said


def test_the_table(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "bundled", store) == (
        0,
        "my.duckdb test: retrieval, 16 queries, 16 documents\n"
        "         bundled\n"
        "nDCG@10   1.0000\n"
        "MRR@10    1.0000\n"
        "MAP       1.0000\n"
        "R@10      1.0000\n"
        "R@100     1.0000\n",
        "",
    )


def test_a_model_against_itself_is_reported_once(
    store: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = "of --against is the same model"
    _, out, said = run(capsys, "bundled", store, "--against", "bundled", "--beside", f"{store}:test")
    assert said.splitlines() == [f"bundled {same}: all differences are 0"]
    assert "+0.0000  [+0.0000, +0.0000]  1.0000" in out
    copy = tmp_path / "copy"
    shutil.copytree(models / "random", copy)
    _, _, said = run(capsys, models / "random", store, "--against", copy)
    assert f"{copy} {same} as {models / 'random'}: all differences are 0" in said.splitlines()


def test_a_better_model_is_found_better(
    store: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "bundled", store, "--against", models / "random")
    assert code == 0
    assert re.match(
        r"my.duckdb test: retrieval, 16 queries, 16 documents\n"
        r" +bundled  random  difference +95 % interval +p\n"
        r"nDCG@10 +1\.0000  0\.\d{4} +\+0\.\d{4}  \[\+0\.\d{4}, \+0\.\d{4}\]  0\.000\d\n",
        out,
    ), out
    _, out, _ = run(capsys, models / "random", store, "--against", "bundled", "--json")
    difference = json.loads(out)["sections"][0]["differences"][0]
    assert (difference["against"], difference["measure"]) == ("bundled", "nDCG@10")
    assert difference["difference"] < 0
    assert difference["high"] < 0
    assert difference["p"] < 0.01


def test_json_has_every_query(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out_file = tmp_path / "report.json"
    code, out, _ = run(
        capsys, "bundled", store, "--set", "queries=5", "--json", "--per-query", "--out", out_file
    )
    assert code == 0
    report = json.loads(out)
    assert json.loads(out_file.read_text()) == report
    (section,) = report["sections"]
    assert (section["store"], section["split"], section["task"]) == (str(store), "test", "retrieval")
    assert section["measures"] == [
        {"model": "bundled", "nDCG@10": 1, "MRR@10": 1, "MAP": 1, "R@10": 1, "R@100": 1}
    ]
    assert len(section["ids"]) == section["queries"] == 5
    assert section["per_query"][0]["MAP"] == [1.0] * 5
    assert report["models"][0]["fingerprint"] == Encoder("bundled").fingerprint


def test_where_the_json_cannot_be_written_the_table_is_on_the_screen(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = store / "below-a-file.json"
    code, out, err = run(capsys, "bundled", store, "--out", file)
    assert (code, err) == (1, f"Error: cannot write {file}: File exists\n  check its folder\n")
    assert "nDCG@10   1.0000" in out


def test_a_second_evaluation_encodes_nothing(
    store: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Database.open(store, read_only=True) as opened:
        (first,) = evaluate(opened, str(models / "random"))

        def refuse(self: Encoder, texts: Sequence[str], *_: object, **__: object) -> None:
            raise AssertionError(f"{len(texts)} texts are encoded again")

        monkeypatch.setattr(Encoder, "encoded", refuse)
        (second,) = evaluate(opened, str(models / "random"))
    assert dict(second.means) == dict(first.means)


def test_truncated_texts_are_reported_cold_and_from_the_cache(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "word " * 100
    documents = {"d0": long, "d1": f"{long} again", "d2": "short", "d3": long}
    judged_store(tmp_path / "my.duckdb", documents, {"q0": "a word"}, [("q0", "d2", 1.0, "test")]).close()
    note = f"2 texts are longer than {models / 'random'} reads; only the beginning is encoded\n"
    for _ in ("cold", "cached"):
        code, _, said = run(capsys, models / "random", tmp_path / "my.duckdb")
        assert (code, said) == (0, note)


def test_where_no_vectors_can_be_kept_they_are_computed(
    store: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, kept, _ = run(capsys, models / "random", store)
    other = store.with_name("other.duckdb")
    store.rename(other)
    beside = Path(f"{other}.vectors")
    beside.write_text("in the way")
    code, printed, said = run(capsys, models / "random", other)
    assert (code, printed) == (0, kept.replace("my.duckdb", "other.duckdb"))
    assert said.startswith(f"vectors are not cached: cannot write to {beside}")
    assert said.count("vectors are not cached") == 1
    assert beside.read_text() == "in the way"


def test_positives_that_a_model_has_seen_are_counted(
    store: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = pa.table({"query_id": ["q00", "q01", "q02"], "doc_id": ["d00", "d01", "d09"]})
    with Database.open(store) as opened:
        record_training(opened, Encoder(str(models / "random")).fingerprint, seen)
    _, _, said = run(capsys, "bundled", store, "--against", models / "random")
    assert said.splitlines() == [f"{models / 'random'} was trained on 2 of the positives of split 'test'"]


def test_a_reranker_reranks(store: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, models / "cross", store, "--set", "depth=5")
    assert code == 0
    assert out.startswith(
        "my.duckdb test: reranking, 16 queries, BM25's candidates of 16 documents\n          cross\nnDCG@10  "
    )


def test_a_store_beside(
    store: Path, tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = graded(tmp_path / "public.duckdb")
    code, out, _ = run(capsys, "bundled", store, "--against", models / "random", "--beside", f"{beside}:test")
    assert code == 0
    assert "\n\npublic.duckdb test: similarity, 3 pairs\n" in out


def fake(task: str, value: float) -> Evaluation:
    values = np.full(4, value)
    return from_values(task, ["a", "b", "c", "d"], {"nDCG@10": values}, 9)


def test_stores_that_disagree() -> None:
    sections = []
    for name, values in {
        "my.duckdb": (0.5, 0.25),
        "public.duckdb": (0.25, 0.5),
        "x.duckdb": (0.5, 0.5),
    }.items():
        measured = tuple(fake("retrieval", value) for value in values)
        sections.append(Section(StoreSplit(Path(name), "test"), measured, (tuple(compare(*measured)),)))
    facts = tuple(ModelFacts(name, "0", "fp32", "cosine") for name in ("out/tuned/", "hub/base"))
    report = EvaluationReport(facts, tuple(sections))
    p = compare(fake("retrieval", 0.5), fake("retrieval", 0.25))[0].p
    line = (
        f"disagree: tuned is ahead of base on my.duckdb test (nDCG@10 +0.2500, p {p:.4f}), "
        f"behind it on public.duckdb test (nDCG@10 -0.2500, p {p:.4f})"
    )
    assert report.disagreements() == [line]
    assert as_json(report)["disagreements"] == [line]
    assert table(report).split("\n\n")[-2:] == [
        "side by side     my.duckdb test  public.duckdb test      x.duckdb test\n"
        "                        nDCG@10             nDCG@10            nDCG@10\n"
        "tuned                    0.5000              0.2500             0.5000\n"
        "base                     0.2500              0.5000             0.5000\n"
        f"tuned - base  +0.2500, p {p:.4f}   -0.2500, p {p:.4f}  +0.0000, p 1.0000",
        line,
    ]
    assert table(report).splitlines()[:3] == [
        "my.duckdb test: retrieval, 4 queries, 9 documents",
        "          tuned    base  difference       95 % interval       p",
        f"nDCG@10  0.5000  0.2500     +0.2500  [+0.2500, +0.2500]  {p:.4f}",
    ]
    assert table(report).splitlines()[-1] == line


def test_store_and_split_are_parsed(tmp_path: Path) -> None:
    odd = tmp_path / "a:b"
    odd.touch()
    assert store_split("s.duckdb", "dev") == StoreSplit(Path("s.duckdb"), "dev")
    assert store_split("s.duckdb:train", "dev") == StoreSplit(Path("s.duckdb"), "train")
    assert store_split(str(odd), "dev") == StoreSplit(odd, "dev")


def test_the_task_is_detected_from_the_judgments(store: Path, tmp_path: Path) -> None:
    labels = {"q": "x", "d": "x"}
    config = EvaluationConfig()
    with judged_store(tmp_path / "l", {"d": "a"}, {"q": "b"}, [("q", "d", 1.0, "test")], labels) as opened:
        assert task_of_split(opened, config) == "labels"
        assert task_of_split(opened, EvaluationConfig(task="retrieval")) == "retrieval"
    with Database.open(graded(tmp_path / "g"), read_only=True) as opened:
        assert task_of_split(opened, config) == "similarity"
    with Database.open(tmp_path / "g") as opened:
        opened.execute("UPDATE judgments SET query_id = 'q0'")
        assert task_of_split(opened, config) == "retrieval", "a graded pool of one query"
    texts = {"a": "x", "b": "y", "c": "z"}
    for grades, expected in (((1, 2.5, 5), "similarity"), ((1, 2, 3), "retrieval")):
        pairs = [(name, name, grade, "test") for name, grade in zip("abc", grades, strict=True)]
        with judged_store(tmp_path / expected, texts, texts, pairs) as opened:
            assert task_of_split(opened, config) == expected
    with Database.open(store, read_only=True) as opened:
        assert task_of_split(opened, config) == "retrieval"
        task = encoder_task(opened, config)
    assert task.measure(letters()).task == "retrieval"


def test_a_model_of_texts_only_is_an_encoder(models: Path) -> None:
    (encoder,) = open_models([str(models / "random")], "auto")
    (reranker,) = open_models([str(models / "cross")], "auto")
    assert isinstance(encoder, Encoder)
    assert isinstance(reranker, Reranker)


def test_errors(store: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder, cross = models / "random", models / "cross"
    run(capsys, "--help")  # after a help page rich-click has other classes
    cases = {
        (encoder, store, "--split", "tset"): (
            2,
            f"Error: nothing is judged in split 'tset' of {store} (did you mean 'test'?)\n"
            "  choose one with --split: test\n",
        ),
        (encoder, store, "--set", "task=labels"): (
            2,
            f"Error: split 'test' of {store} has no labelled texts\n"
            "  ingest texts with labels: miner ingest STORE texts.tsv --label-column label; splits: test\n",
        ),
        (encoder, store, "--set", "task=similarity"): (
            2,
            "Error: split 'test' has no graded pairs: 16 pairs, 1 distinct relevance\n"
            "  ingest pairs with their scores: miner ingest STORE pairs.tsv --relevance-column score\n",
        ),
        (cross, store, "--set", "task=labels"): (
            2,
            f"Error: {cross} is a reranker: it has no vectors for the task labels\n"
            "  use --set task=reranking\n",
        ),
        (cross, store, "--against", encoder): (
            2,
            f"Error: {cross} is a reranker and {encoder} an encoder: their measures are not comparable\n"
            "  evaluate them one at a time, or name models of one kind\n",
        ),
        (tmp_path / "none", store): (
            1,
            f"Error: no model folder at {tmp_path / 'none'}\n  name a folder, a hub id, or bundled\n",
        ),
        (encoder, tmp_path / "none"): (
            1,
            f"Error: there is no store at {tmp_path / 'none'}\n"
            f"  make one: miner ingest {tmp_path / 'none'} SOURCE\n",
        ),
        (store, encoder): (
            2,
            f"Error: {store} is a store, not MODEL: the order is MODEL STORE\n"
            f"  miner evaluate {encoder} {store}\n",
        ),
        (encoder, store, "--beside", f"{store}:dev"): (
            2,
            f"Error: nothing is judged in split 'dev' of {store}\n"
            f"  choose one with --beside {store}:SPLIT: test\n",
        ),
        (encoder, store, "--per-query"): (
            2,
            "Error: --per-query adds to the JSON, which is not written\n  add --json or --out FILE\n",
        ),
        (encoder, store, "--out", models): (
            2,
            f"Error: {models} is a folder\n  name a file\n",
        ),
    }
    for arguments, expected in cases.items():
        code, out, err = run(capsys, *arguments)
        assert (code, err) == expected
        assert out == ""


def test_an_encoder_cannot_rerank(store: Path, models: Path) -> None:
    with Database.open(store) as opened, pytest.raises(ModelError, match="is not a reranker"):
        evaluate(opened, str(models / "random"), EvaluationConfig(task="reranking"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "retreival"}, "unknown task 'retreival' (did you mean 'retrieval'?)"),
        ({"queries": 0}, "queries must be a whole number from 1 to 1,000,000,000, got 0"),
        ({"depth": 0}, "depth must be a whole number from 1 to 100,000, got 0"),
    ],
)
def test_values_that_make_no_sense(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        EvaluationConfig(**settings)  # type: ignore[arg-type]
    assert caught.value.message == message


def test_an_empty_store(tmp_path: Path) -> None:
    made = judged_store(tmp_path / "s", {"d": "a"}, {"q": "b"}, [])
    with made as opened, pytest.raises(UsageError) as caught:
        task_of_split(opened, EvaluationConfig())
    assert caught.value.hint == (
        f"the store holds no judgments, so ingest first: miner ingest {opened.path} SOURCE"
    )


def test_the_page_names_every_measure_and_its_python_runs(
    root: Path, store: Path, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (root / "docs" / "evaluation.md").read_text("utf-8")
    names = ("nDCG@10", "MRR@10", "MAP", "R@10", "R@100", "P@1", "P@10", "k-NN accuracy")
    assert [name for name in (*names, "Spearman", "Pearson") if f"`{name}`" not in page] == []
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(store.parent)
    (store.parent / "my-model").symlink_to(models / "random")
    exec(compile(code, "evaluation.md", "exec"), {})
    assert capsys.readouterr().out.startswith("nDCG@10 -0.")


@pytest.mark.parametrize(
    "line", ["--split test", "--against bundled", "--set depth=50 --json --per-query --out r"]
)
def test_the_commands_of_the_page_are_understood(root: Path, line: str) -> None:
    from miner.cli.evaluate import command

    page = (root / "docs" / "evaluation.md").read_text("utf-8")
    assert line.removesuffix(" r") in page
    given = command.make_context("evaluate", ["my-model", "my.duckdb", *line.split()])
    assert given.params["model"] == "my-model"
