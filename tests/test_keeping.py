"""Answers are stored while more arrive: all of them, in few commits, and errors are not lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from miner.asking import keeping
from miner.asking.keeping import Keeper
from miner.errors import StoreError
from miner.store.database import Database
from miner.store.journal import Journal


class Slow(Database):
    """A store whose commits may wait, as for a process that reads it."""

    begun, may_end = threading.Event(), threading.Event()
    commits = 0

    def insert(self, *values: Any, **constants: str) -> None:
        self.commits += 1
        self.begun.set()
        assert self.may_end.wait(60)
        super().insert(*values, **constants)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Slow]:
    with Slow.open(tmp_path / "my.duckdb", create=True) as opened:
        opened.begun, opened.may_end = threading.Event(), threading.Event()
        opened.may_end.set()
        yield opened


def journal_of(store: Database) -> Journal:
    return Journal(store, "generated_answers", generator="g")


def answer(number: int) -> dict[str, Any]:
    return {"document": number, "doc_id": f"d{number}", "answer": "text", "tokens_in": 7, "tokens_out": 1}


def documents(store: Database) -> list[int]:
    return [number for (number,) in store.rows("SELECT document FROM generated_answers ORDER BY rowid")]


def test_everything_is_stored_in_order(store: Database, tmp_path: Path) -> None:
    with Keeper(journal_of(store)) as keeper:
        for number in range(200):
            keeper.put(answer(number))
            keeper.wait()
    assert documents(store) == list(range(200))
    assert store.rows("SELECT DISTINCT generator, tokens_in FROM generated_answers") == [("g", 7)]
    assert [file.name for file in tmp_path.iterdir() if "answers" in file.name] == []


def test_what_arrives_during_a_commit_is_the_next_one(store: Slow) -> None:
    store.may_end.clear()
    with Keeper(journal_of(store)) as keeper:
        keeper.put(answer(1))
        assert store.begun.wait(60)
        for number in (2, 3, 4):
            keeper.put(answer(number))  # does not wait for the commit
            keeper.wait()
        store.may_end.set()
    assert documents(store) == [1, 2, 3, 4]
    assert store.commits == 2


def test_asking_waits_while_too_many_are_not_stored(store: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "_MOST", 2)
    store.may_end.clear()
    may_ask = threading.Event()
    with Keeper(journal_of(store)) as keeper:
        keeper.put(answer(1))
        assert store.begun.wait(60)
        keeper.put(answer(2))
        keeper.put(answer(3))
        second = threading.Thread(target=lambda: (keeper.wait(), may_ask.set()))
        second.start()
        assert not may_ask.wait(0.05)
        store.may_end.set()
        assert may_ask.wait(60)
        second.join()


class Failing(Journal):
    """A journal that cannot be committed."""

    def commit(self) -> None:
        raise StoreError("the disk is full")


def test_an_error_of_storing_is_raised_and_the_answers_stay_in_the_journal(tmp_path: Path) -> None:
    def put(store: Database) -> None:
        with Keeper(Failing(store, "generated_answers", generator="g")) as keeper:
            for number in range(3):
                keeper.put(answer(number))
            keeper.wait()

    with Database.open(tmp_path / "my.duckdb", create=True) as store:
        with pytest.raises(StoreError, match="the disk is full"):
            put(store)
        assert documents(store) == []
    with Database.open(tmp_path / "my.duckdb") as store:
        assert documents(store) == [0, 1, 2]


def test_after_another_error_the_rest_is_stored(store: Database) -> None:
    def put() -> None:
        with Keeper(journal_of(store)) as keeper:
            for number in range(3):
                keeper.put(answer(number))
            raise ValueError("the server is gone")

    with pytest.raises(ValueError, match="server"):
        put()
    assert documents(store) == [0, 1, 2]
