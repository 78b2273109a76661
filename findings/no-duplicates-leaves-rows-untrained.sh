#!/usr/bin/env bash
# sentence-transformers 6.2.0 with transformers 5.23.0: batch_sampler="no_duplicates" puts a row off to a later batch if
# the batch has one of its texts already. If many rows share a text, the batches are smaller and there are more of them.
# But the sampler's length is the number of rows divided by the batch size, as if all batches were full, and the Trainer
# ends the epoch after that many. The batches after that are not trained, and their rows are not either. No warning is
# logged, and the epoch counts as whole. no_duplicates_hashed does the same.
#
# Who is hurt: whoever has pairs with few different positives, such as questions and the intents or FAQ answers that
# they belong to, or one document with many queries. With 77 intents, as in Banking77, and batches of 256, 69 % of the
# rows of an epoch are left out, and a batch has 77 rows instead of 256. Batches of 64, fewer than the intents, still
# lose some.
# What to do there: count the rows that the loss sees; choose a batch size far below the number of different texts.
#
# Exits with 0 if the behaviour is as described, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip install -q --disable-pip-version-check)
"${pip[@]}" torch==2.13.0
"${pip[@]}" sentence-transformers==6.2.0 transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0 numpy==2.4.6 \
    xxhash==4.1.0
cd "$work"
TQDM_DISABLE=1 HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 TOKENIZERS_PARALLELISM=false \
    venv/bin/python -W ignore - <<'PYTHON'
import logging
import sys
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

for package in ("sentence-transformers", "transformers", "accelerate"):
    print(package, version(package))
print("An epoch with no_duplicates ends before all rows were trained, if many rows share a text.")

ROWS, INTENTS = 2_000, 77
queries, intents = [f"q{number}" for number in range(ROWS)], [f"i{number}" for number in range(INTENTS)]
words = ["[UNK]", *queries, *intents]
tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
vectors = np.random.default_rng(0).standard_normal((len(words), 8)).astype("float32")
dataset = Dataset.from_dict({"query": queries, "intent": [intents[row % INTENTS] for row in range(ROWS)]})
messages = []
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: messages.append(record.getMessage())
for name in ("sentence_transformers", "transformers"):
    logging.getLogger(name).addHandler(handler)


class Watched(MultipleNegativesRankingLoss):
    """The loss, which notes the queries of its batches."""

    def __init__(self, model):
        super().__init__(model)
        self.batches = []

    def forward(self, sentence_features, labels=None):
        features = list(sentence_features)
        self.batches.append(features[0]["input_ids"].tolist())
        return super().forward(features, labels)


def train(sampler: str, batch_size: int) -> tuple[int, int, int]:
    """Trains one epoch; returns its steps, its different rows and the rows of its largest batch."""
    table = StaticEmbedding(tokenizer, embedding_weights=vectors.copy())
    model = SentenceTransformer(modules=[table], device="cpu")
    loss = Watched(model)
    arguments = SentenceTransformerTrainingArguments(
        "out", num_train_epochs=1, per_device_train_batch_size=batch_size, batch_sampler=sampler, report_to="none",
        save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True,
    )
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=dataset, loss=loss)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    assert trainer.state.epoch == 1.0, trainer.state.epoch
    seen = {row for batch in loss.batches for row in batch}
    return len(loss.batches), len(seen), max(map(len, loss.batches))


found = {}
for sampler, batch_size in (("batch_sampler", 256), ("no_duplicates", 64), ("no_duplicates", 128),
                            ("no_duplicates", 256), ("no_duplicates_hashed", 256)):
    found[sampler, batch_size] = steps, rows, largest = train(sampler, batch_size)
    print(f"{sampler:20} batch size {batch_size:3}: {steps:3} steps, {rows:6,} of {ROWS:,} rows trained "
          f"({rows / ROWS:.0%}), largest batch {largest}")
about_rows = [message for message in messages if "batch" in message.lower()]
print("warnings about batches:", about_rows or "none")

as_described = (
    found["batch_sampler", 256] == (8, ROWS, 256)
    and found["no_duplicates", 256] == found["no_duplicates_hashed", 256] == (8, 8 * INTENTS, INTENTS)
    and found["no_duplicates", 128] == (16, 16 * INTENTS, INTENTS)
    and found["no_duplicates", 64][1] < ROWS
    and not about_rows
)
print("as described" if as_described else "CHANGED: all rows are trained, or a warning says that they are not")
sys.exit(0 if as_described else 1)
PYTHON
