#!/usr/bin/env bash
# FAISS 1.15.1: index_factory(d, "PQ8", METRIC_L1) builds, trains and searches without an error, reports
# metric_type == METRIC_L1, and ranks by the largest inner product: the values that come back as distances are inner
# products, the largest first. (IVF with a scalar quantiser refuses such a metric when it is searched; HNSW and IVF,Flat
# compute it.) Only a comparison with an exact index shows it.
#
# Who is hurt: whoever compresses vectors that are compared by Manhattan distance: the neighbours are those of another
# measure, and a threshold on "distance" keeps the farthest.
#
# Exits with 0 if the behaviour is as described, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check faiss-cpu==1.15.1 numpy==2.4.6
cd "$work"
OMP_NUM_THREADS=1 venv/bin/python - <<'PYTHON'
import sys
from importlib.metadata import version

import faiss
import numpy as np

for package in ("faiss-cpu", "numpy"):
    print(package, version(package))
print("An index 'PQ8' with METRIC_L1 ranks by the largest inner product, without a word.")

rng = np.random.default_rng(0)
documents = rng.standard_normal((20_000, 16)).astype("float32")
queries = rng.standard_normal((50, 16)).astype("float32")
overlap = {}
index = faiss.index_factory(16, "PQ8", faiss.METRIC_L1)
index.train(documents)
index.add(documents)
distances, found = index.search(queries, 10)
for name, metric in (("Manhattan distance", faiss.METRIC_L1), ("inner product", faiss.METRIC_INNER_PRODUCT)):
    _, exact = faiss.knn(queries, documents, 10, metric=metric)
    overlap[name] = float(np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found, exact)]))
l2 = faiss.index_factory(16, "PQ8", faiss.METRIC_L2)
l2.train(documents)
l2.add(documents)
_, exact = faiss.knn(queries, documents, 10, metric=faiss.METRIC_L2)
usual = float(np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(l2.search(queries, 10)[1], exact)]))
print("metric_type of the index:", index.metric_type, "; METRIC_L1 is", faiss.METRIC_L1)
print("first distances:", np.round(distances[0, :4], 2).tolist(), "(they fall)")
print("share of the true 10 nearest that it finds:", {name: round(share, 2) for name, share in overlap.items()})
print("for comparison, the same index with METRIC_L2 finds of its own 10 nearest:", round(usual, 2))
falls = bool((np.diff(distances, axis=1) <= 0).all())
as_described = falls and overlap["inner product"] > 0.3 > 0.1 > overlap["Manhattan distance"]
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PYTHON
