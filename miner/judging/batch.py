"""A provider's batches: the requests as a file of JSON lines, and a file of answers read back.

The form is that of OpenAI's batches: `custom_id`, `method`, `url`, `body`, answered with `custom_id` and
`response`. What the requests are about stays in the store.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from miner.engine.files import locked, replacing
from miner.errors import InputError, UsageError
from miner.judging.asking import Asker, QuestionPairs
from miner.models.chat import ChatAnswer, as_answer, whole_body
from miner.sources.files import File, lines
from miner.store import judges as stored
from miner.text import fingerprint

_KEY = 32
"""Characters of a request's identity: providers take up to 64."""
_WAITING = pa.schema(
    [
        ("request", pa.string()),
        ("query_id", pa.string()),
        ("doc_ids", pa.list_(pa.string())),
        ("pairs", pa.list_(pa.uint64())),
    ]
)


@dataclass(frozen=True)
class BatchAnswers:
    """What a file of answers had."""

    taken: int
    """Answers that are stored now."""
    failed: int
    """Requests that the provider did not answer; they are asked about again."""
    unknown: int
    """Lines about requests that this store did not write, or has an answer of."""


def write_batch(asker: Asker, pairs: pa.Table, known: Mapping[str, Sequence[str]], out: Path) -> int:
    """Writes the requests about the pairs that the judge was not asked about, as JSON lines.

    The store keeps what they are about; requests of an earlier batch that wait for an answer are not among
    them. Returns their number. A file that exists is replaced.
    """
    rows = []
    with locked(out), replacing(out) as partial:
        with partial.open("w", encoding="utf-8") as file:
            for group, sent in asker.questions(pairs, known):
                about = {
                    "query_id": group.query_id,
                    "doc_ids": list(group.doc_ids),
                    "pairs": list(group.pairs),
                }
                key = fingerprint({"judge": asker.judge.judge, **about})[:_KEY]
                rows.append({"request": key, **about})
                body = whole_body(asker.model.model, sent)
                line = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        stored.keep_waiting(asker.store, asker.judge, pa.Table.from_pylist(rows, _WAITING))
    return len(rows)


def read_batch(asker: Asker, file: Path) -> BatchAnswers:
    """Reads a provider's answers and stores them; raises InputError for a line of another form.

    A request without an answer, such as one that expired, stays to be asked about.
    """
    waiting = stored.waiting(asker.store, asker.judge)
    taken, requests, failed, unknown = [], [], 0, 0
    for key, answer in _answers(file):
        if key not in waiting:
            unknown += 1
            continue
        about = QuestionPairs(*waiting.pop(key))
        requests.append(key)
        if answer is None:  # it no longer waits, so that it is asked about again
            failed += 1
        else:
            taken.append((about, answer))
    asker.take(taken, requests)
    return BatchAnswers(len(taken), failed, unknown)


def _answers(file: Path) -> Iterator[tuple[str, ChatAnswer | None]]:
    """Yields a request and its answer; None for a request that was not answered."""
    if not file.is_file():
        raise UsageError(f"{file}: no such file", "name the file of answers from the provider")
    for line in lines(File(file, str(file))):
        try:
            found = json.loads(line.text)
            key, response = found["custom_id"], found.get("response") or {}
            status = response.get("status_code", 0)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{file}:{line.number}: not an answer of a batch",
                "give the file with the provider's answers: JSON lines with custom_id and response",
            ) from error
        yield key, as_answer(response.get("body")) if status == 200 else None
