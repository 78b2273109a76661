"""How fast is a machine with one GPU? Encoding, exact search, reranking and training by miner's own code.

It makes its texts and its models (random weights: they are as fast as trained ones), so that nothing is
downloaded. It needs torch, transformers, sentence-transformers, datasets, accelerate and miner's own pyarrow
and duckdb; with faiss-gpu the search runs in FAISS, else in PyTorch. At full size it takes some minutes.

Rates of the device are measured in the same run: products of bf16 and of fp32 matrices, and copies within
its memory. Encoding is compared with the bf16 rate; exact search, which computes in fp32, with the fp32 rate
and with reading every vector once per chunk of queries. There are no targets. On a CPU the script only shows
that it runs: --trial.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Report, parser, report, scratch, spread

from miner.models.encoder import Encoder
from miner.models.reranker import Reranker
from miner.models.vector_cache import CHUNK
from miner.retrieval.gpu_search import DeviceSearch, gpus
from miner.retrieval.search import CHUNK as QUERIES

DEPTH = 100
DIMENSION = 384
WORDS = 5000
LENGTH = 40


@dataclass(frozen=True)
class Sizes:
    """How much is computed."""

    texts: int
    documents: int
    queries: int
    pairs: int
    steps: int
    batch: int
    side: int
    """Rows and columns of the matrices whose products are timed."""


WHOLE = Sizes(200_000, 10_000_000, 10_000, 100_000, 60, 256, 8192)
TRIAL = Sizes(40, 3000, 50, 12, 2, 4, 256)
LAYERS = {"small": (6, 384), "base": (12, 768)}
"""Layers and width of the models, as in all-MiniLM-L6-v2 and in BERT-base."""


def vocabulary() -> list[str]:
    """Returns made-up words."""
    random = np.random.default_rng(1)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    return ["".join(row) for row in letters[random.integers(0, 26, (WORDS, 6))]]


def texts(number: int, length: int, seed: int) -> list[str]:
    """Returns texts of `length` words on average, none twice."""
    random, words = np.random.default_rng(seed), np.array(vocabulary())
    sizes = random.poisson(length, number) + 1
    return [f"{' '.join(words[random.integers(0, WORDS, size)])} {i}" for i, size in enumerate(sizes)]


def make_model(folder: Path, layers: int, width: int, *, labels: int = 0) -> Path:
    """Writes a BERT with random weights, a bi-encoder or, with `labels`, a cross-encoder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate([*special, *vocabulary()])}, unk_token="[UNK]")
    )
    pieces.normalizer, pieces.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )  # fmt: skip
    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(
        tokenizer_object=pieces, model_max_length=512, pad_token="[PAD]", unk_token="[UNK]",
        cls_token="[CLS]", sep_token="[SEP]",
    )  # fmt: skip
    config: Any = BertConfig
    shape = config(
        vocab_size=len(special) + WORDS, hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=width // 32, intermediate_size=4 * width, num_labels=max(1, labels),
    )  # fmt: skip
    bare = folder if labels else folder / "bert"
    (BertForSequenceClassification(shape) if labels else BertModel(shape)).save_pretrained(bare)
    tokenizer.save_pretrained(bare)
    if not labels:
        module = Transformer(str(bare))
        made = SentenceTransformer(modules=[module, Pooling(width, "mean"), Normalize()], device="cpu")
        made.save_pretrained(str(folder / "model"), create_model_card=False)
    return folder if labels else folder / "model"


def seconds_of(function: Callable[[], Any], device: str) -> float:
    """Returns how many seconds a call takes, with all that it starts on the device."""
    wait(device)
    started = time.perf_counter()
    function()
    wait(device)
    return time.perf_counter() - started


def wait(device: str) -> None:
    """Waits until the device has nothing to do."""
    if device == "cuda":
        torch.cuda.synchronize()


def products(left: torch.Tensor, right: torch.Tensor) -> None:
    """Multiplies two matrices ten times."""
    for _ in range(10):
        left @ right


def rates(found: Report, sizes: Sizes, device: str, repeats: int) -> dict[str, float]:
    """Measures products of matrices, in operations per second, and copies, in bytes read and written."""
    measured = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        left, right = (torch.randn(sizes.side, sizes.side, device=device, dtype=dtype) for _ in range(2))
        run = partial(products, left, right)
        seconds_of(run, device)
        took = [seconds_of(run, device) for _ in range(repeats)]
        measured[name] = 20 * sizes.side**3 / min(took)
        found.row(f"rate of {name} products, TFLOP/s", {"seconds": spread(took)}, value=measured[name] / 1e12)
    source = torch.empty(16 * sizes.side**2, device=device)
    target = torch.empty_like(source)
    took = [seconds_of(lambda: [target.copy_(source) for _ in range(10)], device) for _ in range(repeats)]
    measured["copy"] = 20 * source.numel() * 4 / min(took)
    found.row("rate of copies, GB/s", {"seconds": spread(took)}, value=measured["copy"] / 1e9)
    return measured


def operations(layers: int, width: int, tokens: float, length: float) -> float:
    """Returns the operations of a BERT for so many tokens in texts of one length."""
    return tokens * layers * (24 * width**2 + 4 * width * length)


def encoding(found: Report, sizes: Sizes, rate: float, folder: Path, repeats: int) -> None:
    """Encodes texts in bf16, as many at a time as between two writes to the cache."""
    given = texts(sizes.texts, LENGTH, 2)
    for name, (layers, width) in LAYERS.items():
        encoder = Encoder(str(folder / name / "model"), dtype="bf16")
        size = CHUNK * encoder.bulk
        encoder.encode(given[:size])

        def run(encoder: Encoder = encoder, size: int = size) -> None:
            for start in range(0, len(given), size):
                encoder.encode(given[start : start + size])

        took = [seconds_of(run, encoder.device) for _ in range(repeats)]
        tokens = sum(len(text.split()) + 2 for text in given)
        share = operations(layers, width, tokens, tokens / len(given)) / min(took) / rate
        per_second = len(given) / min(took)
        about = {"seconds": spread(took), "share_of_bf16_rate": round(share, 4)}
        found.row(f"encoding, {name}, bf16: texts/s", about, value=per_second, layers=layers, width=width)


def unit_vectors(number: int, device: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Returns random vectors of length 1, made on the device."""
    vectors = np.empty((number, DIMENSION), dtype=np.float32)
    for start in range(0, number, 1 << 20):
        part = torch.randn(min(1 << 20, number - start), DIMENSION, device=device)
        vectors[start : start + len(part)] = torch.nn.functional.normalize(part).cpu().numpy()
    return vectors


def searching(found: Report, sizes: Sizes, measured: dict[str, float], device: str, repeats: int) -> None:
    """Searches all documents exactly for chunks of queries, as `miner mine` does."""
    documents, queries = unit_vectors(sizes.documents, device), unit_vectors(sizes.queries, device)
    devices = gpus() or ["cpu"]
    search = DeviceSearch(documents, np.arange(len(documents)), "cosine", devices)
    chunks = [queries[start : start + QUERIES] for start in range(0, len(queries), QUERIES)]

    def run() -> list[Any]:
        return [search.nearest(chunk, DEPTH) for chunk in chunks]

    first = seconds_of(run, device)
    took = [seconds_of(run, device) for _ in range(repeats)]
    work = 2 * len(documents) * len(queries) * DIMENSION
    traffic = len(chunks) * documents.nbytes
    about = {
        "seconds": spread(took), "seconds_with_upload": round(first, 3),
        "share_of_fp32_rate": round(work / min(took) / measured["fp32"], 4),
        "share_of_copy_rate": round(traffic / min(took) / measured["copy"], 4),
        "recall_of_10_queries": recall(search, documents, queries[:10]),
    }  # fmt: skip
    settings: dict[str, Any] = {
        "documents": len(documents), "queries": len(queries), "faiss": search._with_faiss
    }  # fmt: skip
    found.row("exact search: queries/s", about, value=len(queries) / min(took), **settings)


def recall(search: DeviceSearch, documents: Any, queries: Any) -> float:
    """Returns the share of the nearest documents, by NumPy in fp32, that the search finds."""
    scores = np.concatenate(
        [queries @ documents[start : start + (1 << 20)].T for start in range(0, len(documents), 1 << 20)],
        axis=1,
    )
    truth = np.argpartition(-scores, DEPTH, axis=1)[:, :DEPTH]
    _, positions = search.nearest(queries, DEPTH)
    return float(np.mean([len(np.intersect1d(a, b)) / DEPTH for a, b in zip(truth, positions, strict=True)]))


def reranking(found: Report, sizes: Sizes, folder: Path, repeats: int) -> None:
    """Scores pairs of a query and a document in bf16."""
    documents = texts(sizes.pairs, LENGTH, 4)
    queries = [query for query in texts(-(-sizes.pairs // 50), 8, 5) for _ in range(50)][: sizes.pairs]
    reranker = Reranker(str(folder / "reranker"), dtype="bf16")
    reranker.score(queries[:500], documents[:500])
    took = [seconds_of(lambda: reranker.score(queries, documents), reranker.device) for _ in range(repeats)]
    found.row("reranking, small, bf16: pairs/s", {"seconds": spread(took)}, value=len(queries) / min(took))


def training(found: Report, sizes: Sizes, folder: Path, device: str) -> None:
    """Trains with MNR in bf16, and does the same with the library's own trainer."""
    from miner.training.encoder import train_encoder
    from miner.training.encoder_config import EncoderConfig
    from miner.training.examples import Examples

    pairs = sizes.steps * sizes.batch
    columns = {"anchor": texts(pairs, 8, 6), "positive": texts(pairs, LENGTH, 7)}
    config = EncoderConfig(
        base=str(folder / "small" / "model"), max_steps=sizes.steps, batch_size=sizes.batch, dtype="bf16",
        learning_rate=2e-5, evaluations=0,
    )  # fmt: skip
    ours = seconds_of(
        lambda: train_encoder(Examples(columns, origin="made-up"), folder / "ours", config), device
    )
    theirs = seconds_of(lambda: plain(columns, folder, sizes, device), device)
    for name, took in (("miner", ours), ("plain trainer", theirs)):
        found.row(f"training, MNR, bf16, {name}: pairs/s", {"seconds": took}, value=pairs / took)
    found.row("training: miner / plain trainer", {"ratio": theirs / ours}, value=theirs / ours)


def plain(columns: dict[str, list[str]], folder: Path, sizes: Sizes, device: str) -> None:
    """Trains as the library's documentation does it."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
        losses,
    )

    model = SentenceTransformer(str(folder / "small" / "model"), device=device)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "plain"), max_steps=sizes.steps, per_device_train_batch_size=sizes.batch,
        learning_rate=2e-5, bf16=True, save_strategy="no", report_to="none", disable_tqdm=True,
        use_cpu=device == "cpu",
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(columns),
        loss=losses.MultipleNegativesRankingLoss(model),
    )  # fmt: skip
    trainer.train()
    model.save_pretrained(str(folder / "plain" / "model"), create_model_card=False)


PARTS: Sequence[str] = ("encode", "search", "rerank", "train")


def measure(given: Namespace, found: Report, folder: Path) -> None:
    """Measures the requested parts."""
    sizes, device = TRIAL if given.trial else WHOLE, "cuda" if gpus() else "cpu"
    for name, (layers, width) in LAYERS.items():
        make_model(folder / name, layers if not given.trial else 1, width)
    layers, width = LAYERS["small"]
    make_model(folder / "reranker", layers if not given.trial else 1, width, labels=1)
    measured = rates(found, sizes, device, given.repeats)
    parts: dict[str, Callable[[], None]] = {
        "encode": lambda: encoding(found, sizes, measured["bf16"], folder, given.repeats),
        "search": lambda: searching(found, sizes, measured, device, given.repeats),
        "rerank": lambda: reranking(found, sizes, folder, given.repeats),
        "train": lambda: training(found, sizes, folder, device),
    }
    for part in given.parts:
        parts[part]()


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="[all]")
    arguments.add_argument("--trial", action="store_true", help="small sizes, for a CPU")
    given = arguments.parse_args()
    given.device = torch.cuda.get_device_name(0) if gpus() else "cpu"
    found = report("gpu", given, full_size=not given.trial and given.device != "cpu")
    with scratch(given.work) as folder:
        measure(given, found, folder)
    found.show()


if __name__ == "__main__":
    main()
