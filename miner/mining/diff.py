"""What changed between two runs, and why."""

from __future__ import annotations

from dataclasses import dataclass

from miner.mining.pipeline import changes
from miner.reporting.readable import Readable
from miner.store import verdicts as stored
from miner.store.database import Store
from miner.store.runs import find_run


@dataclass(frozen=True)
class Moved:
    """Negatives of either run whose outcome differs between the two."""

    before: str
    """Outcome in the first run: `negative`, `kept` (but not selected), a reason, or `no candidate`."""
    after: str
    number: int
    query_id: str
    query: str
    doc_id: str
    document: str
    """Query and document of one example."""


@dataclass(frozen=True, repr=False)
class Differences(Readable):
    """Two runs compared."""

    before: str
    after: str
    causes: tuple[str, ...]
    """The differences in settings, data and models, one phrase each."""
    triplets: dict[str, int]
    """How many are in `both`, `gone` or `new`."""
    positives: dict[str, int]
    same_negatives: int
    moved: tuple[Moved, ...]
    """The negatives that changed, the most frequent change first."""


def differences(store: Store, before: str, after: str) -> Differences:
    """Returns what changed from one run to another; raises as `find_run` for a name without a run."""
    one, other = find_run(store, before), find_run(store, after)
    counts = stored.moved_negatives(store, one, other)
    moved = [
        Moved(was, became, number, *stored.example_of_move(store, one, other, was, became))
        for was, became, number in counts
        if was != became
    ]
    (triplets,) = stored.triplet_changes(store, one, other).to_pylist()
    return Differences(
        before=one.name,
        after=other.name,
        causes=tuple(changes(one, other)),
        triplets=triplets,
        positives=stored.positive_changes(store, one, other),
        same_negatives=sum(number for was, became, number in counts if was == became),
        moved=tuple(moved),
    )
