#!/usr/bin/env bash
# sentence-transformers 6.2.0: mine_hard_negatives encodes with normalize_embeddings=True whatever the model's own
# similarity is. A model that names dot product (as the msmarco-*-dot-* models and DPR do) is mined by cosine: the
# candidates, their order, the margins and the scores of output_scores are not those of model.similarity, with FAISS
# and without. Euclidean distance is likewise measured between vectors of length 1. Nothing says so.
#
# Who is hurt: whoever mines for a dot-product model, or distils the scores into one. Length carries meaning in such
# a model; the negatives are hard for another model.
#
# Exits with 0 if the behaviour is as described, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip install -q --disable-pip-version-check)
"${pip[@]}" torch==2.13.0
"${pip[@]}" sentence-transformers==6.2.0 transformers==5.23.0 datasets==5.2.0 numpy==2.4.6 faiss-cpu==1.15.1
cd "$work"
TQDM_DISABLE=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false venv/bin/python - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sentence_transformers.util import mine_hard_negatives
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

for package in ("sentence-transformers", "transformers", "datasets", "faiss-cpu"):
    print(package, version(package))
print("mine_hard_negatives normalises every vector: a dot-product model is mined, and scored, by cosine.")

vectors = {"[UNK]": (0, 0), "query": (1, 0), "positive": (3, 1), "long": (2, 2), "short": (0.9, 0.1)}
tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(vectors)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
table = StaticEmbedding(tokenizer, embedding_weights=np.array(list(vectors.values()), dtype="float32"))
model = SentenceTransformer(modules=[table], device="cpu", similarity_fn_name="dot")
pairs = Dataset.from_dict({"query": ["query"], "answer": ["positive"]})
corpus = ["positive", "long", "short"]

own = model.similarity(model.encode(["query"]), model.encode(corpus))[0].tolist()
print("the model's similarity:", model.similarity_fn_name)
print("model.similarity of the query to", dict(zip(corpus, [round(score, 3) for score in own])))
hardest = max(zip(own[1:], corpus[1:]))[1]
found = []
for use_faiss in (False, True):
    (row,) = mine_hard_negatives(
        pairs, model, corpus=corpus, num_negatives=1, output_scores=True, use_faiss=use_faiss, verbose=False
    )
    found.append((row["negative"], [round(score, 3) for score in row["scores"]]))
    print(f"mine_hard_negatives(use_faiss={use_faiss}): hardest negative {found[-1][0]}, scores {found[-1][1]}")
print(f"hardest negative by the model's own similarity: {hardest}")
by_cosine = [round(3 / 10**0.5, 3), round(0.9 / 0.82**0.5, 3)]
as_described = hardest == "long" and all(one == ("short", by_cosine) for one in found)
print("as described" if as_described else "CHANGED: the model's own similarity was used")
sys.exit(0 if as_described else 1)
PYTHON
