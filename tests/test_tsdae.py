"""Pretraining with TSDAE: the noise, what it reads, that it learns, and that a kill costs nothing."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from miner.engine.progress import Silent
from miner.errors import MinerError, ModelError, UsageError
from miner.models.encoder import Encoder
from miner.store.corpus import unlabelled_texts
from miner.store.database import Database
from miner.training import steps
from miner.training.pretrain_config import PretrainConfig
from miner.training.steps import step_count
from miner.training.tsdae import TextBatches, delete_words, pretrain
from tests import forking
from tests.stores import make_store
from tests.tiny import tiny_bert

ANIMALS = ["otter", "heron", "badger", "falcon", "beetle", "salmon"]
PLACES = ["river", "harbour", "meadow", "forest", "glacier", "island"]


def fill(path: Path) -> Database:
    """Returns a store of 72 documents of a few sentence forms, and 4 queries of which one is for tests."""
    documents = {
        f"d{a}{b}{form}": f"the {animal} lives near the {position} {tail}"
        for a, animal in enumerate(ANIMALS)
        for b, position in enumerate(PLACES)
        for form, tail in enumerate(("in winter", "all year long"))
    }
    queries = {
        "q1": "where does the otter live",
        "q2": "The Otter lives near the river in winter",
        "q3": "which animal is kept apart",
        "q4": "Which animal is  kept apart",
    }
    judgments = [("q1", "d000"), ("q2", "d000"), ("q3", "d110", "test")]
    return make_store(path, {**documents, "blank": " "}, queries, judgments)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    with fill(tmp_path / "store.duckdb") as opened:
        yield opened


@pytest.fixture
def path(store: Database, tmp_path: Path) -> Path:
    """The same store, closed."""
    store.close()
    return tmp_path / "store.duckdb"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("models") / "tiny", initializer_range=0.05)


@pytest.fixture(scope="module")
def config(base: Path) -> PretrainConfig:
    return PretrainConfig(base=str(base), max_steps=4, learning_rate=3e-3, dtype="fp32", threads=1)


def weights(folder: Path) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in load_file(folder / "model.safetensors").items()}


class Notes(Silent):
    """Keeps what a training says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


WORDS = st.lists(st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=6), max_size=40)


@given(WORDS, st.floats(0, 1, exclude_max=True), st.integers(0, 99), st.integers(0, 9))
def test_deleting_keeps_some_words_in_order_and_is_repeatable(
    words: list[str], deletion: float, seed: int, epoch: int
) -> None:
    text = " \n".join(words)
    noisy = delete_words(text, deletion, seed, epoch)
    assert noisy == delete_words(text, deletion, seed, epoch)
    rest = iter("".join(words))
    assert all(character in rest for character in noisy.replace(" ", "")), "a subsequence"
    assert bool(noisy) == bool(words)
    if deletion == 0:
        assert noisy.split() == words


SPACED = st.text(st.characters(max_codepoint=0xDFF), max_size=60)


@given(SPACED, st.floats(0, 1, exclude_max=True), st.integers(0, 99))
def test_words_of_scripts_with_spaces_are_deleted_as_a_whole(text: str, deletion: float, seed: int) -> None:
    words = text.split()
    rng = random.Random(f"{seed} 2 {text}")
    kept = [word for word in words if rng.random() >= deletion]
    assert delete_words(text, deletion, seed, 2) == " ".join(kept or (words and [rng.choice(words)]))


@pytest.mark.parametrize(
    ("text", "noisy"),
    [
        ("hold the power button for ten seconds until the light blinks", "for ten seconds until the light"),
        ("안녕하세요 라우터를 재설정하는 방법을 알려 주세요 감사합니다", "방법을"),
    ],
)
def test_deleted_words_of_spaced_text_are_the_same_as_ever(text: str, noisy: str) -> None:
    assert delete_words(text, 0.6, 13, 0) == noisy


UNITS = {
    "Chinese": [
        "要",
        "重",
        "置",
        "路",
        "由",
        "器",
        "，",
        "请",
        "按",
        "住",
        "按",
        "钮",
        "十",
        "秒",
        "钟",
        "。",
    ],
    "Thai": ["กี่", "ค", "รั้", "ง", "ที่", "ต้", "อ", "ง", "ก", "ด", "ปุ่", "ม"],
    "Japanese": ["ル", "か\u3099", "電", "源", "を", "切", "る", "。"],
    "mixed": ["iPhone15", "手", "机", "壳", "Pro-Max", "多", "少", "钱", "?"],
}


@pytest.mark.parametrize("name", UNITS)
def test_characters_of_scripts_without_spaces_are_deleted_one_by_one(name: str) -> None:
    units = UNITS[name]
    text = "".join(units)
    assert delete_words(text, 0, 13, 0) == text
    kept = []
    for seed in range(400):
        noisy, found = delete_words(text, 0.6, seed, 0).replace(" ", ""), []
        for unit in units:
            if noisy.startswith(unit):
                found.append(unit)
                noisy = noisy[len(unit) :]
        assert noisy == "", "whole units, in order"
        assert found
        kept.append(len(found) / len(units))
    assert 1 - np.mean(kept) == pytest.approx(0.6, abs=0.03)


def test_words_do_not_run_together_where_characters_between_them_are_deleted() -> None:
    seen = {delete_words("第3章 iPhone手Android  你好", 0.5, seed, 0) for seed in range(2000)}
    assert {"iPhone Android", "第3章 iPhone手Android 你好", "3 iPhone手 好", "章 你好"} <= seen
    assert not any("iPhoneAndroid" in noisy or "  " in noisy for noisy in seen)


@pytest.mark.parametrize("deletion", [0.2, 0.6, 0.9])
def test_the_ratio_is_that_of_the_words_deleted(deletion: float) -> None:
    text = " ".join(f"w{number}" for number in range(20_000))
    kept = len(delete_words(text, deletion, 13, 0).split())
    assert 1 - kept / 20_000 == pytest.approx(deletion, abs=0.015)


def test_noise_depends_on_seed_epoch_and_text() -> None:
    text = " ".join(f"w{number}" for number in range(50))
    seen = {delete_words(text, 0.6, seed, epoch) for seed in range(3) for epoch in range(3)}
    assert len(seen) == 9
    assert len({delete_words("a b c", 0.99, 1, epoch) for epoch in range(50)}) == 3


def test_batches_hold_every_text_once_and_like_lengths() -> None:
    texts = ["x" * (number * 7 % 97 + 1) for number in range(301)]
    batches = TextBatches(texts, 4, seed=5)
    first = list(batches)
    assert sorted(i for batch in first for i in batch) == list(range(301))
    assert (first, len(first)) == (list(batches), len(batches))
    assert np.mean([np.ptp([len(texts[i]) for i in batch]) for batch in first]) < 8
    batches.set_epoch(1)
    assert list(batches) != first


def read(store: Database, roles: tuple[str, ...], without: str | None) -> dict[str, list[str]]:
    return {
        role: [
            text for batch in unlabelled_texts(store, role, roles, without) for text in batch[0].to_pylist()
        ]
        for role in roles
    }


def test_each_text_is_read_once_and_test_queries_never(store: Database) -> None:
    found = read(store, ("documents", "queries"), "test")
    texts = found["documents"] + found["queries"]
    assert len(texts) == len(set(texts)) == 73
    assert len(found["documents"]) == 72
    assert texts[-1] == "where does the otter live", "the others read like a document or a test query"
    assert read(store, ("queries",), None)["queries"] == [
        "where does the otter live",
        "The Otter lives near the river in winter",
        "which animal is kept apart",
    ]
    store.execute("UPDATE judgments SET split = 'dev' WHERE query_id = 'q2'")
    left = read(store, ("documents", "queries"), "dev")
    left_texts = left["documents"] + left["queries"]
    assert "the otter lives near the river in winter" not in left_texts, "no document reads like its query"
    assert len(left_texts) == 73


@pytest.mark.parametrize("without", ["test", "dev", None])
@pytest.mark.parametrize("roles", [("documents",), ("queries",), ("documents", "queries")])
def test_texts_are_those_of_one_query_over_both_tables(
    store: Database, roles: tuple[str, ...], without: str | None
) -> None:
    plain = store.rows(
        """WITH texts AS (
            SELECT 'documents' AS role, doc_id AS id, text_key, text FROM document_texts
            UNION ALL SELECT 'queries', query_id, text_key, text FROM queries)
        SELECT role, text FROM texts WHERE text_key <> 0 AND list_contains($roles, role) AND text_key NOT IN (
            SELECT text_key FROM queries JOIN judgments USING (query_id) WHERE split = $without)
        QUALIFY row_number() OVER (PARTITION BY text_key ORDER BY role, id) = 1 ORDER BY role, id""",
        {"roles": list(roles), "without": without},
    )
    found = read(store, roles, without)
    assert [(role, text) for role in roles for text in found[role]] == plain


def test_it_learns_and_leaves_a_usable_folder(
    path: Path, config: PretrainConfig, tmp_path: Path, base: Path
) -> None:
    out = tmp_path / "out"
    report = pretrain(path, out, replace(config, max_steps=None, epochs=6, pooling="cls"))
    metrics = report.metrics
    assert (metrics.documents, metrics.queries, metrics.steps) == (72, 1, 60)
    assert metrics.losses[-1][1] < 0.6 * metrics.losses[0][1]
    assert metrics.losses[-1][0] == 60
    vectors = Encoder(str(out), dtype="fp32").encode(["the otter lives near the river", "an island"])
    assert vectors.shape == (2, 32)
    assert json.loads((out / "1_Pooling" / "config.json").read_text())["pooling_mode"] == "cls"
    assert {*load_file(out / "model.safetensors")} == {*load_file(base / "model.safetensors")}
    assert not (tmp_path / "out.partial").exists()
    assert not [file for file in out.rglob("*") if file.suffix in (".bin", ".pt", ".pth")]
    assert {"metrics.json", "README.md", "curve.png", "curve.svg"} <= {file.name for file in out.iterdir()}
    card = (out / "README.md").read_text("utf-8")
    assert "on text without labels: 72 documents, 1 queries, no relevance judgments" in card
    assert metrics.fingerprint in card


def test_a_transformer_in_a_folder_of_its_own_is_found(
    path: Path, config: PretrainConfig, tmp_path: Path, base: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(str(base)).save_pretrained(str(tmp_path / "flat"), create_model_card=False)
    own = tmp_path / "flat" / "0_Transformer"
    own.mkdir()
    for file in list((tmp_path / "flat").iterdir()):
        if file.is_file() and file.name not in ("modules.json", "config_sentence_transformers.json"):
            file.rename(own / file.name)
    modules = json.loads((tmp_path / "flat" / "modules.json").read_text())
    modules[0]["path"] = own.name
    (tmp_path / "flat" / "modules.json").write_text(json.dumps(modules))
    report = pretrain(path, tmp_path / "out", replace(config, base=str(tmp_path / "flat"), max_steps=1))
    assert report.metrics.steps == 1


def test_a_training_that_diverges_is_an_error_and_leaves_nothing(
    path: Path, config: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "CHECKPOINT_SECONDS", 0.0)
    there = {path.name for path in tmp_path.iterdir()}
    for changes, reported in (
        (
            {"learning_rate": 1e30},
            "the loss is (nan|inf) by step [23] of 4; lower learning_rate, it was 1e",
        ),
        (
            {"learning_rate": 1e38, "warmup": 0, "max_steps": 1},
            "after step 1 not all weights are finite; lower",
        ),
    ):
        with pytest.raises(MinerError, match=f"training diverged: {reported}"):
            pretrain(path, tmp_path / "out", replace(config, **changes))
        assert {path.name for path in tmp_path.iterdir()} == there


def test_what_the_settings_do_to_texts_and_steps_is_reported(
    path: Path, config: PretrainConfig, tmp_path: Path
) -> None:
    notes, few = Notes(), replace(config, texts="queries", max_length=8, max_steps=2)
    pretrain(path, tmp_path / "few", few, notes)
    assert notes.said[:2] == [
        "max_steps=2 is more than the 1 step of 1 epoch: raise epochs",
        "1 text is longer than 8 tokens: only the start is read",
    ]
    notes = Notes()
    pretrain(path, tmp_path / "all", replace(config, max_steps=1), notes)
    assert [note.partition(":")[0] for note in notes.said] == ["step 1 of 1"]


@pytest.mark.slow
def test_the_bundled_encoder_stays_as_it_was_but_for_its_weights(path: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    from miner.models.names import resolve

    out = tmp_path / "out"
    metrics = pretrain(path, out, PretrainConfig(max_steps=20, threads=1, learning_rate=3e-4)).metrics
    assert metrics.losses[-1][1] < metrics.losses[0][1]
    before, after = SentenceTransformer(str(resolve("bundled").path)), SentenceTransformer(str(out))
    assert [type(module) for module in after] == [type(module) for module in before]
    assert (after.max_seq_length, after[1].pooling_mode) == (before.max_seq_length, "mean")
    vectors = Encoder(str(out)).encode(["an otter", "the island"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert not np.allclose(vectors, Encoder("bundled").encode(["an otter", "the island"]), atol=1e-3)


def test_the_same_again_is_not_trained_again(path: Path, config: PretrainConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = pretrain(path, out, config)
    before = (out / "model.safetensors").stat().st_mtime_ns
    again = pretrain(path, out, replace(config, threads=2))
    assert again.reused
    assert json.loads(again.metrics.json()) == json.loads(first.metrics.json())
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UsageError) as caught:
        pretrain(path, out, replace(config, deletion=0.5))
    assert str(caught.value) == (
        f"{out} holds a pretrained encoder from another training: deletion 0.6, now 0.5; "
        "name another folder, or replace it with --force"
    )
    other = pretrain(path, out, replace(config, deletion=0.5), force=True)
    assert not other.reused
    assert other.metrics.fingerprint != first.metrics.fingerprint


def test_results_of_other_trainings_are_left_alone(
    path: Path, config: PretrainConfig, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "metrics.json").write_text(json.dumps({"fingerprint": "0", "what": "an encoder"}))
    with pytest.raises(UsageError, match="exists and is not a pretrained encoder that miner trained"):
        pretrain(path, out, config, force=True)


def pretraining(store: str, out: str, base: str, fatal: int) -> None:
    """Pretrains with a checkpoint at every step, and is killed after so many."""
    steps.CHECKPOINT_SECONDS = 0.0
    config = PretrainConfig(base=base, epochs=3, batch_size=16, learning_rate=3e-3, dtype="fp32", threads=1)
    pretrain(Path(store), Path(out), config, forking.Deadly("pretraining", fatal))


@pytest.mark.slow
def test_killed_pretraining_ends_with_the_same_weights(tmp_path: Path, base: Path) -> None:
    fill(tmp_path / "store.duckdb").close()
    whole = forking.run(pretraining, tmp_path / "store.duckdb", tmp_path / "whole", base, 0)
    assert whole.code == 0, whole.err
    killed, started = tmp_path / "killed", []
    for fatal in (3, 7, 0):
        ended = forking.run(pretraining, tmp_path / "store.duckdb", killed, base, fatal)
        assert ended.code == (-signal.SIGKILL if fatal else 0), ended.err
        assert killed.exists() == (fatal == 0)
        started += ended.out.splitlines()
    assert started == ["pretraining 0", "pretraining 2", "pretraining 8"], "into the 2nd epoch"
    assert weights(killed) == weights(tmp_path / "whole")
    first, second = ((tmp_path / name / "metrics.json").read_text() for name in ("killed", "whole"))
    assert json.loads(first)["losses"] == json.loads(second)["losses"]


def test_errors_say_what_to_do(path: Path, config: PretrainConfig, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel

    from miner.models.scratch import scratch_model

    out = tmp_path / "out"
    scratch_model("bundled", 8, 13).save_pretrained(str(tmp_path / "static"))
    with pytest.raises(ModelError) as caught:
        pretrain(path, out, replace(config, base=str(tmp_path / "static")))
    assert str(caught.value) == (
        f"{tmp_path}/static is not a transformer: TSDAE cannot train a StaticEmbedding; "
        "name a BERT, RoBERTa or XLM-RoBERTa encoder, such as bundled"
    )
    with pytest.raises(UsageError, match="TSDAE cannot start from scratch: it pretrains a transformer"):
        PretrainConfig(base="scratch")
    with pytest.raises(UsageError, match=r"deletion must be a number at least 0 and below 1, got 1\.0"):
        PretrainConfig(deletion=1.0)
    shape = DistilBertConfig(vocab_size=30522, dim=16, n_layers=1, n_heads=2, hidden_dim=16)
    DistilBertModel(shape).save_pretrained(tmp_path / "distil")
    AutoTokenizer.from_pretrained(config.base).save_pretrained(tmp_path / "distil")
    with pytest.raises(ModelError, match="TSDAE has no decoder for architecture 'distilbert'"):
        pretrain(path, out, replace(config, base=str(tmp_path / "distil")))
    model = SentenceTransformer(config.base)
    model[1].pooling_mode, model[1].pooling_output_dimension = ("cls", "mean"), 64
    model.save_pretrained(str(tmp_path / "both"))
    with pytest.raises(ModelError, match="joins several poolings, but the decoder reads one vector"):
        pretrain(path, out, replace(config, base=str(tmp_path / "both")))
    none = tmp_path / "no.duckdb"
    make_store(none, {"d": "x"}, {"q": "y"}, [("q", "d", "test")]).close()
    with pytest.raises(UsageError) as nothing:
        pretrain(none, out, replace(config, texts="queries"))
    assert str(nothing.value) == (
        f"{none} holds no queries outside split 'test'; choose other texts (--set texts=…), or ingest some: "
        f"miner ingest {none} SOURCE"
    )
    assert not out.exists()


def test_steps_end_with_the_epochs_or_before() -> None:
    assert step_count(17, PretrainConfig(epochs=2)) == 6
    assert step_count(17, PretrainConfig(epochs=2, max_steps=4)) == 4


def test_a_split_that_is_not_there_is_refused(path: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"nothing is judged in split 'tset' of .* \(did you mean 'test'\?\)"
    ):
        pretrain(path, tmp_path / "out", PretrainConfig(base=str(base), without="tset"))
    assert not (tmp_path / "out").exists()


def test_a_single_step_changes_the_weights(path: Path, config: PretrainConfig, tmp_path: Path) -> None:
    """The first step of a warm-up is at rate 0: one step alone has none."""
    out, before = tmp_path / "out", weights(Path(config.base))
    assert pretrain(path, out, replace(config, max_steps=1)).metrics.steps == 1
    assert weights(out) != before


class Writing(Notes):
    """Writes into the store whenever something is told of a step."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.writes = path, 0

    def note(self, message: str) -> None:
        with Database.open(self.path) as store:
            store.execute("DELETE FROM judgments")
        self.writes += 1


def test_others_may_write_into_the_store_meanwhile(
    path: Path, config: PretrainConfig, tmp_path: Path
) -> None:
    writing = Writing(path)
    pretrain(path, tmp_path / "out", config, writing)
    assert writing.writes > 0


def test_the_command_pretrains_and_prints_what_is_next(base: Path, tmp_path: Path) -> None:
    from miner.cli.pretrain import ABOUT, command

    assert {*ABOUT} == {*PretrainConfig().identity(), "threads"}
    fill(tmp_path / "store.duckdb").close()
    flags = ["--base", str(base), "--set", "max_steps=2", "--set", "texts=queries", "--set", "without=none"]
    result = CliRunner().invoke(
        command, [str(tmp_path / "store.duckdb"), str(tmp_path / "out"), *flags], catch_exceptions=False
    )
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"encoder    {tmp_path / 'out'}"
    assert lines[1:3] == ["texts      0 documents, 3 queries", "trained    1 step of at most 8 texts"]
    assert lines[3].startswith("loss       1")
    assert lines[4] == f"next       miner train TRIPLETS OUT --base {tmp_path / 'out'}"
