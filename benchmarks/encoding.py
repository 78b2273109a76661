"""How fast are texts encoded, against sentence-transformers' own loop and OpenVINO?

A static encoder of 256 dimensions (random vectors, the bundled tokenizer) over made-up texts of 40 words:
miner with its cache, and the library with several batch sizes. The bundled encoder over texts of tldr: miner
with its own choice of precision and in fp32; the library as it is; and, if openvino is installed, OpenVINO in
fp32 with batches of equal length, a stream per processor. Nothing is cached at the start; loading the models
is not timed. Systems run in turn.

Targets: static, at least 2.5 x the library with batches of 32, and not below its best batch size; tldr, at
least 0.9 x the best of the library and OpenVINO.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import TLDR, Goal, Report, alternate, parser, ratios, report, scratch, spread, timed
from corpora import BUNDLED_FOLDER, Beir

from miner.engine.work import worker_count
from miner.models.batching import equal_length_batches
from miner.models.cached_encoder import CachedEncoder
from miner.models.encoder import Encoder
from miner.models.scratch import scratch_model

BATCHES = (32, 512, 4096, 16_384)
OVER_32 = Goal("texts/s over the library's with batches of 32", ">=", 2.5, " x")
OVER_BEST = Goal("texts/s over the library's best", ">=", 1.0, " x")
OVER_OTHERS = Goal("texts/s over the best of the library and OpenVINO", ">=", 0.9, " x")
Encode = Callable[[Sequence[str]], Any]


def made_up(number: int, seed: int) -> list[str]:
    """Returns texts of 40 random words."""
    random = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(row) for row in letters[random.integers(0, 26, (50_000, 5))]])
    return [" ".join(row) for row in words[random.integers(0, len(words), (number, 40))]]


def cached(name: str, dtype: str, work: Path) -> Encode:
    """Returns miner's way: vectors go into a new cache."""
    encoder = Encoder(name, dtype=dtype)
    encoder.encode(["a text to load the model"])

    def encode(texts: Sequence[str]) -> None:
        with tempfile.TemporaryDirectory(dir=work) as folder:
            CachedEncoder(Path(folder), encoder).rows(texts, "document")

    return encode


def library(path: str, batch: int = 32) -> Encode:
    """Returns sentence-transformers' own loop."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(path, device="cpu")
    return lambda texts: model.encode(list(texts), batch_size=batch, normalize_embeddings=True)


def openvino(path: str) -> Encode:
    """Returns OpenVINO in fp32, with batches of texts of one length and as many threads as processors."""
    from sentence_transformers import SentenceTransformer

    ov: Any = importlib.import_module("openvino")
    model: Any = SentenceTransformer(path, device="cpu").eval()

    class Whole(torch.nn.Module):
        """The transformer with its pooling and normalisation."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model[0].model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            """Returns the vectors."""
            states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(states.dtype)
            return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)

    example = {name: torch.ones(2, 8, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    settings = {
        "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": str(worker_count()),
        "INFERENCE_NUM_THREADS": worker_count(),
    }  # fmt: skip
    converted = ov.convert_model(Whole().eval(), example_input=example)
    compiled = ov.Core().compile_model(converted, "CPU", settings)

    def encode(texts: Sequence[str]) -> None:
        vectors = np.empty((len(texts), 384), dtype=np.float32)
        for start in range(0, len(texts), 1024):
            tokens = model.tokenizer(
                list(texts[start : start + 1024]), truncation=True, max_length=model.max_seq_length,
                return_attention_mask=False, return_token_type_ids=False,
            )["input_ids"]  # fmt: skip
            queue = ov.AsyncInferQueue(compiled, 2 * worker_count())

            def keep(request: Any, rows: Any) -> None:
                vectors[rows] = request.get_output_tensor(0).data

            queue.set_callback(keep)
            for batch in equal_length_batches([len(ids) for ids in tokens]):
                ids = np.array([tokens[i] for i in batch])
                queue.start_async({0: ids, 1: np.ones_like(ids)}, batch + start)
            queue.wait_all()

    return encode


def compared(found: Report, given: Namespace, name: str, systems: dict[str, Encode], texts: list[str]) -> Any:
    """Adds a row per system, and returns the texts per second of each repeat."""
    for run in systems.values():
        run(texts[:200])
    calls = {system: (lambda _, run=run: timed(lambda: run(texts))) for system, run in systems.items()}
    speeds = {
        system: [len(texts) / seconds for seconds in took]
        for system, took in alternate(calls, given.repeats).items()
    }
    for system, values in speeds.items():
        figures = spread(values)
        row = f"{name}, {system}: texts/s"
        found.row(row, {"texts_per_second": figures}, value=figures["median"], texts=len(texts))
    return speeds


def add_ratio(found: Report, name: str, ours: list[float], others: Sequence[list[float]], goal: Goal) -> None:
    """Adds the ratio to the best of the others in each repeat."""
    ratio = ratios(ours, [max(values) for values in zip(*others, strict=True)])
    found.row(name, {"ratio": ratio}, goal=goal, value=ratio["median"])


def static(found: Report, given: Namespace, work: Path) -> None:
    """Compares a static encoder with the library's batch sizes."""
    table = work / "static"
    scratch_model("bundled", 256, given.seed).save_pretrained(str(table), create_model_card=False)
    systems = {"miner": cached(str(table), "fp32", work)}
    systems |= {f"library, batches of {size:,}": library(str(table), size) for size in BATCHES}
    speeds = compared(found, given, "static", systems, made_up(given.static_texts, given.seed))
    ours, *others = speeds.values()
    add_ratio(found, "static, miner / library, batches of 32", ours, others[:1], OVER_32)
    add_ratio(found, "static, miner / library, best batches", ours, others, OVER_BEST)


def tldr(found: Report, given: Namespace, work: Path) -> None:
    """Compares the bundled encoder with the library and with OpenVINO."""
    data = list(Beir.read(TLDR).documents.values())
    texts = [data[i] for i in np.random.default_rng(given.seed).permutation(len(data))[: given.texts]]
    own = {"miner": cached("bundled", "auto", work), "miner, fp32": cached("bundled", "fp32", work)}
    others = {"library": library(str(BUNDLED_FOLDER))}
    if importlib.util.find_spec("openvino"):
        others["OpenVINO, fp32"] = openvino(str(BUNDLED_FOLDER))
    speeds = compared(found, given, "tldr", own | others, texts)
    for name in own:
        ratio = f"tldr, {name} / best other"
        add_ratio(found, ratio, speeds[name], [speeds[other] for other in others], OVER_OTHERS)


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--static-texts", type=int, default=24_000, help="[%(default)s]")
    arguments.add_argument("--texts", type=int, default=3072, help="texts of tldr [%(default)s]")
    arguments.add_argument("--parts", nargs="+", choices=("static", "tldr"), default=["static", "tldr"])
    given = arguments.parse_args()
    found = report("encoding", given, full_size=given.static_texts >= 24_000 and given.texts >= 3072)
    torch.set_num_threads(worker_count())
    with scratch(given.work) as folder:
        if "static" in given.parts:
            static(found, given, folder)
        if "tldr" in given.parts:
            tldr(found, given, folder)
    found.show()


if __name__ == "__main__":
    main()
