"""A provider's batches: the requests as a file of JSON lines, and a file of answers read back.

The form is that of OpenAI's batches: `custom_id`, `method`, `url`, `body`, answered with `custom_id` and
`response`. What the requests are about stays in the store.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa

from miner.engine.files import locked, replacing
from miner.errors import InputError, UsageError
from miner.judging.asking import Answered, Asker, Positives, QuestionPairs
from miner.models.chat import ChatAnswer, as_answer, whole_body
from miner.sources.files import File, lines
from miner.store import judges as stored
from miner.text import fingerprint

_KEY = 32
"""Characters of a request's identity: providers take up to 64."""
_BLOCK = 5_000
"""Requests and answers that are in memory as Python objects."""
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


def write_batch(asker: Asker, pairs: pa.Table, positives: Positives, out: Path) -> int:
    """Writes the requests about the pairs that the judge was not asked about, as JSON lines.

    The store keeps what they are about; requests of an earlier batch that wait for an answer are not among
    them. Returns their number. A file that exists is replaced.
    """
    rows: list[dict[str, object]] = []
    parts: list[pa.Table] = []
    with locked(out), replacing(out) as partial:
        with partial.open("w", encoding="utf-8") as file:
            for group, sent in asker.questions(pairs, positives):
                about = {
                    "query_id": group.query_id,
                    "doc_ids": list(group.doc_ids),
                    "pairs": list(group.pairs),
                }
                key = fingerprint({"judge": asker.judge.judge, **about})[:_KEY]
                rows.append({"request": key, **about})
                body = whole_body(asker.model.model, sent, asker.config.batch_form)
                line = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                if len(rows) == _BLOCK:  # as Arrow they take a tenth of the memory
                    parts.append(pa.Table.from_pylist(rows, _WAITING))
                    rows.clear()
        requests = pa.concat_tables([*parts, pa.Table.from_pylist(rows, _WAITING)])
        stored.keep_waiting(asker.store, asker.judge, requests)
    return int(requests.num_rows)


def read_batch(asker: Asker, file: Path) -> BatchAnswers:
    """Reads a provider's answers and stores them; raises InputError for a line of another form.

    A request without an answer, such as one that expired, stays to be asked about. The answers are stored in
    one transaction: a wrong line leaves the store unchanged.
    """
    counts = {"taken": 0, "failed": 0, "unknown": 0}

    def taken() -> Iterator[tuple[pa.Table, list[str]]]:
        """Yields the rows of a block of answers, and the requests that no longer wait."""
        answers = _answers(file)
        while block := list(islice(answers, _BLOCK)):
            waiting = stored.waiting(asker.store, asker.judge, [key for key, _ in block])
            found: list[Answered] = []
            requests = []
            for key, answer in block:
                if key not in waiting:
                    counts["unknown"] += 1
                    continue
                about = QuestionPairs(*waiting.pop(key))
                requests.append(key)
                if answer is None:  # it no longer waits, so that it is asked about again
                    counts["failed"] += 1
                else:
                    found.append((about, answer))
            counts["taken"] += len(found)
            yield asker.take(found), requests

    stored.keep_batch(asker.store, asker.judge, taken())
    return BatchAnswers(**counts)


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
