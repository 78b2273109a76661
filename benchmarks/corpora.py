"""The data of a benchmark: BEIR folders cut to a size, stores of them, vectors both systems can read."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from miner.models.encoder import Encoder, Vectors
from miner.models.names import BUNDLED, resolve
from miner.models.vector_cache import VectorCache, embed, vector_keys
from miner.sources import ingest
from miner.text import join_title
from miner.training.encoder_config import EncoderConfig
from miner.training.encoder_trainer import load_base

BUNDLED_FOLDER = resolve(BUNDLED).path


@dataclass(frozen=True)
class Beir:
    """Documents, queries and train judgments of one benchmark, by id."""

    documents: dict[str, str]
    queries: dict[str, str]
    judgments: list[tuple[str, str]]

    @classmethod
    def read(cls, folder: Path) -> Beir:
        """Reads a BEIR folder: texts with their titles before them, positives of split `train`."""
        documents = {
            row["_id"]: join_title(row.get("title", ""), row["text"]) for row in _rows(folder, "corpus")
        }
        queries = {row["_id"]: row["text"] for row in _rows(folder, "queries")}
        lines = (folder / "qrels" / "train.tsv").read_text("utf-8").splitlines()[1:]
        judged = [line.split("\t") for line in lines]
        return cls(documents, queries, [(query, doc) for query, doc, score in judged if float(score) > 0])

    def write(self, folder: Path) -> Path:
        """Writes a BEIR folder; returns it."""
        (folder / "qrels").mkdir(parents=True, exist_ok=True)
        _write_texts(folder / "corpus.jsonl", self.documents)
        _write_texts(folder / "queries.jsonl", self.queries)
        lines = ["query-id\tcorpus-id\tscore", *(f"{query}\t{doc}\t1" for query, doc in self.judgments)]
        (folder / "qrels" / "train.tsv").write_text("\n".join(lines) + "\n", "utf-8")
        return folder

    def judged_by(self, queries: Iterable[str]) -> Beir:
        """Returns the same documents with the judgments of some queries only."""
        wanted = set(queries)
        judgments = [pair for pair in self.judgments if pair[0] in wanted]
        return Beir(self.documents, {q: t for q, t in self.queries.items() if q in wanted}, judgments)

    def single_positive(self) -> Beir:
        """Returns the queries whose text has exactly one judgment, whatever its ids."""
        count = Counter(self.queries[query] for query, _ in self.judgments)
        return self.judged_by(query for query, _ in self.judgments if count[self.queries[query]] == 1)

    def heaviest(self) -> set[str]:
        """Returns the ids of the query text that has the most judgments."""
        count = Counter(self.queries[query] for query, _ in self.judgments)
        text = max(count, key=lambda text: (count[text], text))
        return {query for query, _ in self.judgments if self.queries[query] == text}

    def sample(self, number: int | None, seed: int, keep: Iterable[str] = ()) -> Beir:
        """Returns `number` of the judged queries, drawn with the seed, and those to `keep`; None: all."""
        known = sorted({query for query, _ in self.judgments})
        chosen = (
            known if number is None or number >= len(known) else random.Random(seed).sample(known, number)
        )
        return self.judged_by({*chosen, *keep})

    def fraction(self, share: float, seed: int) -> Beir:
        """Returns that share of the judged queries and of the documents; positives stay."""
        if share >= 1:
            return self
        judged = len({query for query, _ in self.judgments})
        kept = self.sample(max(1, round(share * judged)), seed)
        others = random.Random(seed).sample(sorted(self.documents), round(share * len(self.documents)))
        wanted = {doc for _, doc in kept.judgments} | set(others)
        return Beir({d: t for d, t in self.documents.items() if d in wanted}, kept.queries, kept.judgments)

    def sizes(self) -> dict[str, int]:
        """Returns how many documents, judged queries and positives there are, and the most per query."""
        per_text = Counter(self.queries[query] for query, _ in self.judgments)
        return {
            "documents": len(self.documents),
            "queries": len({query for query, _ in self.judgments}),
            "positives": len(self.judgments),
            "most_positives_of_a_query_text": max(per_text.values()),
        }


def _rows(folder: Path, name: str) -> list[dict[str, Any]]:
    with (folder / f"{name}.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _write_texts(file: Path, texts: dict[str, str]) -> None:
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(
            json.dumps({"_id": key, "title": "", "text": text}, ensure_ascii=False) + "\n"
            for key, text in texts.items()
        )


def new_store(path: Path, source: Path) -> Path:
    """Ingests a BEIR folder into a new store at `path`; vectors beside it stay. Returns the path."""
    for file in (path, path.with_name(f"{path.name}.wal")):  # a killed benchmark leaves a log
        file.unlink(missing_ok=True)
    ingest(path, [str(source)])
    return path


def kept_store(path: Path, source: Path) -> Path:
    """Returns the store at `path`, ingested from a BEIR folder unless it is there.

    What is mined, trained and scored stays, and is not computed again after a kill.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{path.name}")
    return new_store(partial, source).rename(path)


def copy_store(store: Path, path: Path, *, vectors: bool) -> Path:
    """Copies a store, with the vectors beside it (linked, not copied) or without; returns the copy."""
    shutil.copyfile(store, path)
    if vectors:
        folders = (f"{file.name}.vectors" for file in (store, path))
        before, after = (file.with_name(name) for file, name in zip((store, path), folders, strict=True))
        shutil.copytree(before, after, copy_function=_link)
    return path


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def drop_store(path: Path) -> None:
    """Removes a store, and the vectors and the BM25 indexes beside it."""
    path.unlink(missing_ok=True)
    for kind in ("vectors", "bm25"):
        shutil.rmtree(path.with_name(f"{path.name}.{kind}"), ignore_errors=True)


def warm_store(path: Path, written: Path, data: Beir) -> tuple[Path, Vectorised]:
    """Returns a new store that has every vector; those of an earlier benchmark are used again."""
    store = new_store(path, written)
    vectors = Vectorised(store)
    vectors.encode(data)
    return store, vectors


class Vectorised:
    """The bundled encoder's vectors of a store's texts: the same for both systems."""

    def __init__(self, store: Path) -> None:
        self._encoder = Encoder(BUNDLED)
        self._folder = store.with_name(f"{store.name}.vectors")
        self.cache = VectorCache(self._folder, self._encoder.fingerprint)

    def encode(self, data: Beir) -> None:
        """Encodes what the cache lacks: queries first, documents by id, as miner does."""
        queries = [data.queries[q] for q in sorted({q for q, _ in data.judgments})]
        documents = [data.documents[d] for d in sorted(data.documents)]
        for side, texts in (("query", queries), ("document", documents)):
            embed(self.cache, self._encoder, texts, self._encoder.prompts[side])

    def put(self, side: str, texts: Sequence[str], vectors: Vectors) -> None:
        """Puts vectors of distinct texts where the encoder's own would be."""
        self.cache.append(vector_keys(texts, self._encoder.prompts[side]), vectors)

    def lend(self, dtype: str) -> None:
        """Lets the encoder in another dtype find the same vectors."""
        other = Encoder(BUNDLED, dtype=dtype).fingerprint
        if other != self._encoder.fingerprint:
            shutil.rmtree(self._folder / other[:16], ignore_errors=True)
            VectorCache(self._folder, other).append(self.cache.keys, self.cache.vectors)

    def of(self, side: str, texts: Sequence[str]) -> Vectors:
        """Returns the cached vectors of texts, in order."""
        rows: npt.NDArray[np.int64] = self.cache.rows(vector_keys(texts, self._encoder.prompts[side]))
        if (rows < 0).any():
            raise RuntimeError(f"{int((rows < 0).sum())} vectors are missing")
        return np.asarray(self.cache.vectors[rows])


def base_of(folder: Path, base: str, seed: int) -> Path | str:
    """Returns a model to measure before training; a new table is saved first."""
    if base != "scratch":
        return base
    out = folder / f"scratch-{seed}"
    load_base(EncoderConfig(base=base, seed=seed)).save_pretrained(str(out), create_model_card=False)
    return out
