#!/usr/bin/env bash
# sentence-transformers 6.2.0: CrossEncoderRerankingEvaluator with always_rerank_positives=False scores the reranked
# list as if the positives that the retriever did not find did not exist: the ideal ranking of nDCG and the divisor of
# MAP count the found positives alone. The figures of the ranking before it (base_...) count all of them. (base_map is
# too high too: it counts a positive that was not found as if it came right after the list.) A reranker that leaves
# the order as it is then has higher figures than the same order before it, and the model card states the difference
# as its gain. The documentation promises a maximum that is bound by the positives that the retriever found; the
# maximum is 1.
# huggingface/sentence-transformers#4054 (open in September 2026) proposes to count them.
#
# Who is hurt: whoever chooses the setting for its "more realistic evaluation" and compares the reranked figures with
# base_..., with a retriever's figures, or with published ones by trec_eval. The fewer positives the retriever finds,
# the larger the invented gain: two rerankers over two retrievers are not comparable either.
# What to do there: leave the setting at True and read the gain as one with all positives in the list, or compute the
# figures of the reranked lists with all judgments (trec_eval, ir_measures).
#
# Exits with 0 if the behaviour is as described, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip install -q --disable-pip-version-check)
"${pip[@]}" torch==2.13.0
"${pip[@]}" sentence-transformers==6.2.0 transformers==5.23.0 scikit-learn==1.9.1 numpy==2.4.6
cd "$work"
TQDM_DISABLE=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false venv/bin/python -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

for package in ("sentence-transformers", "scikit-learn", "numpy"):
    print(package, version(package))
print("With always_rerank_positives=False a reranker that keeps the order scores higher than the order before.")

FOUND = [f"document {rank}" for rank in range(1, 11)]
POSITIVE = ["document 2", "document 5", "document 11", "document 12", "document 13"]  # the last three were not found
SAMPLES = [{"query": "a query", "positive": POSITIVE, "documents": FOUND}]


class KeepsTheOrder:
    """A reranker for one query, whose scores fall with the retriever's rank: it changes nothing."""

    class model_card_data:
        @staticmethod
        def set_evaluation_metrics(evaluator, metrics, *epoch_and_step) -> None:
            print("the model card:", metrics)

    def predict(self, pairs, **options) -> np.ndarray:
        return np.arange(len(pairs), 0, -1, dtype="float32")


def by_definition() -> dict[str, float]:
    """Returns nDCG@10 and average precision of the found documents, with all five positives, as trec_eval has them."""
    relevant = np.array([document in POSITIVE for document in FOUND])
    discount = 1 / np.log2(np.arange(2, len(FOUND) + 2))
    precision = relevant.cumsum() / np.arange(1, len(FOUND) + 1)
    ideal = discount[: len(POSITIVE)].sum()
    return {"map": precision[relevant].sum() / len(POSITIVE), "ndcg@10": (relevant * discount).sum() / ideal}


figures = CrossEncoderRerankingEvaluator(SAMPLES, always_rerank_positives=False, write_csv=False)(KeepsTheOrder())
exact = by_definition()
for name in ("map", "ndcg@10"):
    print(f"{name:8} before {figures['base_' + name]:.4f}   after, in the same order {figures[name]:.4f}   "
          f"by definition {exact[name]:.4f}")
first = [{**SAMPLES[0], "documents": ["document 2", *(one for one in FOUND if one not in POSITIVE)]}]
best = CrossEncoderRerankingEvaluator(first, always_rerank_positives=False, write_csv=False)(KeepsTheOrder())
print(f"one of five positives was found and is first: ndcg@10 {best['ndcg@10']:.4f}, map {best['map']:.4f}")

as_described = (
    abs(figures["base_ndcg@10"] - exact["ndcg@10"]) < 1e-9
    and figures["base_map"] > 1.5 * exact["map"]
    and figures["ndcg@10"] > 1.5 * exact["ndcg@10"]
    and figures["map"] > 1.5 * exact["map"]
    and figures["map"] > figures["base_map"]
    and abs(best["ndcg@10"] - 1) < 1e-9
)
print("as described" if as_described else "CHANGED: positives that were not found count")
sys.exit(0 if as_described else 1)
PYTHON
