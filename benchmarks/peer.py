"""The peer: sentence-transformers' `mine_hard_negatives`, called as a user would call it.

Run as a program it is one process from start to end: it reads a BEIR folder, loads the model, mines,
and prints one JSON line: triplets, and the seconds of the call alone.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True)
class Texts:
    """What the peer is given: pairs as texts, and the corpus."""

    queries: list[str]
    positives: list[str]
    corpus: list[str]

    @classmethod
    def read(cls, folder: Path) -> Texts:
        """Reads a BEIR folder with plain json: the positives of split `train`, all documents."""
        documents = _texts(folder / "corpus.jsonl")
        queries = _texts(folder / "queries.jsonl")
        lines = (folder / "qrels" / "train.tsv").read_text("utf-8").splitlines()[1:]
        judged = [line.split("\t") for line in lines]
        pairs = [(queries[query], documents[doc]) for query, doc, score in judged if float(score) > 0]
        return cls([q for q, _ in pairs], [d for _, d in pairs], list(documents.values()))

    @property
    def distinct_queries(self) -> list[str]:
        """The queries as the peer encodes them, in its order."""
        return list(dict.fromkeys(self.queries))

    @property
    def distinct_corpus(self) -> list[str]:
        """The documents as the peer encodes them, in its order."""
        return list(dict.fromkeys(self.corpus + self.positives))


def _texts(file: Path) -> dict[str, str]:
    with file.open(encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    return {r["_id"]: f"{r['title']} {r['text']}" if r.get("title") else r["text"] for r in rows}


def load_encoder(path: str, dtype: str) -> SentenceTransformer:
    """Loads a bi-encoder as a user would: fp32 by default, `bf16` by model_kwargs."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(path, local_files_only=True, **_numbers(dtype))


def _numbers(dtype: str) -> dict[str, Any]:
    if dtype == "fp32":
        return {}
    import torch

    return {"model_kwargs": {"dtype": torch.bfloat16}}


def mine(texts: Texts, model: SentenceTransformer, **settings: Any) -> Dataset:
    """Calls `mine_hard_negatives` over FAISS, for 5 negatives where nothing else is set; returns triplets."""
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    pairs = Dataset.from_dict({"query": texts.queries, "positive": texts.positives})
    with contextlib.redirect_stdout(sys.stderr):
        return mine_hard_negatives(
            pairs, model, corpus=texts.corpus, use_faiss=True, **{"num_negatives": 5, **settings}
        )


def fill_cache(
    folder: Path, model: SentenceTransformer, texts: Texts, vectors: Sequence[npt.NDArray[np.float32]]
) -> None:
    """Writes vectors of the distinct queries and documents where `cache_folder` will look for them."""
    folder.mkdir(parents=True, exist_ok=True)
    name = model.model_card_data.base_model or ""
    both = (("query", texts.distinct_queries), ("corpus", texts.distinct_corpus))
    for (side, given), rows in zip(both, vectors, strict=True):
        key = hashlib.sha256(repr((name, None, None, given)).encode()).hexdigest()
        np.save(folder / f"{side}_embeddings_{key}.npy", rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--reranker")
    parser.add_argument("--depth", type=int, required=True)
    parser.add_argument("--relative-margin", type=float, default=0.05)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--cache")
    return parser.parse_args()


def main() -> None:
    """Mines once and prints what came of it."""
    given = _arguments()
    settings: dict[str, Any] = {"range_max": given.depth, "relative_margin": given.relative_margin}
    if given.cache:
        settings["cache_folder"] = given.cache
    if given.reranker:
        from sentence_transformers import CrossEncoder

        settings["cross_encoder"] = CrossEncoder(
            given.reranker, local_files_only=True, **_numbers(given.dtype)
        )
    texts = Texts.read(given.folder)
    model = load_encoder(given.model, given.dtype)
    started = time.perf_counter()
    triplets = mine(texts, model, **settings)
    print(json.dumps({"triplets": len(triplets), "call_seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
