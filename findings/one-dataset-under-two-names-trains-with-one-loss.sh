#!/usr/bin/env bash
# sentence-transformers 6.2.0: a trainer that gets one Dataset under two names of a DatasetDict treats all its rows as
# those of the name that stands last. The trainer marks the rows with a transform that it sets on the Dataset itself,
# not on a copy; the second name's transform wraps the first one's, for both. If every name has a loss, the first
# name's loss is never called: its half of the steps trains the other one. If every name has its own prompts, all rows
# get the prompts of the last name. There is no error, and there are as many steps as expected. The mark stays on the
# Dataset after the training. The transform also replaces the Dataset's format: columns that set_format(columns=...)
# hides come back, and a loss reads a third column as hard negatives.
#
# Who is hurt: whoever trains the same pairs with two losses, or with a prompt and without one, so that the model
# works with both. The model has learnt one of the two, and which one depends on the order of the names.
# What to do there: a Dataset of its own for every name.
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
TQDM_DISABLE=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false venv/bin/python -W ignore - <<'PYTHON'
import sys
from collections import Counter
from importlib.metadata import version

import numpy as np
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PrinterCallback

for package in ("sentence-transformers", "transformers", "datasets"):
    print(package, version(package))
print("One Dataset under two names is trained as the last name's, with its loss and its prompts.")

QUERIES, PASSAGES = [f"q{number}" for number in range(40)], [f"p{number}" for number in range(40)]
words = ["[UNK]", "query", ":", *QUERIES, *PASSAGES]
tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
vectors = np.random.default_rng(0).standard_normal((len(words), 8)).astype("float32")


def pairs() -> Dataset:
    """Returns 40 pairs, which are 5 batches."""
    return Dataset.from_dict({"query": QUERIES, "positive": PASSAGES})


class Watched(MultipleNegativesRankingLoss):
    """The loss, which counts its batches by whether their queries begin with the prompt."""

    def __init__(self, model):
        super().__init__(model)
        self.batches = Counter()
        self.columns = 0

    def forward(self, sentence_features, labels=None):
        features = list(sentence_features)
        self.columns = len(features)
        prompted = words.index("query") in features[0]["input_ids"].tolist()
        self.batches["with the prompt" if prompted else "without"] += 1
        return super().forward(features, labels)


def train(datasets: dict[str, Dataset], one_loss: bool, prompts: dict | None = None) -> list[Watched]:
    """Trains one epoch; returns the losses, which have counted their batches."""
    table = StaticEmbedding(tokenizer, embedding_weights=vectors.copy())
    model = SentenceTransformer(modules=[table], device="cpu")
    losses = {"first": Watched(model)} if one_loss else {name: Watched(model) for name in datasets}
    arguments = SentenceTransformerTrainingArguments(
        "out", num_train_epochs=1, per_device_train_batch_size=8, prompts=prompts, report_to="none", save_strategy="no",
        logging_strategy="no", disable_tqdm=True, use_cpu=True,
    )
    loss = losses["first"] if one_loss else losses
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=datasets, loss=loss)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return list(losses.values())


same = pairs()
by_loss = [one.batches.total() for one in train({"first": same, "second": same}, one_loss=False)]
apart = [one.batches.total() for one in train({"first": pairs(), "second": pairs()}, one_loss=False)]
print("batches of the first and of the second loss, one Dataset under both names:", *by_loss)
print("batches of the first and of the second loss, a Dataset for every name:    ", *apart)

prompts = {"plain": {"query": ""}, "prompted": {"query": "query: "}}
by_order = []
for names in (("plain", "prompted"), ("prompted", "plain")):
    same = pairs()
    by_order.append(train({name: same for name in names}, one_loss=True, prompts=prompts)[0].batches)
    print("prompts of", *names, "- batches:", dict(by_order[-1]))
separate = train({"plain": pairs(), "prompted": pairs()}, one_loss=True, prompts=prompts)[0].batches
print("prompts, a Dataset for every name - batches:", dict(separate))
print("a row of the Dataset after the training:", same[0])

hiding = pairs().add_column("source", ["a newspaper"] * len(QUERIES)).with_format(None, columns=["query", "positive"])
print("a row with a hidden column before the training:", hiding[0])
columns = train({"one": hiding}, one_loss=False)[0].columns
print("columns that the loss gets:", columns)

as_described = (
    by_loss == [0, 10]
    and apart == [5, 5]
    and by_order == [{"with the prompt": 10}, {"without": 10}]
    and separate == {"with the prompt": 5, "without": 5}
    and same[0].get("dataset_name") == "plain"
    and columns == 3
)
print("as described" if as_described else "CHANGED: the two names are trained as two")
sys.exit(0 if as_described else 1)
PYTHON
