"""A pad token for models that have none, such as GPT-2."""

from __future__ import annotations

from typing import Any

GENERATES = ("text-generation", "any-to-any")
"""The tasks of a transformer that predicts the token after the last one; it is padded on the left."""


def complete_padding(model: Any) -> None:
    """Gives every transformer in a sentence-transformers model a pad token, in tokenizer and configuration.

    It is the token that the configuration names, else the token for the end of a text or for unknown words.
    Padding is masked, so a text's vector does not depend on the choice. A classifier, however, reads the last
    token that is not the pad token, so a token that the tokenizer adds to the end of every text is the last
    choice.
    """
    from sentence_transformers.base.modules import Transformer

    for module in model.modules():
        if isinstance(module, Transformer) and hasattr(module.tokenizer, "pad_token"):
            tokenizer, config = module.tokenizer, module.model.config
            if tokenizer.pad_token is None:
                tokenizer.pad_token = _pad_token(tokenizer, config)
                # Padding on the left would shift the positions that GPT-2 has learned. The library refuses
                # it on the right for a model whose answer is the token after the last one.
                if module.transformer_task not in GENERATES:
                    tokenizer.padding_side = "right"
            if getattr(config, "pad_token_id", None) is None:
                config.pad_token_id = tokenizer.pad_token_id


def _pad_token(tokenizer: Any, config: Any) -> str:
    number = getattr(config, "pad_token_id", None)
    if number is not None and 0 <= number < len(tokenizer):
        return str(tokenizer.convert_ids_to_tokens(number))
    added = set(tokenizer("a")["input_ids"][-1:])
    known = [token for token in (tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token) if token]
    known.sort(key=lambda token: tokenizer.convert_tokens_to_ids(token) in added)
    return str(known[0] if known else tokenizer.convert_ids_to_tokens(0))
