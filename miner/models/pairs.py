"""Token ids of (query, document) pairs, as the tokenizer or the whole model makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from miner.models.quiet import quietly

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

Ints = npt.NDArray[np.int64]

_SLICE = 1024
"""Texts tokenised at a time, which bounds the number of Python integers in memory."""
_LONG = "what does the measured boundary of an unusual sentence say about tokenization? " * 5
_PROBES = (
    ("a query", "a document"),
    ("", "a document"),
    ("a query, ¿qué? 東京", ""),
    ("short", _LONG),
    (_LONG, "short"),
    (_LONG, f"and {_LONG}"),
    (f"and {_LONG}", _LONG),
)
"""Pairs for which the ids built here are compared with the tokenizer's own."""
_PROBE_LIMITS = (31, 32)


@dataclass(frozen=True)
class PairTokens:
    """Tokenised pairs: the number of tokens of each, and its ids on demand."""

    lengths: Ints
    """Number of tokens of each pair after truncation, with special tokens."""
    truncated: int
    """Number of pairs that are longer than the model reads."""
    _rows: Any

    def matrix(self, batch: Sequence[int] | Ints, pad: int, left: bool = False) -> tuple[Ints, Ints, Ints]:
        """Returns ids, token types and mask of some pairs, each (pairs, tokens), padded right or `left`."""
        longest = int(self.lengths[batch].max())
        ids = np.full((len(batch), longest), pad, dtype=np.int64)
        types, mask = np.zeros_like(ids), np.zeros_like(ids)
        for row, pair in enumerate(batch):
            tokens, kinds = self._rows(pair)
            start = longest - len(tokens) if left else 0
            filled = slice(start, start + len(tokens))
            ids[row, filled], types[row, filled], mask[row, filled] = tokens, kinds, 1
        return ids, types, mask


class PairTokenizer:
    """Gives pairs the ids of `tokenizer(query, document, truncation=True, max_length=limit)`.

    A text that occurs in many pairs is tokenised once if that gives the same ids, else in each pair.
    """

    def __init__(self, tokenizer: Any, limit: int) -> None:
        self._tokenizer = tokenizer
        self._limit = limit
        template = _template(tokenizer)
        built = template is not None and all(
            _agrees(tokenizer, template, pair, probe) for pair in _PROBES for probe in _PROBE_LIMITS
        )
        self._template = template if built else None

    def pairs(self, queries: Sequence[str], documents: Sequence[str]) -> PairTokens:
        """Returns the tokens of each pair (queries[i], documents[i])."""
        if self._template is None:
            return _plain(self._tokenizer, queries, documents, self._limit)
        return _built(self._tokenizer, self._template, queries, documents, self._limit)


FEATURES = {"input_ids", "attention_mask", "token_type_ids"}
"""The features of a pair that has texts only, one number per token."""
_WHOLE: Any = {"text": {"truncation": False}, "chat_template": {"truncation": False}}
"""Settings with which the library gives the tokens of a whole pair, however long it is."""


class ModelTokenizer:
    """Gives pairs the ids of `CrossEncoder.preprocess`, with the model's chat template and a prompt.

    It is for the models for which `PairTokenizer` is not: a template surrounds both texts and is cut in a way
    of its own. It tokenises every pair by itself.
    """

    def __init__(self, model: CrossEncoder, prompt: str | None) -> None:
        self._model = model
        self._prompt = prompt
        features = self._features([("a query", "a document")])
        tensors = {name for name, value in features.items() if hasattr(value, "shape")}
        self.fits = {"input_ids", "attention_mask"} <= tensors <= FEATURES
        """Whether the ids, the types and the mask are all that the model reads of a pair."""
        self.constants = {name: value for name, value in features.items() if name not in tensors}
        """What the model's modules read beside these: the same for every pair."""
        self.has_types = "token_type_ids" in tensors

    def pairs(self, queries: Sequence[str], documents: Sequence[str]) -> PairTokens:
        """Returns the tokens of each pair (queries[i], documents[i])."""
        texts = list(zip(queries, documents, strict=True))
        rows: list[tuple[Ints, Ints]] = []
        with quietly():
            for start in range(0, len(texts), _SLICE):
                rows += self._rows(texts[start : start + _SLICE])
            lengths = np.array([len(ids) for ids, _ in rows], dtype=np.int64)
            # A pair that was cut has as many tokens as the model reads: as many as the longest.
            longest = np.flatnonzero(lengths == lengths.max(initial=0)).tolist()
            cut = 0
            for start in range(0, len(longest), _SLICE):
                whole = self._rows([texts[pair] for pair in longest[start : start + _SLICE]], _WHOLE)
                cut += sum(len(ids) > lengths.max() for ids, _ in whole)
        return PairTokens(lengths, cut, rows.__getitem__)

    def _rows(self, texts: list[tuple[str, str]], how: Any = None) -> list[tuple[Ints, Ints]]:
        features = self._features(texts, how)
        ids, mask = features["input_ids"].numpy(), features["attention_mask"].numpy().astype(np.bool_)
        types = features["token_type_ids"].numpy() if self.has_types else np.zeros_like(ids)
        return [
            (row[real].astype(np.int32), kinds[real].astype(np.int8))
            for row, kinds, real in zip(ids, types, mask, strict=True)
        ]

    def _features(self, texts: list[tuple[str, str]], how: Any = None) -> Any:
        return self._model.preprocess(texts, prompt=self._prompt, processing_kwargs=how)


@dataclass(frozen=True)
class _Template:
    """The special tokens before, between and after the two texts, and the token types of all five parts."""

    before: list[int]
    between: list[int]
    after: list[int]
    types: tuple[list[int], int, list[int], int, list[int]]

    @property
    def size(self) -> int:
        """The number of special tokens of a pair."""
        return len(self.before) + len(self.between) + len(self.after)


def _template(tokenizer: Any) -> _Template | None:
    encoded = tokenizer("a", "b", return_token_type_ids=True)
    ids, types, owners = encoded["input_ids"], encoded["token_type_ids"], encoded.sequence_ids(0)
    if 0 not in owners or 1 not in owners:
        return None
    query, document = owners.index(0), owners.index(1)
    ends = len(owners) - owners[::-1].index(0), len(owners) - owners[::-1].index(1)
    cuts = slice(0, query), slice(ends[0], document), slice(ends[1], None)
    kinds = (types[cuts[0]], types[query], types[cuts[1]], types[document], types[cuts[2]])
    return _Template(ids[cuts[0]], ids[cuts[1]], ids[cuts[2]], kinds)


def _agrees(tokenizer: Any, template: _Template, pair: tuple[str, str], limit: int) -> bool:
    """Returns whether the ids that are built for a pair equal those of the tokenizer."""
    texts = [pair[0]], [pair[1]]
    encoded = tokenizer(*texts, truncation=True, max_length=limit, return_token_type_ids=True)
    ids, types, _ = _built(tokenizer, template, *texts, limit).matrix([0], 0)
    return bool(ids.tolist() == encoded["input_ids"] and types.tolist() == encoded["token_type_ids"])


def _built(
    tokenizer: Any, template: _Template, queries: Sequence[str], documents: Sequence[str], limit: int
) -> PairTokens:
    query, query_sizes, query_of = _tokenise_once(tokenizer, queries, limit)
    document, document_sizes, document_of = _tokenise_once(tokenizer, documents, limit)
    room = limit - template.size
    sizes = query_sizes[query_of], document_sizes[document_of]
    kept = _longest_first(*sizes, room)
    types = template.types

    def _row(pair: int) -> tuple[Ints, Ints]:
        first, second = query[query_of[pair]][: kept[0][pair]], document[document_of[pair]][: kept[1][pair]]
        ids = np.concatenate([template.before, first, template.between, second, template.after])
        kinds = np.concatenate(
            [types[0], np.full(len(first), types[1]), types[2], np.full(len(second), types[3]), types[4]]
        )
        return ids.astype(np.int64), kinds.astype(np.int64)

    over = int((sizes[0] + sizes[1] > room).sum())
    return PairTokens(kept[0] + kept[1] + template.size, over, _row)


def _tokenise_once(tokenizer: Any, texts: Sequence[str], limit: int) -> tuple[list[Any], Ints, Ints]:
    """Returns the first `limit` ids of each distinct text, its full length, and each text's number there."""
    numbers: dict[str, int] = {}
    number_of = np.fromiter((numbers.setdefault(text, len(numbers)) for text in texts), dtype=np.int64)
    distinct = list(numbers)
    ids: list[Any] = []
    sizes: list[int] = []
    for start in range(0, len(distinct), _SLICE):
        encoded = tokenizer(
            distinct[start : start + _SLICE],
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        sizes += map(len, encoded)
        ids += [np.asarray(tokens[:limit], dtype=np.int32) for tokens in encoded]
    return ids, np.asarray(sizes, dtype=np.int64), number_of


def _longest_first(query: Ints, document: Ints, room: int) -> tuple[Ints, Ints]:
    """Returns how many tokens of each text fit into `room`, by the tokenizer's rule `longest_first`.

    The longer text is cut first. If both are longer than half the room, they share it, and the longer one
    (the second, if equal) gets the odd token.
    """
    short = np.minimum(query, document)
    cut = np.where(short > room, short, np.maximum(short, room - short))
    both = short + cut > room
    short_kept = np.where(both, room // 2, short)
    long_kept = np.where(both, room // 2 + room % 2, cut)
    fits = query + document <= room
    swapped = query > document
    return (
        np.where(fits, query, np.where(swapped, long_kept, short_kept)),
        np.where(fits, document, np.where(swapped, short_kept, long_kept)),
    )


def _plain(tokenizer: Any, queries: Sequence[str], documents: Sequence[str], limit: int) -> PairTokens:
    encoded = tokenizer(
        list(queries),
        list(documents),
        truncation=True,
        max_length=limit,
        return_attention_mask=False,
        return_token_type_ids=True,
    )
    ids, types = encoded["input_ids"], encoded["token_type_ids"]
    lengths = np.fromiter(map(len, ids), dtype=np.int64)
    cut = int(sum(bool(encoding.overflowing) for encoding in encoded.encodings))
    return PairTokens(lengths, cut, lambda pair: (ids[pair], types[pair]))
