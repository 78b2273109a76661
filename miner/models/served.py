"""Encoders and rerankers that a server runs, by a name `URL#MODEL`.

The server offers `/embeddings` as OpenAI does, or `/rerank` in one of two forms: that of Cohere, Jina and
vLLM (`documents`, answered by `relevance_score`), or that of text-embeddings-inference (`texts`, answered by
`score`). The first contact finds out which.

The weights are not here to be hashed: the fingerprint is of the model's name and the server's version, and
the answer to a probe shows whether it is still the same model (`require_same_model`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from miner.engine.progress import SILENT, Progress
from miner.errors import ModelError, snippet
from miner.models.encoder import Encoded, Vectors
from miner.models.endpoint import PATIENCE, Connection, Endpoint, RefusedError
from miner.models.reranker import Scores
from miner.models.similarity import COSINE, without_gaps
from miner.models.vector_cache import VectorCache, vector_keys
from miner.text import fingerprint

PROBE = (
    "A well-kept lighthouse on the north coast, built in 1887, still guides ferries and fishing boats home."
)
"""The text, or the query, whose vector or scores show whether a server still has the same model."""
_PROBE_DOCUMENTS = (
    "The lighthouse was completed in 1887 and is lit every night for the ferries.",
    "Fishing boats come home before the storm; die Fähre wartet im Hafen.",
    "Knead the dough for ten minutes and let it rise.",
)
_SAME = 0.03
"""Two answers to the probe are of one model if their distance is at most this share of their length. In bf16
the same text differs by about 0.01 between batches, and after a short training by more than 0.1."""
BATCH = 32
"""Texts in a request: the most that text-embeddings-inference accepts by default."""
_CHECK = "check the server and the model"
_CODE = 1
"""The version of this code: a new number if the same answers give other vectors or scores."""

Answer = npt.NDArray[np.floating]


@dataclass(frozen=True)
class _Contact:
    """What the first contact with a server found out."""

    url: str
    """Where it answers."""
    form: str
    """Embeddings: the format of the vectors, `base64` or `float`; rerank: the field of the documents."""
    probe: Answer
    """The vector of the probe, or the scores of its pairs."""
    identity: Mapping[str, str]
    """What the server says of its version and its model."""
    batch: int
    """Texts in a request."""


class ServedEncoder:
    """A bi-encoder that a server runs; `/embeddings` as OpenAI defines it. It is asked at once.

    Vectors are compared by cosine, since no server says otherwise, and get length 1. The server adds its own
    prompts, if it has any, and cuts texts that are too long; which ones is not known. Raises UsageError for
    a wrong name, and ModelError if the server cannot be reached or has no vectors.
    """

    similarity = COSINE
    has_routes = False
    bulk = 1

    def __init__(self, name: str, *, patience: float = PATIENCE, progress: Progress = SILENT) -> None:
        self.name = name
        self._endpoint = Endpoint(name, patience, progress)
        self.device = self._endpoint.host
        """The host and port of the server."""
        (self._contact,) = self._endpoint.map(self._first_contact, [0], None, progress)
        self.dtype = self._contact.identity.get("model_dtype", "the server's precision")
        """The precision, if the server names it."""
        self.prompts = {"query": "", "document": ""}
        """No prompts: the server adds the model's own."""

    @property
    def fingerprint(self) -> str:
        """sha256 over the name of the model, the server's version, and this code's version."""
        return _fingerprint("encoder", self._endpoint, self._contact)

    @property
    def probe(self) -> Answer:
        """The vector of `PROBE` at the first contact, shape (dimension,)."""
        return self._contact.probe

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        return len(self._contact.probe)

    def for_role(self, role: str) -> ServedEncoder:
        """Returns this encoder, which encodes queries and documents alike."""
        return self

    def encode(
        self,
        texts: Sequence[str],
        prompt: str = "",
        *,
        workers: int | None = None,
        progress: Progress = SILENT,
    ) -> Vectors:
        """Returns the vectors of `texts`, shape (len(texts), dimension), in their order, of length 1.

        `prompt` is put before every text; `workers` is the number of requests at a time. A text that is blank
        or gets null, NaN or a vector of length 0 has a row of NaN. Raises ModelError if the server fails for
        long, refuses a text, or changes its model meanwhile.
        """
        return self.encoded(texts, prompt, workers=workers, progress=progress).vectors

    def encoded(
        self,
        texts: Sequence[str],
        prompt: str = "",
        *,
        workers: int | None = None,
        progress: Progress = SILENT,
    ) -> Encoded:
        """Returns the vectors as `encode` does; no text is marked as truncated: only the server knows."""
        vectors = np.full((len(texts), self.dimension), np.nan, dtype=np.float32)
        prompted = [prompt + text for text in texts]
        filled = [row for row, text in enumerate(prompted) if text.strip()]
        batches = [filled[i : i + self._contact.batch] for i in range(0, len(filled), self._contact.batch)]
        requests = [[prompted[row] for row in batch] for batch in batches]
        if requests:
            answers = self._endpoint.map(self._vectors, requests, workers, progress)
            with progress.task("encoding", len(texts), unit="texts") as advance, closing(answers):
                advance(len(texts) - len(filled))
                for batch, answer in zip(batches, answers, strict=True):
                    vectors[batch] = answer
                    advance(len(batch))
            # After all answers: the server may have been restarted with another model.
            (probe,) = self._endpoint.map(self._vectors, [[PROBE]], None, progress)
            _require_same(self.name, self.probe, probe[0], "while it was used")
        return Encoded(vectors, np.zeros(len(texts), dtype=bool))

    async def _vectors(self, connection: Connection, texts: Sequence[str]) -> Vectors:
        ask = partial(self._ask, connection, self._contact.url, self._contact.form, self.dimension)
        return await connection.in_parts(ask, texts)

    async def _first_contact(self, connection: Connection, _: int) -> _Contact:
        tried: list[ModelError] = []
        for url in self._endpoint.places("embeddings"):
            for form in ("base64", "float"):
                try:
                    vectors = await self._ask(connection, url, form, None, [PROBE], {})
                except RefusedError as error:
                    tried.append(error)
                    if not error.about_texts:
                        break
                else:
                    if not np.isfinite(vectors).all():
                        raise ModelError(f"{self.name} has no vector for an ordinary text", _CHECK)
                    return _Contact(url, form, vectors[0], *await _identity(connection, self._endpoint))
        raise _best(tried)

    async def _ask(
        self,
        connection: Connection,
        url: str,
        form: str,
        dimension: int | None,
        texts: Sequence[str],
        extra: Mapping[str, Any],
    ) -> Vectors:
        """Returns the vectors that the server answers to one request."""
        body = {"model": self._endpoint.model, "input": list(texts), "encoding_format": form, **extra}
        rows: list[Any] = [None] * len(texts)
        for position, entry in _entries(await connection.post(url, body), ("data",), len(texts), self.name):
            rows[position] = entry.get("embedding")
        given = [None if row is None else _numbers(row, self.name) for row in rows]
        sizes = {len(row) for row in given if row is not None} | ({dimension} if dimension else set())
        if len(sizes) > 1 or sizes == {0}:
            numbers = " and of ".join(f"{size:,}" for size in sorted(sizes))
            raise ModelError(
                f"{self.name} gives vectors of {numbers} numbers: a model has one dimension",
                "check that one model only is served under this name, then run the command again",
            )
        width = max(sizes, default=1)
        matrix = np.array([np.full(width, np.nan) if row is None else row for row in given])
        return without_gaps(matrix.astype(np.float32).reshape(len(texts), width), normalise=True)


class ServedReranker:
    """A reranker that a server runs; `/rerank` in either form. It is asked at once.

    Scores are as the server gives them: most give probabilities, after the model's own activation. Raises
    UsageError for a wrong name, and ModelError if the server cannot be reached or scores no pairs.
    """

    def __init__(self, name: str, *, patience: float = PATIENCE, progress: Progress = SILENT) -> None:
        self.name = name
        self.truncated = 0
        """Always 0: only the server knows which pairs are longer than the model reads."""
        self._endpoint = Endpoint(name, patience, progress)
        self.device = self._endpoint.host
        """The host and port of the server."""
        (self._contact,) = self._endpoint.map(self._first_contact, [0], None, progress)
        self.dtype = self._contact.identity.get("model_dtype", "the server's precision")
        """The precision, if the server names it."""

    @property
    def fingerprint(self) -> str:
        """sha256 over the name of the model, the server's version, and this code's version."""
        return _fingerprint("reranker", self._endpoint, self._contact)

    @property
    def probe(self) -> Answer:
        """The scores of the probe's pairs at the first contact, shape (pairs,)."""
        return self._contact.probe

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        *,
        workers: int | None = None,
        progress: Progress = SILENT,
    ) -> Scores:
        """Returns the score of each pair (queries[i], documents[i]), NaN if the server gives none.

        A request has one query and some of its documents; `workers` is the number of requests at a time.
        Raises ModelError if the server fails for long, refuses a pair, or changes its model meanwhile.
        """
        scores = np.full(len(queries), np.nan, dtype=np.float64)
        of_query: dict[str, list[int]] = {}
        for position, query in enumerate(queries):
            of_query.setdefault(query, []).append(position)
        size = self._contact.batch
        parts = [rows[i : i + size] for rows in of_query.values() for i in range(0, len(rows), size)]
        requests = [(queries[rows[0]], [documents[row] for row in rows]) for rows in parts]
        if requests:
            answers = self._endpoint.map(self._scores, requests, workers, progress)
            with progress.task("reranking", len(queries), unit="pairs") as advance, closing(answers):
                for rows, answer in zip(parts, answers, strict=True):
                    scores[rows] = answer
                    advance(len(rows))
            probe_pairs = (PROBE, list(_PROBE_DOCUMENTS))
            (probe,) = self._endpoint.map(self._scores, [probe_pairs], None, progress)
            _require_same(self.name, self.probe, probe, "while it was used")
        return scores

    async def _scores(self, connection: Connection, pairs: tuple[str, Sequence[str]]) -> Scores:
        query, documents = pairs
        ask = partial(self._ask, connection, self._contact.url, self._contact.form, query)
        return await connection.in_parts(ask, documents, f" with the query '{snippet(query)}'")

    async def _first_contact(self, connection: Connection, _: int) -> _Contact:
        tried: list[ModelError] = []
        for url in self._endpoint.places("rerank"):
            for form in ("documents", "texts"):
                try:
                    probe = await self._ask(connection, url, form, PROBE, _PROBE_DOCUMENTS, {})
                except RefusedError as error:
                    tried.append(error)
                    if not error.about_texts:
                        break
                else:
                    if not np.isfinite(probe).all():
                        raise ModelError(f"{self.name} gives an ordinary pair no score", _CHECK)
                    return _Contact(url, form, probe, *await _identity(connection, self._endpoint))
        raise _best(tried)

    async def _ask(
        self,
        connection: Connection,
        url: str,
        form: str,
        query: str,
        documents: Sequence[str],
        extra: Mapping[str, Any],
    ) -> Scores:
        """Returns the scores that the server answers to one request."""
        body = {"model": self._endpoint.model, "query": query, form: list(documents), **extra}
        answer = await connection.post(url, body)
        scores = np.full(len(documents), np.nan, dtype=np.float64)
        for position, entry in _entries(answer, ("results", "data"), len(documents), self.name):
            value = entry.get("relevance_score", entry.get("score"))
            scores[position] = np.nan if value is None else _number(value, self.name)
        return scores


def require_same_model(folder: Path, model: object, progress: Progress = SILENT) -> None:
    """Raises ModelError if a server runs the model and another one is served than at its first use.

    The answer to the probe is kept in `folder`, usually `Database.vectors`, under the model's fingerprint.
    Call it before anything is read or written under that fingerprint; it does nothing for other models.
    """
    if not isinstance(model, ServedEncoder | ServedReranker):
        return
    cache = VectorCache(folder, model.fingerprint, progress)
    key = vector_keys([PROBE], "")
    row = int(cache.rows(key)[0])
    if row >= 0:
        before = np.asarray(cache.vectors[row])
        _require_same(model.name, before, model.probe, f"since {cache.folder} was filled")
    elif not cache.refusal:
        cache.append(key, model.probe[None].astype(np.float32))


def _require_same(name: str, before: Answer, now: Answer, when: str) -> None:
    """Raises ModelError if two answers to the probe are not of one model."""
    if len(before) != len(now):
        what = f"a fixed text gets {len(now):,} numbers, not {len(before):,}"
    elif np.linalg.norm(before - now) > _SAME * np.linalg.norm(before):
        what = "a fixed text gets another answer"
    else:
        return
    raise ModelError(
        f"{name} has changed {when}: {what}",
        "serve the earlier model again, or serve the new one under a name of its own",
    )


def _fingerprint(kind: str, endpoint: Endpoint, contact: _Contact) -> str:
    return fingerprint({kind: endpoint.model, "served": dict(contact.identity), "code": _CODE})


async def _identity(connection: Connection, endpoint: Endpoint) -> tuple[dict[str, str], int]:
    """Returns what the server says of its version and model, and the most texts in a request.

    text-embeddings-inference has `/info`, vLLM `/version`, Ollama `/api/version`.
    """
    for path in ("info", "version", "api/version"):
        said = await connection.get(f"{endpoint.root}/{path}")
        if isinstance(said, dict) and isinstance(said.get("version"), str):
            names = ("version", "model_id", "model_sha", "model_dtype")
            most = said.get("max_client_batch_size")
            identity = {name: said[name] for name in names if isinstance(said.get(name), str)}
            return identity, min(BATCH, most) if isinstance(most, int) and most > 0 else BATCH
    return {}, BATCH


def _best(tried: Sequence[ModelError]) -> ModelError:
    """Returns the error of an address that exists, else of the first one."""
    found = [error for error in tried if isinstance(error, RefusedError) and error.status not in (404, 405)]
    return found[0] if found else tried[0]


def _entries(
    answer: Any, names: Sequence[str], count: int, model: str
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yields position and entry of every text in an answer; raises ModelError unless each has one."""
    found = answer
    if isinstance(answer, dict):
        found = next((answer[name] for name in names if name in answer), None)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ModelError(
            f"{model} gives an answer of another form", "check the URL and the kind of the model"
        )
    positions = [entry.get("index", number) for number, entry in enumerate(found)]
    if sorted(map(str, positions)) != sorted(map(str, range(count))):
        raise ModelError(
            f"{model} answers {len(found):,} results for {count:,} texts, or wrong positions", _CHECK
        )
    yield from zip(map(int, positions), found, strict=True)


def _numbers(row: Any, model: str) -> npt.NDArray[np.float64]:
    """Returns the numbers of a vector, given as a list or as the base64 of little-endian float32."""
    try:
        if isinstance(row, str):
            numbers = np.frombuffer(base64.b64decode(row, validate=True), "<f4").astype(np.float64)
        else:
            numbers = np.array(row, dtype=np.float64)
    except (binascii.Error, ValueError, TypeError) as error:
        raise ModelError(f"{model} gives a vector that is not made of numbers", _CHECK) from error
    if numbers.ndim != 1:
        raise ModelError(f"{model} gives several vectors per text: it is not a bi-encoder", _CHECK)
    return numbers


def _number(value: Any, model: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{model} gives a score that is not a number", _CHECK) from error
