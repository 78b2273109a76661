"""Models whose batches do not fit into memory: real models that raise PyTorch's error above a size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers.base.modules import Transformer

from miner.errors import ModelError
from miner.models.batch_limit import is_out_of_memory
from miner.models.encoder import Encoder
from miner.models.multi_vector_encoder import MultiVectorEncoder
from miner.models.reranker import Reranker
from miner.models.sparse_encoder import SparseEncoder
from tests.cache_support import Notes
from tests.tiny import tiny_bert
from tests.tiny_encoders import tiny_multi_vector_encoder, tiny_sparse_encoder

TEXTS = [f"the {'very ' * (number % 5)}long text number {number}" for number in range(60)]
MOST = 64
"""Tokens that the models below have memory for."""

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"),
    MemoryError("Unable to allocate 1.00 GiB for an array"),
]


class Small:
    """Lets a module compute batches of at most `most` tokens, and keeps the sizes of all of them."""

    def __init__(self, module: torch.nn.Module, most: int, error: BaseException) -> None:
        self.sizes: list[int] = []
        self._most, self._error = most, error
        module.register_forward_pre_hook(self._before, with_kwargs=True)

    def _before(self, _: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        features = named if "input_ids" in named else inputs[0]
        self.sizes.append(features["input_ids"].numel())
        if self.sizes[-1] > self._most:
            raise self._error

    @property
    def failed(self) -> int:
        """Number of batches that were too large."""
        return sum(size > self._most for size in self.sizes)


def is_said_once(notes: Notes, name: object) -> bool:
    """Returns whether the one note names the model and what happens."""
    (note,) = notes.said
    return note.startswith(f"{name}: a batch of ") and note.endswith("the batches are halved until they do")


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "processor", "numpy"])
@pytest.mark.parametrize("workers", [1, 3])
def test_an_encoder_halves_its_batches(error: BaseException, workers: int) -> None:
    whole = Encoder("bundled", dtype="fp32").encode(TEXTS)
    encoder, notes = Encoder("bundled", dtype="fp32"), Notes()
    small = Small(encoder._loaded[0], MOST, error)
    ours = encoder.encode(TEXTS, workers=workers, progress=notes)
    assert np.abs(ours - whole).max() < 1e-6
    assert is_said_once(notes, "bundled")
    failed, small.sizes = small.failed, []
    encoder.encode(TEXTS, workers=workers, progress=notes)
    assert failed
    assert not small.failed, "what fits is remembered"
    assert is_said_once(notes, "bundled")


def test_sparse_and_multi_vector_encoders_halve_their_batches(tmp_path: Path) -> None:
    sparse, multi = tiny_sparse_encoder(tmp_path / "sparse"), tiny_multi_vector_encoder(tmp_path / "multi")
    for made, folder in ((SparseEncoder, sparse), (MultiVectorEncoder, multi)):
        whole = made(str(folder), dtype="fp32").for_role("document").encoded(TEXTS)
        encoder, notes = made(str(folder), dtype="fp32"), Notes()
        small = Small(encoder._loaded[0], MOST, ERRORS[0])
        ours = encoder.for_role("document").encoded(TEXTS, progress=notes)
        assert small.failed
        assert is_said_once(notes, folder)
        assert ours.vectors.sizes.tolist() == whole.vectors.sizes.tolist()
        field = "weight" if made is SparseEncoder else ...
        assert np.abs(ours.vectors.items[field] - whole.vectors.items[field]).max() < 1e-5


def test_a_reranker_halves_its_batches(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "cross", labels=1)
    queries = ["a question"] * len(TEXTS)
    whole = Reranker(str(folder), dtype="fp32").score(queries, TEXTS)
    reranker, notes = Reranker(str(folder), dtype="fp32"), Notes()
    small = Small(reranker._models[0]._model[0].model, MOST, ERRORS[0])
    assert np.abs(reranker.score(queries, TEXTS, progress=notes) - whole).max() < 1e-6
    assert small.failed
    assert is_said_once(notes, folder)


def test_batches_that_the_library_makes_are_halved(tmp_path: Path) -> None:
    """A prompt that pooling leaves out goes the library's own way."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    bert = Transformer(str(tiny_bert(tmp_path / "bert")))
    layer = Pooling(bert.get_embedding_dimension(), pooling_mode="mean", include_prompt=False)
    SentenceTransformer(modules=[bert, layer], device="cpu").save_pretrained(str(tmp_path / "model"))
    encoder, notes = Encoder(str(tmp_path / "model"), dtype="fp32"), Notes()
    whole = encoder.encode(TEXTS, "search: ")
    small = Small(encoder._loaded[0], 4 * MOST, ERRORS[0])
    assert np.abs(encoder.encode(TEXTS, "search: ", progress=notes) - whole).max() < 1e-6
    assert small.failed
    assert is_said_once(notes, tmp_path / "model")


def test_a_text_that_does_not_fit_alone_is_named() -> None:
    encoder = Encoder("bundled", dtype="fp32")
    Small(encoder._model[0], 8, ERRORS[0])
    with pytest.raises(ModelError) as caught:
        encoder.encode(["bread and butter and jam and honey and tea and milk"])
    assert caught.value.message == "bundled: memory is too small for one input of 13 tokens"


def test_other_errors_are_not_out_of_memory() -> None:
    assert all(is_out_of_memory(error) for error in ERRORS)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))
    encoder = Encoder("bundled", dtype="fp32")
    Small(encoder._loaded[0], MOST, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        encoder.encode(TEXTS)
