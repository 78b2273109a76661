#!/usr/bin/env bash
# sentence-transformers 6.2.0: the LambdaLoss of a CrossEncoder counts a label below 0 as 0 when it computes the gains
# that weigh the pairs of documents. Between two documents with labels below 0 the weight is then 0. If all labels of a
# query are below 0, its loss and its gradient are 0; if some are, their order among each other is not learnt. The
# docstring says that continuous labels are supported, and nothing warns. Other losses for lists (RankNetLoss,
# ListNetLoss, ADRMSELoss) learn the same from labels that differ only by a constant.
#
# Who is hurt: whoever distils the raw scores (logits) of a reranker into another one. Such scores may be below 0 for
# most documents, or for all documents of a query. The training runs, and learns only the pairs with a score above 0.
# What to do there: scores from 0 to 1 (a sigmoid), or scores moved so that a query's lowest is 0, and not large: the
# gain of a label is 2 to its power.
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
TQDM_DISABLE=1 HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 TOKENIZERS_PARALLELISM=false venv/bin/python - <<'PYTHON'
import sys
from importlib.metadata import version

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import ADRMSELoss, LambdaLoss, ListNetLoss, RankNetLoss
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
from transformers.utils import logging

logging.disable_progress_bar()
for package in ("sentence-transformers", "transformers", "torch"):
    print(package, version(package))
print("LambdaLoss gives no weight to pairs of documents whose labels are both below 0.")

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
words = [*SPECIAL.values(), "what", "purrs", "cats", "dogs", "stones"]
tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
ends = [(token, words.index(token)) for token in ("[CLS]", "[SEP]")]
tokenizer.post_processor = TemplateProcessing(
    single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
)
PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **SPECIAL).save_pretrained("reranker")
torch.manual_seed(1)
sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
config = BertConfig(vocab_size=len(words), num_labels=1, max_position_embeddings=32, initializer_range=0.5, **sizes)
BertForSequenceClassification(config).save_pretrained("reranker")
model = CrossEncoder("reranker", device="cpu").eval()  # no dropout: the same labels give the same figures


def learnt(kind: type, labels: list[float]) -> tuple[float, float]:
    """Returns the loss of one query with three documents, and the length of its gradient."""
    model.zero_grad()
    loss = kind(model)((["what purrs"], [["cats", "dogs", "stones"]]), [torch.tensor(labels)])
    loss.backward()
    gradients = [one.grad.flatten() for one in model.parameters() if one.grad is not None]
    return round(abs(loss.item()), 4), round(torch.cat(gradients).norm().item(), 4)


logits, moved = [-1.0, -5.0, -9.0], [8.0, 4.0, 0.0]
found = {}
for kind in (LambdaLoss, RankNetLoss, ListNetLoss, ADRMSELoss):
    found[kind] = learnt(kind, logits), learnt(kind, moved)
    for labels, (loss, gradient) in zip((logits, moved), found[kind]):
        print(f"{kind.__name__:12} labels {str(labels):18} loss {loss:.4f}  length of the gradient {gradient:.4f}")
one_way, other_way = learnt(LambdaLoss, [3.0, -1.0, -5.0]), learnt(LambdaLoss, [3.0, -5.0, -1.0])
print(f"LambdaLoss, labels [3, -1, -5] and [3, -5, -1]: loss {one_way[0]:.4f} and {other_way[0]:.4f}")

nothing, something = found.pop(LambdaLoss)
as_described = (
    nothing == (0.0, 0.0)
    and min(something) > 0
    and one_way == other_way
    and all(before == after and min(before) > 0 for before, after in found.values())
)
print("as described" if as_described else "CHANGED: labels below 0 have a weight")
sys.exit(0 if as_described else 1)
PYTHON
