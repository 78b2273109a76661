"""What changed between two runs, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from miner.errors import listed, shown
from miner.ranges import NO_VALUE
from miner.reporting.readable import Readable
from miner.store import verdicts as stored
from miner.store.corpus import IDENTITY
from miner.store.database import Database
from miner.store.runs import StoredRun, find_run
from miner.store.scorers import BM25


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


_NAMED = ("candidates", "vectors", "encoder", "reranker")
"""The settings that name scorers, in the order that the scorers have in a run."""
_OF_MODELS = ("dtype", "dimension", "token_dtype", "instruction")
"""The settings that a model's fingerprint depends on."""
_CHANGES_FINGERPRINT = {"candidates": (), "vectors": ("index",)}
"""The same for what is given."""


def changes(before: StoredRun, after: StoredRun) -> list[str]:
    """Returns the differences between two runs' inputs and settings, one phrase each."""
    old, new = _flat(before.config), _flat(after.config)
    changed = [change(key, old.get(key), new[key]) for key in new if old.get(key) != new[key]]
    hashes = ("documents", "queries", "judgments", IDENTITY, "clusters")
    moved = [key for key in hashes if before.inputs.get(key) != after.inputs.get(key)]
    if before.is_adaptive and after.is_adaptive and before.inputs["rounds"] != after.inputs["rounds"]:
        changed.append("the reranker scored as far as other rules needed")
    return changed + [f"{key} changed" for key in moved] + _other_content(before, after, old, new)


def _other_content(
    before: StoredRun, after: StoredRun, old: Mapping[str, Any], new: Mapping[str, Any]
) -> list[str]:
    """Returns which models, files and folders that both runs name have other content, one phrase each.

    They are compared by what the user named, such as URL#MODEL: two models may have one name in their runs.
    """
    known, phrases = _given(before), []
    for (kind, name, number), fingerprint in _given(after).items():
        was = known.get((kind, name, number), fingerprint)
        settings = _CHANGES_FINGERPRINT.get(kind, _OF_MODELS)
        # Another precision or instruction is another fingerprint of the same weights.
        if was != fingerprint and all(old.get(key) == new.get(key) for key in settings):
            what = "content" if kind in _CHANGES_FINGERPRINT else "weights"
            phrases.append(f"the {what} of {shown(name)} changed")
    return phrases


def _given(run: StoredRun) -> dict[tuple[str, str, int], str | None]:
    """Returns the fingerprints of what a run names: by setting, name, and number among equal names."""
    named = [(kind, name) for kind in _NAMED for name in run.config.get(kind) or ()]
    scorers = [one for one in run.scorers if one.kind != BM25]
    found: dict[tuple[str, str, int], str | None] = {}
    for position, (one, scorer) in enumerate(zip(named, scorers, strict=False)):
        found[*one, named[:position].count(one)] = scorer.model
    return found


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
