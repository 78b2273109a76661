"""Results are stored while more arrive: all of them, in order, in few commits, and errors are not lost."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from miner.asking.keeping import Keeper


def test_everything_is_kept_in_order_and_returned_once() -> None:
    kept: list[int] = []
    returned: list[int] = []
    with Keeper(kept.extend, 8) as keeper:
        for start in range(0, 200, 3):
            returned += keeper.put(range(start, start + 3))
        returned += keeper.finish()
    assert kept == returned == list(range(201))


def test_what_arrives_during_a_commit_is_the_next_one() -> None:
    commits: list[list[int]] = []
    begun, may_end = threading.Event(), threading.Event()

    def keep(items: Sequence[int]) -> None:
        commits.append(list(items))
        begun.set()
        assert may_end.wait(60)

    with Keeper(keep, 4) as keeper:
        keeper.put([1, 2])
        assert begun.wait(60)
        assert keeper.put([3]) == keeper.put([4]) == []  # nothing is returned before its commit
        may_end.set()
        assert keeper.finish() == [1, 2, 3, 4]
    assert commits == [[1, 2], [3, 4]]


def test_a_put_waits_while_too_many_are_not_stored() -> None:
    begun, may_end, has_put = threading.Event(), threading.Event(), threading.Event()

    def keep(items: Sequence[int]) -> None:
        begun.set()
        assert may_end.wait(60)

    with Keeper(keep, 2) as keeper:
        keeper.put([1, 2])
        assert begun.wait(60)
        second = threading.Thread(target=lambda: (keeper.put([3]), has_put.set()))
        second.start()
        assert not has_put.wait(0.05)
        may_end.set()
        assert has_put.wait(60)
        second.join()


def test_an_error_of_storing_is_raised() -> None:
    def keep(items: Sequence[int]) -> None:
        raise OSError("disk full")

    def put() -> None:
        with Keeper(keep, 1) as keeper:
            for number in range(3):
                keeper.put([number])

    with pytest.raises(OSError, match="disk full"):
        put()


def test_after_another_error_the_rest_is_stored() -> None:
    kept: list[int] = []

    def put() -> None:
        with Keeper(kept.extend, 8) as keeper:
            keeper.put([1, 2, 3])
            raise ValueError("the server is gone")

    with pytest.raises(ValueError, match="server"):
        put()
    assert kept == [1, 2, 3]
