#!/usr/bin/env bash
# sentence-transformers 6.2.0: the guide of GISTEmbedLoss and CachedGISTEmbedLoss encodes without its own prompts and
# with those of the training. The losses hand the guide the tokens that were made for the student, or their text if the
# tokenizers differ. A guide that names prompts (and a default one) is run without them; if the training has prompts for
# the student (`prompts` of the training arguments), they stand before the texts that the guide compares. Nothing says
# so, and there is no setting for the prompts of a guide.
#
# Who is hurt: whoever uses a guide that needs its prompts (E5, BGE, Qwen3-Embedding) or trains a student with prompts.
# The guide decides by other similarities than guide.encode_query and guide.encode_document: false negatives stay in the
# loss, and negatives are masked.
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

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import CachedGISTEmbedLoss, GISTEmbedLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
from transformers.utils import logging

logging.disable_progress_bar()
for package in ("sentence-transformers", "transformers", "torch"):
    print(package, version(package))
print("The guide of GISTEmbedLoss reads texts with the prompts of the training, not with its own.")

things = ["cats", "dogs", "trains", "stones", "clouds", "rivers", "bread", "lamps"]
queries, documents = [f"about {thing}" for thing in things], [f"{thing} are things" for thing in things]
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
prompts = {"query": "search : ", "document": "passage : "}
for_student = {"query": "find ", "document": "text "}
texts = [*queries, *documents, *prompts.values(), *for_student.values()]
words = sorted({word for text in texts for word in text.split()})


def made(folder: str, seed: int, vocabulary: list[str], **settings: object) -> SentenceTransformer:
    """Returns a small BERT with random weights, without dropout."""
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(token, vocabulary.index(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **SPECIAL).save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=32, initializer_range=0.5, **sizes)
    BertModel(config).save_pretrained(folder)
    return SentenceTransformer(modules=[Transformer(folder), Pooling(16)], device="cpu", **settings).eval()


student = made("student", 1, [*SPECIAL.values(), *words])
guides = {
    "the student's tokenizer": made("guide-1", 2, [*SPECIAL.values(), *words], prompts=prompts),
    "another tokenizer": made("guide-2", 2, [*SPECIAL.values(), *reversed(words)], prompts=prompts),
}


def cosines(model: SentenceTransformer, before: dict[str, str]) -> np.ndarray:
    """Returns the similarities of queries and documents with these prompts: queries x documents."""
    one = model.encode(queries, prompt=before["query"], normalize_embeddings=True)
    return one @ model.encode(documents, prompt=before["document"], normalize_embeddings=True).T


def expected(similarities: np.ndarray, before: dict[str, str]) -> float:
    """Returns the loss in NumPy if the guide has these similarities: a softmax without what the guide puts above the
    positive, at temperature 0.01."""
    masked = similarities > np.diag(similarities)[:, None]
    logits = np.where(masked, -np.inf, cosines(student, before).astype("float64") / 0.01)
    highest = logits.max(axis=1)
    return float((highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1)) - np.diag(logits)).mean())


def computed(kind: type, guide: SentenceTransformer, before: dict[str, str]) -> float:
    loss = kind(student, guide, contrast_anchors=False, contrast_positives=False)
    columns = ((queries, before["query"]), (documents, before["document"]))  # what the trainer's collator does
    return loss([student.preprocess(texts, prompt=prompt) for texts, prompt in columns], None).item()


as_described = True
none = {"query": "", "document": ""}
for kind in (GISTEmbedLoss, CachedGISTEmbedLoss):
    for name, guide in guides.items():
        by_roles = guide.encode_query(queries, normalize_embeddings=True)
        own = by_roles @ guide.encode_document(documents, normalize_embeddings=True).T
        for title, before in (("no prompts", none), ("prompts of the student", for_student)):
            got, as_student = computed(kind, guide, before), expected(cosines(guide, before), before)
            with_own = expected(own, before)
            print(f"{kind.__name__}, a guide with {name}, a training with {title}: loss {got:.4f};")
            print(f"  by the formula {with_own:.4f} with the guide's prompts, {as_student:.4f} with the training's")
            as_described &= abs(got - as_student) < 0.001 and abs(got - with_own) > 0.01
print("as described" if as_described else "CHANGED: the guide reads other texts")
sys.exit(0 if as_described else 1)
PYTHON
