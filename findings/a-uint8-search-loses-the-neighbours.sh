#!/usr/bin/env bash
# sentence-transformers 6.2.0 with FAISS 1.15.1: semantic_search_faiss(corpus_precision="uint8") looks for candidates by
# the inner product of the codes. A code is (value - minimum) / step with a minimum and a step for every dimension, so
# it is never below 0, and its zero is not the value 0. The product then has a sum over the document's codes that has
# nothing to do with the query, and it is larger than what the query decides: documents with large codes win, for many
# queries. Rescoring restores the values, but only of the candidates that this search found (2 * top_k by default).
# The codes themselves are fine: an exact search over the restored values finds nearly all neighbours.
#
# Who is hurt: whoever saves memory with uint8 codes and FAISS, as the documentation offers. The scores of the hits look
# right, since they are rescored; nearest documents are missing from a RAG's context, from mined hard negatives, from an
# evaluation of "quantised" retrieval. How many depends on the vectors: the more evenly they are spread, the more. With
# those below, 27 % of the ten nearest are found at the default, 19 % without rescoring, and 99 % by the restored codes.
# What to do there: FAISS's own scalar quantiser (IndexScalarQuantizer, QT_8bit), which restores the values as it
# searches. It stores a byte per value; the index that semantic_search_faiss makes stores every code as a float32.
#
# Exits with 0 if the behaviour is as described, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip install -q --disable-pip-version-check)
"${pip[@]}" torch==2.13.0
"${pip[@]}" sentence-transformers==6.2.0 transformers==5.23.0 faiss-cpu==1.15.1 numpy==2.4.6
cd "$work"
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false venv/bin/python -W ignore - <<'PYTHON'
import sys
from collections import Counter
from importlib.metadata import version

import faiss
import numpy as np
from sentence_transformers.util.quantization import quantize_embeddings, semantic_search_faiss

for package in ("sentence-transformers", "faiss-cpu", "numpy"):
    print(package, version(package))
print("The search over uint8 codes misses nearest documents; rescoring cannot bring them back.")

DIMENSIONS, DOCUMENTS, QUERIES, TOPICS, TOP = 384, 10_000, 100, 200, 10
rng = np.random.default_rng(0)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32")


def noise(rows: int) -> np.ndarray:
    return unit(rng.standard_normal((rows, DIMENSIONS)))


# 200 topics with 50 documents each; a query is near one document. All vectors have the length 1.
documents = unit(noise(TOPICS)[rng.integers(0, TOPICS, DOCUMENTS)] + noise(DOCUMENTS))
queries = unit(documents[:QUERIES] + 0.7 * noise(QUERIES))
ranges = np.vstack([documents.min(axis=0), documents.max(axis=0)])  # of the corpus, as the documentation recommends
codes = quantize_embeddings(documents, "uint8", ranges=ranges)
nearest = np.argsort(-(queries @ documents.T), axis=1)[:, :TOP]


def recall(found: np.ndarray | list) -> float:
    """Returns the share of each query's ten nearest documents that were found."""
    return float(np.mean([len({*ours} & {*theirs}) / TOP for ours, theirs in zip(nearest.tolist(), found)]))


def searched(precision: str, corpus: np.ndarray, **options) -> list[list[int]]:
    """Returns the ten documents of every query by semantic_search_faiss."""
    hits, _ = semantic_search_faiss(queries, corpus, corpus_precision=precision, top_k=TOP, **options)
    return [[hit["corpus_id"] for hit in one] for one in hits]


restored = codes * ((ranges[1] - ranges[0]) / 255) + ranges[0]
scalar = faiss.IndexScalarQuantizer(DIMENSIONS, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
scalar.train(documents)
scalar.add(documents)
plain = searched("uint8", codes, ranges=ranges, rescore=False)
found = {
    "float32": recall(searched("float32", documents, rescore=False)),
    "uint8, the codes restored, all documents": recall(np.argsort(-(queries @ restored.T), axis=1)[:, :TOP].tolist()),
    "uint8 by FAISS's own scalar quantiser": recall(scalar.search(queries, TOP)[1].tolist()),
    "uint8 by semantic_search_faiss, no rescoring": recall(plain),
}
for factor in (2, 4, 10):
    hits = searched("uint8", codes, ranges=ranges, rescore_multiplier=factor)
    found[f"uint8 by semantic_search_faiss, rescoring {factor:2} * top_k"] = recall(hits)
for name, share in found.items():
    print(f"{name:55} {share:6.1%} of the ten nearest documents")
often, times = Counter(document for hits in plain for document in hits).most_common(1)[0]
_, _, index = semantic_search_faiss(queries, codes, corpus_precision="uint8", ranges=ranges, output_index=True)
print(f"bytes per document: {index.code_size} in its {type(index).__name__}, {scalar.code_size} in FAISS's quantiser")
print(f"one document is among the first ten of {times} of the {QUERIES} queries, without rescoring")

own = found["uint8 by semantic_search_faiss, rescoring  2 * top_k"]
as_described = (
    found["uint8, the codes restored, all documents"] > 0.95
    and found["uint8 by FAISS's own scalar quantiser"] > 0.95
    and own < 0.5
    and index.code_size == 4 * scalar.code_size
    and found["uint8 by semantic_search_faiss, rescoring 10 * top_k"] < 0.8
)
print("as described" if as_described else "CHANGED: the search over uint8 codes finds the nearest documents")
sys.exit(0 if as_described else 1)
PYTHON
