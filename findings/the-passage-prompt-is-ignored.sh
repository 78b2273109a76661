#!/usr/bin/env bash
# sentence-transformers 6.2.0: encode_document of a model that names the prompts "query" and "passage" encodes without
# any prompt. Its documentation promises the first that there is of the prompts called document, passage and corpus;
# but every model gets an empty prompt "document" as a placeholder when it is made, and that one is always there:
# "passage" and "corpus" are never reached, for a model in memory and for a saved one.
# encode_query does put its prompt.
#
# Who is hurt: whoever encodes a corpus with a model trained on "query: ..." and "passage: ..." pairs (the E5 layout).
# Queries carry their prompt, documents do not; the ranking is worse, and nothing says why.
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
import json
import sys
from importlib.metadata import version

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

for package in ("sentence-transformers", "transformers"):
    print(package, version(package))
print('encode_document does not use the prompt "passage" of a model, though its docstring says so.')

words = ["[UNK]", "query", "passage", ":", "bread", "butter"]
tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
table = StaticEmbedding(tokenizer, embedding_weights=np.eye(len(words), dtype="float32"))
prompts = {"query": "query: ", "passage": "passage: "}
made = SentenceTransformer(modules=[table], device="cpu", prompts=prompts)

# A saved model as others publish it: the file holds the two prompts, and no prompt "document".
made.save_pretrained("model")
config = json.load(open("model/config_sentence_transformers.json"))
config["prompts"] = prompts
json.dump(config, open("model/config_sentence_transformers.json", "w"))
loaded = SentenceTransformer("model", device="cpu")

as_described = True
for kind, model in (("made with prompts", made), ("loaded from a folder", loaded)):
    found = {}
    for name in ("encode_query", "encode_document"):
        vector = getattr(model, name)("bread butter")
        found[name] = [p for p in ("", "query: ", "passage: ") if np.allclose(vector, model.encode(f"{p}bread butter"))]
    print(f"{kind}: model.prompts = {model.prompts}; prompts in use: {found}")
    as_described &= found == {"encode_query": ["query: "], "encode_document": [""]}
print("as described" if as_described else "CHANGED: documents get the prompt 'passage'")
sys.exit(0 if as_described else 1)
PYTHON
