#!/usr/bin/env bash
# PyLate 1.6.0: the collator of the training decides by a column's *name* whether its texts are queries: the name must
# contain "query" or "anchor", in small letters. The losses take the first column for the query, whatever its name. So
# in a data set with the columns "question", "answer" (or "Query") the queries are tokenised as documents: with the
# marker of documents, up to the length of documents. The training runs, and no message is logged.
#
# Who is hurt: whoever trains a ColBERT model on question and answer pairs. model.encode(..., is_query=True) then puts
# the marker of queries and as many [MASK] tokens as belong to a query, neither of which the training has seen: the
# model is evaluated and used on another input than the one it learnt from.
# What to do there: dataset.rename_column("question", "query").
#
# Exits with 0 if the behaviour is as described, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip install -q --disable-pip-version-check)
"${pip[@]}" torch==2.13.0
"${pip[@]}" sentence-transformers==5.3.0 transformers==5.3.0 accelerate==1.15.0 datasets==5.2.0 numpy==2.4.6
"${pip[@]}" --no-deps pylate==1.6.0 # its other packages are for indexes and pin an older torch
cd "$work"
HF_HOME="$work/home" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 TOKENIZERS_PARALLELISM=false \
    CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1 venv/bin/python - <<'PYTHON'
import logging
import sys
from importlib.metadata import version

import torch
from datasets import Dataset
from pylate import losses, models, utils
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

for package in ("pylate", "sentence-transformers", "transformers", "torch"):
    print(package, version(package))
print('Queries are trained as documents unless their column is named "query" or "anchor".')


class Records(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        messages.append(record.getMessage())


messages: list[str] = []
torch.manual_seed(0)
words = "[PAD] [UNK] [CLS] [SEP] [MASK] what purrs ? barks cats purr dogs bark".split()
table = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
table.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
ends = [(word, words.index(word)) for word in ("[CLS]", "[SEP]")]
table.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
named = {f"{name}_token": token for name, token in names.items()}
PreTrainedTokenizerFast(tokenizer_object=table, **named).save_pretrained("model")
sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained("model")
model = models.ColBERT("model", device="cpu", query_length=12, document_length=20)
model.eval()
settings = {"per_device_train_batch_size": 2, "report_to": [], "dataloader_pin_memory": False}
arguments = SentenceTransformerTrainingArguments("out", **settings)
for logger in ("pylate", "sentence_transformers"):
    logging.getLogger(logger).addHandler(Records())


def trained(*columns: str) -> tuple[str, int, float]:
    """Returns the first query as the model gets it in a training, its number of tokens, and the loss."""
    rows = [("what purrs ?", "cats purr", "dogs bark"), ("what barks ?", "dogs bark", "cats purr")]
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list([dict(zip(columns, row)) for row in rows]),
        loss=losses.Contrastive(model=model),
        data_collator=utils.ColBERTCollator(tokenize_fn=model.tokenize),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    ids = batch[f"{columns[0]}_input_ids"][0]
    with torch.no_grad():
        loss = float(trainer.compute_loss(model, batch))
    return " ".join(model.tokenizer.decode(ids[:6]).split()), len(ids), round(loss, 4)


encoded = len(model.encode(["what purrs ?"], is_query=True, show_progress_bar=False)[0])
print("vectors of a query from model.encode(..., is_query=True):", encoded)
found = {}
for first, second in (("query", "positive"), ("anchor", "positive"), ("question", "answer"), ("Query", "positive")):
    found[first] = trained(first, second, "negative")
    print(f"columns {first!r}, {second!r}, 'negative': {found[first]}")
print("messages of PyLate and sentence-transformers:", messages)
as_described = (
    found["query"] == found["anchor"]
    and found["question"] == found["Query"]
    and "[Q]" in found["query"][0]
    and "[D]" in found["question"][0]
    and (found["query"][1], found["question"][1]) == (12, 20)
    and found["query"][2] != found["question"][2]
    and not messages
)
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PYTHON
