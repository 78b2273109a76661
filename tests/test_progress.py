"""How long work has still to go: shown when it means something, and right then."""

from __future__ import annotations

import numpy as np
import pytest

from miner.engine.progress import Pace
from miner.engine.progress_bars import Lines
from miner.models.batching import equal_length_batches, padded_batches, units_of


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def paced(total: int, *steps: tuple[float, int], done: int = 0) -> float | None:
    """Returns the time left after steps of (seconds, units)."""
    clock = Clock()
    pace = Pace(total, done, clock)
    for seconds, units in steps:
        clock.now += seconds
        pace.advance(units)
    return pace.left


def test_four_texts_in_half_a_minute_say_nothing() -> None:
    assert paced(10_003, (25, 1), (5, 3)) is None
    # The slow start is forgotten: 100 texts a second since, and 9,000 to go.
    assert paced(10_003, (30, 3), *[(1, 100)] * 10) is None
    assert paced(10_003, (30, 3), *[(1, 100)] * 20) == pytest.approx(80, abs=0.1)


def test_nothing_is_said_of_work_that_has_not_begun_or_is_done() -> None:
    assert paced(100) is None
    assert paced(100, (60, 40)) is None
    assert paced(100, (1, 40), (60, 60)) == 0


def test_few_long_units_are_measured_from_the_second_on() -> None:
    assert paced(10, (600, 1)) is None
    assert paced(10, (900, 1), (600, 1)) == 8 * 600
    assert paced(1_000_000, (1, 10), *[(60, 10)] * 2) is None
    assert paced(1_000_000, (1, 10), *[(60, 10)] * 3) == pytest.approx(6 * (1_000_000 - 40))


def test_the_rate_is_that_of_the_last_two_minutes() -> None:
    slow, fast = [(10.0, 10)] * 30, [(10.0, 100)] * 12
    assert paced(10_000, *slow, *fast) == pytest.approx(0.1 * (10_000 - 300 - 1200))


def test_what_was_done_before_is_not_part_of_the_rate() -> None:
    assert paced(1000, (1, 10), (20, 40), done=900) == pytest.approx(25)


def test_the_time_runs_while_a_unit_is_under_way() -> None:
    clock = Clock()
    pace = Pace(4, 0, clock)
    for _ in range(2):
        clock.now += 100
        pace.advance(1)
    assert pace.left == 200
    clock.now += 30
    assert pace.left == 170
    clock.now += 999
    assert pace.left == 0


def test_long_work_without_a_terminal_writes_how_far_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = Lines(clock)
    with lines.task("encoding", 1000, 200, "texts") as advance:
        for seconds, units in ((5, 4), (26, 3), (10, 13), (20, 40), (1, 40), (29, 100)):
            clock.now += seconds
            advance(units)
        with lines.task("inside", 10) as inner:
            inner(10)
    assert capfd.readouterr().err.splitlines() == [
        "encoding: 207 of 1,000 texts",
        "encoding: 260 of 1,000 texts, about 12:20 left",
        "encoding: 400 of 1,000 texts, about 4:23 left",
    ]


@pytest.mark.parametrize("cut", [equal_length_batches, padded_batches])
def test_batches_by_length_count_by_their_tokens(cut: object) -> None:
    lengths = np.random.default_rng(1).integers(1, 500, 3000)
    batches = cut(lengths)  # type: ignore[operator]
    units = units_of(batches, lengths)
    assert sum(units) == len(lengths)
    tokens = np.cumsum([lengths[batch].sum() for batch in batches])
    assert np.abs(np.cumsum(units) / len(lengths) - tokens / tokens[-1]).max() < 0.001
    assert sum(units_of([np.arange(3)], [0, 0, 0])) == 3
