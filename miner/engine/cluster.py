"""Work in the workers of a Ray cluster: one worker on each node, or for each GPU of a node.

This process keeps the store and its ledger. Workers hold what the work needs, models and shards of the
documents, and compute what they are sent. Work whose worker is lost is done again by another one. A result
depends on what was sent and on nothing else, so that it is the same on any cluster of equal machines.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from threading import Lock, RLock
from typing import Any
from weakref import finalize

from miner.engine.progress import SILENT, Progress
from miner.engine.worker import Opener, Raised, Worker, own_versions
from miner.errors import ClusterError, MissingExtraError, counted, listed
from miner.memory import process_limit
from miner.processors import cores

LOCAL = "local"
"""The address of a cluster of this machine alone, which begins and ends with this process."""
AHEAD = 2
"""Pieces of work that each worker has at a time: one that it computes, and one that it computes next."""
_TRIES = 6
"""Workers that a piece of work may end before it counts as the reason."""
_START = 120
"""Seconds in which a worker must start."""
_LOOK = 5
"""Seconds between two looks for nodes that are new."""
_ROUND = 1.0
"""Seconds between two looks whether a worker has started."""
_LOGS = "see the logs of Ray on the nodes"
_STORE = 512 * 2**20
"""The most bytes of shared memory that a cluster of this machine alone uses for what is sent."""
_FAILURES = 3
"""Workers of a node that may fail to start before it is left out."""


class LostError(Exception):
    """A worker is lost, or its result is not wanted any more."""


@dataclass(eq=False)
class Lent:
    """A worker, as the process that uses it sees it."""

    node: str
    """The id of its node."""
    gpu: int
    """Which of the node's GPUs it has; 0 for a node without any."""
    host: str
    actor: Any
    started: Any
    """What is ready when the worker has started."""
    since: float
    sent: int = 0
    """Pieces of work that it has now."""
    residents: int = 0
    is_lost: bool = False


class Cluster:
    """The workers of a Ray cluster.

    `work` is the address of a folder that all nodes can read and write, of any kind that pyarrow knows:
    shards are kept there, and a worker that takes over a shard reads it instead of building it.
    """

    def __init__(
        self, address: str, work: str | None = None, memory: int | None = None, progress: Progress = SILENT
    ) -> None:
        """Connects, and waits for the workers to start. Raises ClusterError if none does.

        `memory` is the limit of each worker in bytes; None: half of its machine's, shared with the others.
        """
        self.address, self.work = address, work
        self._memory, self._progress = memory, progress
        self.kept: dict[str, Any] = {}
        """What stands for values that were sent, by the sender's own keys (see `put`)."""
        self.stops = 0
        """How often `stop` was called."""
        self._notes: list[str] = []
        self._numbers = count()
        self._lock = RLock()
        self._workers: list[Lent] = []
        self._starting: list[Lent] = []
        self._failures: Counter[str] = Counter()
        self._looked = 0.0
        self._is_closed = False
        self._ray = _connected(address)
        try:
            self._look()
            self.size = len(self._starting)
            """The number of workers at the beginning."""
            self._await_first()
        except BaseException:
            self.close()
            raise

    @property
    def at_once(self) -> int:
        """How many pieces of work are sent at a time."""
        return AHEAD * max(self.size, len(self._workers))

    def report_to(self, progress: Progress) -> None:
        """Reports to `progress` from now on, and all notes that were kept for it."""
        if progress is not SILENT:
            self._progress = progress
            while self._notes:
                progress.note(self._notes.pop(0))

    def number(self) -> int:
        """Returns a number that no other call returned."""
        return next(self._numbers)

    def put(self, value: Any) -> Any:
        """Returns what stands for a value that several workers are sent; it is copied to each node once."""
        return self._ray.put(value)

    def put_once(self, key: str, value: Callable[[], Any]) -> Any:
        """Returns what stands for a value; the first call with a key puts it."""
        with self._lock:
            if key not in self.kept:
                self.kept[key] = self.put(value())
            return self.kept[key]

    def call(self, opener: Opener, method: str, *arguments: Any) -> Any:
        """Returns what a method of an opened object returns, in the worker that has the least to do.

        Raises what the method raises, and ClusterError if the work ends one worker after the other.
        """
        stops = self.stops
        for _ in range(_TRIES):
            worker = self._best("sent", stops)
            try:
                return self.result(worker, stops, worker.actor.call.remote(opener, method, *arguments))
            except LostError:
                if stops != self.stops:
                    raise
            finally:
                self._add(worker, "sent", -1)
        raise _fatal(method)

    def send(self, worker: Lent, stops: int, opener: Opener, method: str, *arguments: Any) -> Any:
        """Returns what a method of an object in one worker returns.

        Raises LostError if the worker is lost, or `stop` was called more often than `stops` times.
        """
        self._add(worker, "sent", 1)
        try:
            return self.result(worker, stops, worker.actor.call.remote(opener, method, *arguments))
        finally:
            self._add(worker, "sent", -1)

    def host(self, stops: int) -> Lent:
        """Returns the worker that has the fewest residents, with one more."""
        return self._best("residents", stops)

    def dismiss(self, worker: Lent, opener: Opener) -> None:
        """Has a worker drop an object."""
        self._add(worker, "residents", -1)
        if not (worker.is_lost or self._is_closed):
            worker.actor.close.remote(opener)

    def stop(self) -> None:
        """Ends the waiting for all work that is under way; its results are not wanted any more."""
        self.stops += 1

    def close(self) -> None:
        """Ends the workers and the connection."""
        self._is_closed = True
        self._ray.shutdown()

    def result(self, worker: Lent, stops: int, sent: Any) -> Any:
        """Returns a result; raises LostError as `send` does."""
        from ray.exceptions import RayError, RayTaskError

        try:
            while not self._ray.wait([sent], timeout=_ROUND)[0]:
                self.require_wanted(stops)
            result = self._ray.get(sent)
        except RayTaskError as error:
            raise error.cause from error
        except RayError as error:
            if not isinstance(error, _losses()):
                raise ClusterError(f"{type(error).__name__}: {_last_line(error)}", _LOGS) from error
            self._lose(worker, error)
            raise LostError from error
        if isinstance(result, Raised):
            where = "" if self.address == LOCAL else f"on node {worker.host}: "
            result.error.message = where + result.error.message
            raise result.error
        return result

    def require_wanted(self, stops: int) -> None:
        """Raises LostError if `stop` was called more often than `stops` times, or after `close`."""
        if stops != self.stops or self._is_closed:
            raise LostError

    def _add(self, worker: Lent, what: str, number: int) -> None:
        with self._lock:
            setattr(worker, what, getattr(worker, what) + number)

    def _best(self, what: str, stops: int) -> Lent:
        """Returns the worker with the smallest number `what`, which is then one more; waits for a worker."""
        end = time.monotonic() + 2 * _START
        while time.monotonic() < end:
            self.require_wanted(stops)
            with self._lock:
                self._look()
                if self._workers:
                    worker = min(self._workers, key=lambda one: getattr(one, what))
                    self._add(worker, what, 1)
                    return worker
            time.sleep(_ROUND)
        raise self._without_workers()

    def _without_workers(self) -> ClusterError:
        return ClusterError(
            f"no node of the cluster at {self.address} can run a worker",
            "see in `ray status` whether other work has all processors; the same command continues later",
        )

    def _look(self) -> None:
        """Takes in workers that have started, and starts one on each node that has none."""
        ready = {one: self._has_started(one) for one in self._starting}
        self._workers += [one for one, done in ready.items() if done]
        self._starting = [one for one, done in ready.items() if done is False]
        if time.monotonic() - self._looked < _LOOK:
            return
        self._looked = time.monotonic()
        known = {(one.node, one.gpu) for one in [*self._workers, *self._starting]}
        for node in self._ray.nodes():
            gpus, processors = (int(node["Resources"].get(kind, 0)) for kind in ("GPU", "CPU"))
            usable = node["Alive"] and processors and self._failures[node["NodeID"]] < _FAILURES
            for gpu in range(max(1, gpus) if usable else 0):
                if (node["NodeID"], gpu) not in known:
                    self._starting.append(self._start(node, gpu, processors, gpus))

    def _start(self, node: dict[str, Any], gpu: int, processors: int, gpus: int) -> Lent:
        """Starts a worker on a node with so many processors and GPUs, with its share of them."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node_only = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        together = max(1, gpus)
        share = {"num_cpus": max(1, processors // together), "num_gpus": min(1, gpus)}
        made = self._ray.remote(Worker).options(**share, scheduling_strategy=node_only)
        actor = made.remote(self._memory, together)
        host = str(node.get("NodeManagerHostname") or node["NodeManagerAddress"])
        return Lent(node["NodeID"], gpu, host, actor, actor.versions.remote(), time.monotonic())

    def _has_started(self, worker: Lent) -> bool | None:
        """Returns whether a worker has started; None if it never will, or has other versions."""
        from ray.exceptions import RayError

        done, _ = self._ray.wait([worker.started], timeout=0)
        if not done:
            if time.monotonic() - worker.since <= _START:
                return False
            self._leave_out(worker, f"it did not start in {_START} s: other work may have its processors")
            return None
        try:
            theirs = self._ray.get(worker.started)
        except RayError as error:
            self._leave_out(worker, _last_line(error))
            return None
        own = own_versions()
        other = [
            f"{name} {theirs.get(name)} instead of {own[name]}"
            for name in own
            if own[name] != theirs.get(name)
        ]
        if other:
            self._failures[worker.node] = _FAILURES
            self._leave_out(worker, f"it has {listed(other)}, and its results could differ")
            return None
        return True

    def _leave_out(self, worker: Lent, why: str) -> None:
        self._failures[worker.node] += 1
        self._note(f"warning: no worker on node {worker.host}: {why}")
        self._ray.kill(worker.actor)

    def _await_first(self) -> None:
        """Waits for the workers to start; after a while, those that have started are enough."""
        end = time.monotonic() + _START
        while self._starting and time.monotonic() < end:
            self._ray.wait([one.started for one in self._starting], timeout=_ROUND)
            with self._lock:
                self._look()
        if not self._workers:
            raise self._without_workers()
        nodes = len({one.node for one in self._workers})
        self._note(
            f"cluster {self.address}: {counted(len(self._workers), 'worker')} on {counted(nodes, 'node')}"
        )

    def _note(self, message: str) -> None:
        if self._progress is SILENT:
            self._notes.append(message)
        else:
            self._progress.note(message)

    def _lose(self, worker: Lent, error: BaseException) -> None:
        with self._lock:
            if worker.is_lost:
                return
            worker.is_lost = True
            self._workers.remove(worker)
            self._looked = 0.0
        self._note(
            f"warning: lost the worker on node {worker.host} ({type(error).__name__}): its work is done again"
        )
        self._ray.kill(worker.actor)


def _losses() -> tuple[type[Exception], ...]:
    """The errors of Ray that mean that a worker is lost, or what it computed."""
    from ray import exceptions as ray

    return (
        ray.RayActorError, ray.NodeDiedError, ray.WorkerCrashedError, ray.OutOfMemoryError,
        ray.ObjectLostError, ray.LocalRayletDiedError,
    )  # fmt: skip


def _fatal(method: str) -> ClusterError:
    return ClusterError(
        f"{_TRIES} workers ended one after the other in the same piece of work ({method})",
        f"it may need more memory than a node has: {_LOGS}, or give --memory",
    )


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip().rstrip(".:") if lines else type(error).__name__


class Resident:
    """An object that lives in one worker, such as a shard, as long as this one does.

    It is made again in another worker if its worker is lost. Its method `restored` returns whether it is
    complete without being made. `made` gives the calls, each a method and its arguments, that make it.
    """

    def __init__(
        self, cluster: Cluster, opener: Opener, made: Callable[[], Iterable[tuple[str, tuple[Any, ...]]]]
    ) -> None:
        self.cluster, self.opener, self.made = cluster, opener, made
        self._later: list[tuple[str, tuple[Any, ...]]] = []
        self._worker: Lent | None = None
        self._lock = Lock()

    def keep(self, method: str, *arguments: Any) -> Any:
        """Calls a method, also of an object that is made again later."""
        result = self.call(method, *arguments)
        with self._lock:
            self._later.append((method, arguments))
        return result

    def call(self, method: str, *arguments: Any) -> Any:
        """Returns what a method returns."""
        stops = self.cluster.stops
        for _ in range(_TRIES):
            try:
                return self.cluster.send(self._home(stops), stops, self.opener, method, *arguments)
            except LostError:
                if stops != self.cluster.stops:
                    raise
        raise _fatal(method)

    def _home(self, stops: int) -> Lent:
        """Returns the worker that has the object, which is made if there is none."""
        with self._lock:
            if self._worker is None or self._worker.is_lost:
                worker = self.cluster.host(stops)
                self._make(worker, stops)
                self._worker = worker
                finalize(self, self.cluster.dismiss, worker, self.opener)
            return self._worker

    def _make(self, worker: Lent, stops: int) -> None:
        waiting: deque[Any] = deque()
        calls: Iterator[tuple[str, tuple[Any, ...]]] = iter(self._later)
        if not self.cluster.send(worker, stops, self.opener, "restored"):
            calls = chain(self.made(), self._later)
        for method, arguments in calls:
            self.cluster.require_wanted(stops)
            waiting.append(worker.actor.call.remote(self.opener, method, *arguments))
            if len(waiting) > AHEAD:
                self.cluster.result(worker, stops, waiting.popleft())
        while waiting:
            self.cluster.result(worker, stops, waiting.popleft())


def fetched(value: Any) -> Any:
    """Returns, in a worker, what `Cluster.put` was given."""
    import ray

    return ray.get(value)


_address: str | None = None
_work: str | None = None
_current: Cluster | None = None
_connecting = Lock()


@contextmanager
def using(
    address: str, work: str | None = None, unused: Callable[[], object] | None = None
) -> Iterator[None]:
    """Sends what this process computes with models and searches to the cluster at `address`.

    It is the address that `ray start --head` prints, or `local`. The connection is made when the first work
    is sent; `unused` is called at the end if there was none. `work` is as in `Cluster`.
    """
    global _address, _work, _current
    before = _address, _work, _current
    _address, _work, _current = address, work, None
    try:
        yield
        if _current is None and unused is not None:
            unused()
    finally:
        if _current is not None:
            _current.close()
        _address, _work, _current = before


def current(progress: Progress | None = None) -> Cluster | None:
    """Returns the cluster that this process uses, connected; None without one.

    From then on it reports to `progress`, if that is given.
    """
    global _current
    if _address is None:
        return None
    with _connecting:
        if _current is None:
            _current = Cluster(_address, _work, process_limit(), progress or SILENT)
        elif progress is not None:
            _current.report_to(progress)
        return _current


def _connected(address: str) -> Any:
    """Returns Ray, connected. Raises ClusterError, and MissingExtraError without Ray."""
    # Ray 2.60 sends the token to an address only in mode `token`, even if the cluster requires it. Without
    # the last setting, a call after the end of the connection starts another cluster.
    own = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_ENABLE_AUTO_CONNECT": "0"}
    if address == LOCAL:
        own["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray then listens on the loopback interface alone
    for name, value in own.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("Ray, which --cluster needs,", "cluster") from error
    if ray.is_initialized():
        raise ClusterError("this process is connected to Ray already", "call ray.shutdown() first")
    own_nodes: dict[str, Any] = {"address": address}
    if address == LOCAL:
        own_nodes |= {"num_cpus": cores(), "include_dashboard": False, "object_store_memory": _STORE}
    try:
        ray.init(log_to_driver=False, configure_logging=False, **own_nodes)
    except Exception as error:  # Ray raises errors of many classes here, also plain ones
        ray.shutdown()
        raise ClusterError(
            f"no Ray cluster answers at {address}: {_last_line(error)}",
            "start one with `ray start --head`, give the address that it prints, and see that this machine "
            "belongs to it and has its token (~/.ray/auth_token or RAY_AUTH_TOKEN; RAY_AUTH_MODE=disabled if "
            "it has none)",
        ) from error
    return ray
