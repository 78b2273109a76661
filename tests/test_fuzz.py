"""300 hostile inputs: each ends well or with a clear error, and an error leaves the store as it was.

`scripts/fuzz` runs more of them.
"""

from __future__ import annotations

import pytest

from tests.fuzz.cases import World, case
from tests.fuzz.run import fault
from tests.fuzz.run import world as make_world

SEED = 14
INPUTS = 300
_PARTS = 10


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("part", range(_PARTS))
def test_hostile_inputs_end_well_or_with_a_clear_error(
    world: World, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.folder)
    for number in range(part, INPUTS, _PARTS):
        one = case(SEED, number, world)
        wrong = fault(one)
        assert wrong is None, f"scripts/fuzz --seed {SEED} --only {number}: {one.arguments!r:.500}\n{wrong}"


def test_a_case_is_the_same_each_time(world: World) -> None:
    first = [case(3, number, world) for number in range(20)]
    assert [case(3, number, world) for number in range(20)] == first
