"""A command that is killed before a file operation ends, started again, where an undisturbed one ends.

Some seeded kills of every command that writes; `python -m tests.kills` kills as often as wanted, and at
random too.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from miner.cli.main import COMMANDS
from tests.kills import CASES, World

READING = ("runs diff", "explain", "doctor")
ELSEWHERE = ("tune", "judge", "generate", "review")
"""Killed in the tests of these commands."""
LONG = ("demo",)
"""Takes minutes; it is made of commands that are killed here."""
SLOW = ("train", "train --force", "train-reranker", "train-reranker, a teacher", "pretrain", "bench", "loop")
ENDING = 12
"""So many operations before the end, a result is moved into place and the rest is removed."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(Path(os.path.realpath(tmp_path_factory.mktemp("kills"))))


def test_every_command_that_writes_is_killed() -> None:
    killed = {case.arguments.split()[0] for case in CASES.values()}
    assert killed == set(COMMANDS) - {*READING, *ELSEWHERE, *LONG}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_same_command_ends_as_an_undisturbed_one(name: str, world: World) -> None:
    _, operations, _ = world.undisturbed(name)
    rng = random.Random(name)
    ending = operations - rng.randrange(min(ENDING, operations))
    for at in (ending,) if name in SLOW else (rng.randint(1, operations), ending):
        assert world.killed(name, at)
