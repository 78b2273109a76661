"""What a training notes in a store that is busy, gone, moved or another one at its end: nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from miner.cli.main import main
from miner.engine.progress import Silent
from miner.mining.config import MiningConfig
from miner.mining.pipeline import mine
from miner.models.encoder import Encoder
from miner.store.database import Database
from miner.store.models import training_positives
from miner.store.pending import NOTE, TrainedModel, note_of, notes_folder, take_in_model
from miner.training import record as noting
from miner.training.encoder_config import EncoderConfig
from miner.workflows.train import TrainingRows, train
from tests.stores import make_store

CONFIG = EncoderConfig(base="scratch", dimension=8, batch_size=2, max_steps=1, evaluations=0, threads=1)
ROWS = TrainingRows(judgments="gold")
JUDGED = [("q0", "d0"), ("q1", "d1"), ("q2", "d2"), ("q3", "d3")]
_HOLD = "import sys, duckdb; held = duckdb.connect(sys.argv[1]); print(flush=True); sys.stdin.read()"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    words = ["cats purr", "dogs bark", "cows moo", "owls hoot"]
    documents = {f"d{i}": f"{text} all day" for i, text in enumerate(words)}
    queries = {f"q{i}": f"which {text}" for i, text in enumerate(words)}
    path = tmp_path / "s.duckdb"
    make_store(path, documents, queries, JUDGED).close()
    return path


class Meanwhile(Silent):
    """Does something when the training has read its rows, and keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def act(self) -> None:
        """What happens then."""

    def note(self, message: str) -> None:
        if not self.said:
            self.act()
        self.said.append(message)


class Busy(Meanwhile):
    """Lets another process hold the file from then on, until it is told to let go."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.holder: subprocess.Popen[bytes] | None = None

    def act(self) -> None:
        command = [sys.executable, "-c", _HOLD, str(self.path)]
        self.holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.holder.stdout is not None
        self.holder.stdout.readline()

    def free(self) -> None:
        assert self.holder is not None
        self.holder.communicate()

    def note(self, message: str) -> None:
        super().note(message)
        if message.startswith("waiting for another process"):
            self.free()


@pytest.fixture
def busy(path: Path) -> Iterator[Busy]:
    busy = Busy(path)
    yield busy
    if busy.holder is not None:
        busy.free()


def noted(path: Path, out: Path) -> list[tuple[str, str]]:
    """The positives that the store knows of, which opening it to write takes in."""
    with Database.open(path) as store:
        rows = training_positives(store, Encoder(str(out)).fingerprint)
    return list(zip(*(rows[name].to_pylist() for name in ("query_id", "doc_id")), strict=True))


def leftovers(folder: Path) -> list[str]:
    """What beside the store is not its own, nor the model."""
    return sorted(file.name for file in folder.iterdir() if file.name not in ("s.duckdb", "model"))


def test_a_training_waits_for_who_holds_the_store_and_says_so(
    path: Path, tmp_path: Path, busy: Busy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miner.store.access._SAY", 0.2)
    out = tmp_path / "model"
    train(path, out, CONFIG, ROWS, progress=busy)
    assert busy.holder is not None
    assert f"waiting for another process that holds {path}: process {busy.holder.pid}" in busy.said
    assert noted(path, out) == JUDGED
    assert not (out / NOTE).exists()
    assert leftovers(tmp_path) == []


def test_what_cannot_be_noted_is_kept_and_the_next_that_writes_takes_it_in(
    path: Path, tmp_path: Path, busy: Busy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noting, "WAIT", 0.2)
    out = tmp_path / "model"
    report = train(path, out, CONFIG, ROWS, progress=busy)
    assert (report.out, report.reused) == (out, False)
    assert busy.holder is not None
    assert busy.said[-1] == (
        f"another process holds {path}: process {busy.holder.pid}; the record of what {out} was "
        f"trained on is "
        f"kept in {out / NOTE}, and the next command that writes to the store takes it in"
    )
    assert leftovers(tmp_path) == ["s.duckdb.notes"]
    busy.free()
    assert noted(path, out) == JUDGED
    assert not (out / NOTE).exists()
    assert leftovers(tmp_path) == []


def test_a_store_that_was_moved_meanwhile_takes_the_note_from_the_model_that_it_is_mined_with(
    path: Path, tmp_path: Path
) -> None:
    moved, out = tmp_path / "elsewhere" / "s.duckdb", tmp_path / "model"

    class Moved(Meanwhile):
        def act(self) -> None:
            moved.parent.mkdir()
            path.rename(moved)

    meanwhile = Moved()
    train(path, out, CONFIG, ROWS, progress=meanwhile)
    assert meanwhile.said[-1].startswith(
        f"there is no store at {path}; the record of what {out} was trained on is kept"
    )
    assert leftovers(tmp_path) == ["elsewhere"]
    assert noted(moved, out) == []
    with Database.open(moved) as store:
        mine(store, MiningConfig(encoder=str(out), depth=2))
    assert noted(moved, out) == JUDGED
    assert not (out / NOTE).exists()


def test_another_store_at_the_path_of_the_first_is_left_as_it_is(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"

    class Replaced(Meanwhile):
        def act(self) -> None:
            path.unlink()
            make_store(path, {"d0": "other"}, {"q0": "others"}, [("q0", "d0")]).close()

    meanwhile = Replaced()
    train(path, out, CONFIG, ROWS, progress=meanwhile)
    assert meanwhile.said[-1].startswith(
        f"{path} is another store than at the start; the record of what {out}"
    )
    assert noted(path, out) == []
    with Database.open(path) as store:
        mine(store, MiningConfig(encoder=str(out), depth=2))
    assert noted(path, out) == []
    assert json.loads((out / NOTE).read_text("utf-8"))["models"][0]["positives"]["doc_id"] == [
        doc for _, doc in JUDGED
    ]


def test_the_same_training_again_notes_what_it_could_not(
    path: Path, tmp_path: Path, busy: Busy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noting, "WAIT", 0.2)
    out = tmp_path / "model"
    train(path, out, CONFIG, ROWS, progress=busy)
    busy.free()
    assert train(path, out, CONFIG, ROWS).reused
    assert leftovers(tmp_path) == []
    assert not (out / NOTE).exists()
    assert noted(path, out) == JUDGED


DAMAGES: dict[str, Callable[[str], str]] = {
    "cut off": lambda text: text[:-20],
    "empty": lambda text: "",
    "of another kind": lambda text: "[]",
    "without a key": lambda text: text.replace('"kind"', '"kin"'),
    "an id of no text": lambda text: text.replace('"doc_id": ["d0"]', '"doc_id": [null]'),
    "a name of no text": lambda text: text.replace('"name": "m"', '"name": ["m"]'),
    "unequal columns": lambda text: text.replace('"doc_id": ["d0"]', '"doc_id": []'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_note_is_reported_once_and_moved_aside(path: Path, tmp_path: Path, damage: str) -> None:
    positives = pa.table({"query_id": ["q0"], "doc_id": ["d0"]})
    with Database.open(path) as store:
        whole = note_of(
            store.id, tmp_path / "model", [TrainedModel("f", "encoder", "m", {}, None, positives)]
        )
    damaged = DAMAGES[damage](whole)
    assert damaged != whole
    file = notes_folder(path) / "f.json"
    file.parent.mkdir()
    file.write_text(damaged, "utf-8")
    (file.with_name("g.json")).write_text(whole, "utf-8")
    said: list[str] = []
    reported = (
        f"{file} is damaged, so the store does not know what a model was trained on: "
        "renamed to f.json.damaged; start the same training again to record it"
    )
    for _ in range(2):
        with Database.open(path, note=said.append) as store:
            assert training_positives(store, "f").to_pylist() == [{"query_id": "q0", "doc_id": "d0"}]
    assert said == [reported]
    assert [left.name for left in file.parent.iterdir()] == ["f.json.damaged"]
    assert file.with_name("f.json.damaged").read_text("utf-8") == damaged


def test_a_command_reports_a_damaged_note(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["silver", "--undo"], ["relabel", "--undo"], ["dedup"]):
        file = notes_folder(path) / "f.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text("{", "utf-8")
        with pytest.raises(SystemExit) as ended:
            main([arguments[0], str(path), *arguments[1:]])
        assert ended.value.code in (0, None)
        assert capsys.readouterr().err.startswith(f"{file} is damaged"), arguments
        assert not file.exists()


def test_a_damaged_note_of_a_model_does_not_change_the_model(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    said: list[str] = []
    train(path, out, CONFIG, ROWS)
    known = Encoder(str(out)).fingerprint
    (out / NOTE).write_text("{", "utf-8")
    with Database.open(path, note=said.append) as store:
        take_in_model(store, out)
    assert [message.split(" is damaged")[0] for message in said] == [str(out / NOTE)]
    assert not (out / NOTE).exists()
    assert Encoder(str(out)).fingerprint == known
