#!/usr/bin/env bash
# sentence-transformers 6.2.0: mine_hard_negatives(cache_folder=...) names its cached embeddings by the texts, the
# prompts and the *name* of the base model (model_card_data.base_model), not by the weights. A model that is trained
# between two calls is given the embeddings from before its training, and two models from local folders share one
# cache: the negatives and scores of the second call are the first model's, and nothing says so.
#
# Who is hurt: whoever mines, trains, and mines again with the better model, which is what the cache is for.
# What to do there: another cache_folder for every state of the weights.
#
# Exits with 0 if the behaviour is as described, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip install -q --disable-pip-version-check)
"${pip[@]}" torch==2.13.0
"${pip[@]}" sentence-transformers==6.2.0 transformers==5.23.0 datasets==5.2.0 numpy==2.4.6
cd "$work"
TQDM_DISABLE=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false venv/bin/python - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sentence_transformers.util import mine_hard_negatives
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

for package in ("sentence-transformers", "transformers", "datasets", "torch"):
    print(package, version(package))
print("mine_hard_negatives serves cached embeddings of other weights: the cache is named by texts, prompts and base_model.")

things = [f"thing{number}" for number in range(20)]
words = ["[UNK]", "reset", "hold", "button", *things]
pairs = Dataset.from_dict(
    {"query": [f"reset {t}" for t in things], "answer": [f"hold button {t}" for t in things]}
)


def table(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(words), 16)).astype("float32")


def saved(seed: int) -> SentenceTransformer:
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=table(seed))], device="cpu")
    model.save(f"model-{seed}")
    return SentenceTransformer(f"model-{seed}", device="cpu")


def mined(model: SentenceTransformer, cache: str | None) -> list[tuple[str, float]]:
    rows = mine_hard_negatives(
        pairs, model, num_negatives=1, output_scores=True, verbose=False, cache_folder=cache
    )
    return [(row["negative"], round(row["scores"][1], 4)) for row in rows]


first, second = saved(1), saved(2)
print("model_card_data.base_model:", first.model_card_data.base_model, second.model_card_data.base_model)
before = mined(first, "cache")
own, served = mined(second, None), mined(second, "cache")
print("two models from local folders, one cache_folder:")
print("  first model, its hardest negative :", before[0])
print("  second model without the cache    :", own[0])
print("  second model with the cache       :", served[0])
two_models = served == before and served != own

with torch.no_grad():  # what a training does to the weights
    first[0].embedding.weight.copy_(torch.from_numpy(table(3)))
own, served = mined(first, None), mined(first, "cache")
print("one model, its weights changed as by a training, the same cache_folder:")
print("  without the cache                 :", own[0])
print("  with the cache                    :", served[0])
trained = served == before and served != own

as_described = two_models and trained
print("as described" if as_described else "CHANGED: the cache was not served to other weights")
sys.exit(0 if as_described else 1)
PYTHON
