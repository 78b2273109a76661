"""What changed between two runs, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from miner.errors import listed
from miner.ranges import NO_VALUE
from miner.reporting.readable import Readable
from miner.store import verdicts as stored
from miner.store.corpus import IDENTITY
from miner.store.database import Database
from miner.store.runs import StoredRun, find_run


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

    def __repr__(self) -> str:
        counts = ", ".join(f"{number:,} {name}" for name, number in self.triplets.items())
        return f"Differences from run '{self.before}' to '{self.after}': triplets {counts}; " + (
            "; ".join(self.causes) or "same settings, data and models"
        )


def differences(store: Database, before: str, after: str) -> Differences:
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


_OF_MODELS = ("dtype", "dimension", "token_dtype", "instruction")


def changes(before: StoredRun, after: StoredRun) -> list[str]:
    """Returns the differences between two runs' inputs and settings, one phrase each."""
    old, new = _flat(before.config), _flat(after.config)
    changed = [change(key, old.get(key), new[key]) for key in new if old.get(key) != new[key]]
    hashes = ("documents", "queries", "judgments", IDENTITY, "clusters")
    moved = [key for key in hashes if before.inputs.get(key) != after.inputs.get(key)]
    if before.is_adaptive and after.is_adaptive and before.inputs["rounds"] != after.inputs["rounds"]:
        changed.append("the reranker scored as far as other rules needed")
    known = before.inputs.get("models", {})
    weights = [
        name for name, model in after.inputs.get("models", {}).items() if known.get(name, model) != model
    ]
    if any(old.get(key) != new.get(key) for key in _OF_MODELS):
        weights = []  # another precision or instruction is another fingerprint of the same weights
    return (
        changed + [f"{key} changed" for key in moved] + [f"the weights of {name} changed" for name in weights]
    )


def change(key: str, before: object, after: object) -> str:
    """Returns a changed setting as `key old → new`; for a list, a few of the members added and removed."""
    if isinstance(before, list) and isinstance(after, list):
        moves = {
            "added": [one for one in after if one not in set(before)],
            "removed": [one for one in before if one not in set(after)],
        }
        return f"{key} {', '.join(f'{what} {listed(ids, most=3)}' for what, ids in moves.items() if ids)}"
    old, new = (NO_VALUE if value is None else str(value) for value in (before, after))
    return f"{key} {old} → {new}"


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= value if isinstance(value, Mapping) else {key: value}
    return flat
