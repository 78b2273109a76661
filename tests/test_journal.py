"""Answers on their way into the store: no kill loses one, and none is stored twice."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from miner.errors import StoreError
from miner.store.database import Database
from miner.store.journal import Journal, journal_folder

SCRIPT = """
import os, signal, sys
from miner.store.database import Database
from miner.store.journal import Journal
with Database.open(sys.argv[1], create=True) as store:
    first = Journal(store, "judge_answers", judge="j")
    for number in range(3):
        row = {"query_id": "q\\n\\u2028", "doc_ids": [f"d{number}"], "pairs": [2**64 - 1 - number]}
        first.add({**row, "grades": [None], "answer": "half a {", "failure": None, "tokens_in": 7})
    if sys.argv[2] == "commit":
        os.unlink = None  # the process is killed before it removes the file
        try:
            first.commit()
        except TypeError:
            pass
    second = Journal(store, "generated_answers", generator="g")
    second.add({"document": 2**63, "doc_id": "d", "queries": ["a", "\\u00fc"], "answer": "[]"})
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(path: Path, *options: str) -> Path:
    """Has a process put answers into the journal of a store and be killed; returns the journal's folder."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(path), *options], check=False)
    assert done.returncode == -signal.SIGKILL
    return journal_folder(path)


def judged(path: Path) -> tuple[list[Any], list[str]]:
    """Returns the pairs of the answers in a store, and what opening it reports."""
    said: list[str] = []
    with Database.open(path, note=said.append) as store:
        return store.rows("SELECT pairs[1] FROM judge_answers ORDER BY ALL"), said


PAIRS = [(2**64 - 1 - number,) for number in (2, 1, 0)]


def test_a_killed_process_loses_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "my.duckdb"
    folder = killed(path, "")
    with Database.open(path, read_only=True) as store:
        assert store.rows("FROM judge_answers") == []
    assert judged(path) == (PAIRS, ["stored 4 answers that an interrupted command had received"])
    assert not folder.exists()
    assert judged(path) == (PAIRS, [])
    with Database.open(path, read_only=True) as store:
        assert store.rows(
            """SELECT DISTINCT judge, query_id, grades, answer, failure, tokens_in, tokens_out, request,
            answered IS NULL FROM judge_answers"""
        ) == [("j", "q\n\u2028", [None], "half a {", None, 7, None, None, False)]
        assert store.rows("SELECT generator, document, doc_id, queries, answer FROM generated_answers") == [
            ("g", 2**63, "d", ["a", "ü"], "[]")
        ]


def test_what_was_committed_before_the_kill_is_not_stored_again(tmp_path: Path) -> None:
    path = tmp_path / "my.duckdb"
    folder = killed(path, "commit")
    assert len(list(folder.iterdir())) == 2
    assert judged(path) == (PAIRS, ["stored 1 answer that an interrupted command had received"])
    assert not folder.exists()


def test_a_line_that_was_cut_off_is_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "my.duckdb"
    folder = killed(path, "")
    (file,) = [one for one in folder.iterdir() if b"judge_answers" in one.read_bytes()]
    content = file.read_bytes()
    file.write_bytes(content[:-5])
    pairs, said = judged(path)
    assert pairs == PAIRS[1:]
    assert said[0].startswith("stored 3 answers")
    assert said[1:] == [
        f"1 answer is cut off or damaged in {folder}, and not stored: a later call asks again"
    ]
    assert not folder.exists()
    folder.mkdir()
    damaged = content.replace(b'"j"', b'"k"', 1) + bytes(4096)  # as after a power failure
    (folder / file.name).write_bytes(damaged)
    assert judged(path)[1][-1].startswith(f"2 answers are cut off or damaged in {folder}")


def test_answers_for_another_store_stay(tmp_path: Path) -> None:
    path = tmp_path / "my.duckdb"
    folder = killed(path, "")
    path.unlink()
    path.with_name("my.duckdb.wal").unlink()
    Database.open(path, create=True).close()
    pairs, said = judged(path)
    assert pairs == []
    assert said == [f"{folder} has answers for another store: remove it if that store no longer exists"]
    assert len(list(folder.iterdir())) == 2


def test_a_folder_that_cannot_be_read_is_reported_and_keeps_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / "my.duckdb"
    Database.open(path, create=True).close()
    journal_folder(path).touch()
    pairs, said = judged(path)
    assert pairs == []
    assert said == [f"cannot read {path}.answers (Not a directory); the next command tries again"]


def test_a_link_to_the_store_has_its_answers(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    killed(tmp_path / "real" / "my.duckdb", "")
    (tmp_path / "link.duckdb").symlink_to(tmp_path / "real" / "my.duckdb")
    assert judged(tmp_path / "link.duckdb")[0] == PAIRS


def test_a_store_that_is_opened_again_in_the_process_leaves_the_journal_alone(tmp_path: Path) -> None:
    with Database.open(tmp_path / "my.duckdb", create=True) as store:
        journal = Journal(store, "generated_answers", generator="g")
        journal.add({"document": 1, "doc_id": "d1"})
        with Database.open(tmp_path / "my.duckdb") as again:
            assert again.rows("FROM generated_answers") == []
        journal.commit()
        journal.close()
        assert store.rows("SELECT document FROM generated_answers") == [(1,)]
        assert not journal_folder(store.path).exists()


def test_a_full_disk_is_an_error_and_what_was_taken_is_stored(tmp_path: Path) -> None:
    with Database.open(tmp_path / "my.duckdb", create=True) as store:
        journal = Journal(store, "generated_answers", generator="g")
        journal.add({"document": 1, "doc_id": "d1"})
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (150, limits[1]))
        try:
            with pytest.raises(StoreError, match=r"cannot write to .*my\.duckdb\.answers: File too large"):
                journal.add({"document": 2, "doc_id": "d2"})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        journal.add({"document": 3, "doc_id": "d3"})
        shutil.copytree(journal_folder(store.path), tmp_path / "copy")
        journal.commit()
        assert store.rows("SELECT document FROM generated_answers ORDER BY 1") == [(1,), (2,), (3,)]
        files = [file.read_bytes() for file in (tmp_path / "copy").iterdir()]
        assert sum(text.count(b"\n") for text in files) == 2  # the cut line begins no other
