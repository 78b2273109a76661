"""A review session: the queue of a run, who answered what, and every press written before it counts.

The page's server has one. Every change goes through its lock, and into the store before into memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite
from threading import Lock
from typing import Any

from miner.errors import UsageError, shown, snippet
from miner.review.queue import Queue, QueueConfig
from miner.review.summary import group_of, summarise
from miner.store import reviews as stored
from miner.store.database import Database
from miner.store.reviews import ANSWERS, UNDONE, Press
from miner.store.runs import StoredRun

_LONGEST_NAME = 60
_MOST_SECONDS = 86_400.0
_MOST_POSITIVES = 20
"""Positives of a query that the page gets."""
_MOST_FOUND = 50


def reviewer_name(name: object) -> str:
    """Returns the name of a reviewer without spaces around it; raises UsageError for one that is none."""
    text = " ".join(name.split()) if isinstance(name, str) else ""
    if not text or len(text) > _LONGEST_NAME or shown(text, len(text)) != text:
        raise UsageError(
            f"a reviewer's name has 1 to {_LONGEST_NAME} printable characters, got '{shown(name)}'",
            "such as anna",
        )
    return text


class Session:
    """What the page of `miner review` shows and writes; its methods can be called from several threads."""

    def __init__(self, store: Database, run: StoredRun, config: QueueConfig) -> None:
        """Computes the queue and reads the answers so far. Raises UsageError for a run with no pairs."""
        self.store, self.run = store, run
        self.queue = Queue.of(store, run, config)
        self.pressed = 0
        """Answers that this session wrote."""
        self._lock = Lock()
        self._answers: dict[str, dict[int, str]] = {}
        """By reviewer: the current answer at each position, the latest last."""
        self._open: dict[str, bytearray] = {}
        """By reviewer: 0 at each position without an answer."""
        self._last_query: tuple[str, str, int, list[dict[str, str]]] | None = None
        table = stored.answers(store)
        for query_id, doc_id, reviewer, answer in zip(
            *(table[name].to_pylist() for name in ("query_id", "doc_id", "reviewer", "answer")), strict=True
        ):
            at = self.queue.positions.get((query_id, doc_id))
            if at is not None:
                self._keep(reviewer, at, answer)

    def _keep(self, reviewer: str, at: int, answer: str) -> None:
        answers = self._answers.setdefault(reviewer, {})
        answered = self._open.setdefault(reviewer, bytearray(len(self.queue)))
        answers.pop(at, None)
        if answer != UNDONE:
            answers[at] = answer
        answered[at] = answer != UNDONE

    def state(self, reviewer: str) -> dict[str, Any]:
        """Returns how far a reviewer is: of, answered, next (None at the end), and the names of reviewers."""
        with self._lock:
            return self._state(reviewer)

    def _state(self, reviewer: str, after: int = -1) -> dict[str, Any]:
        answered = self._open.get(reviewer)
        if answered is None:
            following = 0
        else:
            following = answered.find(0, after + 1)
            following = answered.find(0) if following < 0 else following
        return {
            "run": self.run.name,
            "reviewer": reviewer,
            "of": len(self.queue),
            "answered": len(self._answers.get(reviewer, {})),
            "next": None if following < 0 else following,
            "reviewers": sorted(name for name, answers in self._answers.items() if answers),
        }

    def item(self, at: int, reviewer: str) -> dict[str, Any]:
        """Returns the pair at a position with its texts; what the machine says only if it was answered."""
        self._require_position(at)
        query_id, doc_id = self.queue.pair(at)
        candidate = int(self.queue.candidates[at])
        query, number, known = self._query(query_id, candidate)
        ((_, title, text),) = stored.documents_of(self.store, [doc_id])
        with self._lock:
            answer = self._answers.get(reviewer, {}).get(at)
        return {
            "at": at,
            "query_id": query_id,
            "doc_id": doc_id,
            "query": query,
            "title": title,
            "text": text,
            "positives": known,
            "positives_of": number,
            "answer": answer,
            "machine": None if answer is None else self._machine(at),
        }

    def _query(self, query_id: str, candidate: int) -> tuple[str, int, list[dict[str, str]]]:
        """Returns the text of a query, its number of positives and the first of these; keeps the latest."""
        last = self._last_query
        if last is None or last[0] != query_id:
            ids = stored.positive_ids(self.store, self.run, candidate)
            rows = stored.documents_of(self.store, ids[:_MOST_POSITIVES])
            known = [{"doc_id": one, "title": title, "text": text} for one, title, text in rows]
            last = self._last_query = query_id, stored.query_text(self.store, query_id), len(ids), known
        return last[1:]

    def _machine(self, at: int) -> dict[str, Any]:
        found = asdict(stored.machine(self.store, self.run, int(self.queue.candidates[at])))
        for one in found["scores"]:
            for name in ("score", "low", "high"):
                if one[name] is not None and not isfinite(one[name]):
                    one[name] = None
        return found | {"group": group_of(self.queue, at)}

    def answer(self, at: int, answer: str, reviewer: str, seconds: float) -> dict[str, Any]:
        """Writes an answer and returns the state, with what the machine says about the pair as `machine`.

        It is in the store when this returns. Raises UsageError for an unknown answer or position.
        """
        self._require_position(at)
        if answer not in ANSWERS:
            raise UsageError(f"unknown answer '{shown(answer)}'", f"answers: {', '.join(ANSWERS)}")
        with self._lock:
            self._write(at, answer, reviewer, seconds)
            state = self._state(reviewer, at)
        return state | {"at": at, "answer": answer, "machine": self._machine(at)}

    def undo(self, reviewer: str) -> dict[str, Any]:
        """Takes back the latest answer of a reviewer; `at` is its position, None if there is none."""
        with self._lock:
            answers = self._answers.get(reviewer)
            at = next(reversed(answers)) if answers else None
            if at is not None:
                self._write(at, UNDONE, reviewer, 0.0)
            return self._state(reviewer) | {"at": at}

    def _write(self, at: int, answer: str, reviewer: str, seconds: float) -> None:
        query_id, doc_id = self.queue.pair(at)
        spent = min(max(0.0, seconds), _MOST_SECONDS) if isfinite(seconds) else 0.0
        press = Press(query_id, doc_id, answer, reviewer, self.queue.strata[at], spent)
        stored.add_presses(self.store, self.run, [press])
        self._keep(reviewer, at, answer)
        self.pressed += 1

    def find(self, text: str, reviewer: str) -> list[dict[str, Any]]:
        """Returns the first pairs of the queue whose query or document contains a text, or has it as id."""
        wanted = " ".join(text.split())
        if not wanted:
            return []
        queries, documents = stored.containing(self.store, wanted)
        pairs = zip(self.queue.query_ids, self.queue.doc_ids, strict=True)
        found = [at for at, (query, doc) in enumerate(pairs) if query in queries or doc in documents]
        found = found[:_MOST_FOUND]
        texts = stored.pair_texts(self.store, [self.queue.pair(at) for at in found])
        with self._lock:
            answers = dict(self._answers.get(reviewer, {}))
        return [
            {
                "at": at,
                "query": snippet(query, 120),
                "document": snippet(f"{title} {document}", 160),
                "answer": answers.get(at),
            }
            for at, (query, title, document) in zip(found, texts, strict=True)
        ]

    def summary(self) -> Mapping[str, Any]:
        """Returns `summary.summarise` of the run as JSON-able values."""
        found = summarise(self.store, self.run, queue=self.queue)
        return found.as_json() | {"text": found.as_text()}

    def _require_position(self, at: int) -> None:
        if not 0 <= at < len(self.queue):
            raise UsageError(f"there is no pair at {at}", f"positions: 0 to {len(self.queue) - 1}")
