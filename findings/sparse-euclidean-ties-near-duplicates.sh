#!/usr/bin/env bash
# sentence-transformers 6.2.0: the Euclidean similarity of sparse vectors (a SparseEncoder with similarity_fn_name
# "euclidean", or util.euclidean_sim on sparse tensors) is computed as |a|^2 + |b|^2 - 2ab in fp32. For texts that are
# nearly the same this subtracts two large equal numbers. Vectors that differ get the similarity 0, as if they were
# equal, and a vector may be further from itself than from another one. The same two vectors as dense tensors, and
# util.pairwise_euclidean_sim on sparse ones, give the right distances, so the function for a matrix and the one for
# pairs disagree about the same pair.
#
# Who is hurt: whoever ranks or removes near duplicates by the distance of sparse vectors, or compares scores of pairs
# with those of a search.
#
# Exits with 0 if the behaviour is as described, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip install -q --disable-pip-version-check)
"${pip[@]}" torch==2.13.0
"${pip[@]}" sentence-transformers==6.2.0 transformers==5.23.0 numpy==2.4.6
cd "$work"
TQDM_DISABLE=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false venv/bin/python -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import torch
from sentence_transformers.util import euclidean_sim, pairwise_euclidean_sim

for package in ("sentence-transformers", "torch"):
    print(package, version(package))
print("euclidean_sim of sparse vectors gives 0 for vectors that differ.")

# 20 vectors with some hundred weights among 30,522, as SPLADE makes them, and a near duplicate of each.
torch.manual_seed(0)
texts = (torch.randn(20, 30522) - 2).relu() * 3
near = texts.clone()
near[:, :3] += 0.001
exact = -(texts.double() - near.double()).norm(dim=1)

of_matrix = euclidean_sim(texts.to_sparse(), near.to_sparse()).to_dense().diagonal()
of_pairs = pairwise_euclidean_sim(texts.to_sparse(), near.to_sparse())
of_dense = euclidean_sim(texts, near).diagonal()
itself = euclidean_sim(texts.to_sparse(), texts.to_sparse()).to_dense().diagonal()
zeros = int((of_matrix == 0).sum())
print(f"exact distance of a text and its near duplicate: {exact.abs().min():.5f} to {exact.abs().max():.5f}")
print(f"euclidean_sim, sparse: {zeros} of 20 are 0; lowest {of_matrix.min():.5f}")
print(f"euclidean_sim, dense: largest error {(of_dense.double() - exact).abs().max():.1e}")
print(f"pairwise_euclidean_sim, sparse: largest error {(of_pairs.double() - exact).abs().max():.1e}")
print(f"a sparse vector and itself: {int((itself < 0).sum())} of 20 are not 0; lowest {itself.min():.5f}")

as_described = zeros > 0 and bool((of_pairs.double() - exact).abs().max() < 1e-6)
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PYTHON
