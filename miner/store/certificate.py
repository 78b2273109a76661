"""What a store knows about the quality of a run: audit, copies, contamination, sources of judgments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from miner.store.corpus import IDENTITY, SILVER, content_hashes, text_hashes
from miner.store.database import Store
from miner.store.duplicates import DEDUP, clusters_hash
from miner.store.relabel import relabellings
from miner.store.runs import Run
from miner.store.silver import is_soft, silver_origin

CONTAMINATION = "contamination"
"""Row of `meta` with the results of `miner contamination`."""


def last_audit(store: Store, run: Run) -> dict[str, Any] | None:
    """Returns the result of a run's latest audit, None where there is none."""
    found = store.rows(
        "SELECT result FROM audits WHERE run_id = ? ORDER BY finished DESC, settings LIMIT 1", [run.run_id]
    )
    return dict(json.loads(found[0][0])) if found else None


def changed_since(store: Store, run: Run) -> list[str]:
    """Returns which of documents, queries, judgments and clusters differ from what a run was mined on."""
    now: dict[str, Any] = {IDENTITY: None, **content_hashes(store, run.split)}
    now["clusters"] = clusters_hash(store)
    # A sample of the queries is told in the hash of the run, which then says nothing of the others.
    return [
        name
        for name, value in now.items()
        if str(run.inputs.get(name) or "").split("/")[0] != str(value or "") and (name in run.inputs or value)
    ]


def staleness(store: Store, run: Run) -> str | None:
    """Returns what changed in the store since a run was mined, and what to do; None when nothing did."""
    changed = changed_since(store, run)
    if not changed:
        return None
    return f"{' and '.join(changed)} changed since run {run.name} was mined: mine again for what holds now"


def _since(store: Store, texts: Mapping[str, str]) -> list[str]:
    """Which of documents and queries came, went or changed since their hashes were taken."""
    return [name for name, value in text_hashes(store).items() if texts.get(name) != value]


def copies(store: Store) -> dict[str, Any] | None:
    """Returns the settings and the counts of the last `miner dedup`; None where it never ran.

    With them `changed_since`: which of documents and queries it has not seen as they are now.
    """
    found = store.rows("SELECT value FROM meta WHERE key = ?", [DEDUP])
    if not found:
        return None
    rows = store.rows(
        "SELECT role, count(DISTINCT cluster), count(*) FROM duplicates GROUP BY role ORDER BY role"
    )
    roles = {role: {"clusters": clusters, "members": members} for role, clusters, members in rows}
    told = json.loads(found[0][0])
    return {"settings": told["settings"], "changed_since": _since(store, told["texts"]), **roles}


def record_contamination(store: Store, result: Mapping[str, Any]) -> None:
    """Stores the result of a contamination check, in place of an older one of the same evaluation data.

    The keys `against`, `path` and `split` of the result name these data. Hashes of the store's texts are kept
    with it, so that later changes show. Call it within a transaction.
    """
    same = ("against", "path", "split")
    kept = [one for one in _checks(store) if any(one[name] != result[name] for name in same)]
    new = {**result, "texts": text_hashes(store)}
    value = json.dumps(sorted([*kept, new], key=lambda one: [one[name] for name in same]))
    store.execute("DELETE FROM meta WHERE key = ?", [CONTAMINATION])
    store.execute("INSERT INTO meta VALUES (?, ?)", [CONTAMINATION, value])


def is_removed(store: Store, check: Mapping[str, Any]) -> bool:
    """Returns whether the last check with these settings removed matches and no text has changed since."""
    last = [one for one in _checks(store) if all(one.get(name) == value for name, value in check.items())]
    return any(
        one["removed"]
        and any(map(sum, (kinds.values() for kinds in one["counts"].values())))
        and not _since(store, one["texts"])
        for one in last
    )


def contamination_checks(store: Store) -> list[dict[str, Any]]:
    """Returns the results of the contamination checks, by evaluation data and split.

    `changed_since` lists which of documents and queries have changed since the check.
    """
    return [
        {name: value for name, value in one.items() if name not in ("path", "texts")}
        | {"changed_since": _since(store, one["texts"])}
        for one in _checks(store)
    ]


def _checks(store: Store) -> list[dict[str, Any]]:
    found = store.rows("SELECT value FROM meta WHERE key = ?", [CONTAMINATION])
    return list(json.loads(found[0][0])) if found else []


def provenance(store: Store) -> dict[str, Any]:
    """Returns how many judgments there are per split and source, and where those of models come from.

    `positive` is None of silver judgments that are scores: what of them is relevant nobody decided.
    """
    rows = store.rows(
        """SELECT split, source, count(*), count(*) FILTER (relevance > 0) FROM judgments
        GROUP BY ALL ORDER BY ALL"""
    )
    scores = SILVER if is_soft(store) else None
    counts = [
        {
            "split": split,
            "source": source,
            "judgments": judgments,
            "positive": None if source == scores else positive,
        }
        for split, source, judgments, positive in rows
    ]
    origins = {"relabelled": relabellings(store), "silver": silver_origin(store)}
    return {"counts": counts, "origins": {name: origin for name, origin in origins.items() if origin}}
