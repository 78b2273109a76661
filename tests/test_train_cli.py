"""`miner train` as the user sees it, and killed with -9 at any step."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from miner.cli.main import main
from miner.cli.train import ABOUT, DEV_TASKS, JUDGMENTS, SETTINGS
from miner.training import steps
from miner.training.encoder_config import EncoderConfig
from miner.training.examples import Examples
from miner.workflows import train as workflow
from tests import forking
from tests.evaluation_support import judged_store
from tests.sources_support import beir, jsonl, write
from tests.tiny import tiny_bert
from tests.train_support import ANSWERS, TOPICS, examples_for, frozen, triplets

__all__ = ["frozen"]

SCRATCH = [
    "--base",
    "scratch",
    "--set",
    "dimension=16",
    "--set",
    "batch_size=16",
    "--set",
    "dtype=fp32",
    "--set",
    "threads=1",
]


def written(path: Path, examples: Examples) -> Path:
    """Writes rows as JSON lines, with the names of their classes."""
    columns: dict[str, Any] = dict(examples.texts)
    if examples.target is not None:
        columns["label"] = [examples.classes[number] for number in examples.target]
    rows = zip(*columns.values(), strict=True)
    return write(path, jsonl(*(dict(zip(columns, row, strict=True)) for row in rows)))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return written(tmp_path / "triplets.jsonl", triplets())


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store in whose dev split each topic has its answer."""
    queries = {f"q{row}": f"{topic} south" for row, topic in enumerate(TOPICS)}
    documents = {f"d{row}": f"north {answer}" for row, answer in enumerate(ANSWERS)}
    judgments = [(f"q{row}", f"d{row}", 1.0, "dev") for row in range(len(TOPICS))]
    judged_store(tmp_path / "my.duckdb", documents, queries, judgments).close()
    return tmp_path / "my.duckdb"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["train", *map(str, arguments)])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def stored(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text("utf-8"))
    return found


def test_without_a_dev_split(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "my-model"
    code, said, notes = run(capsys, rows, out, *SCRATCH, "--set", "max_steps=3")
    losses = [loss for _, loss in stored(out)["losses"]]
    assert (code, said) == (
        0,
        f"encoder   {out}\n"
        "rows      96 of anchor, positive, negative\n"
        "trained   3 steps of at most 16 rows, loss mnr\n"
        f"loss      {losses[0]:.4f} at first, {losses[2]:.4f} at last\n"
        f"next      miner evaluate {out} STORE --split test\n",
    )
    assert notes == (
        "no dev split to score on: the last model is kept\n"
        f"96 rows of anchor, positive, negative from {rows}\n"
        f"step 1 of 3: loss {losses[0]:.4f}\n"
        f"step 2 of 3: loss {losses[1]:.4f}\n"
        f"step 3 of 3: loss {losses[2]:.4f}\n"
    )


def test_with_a_dev_split(
    rows: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my-model"
    settings = [
        *SCRATCH,
        "--epochs",
        4,
        "--set",
        "learning_rate=0.1",
        "--set",
        "evaluations=2",
        "--dev",
        store,
    ]
    code, said, notes = run(capsys, rows, out, *settings)
    metrics = stored(out)
    scores = {step: found["nDCG@10"] for step, found in metrics["scores"]}
    best = metrics["best_step"]
    assert (code, list(scores)) == (0, [0, 12, 24])
    assert scores[best] > scores[0]
    assert said == (
        f"encoder   {out}\n"
        "rows      96 of anchor, positive, negative\n"
        "trained   24 steps of at most 16 rows, loss mnr\n"
        f"loss      {metrics['losses'][0][1]:.4f} at first, {metrics['losses'][-1][1]:.4f} at last\n"
        f"dev       nDCG@10 {scores[0]:.4f} before, {scores[best]:.4f} at step {best}\n"
        f"next      miner evaluate {out} {store} --split dev\n"
    )
    assert [line for line in notes.splitlines() if " dev " in line] == [
        f"step {step}: dev nDCG@10 {value:.4f}" for step, value in scores.items()
    ]


@pytest.mark.parametrize(
    ("splits", "next_split"),
    [(("train", "dev", "test"), "test"), (("train", "dev"), "dev"), (("train",), None)],
)
def test_the_next_command_names_a_split_that_is_judged_and_not_trained_on(
    splits: tuple[str, ...], next_split: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = {f"{split}{row}": f"{topic} south" for split in splits for row, topic in enumerate(TOPICS)}
    documents = {f"d{row}": f"north {answer}" for row, answer in enumerate(ANSWERS)}
    judged = [(f"{split}{row}", f"d{row}", 1.0, split) for split in splits for row in range(len(TOPICS))]
    path, out = tmp_path / "my.duckdb", tmp_path / "my-model"
    judged_store(path, documents, queries, judged).close()
    code, said, _ = run(
        capsys, path, out, *SCRATCH, "--judgments", "gold", "--set", "max_steps=1", "--set", "evaluations=1"
    )
    assert code == 0
    command = f"miner evaluate {out} {path} --split {next_split or 'test'}"
    last = said.splitlines()[-1]
    if next_split is None:
        assert last == (
            "next      judge queries that were not trained on: "
            f"miner ingest {path} SOURCE --split test, then {command}"
        )
        return
    assert last == f"next      {command}"
    with pytest.raises(SystemExit) as ended:
        main([*command.split()[1:], "--set", "task=retrieval"])
    assert not ended.value.code


def test_again_it_is_finished_and_said_the_same(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my-model"
    call = [rows, out, *SCRATCH, "--set", "max_steps=1", "--set", "evaluations=0"]
    _, first, _ = run(capsys, *call)
    code, again, notes = run(capsys, *call)
    assert (code, again) == (0, first.replace(f"{out}\n", f"{out} (was finished before)\n", 1))
    assert notes.splitlines()[1:] == [f"{out} holds this encoder already"]
    assert run(capsys, *call, "--set", "seed=5") == (
        2,
        "",
        f"96 rows of anchor, positive, negative from {rows}\n"
        f"Error: {out} holds an encoder from another training: seed 13, now 5\n"
        "  name another folder, or replace it with --force\n",
    )
    assert run(capsys, *call, "--set", "seed=5", "--force")[0] == 0
    assert stored(out)["config"]["seed"] == 5


def test_an_unfinished_training_is_not_lost_to_another(
    rows: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my-model"
    assert attempts(store, (rows, out, TABLE, 5)) == ["training 0", "ended -9 False"]
    call = [rows, out, *SCRATCH, "--set", "max_steps=1", "--set", "evaluations=0"]
    code, _, err = run(capsys, *call)
    assert (code, err.splitlines()[1:]) == (
        2,
        [
            f"Error: {out}.partial holds an unfinished training: epochs 9.0, now 1.0; max_steps 20, now 1; "
            "learning_rate 0.1, now unset; dimension 8, now 16; evaluations 5, now 0",
            "  go on with the same data and settings, name another OUT, or start anew with --force",
        ],
    )
    assert attempts(store, (rows, out, TABLE, 0)) == ["training 4", "ended 0 True"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_saves_a_checkpoint(rows: Path, tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "my-model"
    settings = ["--set", "learning_rate=0.1", "--epochs", "200", "--set", "evaluations=0"]
    words = ["train", str(rows), str(out), *map(str, SCRATCH), *settings]
    training = forking.start(forking.command, words)
    training.until(1, "loss")
    os.kill(training.pid, number)
    ended = training.wait()
    said = ended.err.splitlines()
    assert ended.code == 130
    assert (
        said[-1]
        == "Interrupted. Finished work is kept, what was under way is undone: run the same command again."
    )
    assert "saving a checkpoint after this step; a second signal ends at once" in said
    (checkpoint,) = (tmp_path / "my-model.partial").glob("checkpoint-*/complete")
    again = forking.miner(*words)
    assert again.code == 0, again.err
    assert f"going on from step {checkpoint.parent.name.rpartition('-')[2]} of 1200" in again.err


def test_a_training_that_diverges_fails_and_writes_nothing(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*SCRATCH, "--set", "learning_rate=1e38", "--epochs", 4]
    code, said, notes = run(capsys, rows, tmp_path / "out", *settings)
    assert (code, said) == (1, "")
    assert notes.endswith(
        "Error: training diverged: the loss is nan by step 4 of 24\n  lower learning_rate, it was 1e+38\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["triplets.jsonl"]


def test_more_steps_than_the_epochs_have_are_reported(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, said, notes = run(capsys, rows, tmp_path / "out", *SCRATCH, "--set", "max_steps=500")
    assert "trained   6 steps of at most 16 rows" in said
    assert "max_steps=500 is more than the 6 steps of 1 epoch: raise epochs\n" in notes


def test_columns_that_are_not_trained_on_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Examples({"anchor": ["a", "b"], "positive": ["c", "d"]}, [0, 1], ("no", "yes"))
    path = written(tmp_path / "t.jsonl", data)
    call = [path, tmp_path / "out", *SCRATCH, "--columns", "anchor,positive", "--set", "max_steps=1"]
    code, _, notes = run(capsys, *call)
    assert (code, notes.splitlines()[0]) == (0, "not read: columns label")


def test_labels_and_folders_that_a_loss_does_not_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    classes = write(tmp_path / "nli.tsv", "a\tb\tlabel\nx\ty\tneutral\nz\tw\tentailment\n")
    grades = write(tmp_path / "sts.tsv", "a\tb\tscore\nx\ty\t5\nz\tw\t0\n")
    folder = beir(tmp_path / "set", {"d": "text"}, {"q": "?"}, train=[("q", "d", 1)])
    every = "or, for every row, name the columns of text with --columns"
    cases = {
        (classes, out): (
            2,
            f"Error: loss mnr treats every row as a positive, but {classes} has labels in column 'label'\n"
            "  train on the rows of one class with --set positive_label=CLASS, one of entailment, neutral; "
            f"{every}\n",
        ),
        (grades, out): (
            2,
            f"Error: loss mnr treats every row as a positive, but {grades} has labels in column 'score'\n"
            f"  train on the numbers with --loss cosine --set label_max=5; {every}\n",
        ),
        (classes, out, "--loss", "softmax", "--set", "label_max=5"): (
            2,
            "Error: label_max has no effect on loss softmax\n  it is for cosine\n",
        ),
        (folder, out): (
            1,
            f"Error: {folder} is a BEIR folder: it holds judgments, not rows to train on\n"
            f"  miner ingest my.duckdb {folder} && miner mine my.duckdb && miner train my.duckdb OUT\n",
        ),
        (tmp_path, out): (
            1,
            f"Error: {tmp_path} is not a folder that miner export or save_to_disk wrote\n"
            f"  name one of its files: {classes}, {grades}\n",
        ),
    }
    for arguments, expected in cases.items():
        code, _, err = run(capsys, *arguments)
        assert (code, err) == expected
    assert not list(tmp_path.glob("out*"))


def test_every_setting_is_an_option() -> None:
    assert set(ABOUT) == set(asdict(EncoderConfig()))
    assert (JUDGMENTS, DEV_TASKS) == (workflow.JUDGMENTS, workflow.DEV_TASKS)


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = run(capsys, "--help")
    assert code == 0
    assert "Train an encoder on TRIPLETS and write it to the folder OUT." in said
    own = ["run", "negatives-per-row", "judgments", "columns", "no-header", "label-column"]
    for name in (*own, "dev", "force", "loss", "base", "epochs", "config", "set"):
        assert f"--{name}" in said
    assert {*ABOUT, "label_max", "dev_split", "dev_task", "withheld"} <= set(SETTINGS.tables[""])


def test_errors_say_what_to_do(
    rows: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, none = tmp_path / "out", tmp_path / "none"
    hub = "nobody-at-all/no-such-model"
    cases = {
        (none, out): (
            1,
            f"Error: there is no file or folder {none}\n"
            "  name a file, a folder that miner export wrote, or a store\n",
        ),
        (rows, out, "--base", none): (
            1,
            f"Error: no model folder at {none}\n  name a folder, a hub id, or bundled\n",
        ),
        (rows, out, "--base", hub): (
            1,
            f"Error: cannot fetch {hub} from the hub (LocalEntryNotFoundError) and it is not in the local "
            "cache\n  check the network, name a local folder, or use bundled, which needs no network\n",
        ),
        (rows, out, "--loss", "gist"): (
            2,
            "Error: loss gist needs a guide model\n  name one: --set guide=MODEL, such as bundled\n",
        ),
        (rows, out, "--loss", "gist", "--set", "guide=bundled", "--set", "mask=false"): (
            2,
            "Error: mask has no effect on loss gist\n  it is for mnr, cached-mnr\n",
        ),
        (rows, out, "--loss", "cosine"): (
            2,
            f"Error: loss cosine takes 2 columns of text, {rows} has 3: anchor, positive, negative\n"
            "  export as labeled-pair, or name the columns of text in order with --columns\n",
        ),
        (rows, out, "--columns", "anchor, postive"): (
            1,
            f"Error: {rows}: no column 'postive' (did you mean 'positive'?)\n"
            "  its columns: anchor, positive, negative; name yours with --columns and --label-column\n",
        ),
        (rows, out, "--run", "r1"): (
            2,
            f"Error: --run is for a store, but {rows} is not one\n  leave it out, or name a store\n",
        ),
        (rows, out, "--set", "dev_split=dev"): (
            2,
            "Error: dev_split 'dev' needs a store\n  name the store to score on with --dev\n",
        ),
        (rows, out, "--set", "patience=2"): (
            2,
            "Error: patience has no effect without a dev split\n"
            "  name one with --dev or --set dev_split=SPLIT, or leave patience out\n",
        ),
        (rows, out, "--columns", "anchor,positive", "--set", "batch_size=1", "--base", "scratch"): (
            2,
            "not read: columns negative\n"
            "Error: loss mnr has nothing to rank: no negatives, and 1 row per batch\n"
            "  use batch_size 2 or more, or rows with negatives\n",
        ),
        (rows, out, "--dev", store, "--set", "dev_split=dve"): (
            2,
            f"Error: nothing is judged in split 'dve' of {store} (did you mean 'dev'?)\n"
            "  choose one with --set dev_split=SPLIT: dev\n",
        ),
        (store, out): (
            1,
            f"Error: {store} holds no finished run\n  mine first: miner mine {store}\n",
        ),
        (store, out, "--set", "split=dev"): (
            2,
            "Error: split is for --judgments: a run has its own\n  leave it out\n",
        ),
        (store, out, "--judgments", "gold", "--run", "r1"): (
            2,
            "Error: --run and --judgments name two sets of rows\n  give one of them\n",
        ),
        (store, out, "--judgments", "gold", "--columns", "a,b"): (
            2,
            "Error: --columns and --label-column are for a file\n  leave them out: a store has its own\n",
        ),
        (store, out, "--judgments", "gold", "--set", "split=dev", "--loss", "triplet"): (
            2,
            "Error: loss triplet needs negatives, but gold judgments have none\n"
            f"  mine some: miner mine {store}; then train on the run\n",
        ),
    }
    notes = ("no dev split to score on", "96 rows of")
    for arguments, (code, message) in cases.items():
        found = run(capsys, *arguments)
        reported = "".join(line for line in found[2].splitlines(True) if not line.startswith(notes))
        assert (found[0], found[1], reported) == (code, "", message)
    assert not out.exists()


def test_options_of_no_meaning_are_refused_before_anything_is_read(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags in (
        ["--loss", "mrn"],
        ["--epochs", "0"],
        ["--judgments", "glod"],
        ["--set", "batch_size=0"],
        ["--set", "margin=nan"],
    ):
        code, said, notes = run(capsys, rows, tmp_path / "out", *flags)
        assert (code, said) == (2, "")
        name = flags[1].split("=")[0]
        message = (
            f"Error: --set {name} must be a" if flags[0] == "--set" else f"Invalid value for '{flags[0]}'"
        )
        assert message in notes


def attempt(store: str, source: str, out: str, settings: dict[str, Any], fatal: int) -> None:
    """Trains, with a checkpoint at every step if it is killed after so many steps; 0 for never."""
    steps.CHECKPOINT_SECONDS = 0.0 if fatal else 60.0
    config = EncoderConfig(
        **settings, batch_size=16, max_steps=20, epochs=9, evaluations=5, dtype="fp32", threads=1
    )
    progress = forking.Deadly("training", fatal)
    workflow.train(Path(source), Path(out), config, dev=workflow.Dev(Path(store)), progress=progress)


TABLE: dict[str, Any] = {"base": "scratch", "dimension": 8, "learning_rate": 0.1}


def attempts(store: Path, *plans: tuple[Path, Path, dict[str, Any], int]) -> list[str]:
    """Trains as planned, each in a process of its own that is killed after so many steps; 0 for never."""
    said = []
    for plan in plans:
        ended = forking.run(attempt, store, *plan)
        assert ended.code in (0, -signal.SIGKILL), ended.err
        said += [*ended.out.splitlines(), f"ended {ended.code} {plan[1].exists()}"]
    return said


@pytest.mark.slow
def test_training_that_is_killed_ends_with_the_same_weights(store: Path, tmp_path: Path) -> None:
    """Softmax has a classifier, which only the checkpoints hold; BERT draws its dropout at every step."""
    tiny = tiny_bert(tmp_path / "tiny", initializer_range=0.05)
    assert json.loads((tiny / "config.json").read_text("utf-8"))["hidden_dropout_prob"] == 0.1
    classes = TABLE | {"loss": "softmax", "dimension": 64, "learning_rate": 0.3}
    bert = {"base": str(tiny), "learning_rate": 5e-3}
    trainings = {"mnr": TABLE, "softmax": classes, "bert": bert}
    plans = []
    for name, settings in trainings.items():
        rows = written(tmp_path / f"{name}.jsonl", examples_for(settings.get("loss", "mnr")))
        plans.append((rows, tmp_path / f"{name}-whole", settings, 0))
        plans += [(rows, tmp_path / f"{name}-killed", settings, fatal) for fatal in (1, 5, 9, 0)]
    once = [
        "training 0", "ended 0 True",
        "training 0", "ended -9 False",
        "training 0", "ended -9 False",
        "training 4", "ended -9 False",
        "training 12", "ended 0 True",
    ]  # fmt: skip
    assert attempts(store, *plans) == once * len(trainings)
    for name in trainings:
        whole, killed = tmp_path / f"{name}-whole", tmp_path / f"{name}-killed"
        assert stored(whole)["best_step"] > 12, "what was trained after the last kill is kept"
        assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
        assert stored(killed) | {"seconds": 0} == stored(whole) | {"seconds": 0}
        assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}
    assert not list(tmp_path.glob("*.partial"))
