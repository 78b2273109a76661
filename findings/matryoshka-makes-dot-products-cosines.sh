#!/usr/bin/env bash
# sentence-transformers 6.2.0: MatryoshkaLoss gives the loss inside it vectors of length 1, for every dimension, the
# model's full one included. A loss that compares by dot product, as MarginMSELoss and DistillKLDivLoss do if nothing
# else is said, then compares by cosine: what is trained is not model.similarity, the scores of the student stay
# between -1 and 1, and the lengths of the vectors have no gradient. Neither the docstring nor a warning says so. A
# model that ends with Normalize is not affected.
#
# Who is hurt: whoever trains a model for dot product with Matryoshka. The loss may be 0 while the model ranks the
# negative first. Margins of a reranker's raw scores, 5 or 10, cannot be reached by cosines at all.
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
TQDM_DISABLE=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false venv/bin/python - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    DistillKLDivLoss,
    MarginMSELoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sentence_transformers.util import dot_score
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

for package in ("sentence-transformers", "transformers", "torch"):
    print(package, version(package))
print("MatryoshkaLoss over a loss by dot product trains the cosine, in the full dimension too.")

# The positive has the query's direction, the negative is longer: by dot product it is first, by cosine it is second.
vectors = {"[UNK]": (0, 0, 0, 0), "query": (1, 0, 0, 0), "positive": (1, 0, 0, 0), "negative": (3, 1, 0, 0)}
tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(vectors)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
weights = np.array(list(vectors.values()), dtype="float32")
table = StaticEmbedding(tokenizer, embedding_weights=weights)
model = SentenceTransformer(modules=[table], device="cpu", similarity_fn_name="dot")
query, positive, negative = model.encode(["query", "positive", "negative"])
print("model.similarity with positive and negative:", model.similarity(query, [positive, negative])[0].tolist())


def scores(by_cosine: bool) -> np.ndarray:
    """Returns what the query has in common with the positive and the negative, in NumPy."""
    documents = np.stack([positive, negative])
    by_length = np.linalg.norm(query) * np.linalg.norm(documents, axis=1) if by_cosine else 1.0
    return documents @ query / by_length


def probabilities(values: np.ndarray) -> np.ndarray:
    return np.exp(values) / np.exp(values).sum()


teacher = scores(by_cosine=True)  # a teacher that scores from -1 to 1
formulas = {
    MarginMSELoss: lambda own: float(((own[0] - own[1]) - (teacher[0] - teacher[1])) ** 2),
    DistillKLDivLoss: lambda own: float(
        (probabilities(teacher) * np.log(probabilities(teacher) / probabilities(own))).sum()
    ),
    MultipleNegativesRankingLoss: lambda own: float(-np.log(probabilities(own)[0])),
}
by_dot = {"scale": 1.0, "similarity_fct": dot_score}  # the other two compare by dot product by default


def computed(loss: torch.nn.Module) -> tuple[float, float]:
    """Returns a loss, and the gradient that changes the length of the negative's vector."""
    model.zero_grad()
    texts = [model.preprocess([text]) for text in ("query", "positive", "negative")]
    value = loss(texts, torch.from_numpy(teacher)[None])
    value.backward()
    along = table.embedding.weight.grad[3].numpy() @ negative / np.linalg.norm(negative)
    return value.item(), round(float(along), 4) + 0.0


as_described = True
for kind, formula in formulas.items():
    settings = by_dot if kind is MultipleNegativesRankingLoss else {}
    alone, its_length = computed(kind(model, **settings))
    within, no_length = computed(MatryoshkaLoss(model, kind(model, **settings), matryoshka_dims=[4]))
    dot, cosine = formula(scores(by_cosine=False)), formula(scores(by_cosine=True))
    print(f"{kind.__name__}: by the formula {dot:.4f} with dot products, {cosine:.4f} with cosines")
    print(f"  alone          : loss {alone:.4f}, gradient along the negative's vector {its_length:.4f}")
    print(f"  in Matryoshka  : loss {within:.4f}, gradient along the negative's vector {no_length:.4f}")
    as_described &= np.isclose(alone, dot, atol=1e-5) and np.isclose(within, cosine, atol=1e-5)
    as_described &= its_length > 0.01 and no_length == 0.0
print("as described" if as_described else "CHANGED: Matryoshka compares as the loss inside it does")
sys.exit(0 if as_described else 1)
PYTHON
