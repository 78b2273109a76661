#!/usr/bin/env bash
# sentence-transformers 6.2.0: resolve_ids(max_list_length=N) cuts every list of a row to its first N entries, each on
# its own. In rows of query_id, positive_id, negative_ids and scores (the positive's score, then those of the negatives)
# that leaves N negatives beside N scores. MarginMSELoss reads as many scores as negatives as the margins between the
# positive and each negative, its other form of labels. So the raw scores are trained as margins: the positive's own
# score becomes the margin to the first negative, the first negative's score that to the second, and so on. There is no
# error. Without max_list_length the same rows are read as scores, and the loss is right.
#
# Who is hurt: whoever distils a reranker with fewer negatives per query than the data has, to save memory. The margins
# are in the opposite order: the hardest negative is given the largest one. A student that equals its teacher is trained
# away from it.
# What to do there: put the positive first in the list of documents (document_ids), so that documents and scores are
# cut alike.
#
# Exits with 0 if the behaviour is as described, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip install -q --disable-pip-version-check)
"${pip[@]}" torch==2.13.0
"${pip[@]}" sentence-transformers==6.2.0 transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0 numpy==2.4.6
cd "$work"
TQDM_DISABLE=1 HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 TOKENIZERS_PARALLELISM=false \
    venv/bin/python -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.data_collator import BaseDataCollator
from sentence_transformers.sentence_transformer.losses import MarginMSELoss
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sentence_transformers.util import resolve_ids
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

for package in ("sentence-transformers", "datasets", "torch"):
    print(package, version(package))
print("resolve_ids(max_list_length=4) leaves 4 raw scores beside 4 negatives, which MarginMSELoss reads as margins.")

SCORES = {"positive": 10.0, "negative1": 9.0, "negative2": 7.0, "negative3": 4.0, "negative4": 2.0, "negative5": 1.0,
          "negative6": 0.0}
NEGATIVES = [name for name in SCORES if name != "positive"]

# A student that equals its teacher: the dot product of the query and a document is the teacher's score.
vectors = {"[UNK]": (0.0, 0.0), "query": (1.0, 0.0), **{name: (score, 0.0) for name, score in SCORES.items()}}
tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(vectors)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
table = StaticEmbedding(tokenizer, embedding_weights=np.array(list(vectors.values()), dtype="float32"))
student = SentenceTransformer(modules=[table], device="cpu", similarity_fn_name="dot")

queries = Dataset.from_dict({"query_id": ["q"], "text": ["query"]})
documents = Dataset.from_dict({"document_id": [f"id of {name}" for name in SCORES], "text": list(SCORES)})


def loss_of(max_list_length: int | None, row: dict) -> float:
    """Returns the loss of a row of ids after resolve_ids and the collator."""
    rows = Dataset.from_dict({name: [value] for name, value in row.items()})
    lookups = {name: queries if name == "query_id" else documents for name in row if name != "scores"}
    rows.set_transform(resolve_ids(lookups, max_list_length=max_list_length))
    batch = BaseDataCollator(preprocess_fn=student.preprocess)([rows[0]])
    columns = [name for name in rows[0] if name != "scores"]
    features = [{key[len(name) + 1:]: value for key, value in batch.items() if key.startswith(f"{name}_")}
                for name in columns]
    loss = MarginMSELoss(student)(features, batch["label"]).item()
    print(f"max_list_length={max_list_length!s:4} columns {', '.join(columns)}\n"
          f"    scores {batch['label'][0].tolist()}  loss {loss:.2f}")
    return loss


apart = {"query_id": "q", "positive_id": "id of positive", "negative_ids": [f"id of {name}" for name in NEGATIVES],
         "scores": list(SCORES.values())}
together = {"query_id": "q", "document_ids": [f"id of {name}" for name in SCORES], "scores": list(SCORES.values())}
print("positive_id, negative_ids and scores; the student's scores are the teacher's")
whole, cut = loss_of(None, apart), loss_of(4, apart)
print("document_ids and scores")
whole_list, cut_list = loss_of(None, together), loss_of(4, together)

scores = np.array(list(SCORES.values()))
raw_as_margins = float(np.mean(((scores[0] - scores[1:5]) - scores[:4]) ** 2))
print(f"the loss if the raw scores {scores[:4].tolist()} are the margins: {raw_as_margins:.2f}")

as_described = whole == whole_list == cut_list == 0 and abs(cut - raw_as_margins) < 1e-4 and cut > 10
print("as described" if as_described else "CHANGED: the scores are not trained as margins")
sys.exit(0 if as_described else 1)
PYTHON
