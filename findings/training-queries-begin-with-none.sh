#!/usr/bin/env bash
# FlagEmbedding 1.4.0: with same_dataset_within_batch and without an instruction for queries, the training data puts
# the text "None" before every query: "what purrs?" is trained as "Nonewhat purrs?". Without
# same_dataset_within_batch the same row, with the same settings, keeps its query. The one data set class asks whether
# there is an instruction before it formats the query; the other formats it in any case, with None. Nothing is logged.
#
# Who is hurt: whoever fine-tunes an embedder that needs no instruction (BGE-M3; FlagEmbedding's own example for it with
# same_dataset_within_batch sets none) and then encodes queries as they are. --query_instruction_for_retrieval "" helps.
#
# Exits with 0 if the behaviour is as described, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip install -q --disable-pip-version-check)
"${pip[@]}" torch==2.13.0
"${pip[@]}" FlagEmbedding==1.4.0 sentence-transformers==6.2.0 transformers==5.23.0 datasets==5.2.0 pyarrow==26.0.1 \
    numpy==2.4.6
cd "$work"
HF_DATASETS_CACHE="$work/cache" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 TOKENIZERS_PARALLELISM=false \
    venv/bin/python - <<'PYTHON'
import json
import sys
from importlib.metadata import version
from pathlib import Path

from FlagEmbedding.abc.finetune.embedder import (
    AbsEmbedderCollator,
    AbsEmbedderDataArguments,
    AbsEmbedderSameDatasetCollator,
    AbsEmbedderSameDatasetTrainDataset,
    AbsEmbedderTrainDataset,
)
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

for package in ("FlagEmbedding", "transformers", "datasets"):
    print(package, version(package))
print('With same_dataset_within_batch and no instruction, training queries begin with "None".')

row = {"query": "what purrs ?", "pos": ["cats purr"], "neg": ["dogs bark"]}
Path("rows.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
words = ["[PAD]", "[UNK]", "None", "Nonewhat", "what", "purrs", "?", "cats", "purr", "dogs", "bark"]
table = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
table.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=table, pad_token="[PAD]", unk_token="[UNK]")


def trained(within: bool, **settings: str) -> tuple[str, str]:
    """Returns the query that the data set gives, and the query that the model is given, decoded."""
    settings |= {"train_data": ["rows.jsonl"], "train_group_size": 2, "cache_path": "cache"}
    arguments = AbsEmbedderDataArguments(same_dataset_within_batch=within, **settings)
    if within:
        data = AbsEmbedderSameDatasetTrainDataset(arguments, default_batch_size=1, seed=1, tokenizer=tokenizer)
        first, collate = data[0], AbsEmbedderSameDatasetCollator(tokenizer=tokenizer)
    else:
        data = AbsEmbedderTrainDataset(arguments, tokenizer=tokenizer)
        first, collate = data[0], AbsEmbedderCollator(tokenizer=tokenizer)
    query = first[0][0] if within else first[0]
    return query, tokenizer.decode(collate([first])["queries"]["input_ids"][0])


found = []
for within, settings in ((False, {}), (True, {}), (True, {"query_instruction_for_retrieval": ""})):
    found.append(trained(within, **settings))
    print(f"same_dataset_within_batch={within}, {settings or 'no instruction'}: {found[-1]}")
plain, changed = "what purrs ?", "Nonewhat purrs ?"
as_described = found == [(plain, plain), (changed, changed), (plain, plain)]
print("as described" if as_described else "CHANGED: queries are not prefixed with None")
sys.exit(0 if as_described else 1)
PYTHON
