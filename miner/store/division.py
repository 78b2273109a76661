"""Divides the queries of an ingest into a training, a dev and a test split."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pyarrow as pa

from miner.errors import UsageError, counted, listed
from miner.store.database import Database
from miner.store.tables import GOLD

DEV, TEST = "dev", "test"

_GROUPS = """WITH leaders AS (
        SELECT cluster, min(text_key) AS key FROM duplicates JOIN queries ON query_id = id
        WHERE role = 'queries' GROUP BY cluster),
    clustered AS (
        SELECT text_key, min(key) AS key FROM queries JOIN duplicates ON id = query_id AND role = 'queries'
            JOIN leaders USING (cluster) GROUP BY text_key)
    SELECT query_id, text_key, coalesce(key, text_key) AS key
    FROM queries LEFT JOIN clustered USING (text_key)"""
"""Queries, each with its text key and the smallest one in its cluster of copies."""


@dataclass(frozen=True)
class Division:
    """The fractions of the queries for dev and for test; the others keep their split."""

    dev: float
    test: float
    seed: int

    def assign(
        self, groups: Collection[int], split: str, kept: Mapping[int, str] | None = None
    ) -> dict[int, str]:
        """Returns the split of each group of queries: `dev`, `test`, or `split` for the rest.

        A group is the queries of one text, by its text key. The order of the groups does not matter: a hash
        of the seed and the key sorts them. Each requested split gets its fraction of the groups, rounded, and
        at least one. Groups in `kept` stay in their split and count towards its fraction. Raises UsageError
        if a split would be empty.
        """
        found = self.drawn(groups, split, kept)
        wanted = {split} | {name for name, share in ((DEV, self.dev), (TEST, self.test)) if share}
        if missing := sorted(wanted - set(found.values())):
            known = f", {len(kept):,} of which the store has already" if kept else ""
            raise UsageError(
                f"no query is left for split {listed(missing)}: the sources have "
                f"{counted(len(groups), 'query', 'queries')} with different texts{known}",
                "ingest into a new store" if kept else "bring more queries, or ask for fewer splits",
            )
        return found

    def drawn(
        self, groups: Collection[int], split: str, kept: Mapping[int, str] | None = None
    ) -> dict[int, str]:
        """Returns what `assign` returns, also if a split is empty."""
        found = {group: kept[group] for group in groups if group in kept} if kept else {}
        free = sorted((group for group in groups if group not in found), key=self._order)
        for name, share in ((TEST, self.test), (DEV, self.dev)):
            if share:
                number = max(1, int(share * len(groups) + 0.5)) - list(found.values()).count(name)
                for group in free[: max(0, number)]:
                    found[group] = name
                free = free[max(0, number) :]
        return found | dict.fromkeys(free, split)

    def _order(self, group: int) -> tuple[bytes, int]:
        digest = hashlib.blake2b(f"{self.seed}:{group}".encode(), digest_size=8).digest()
        return digest, group


def require_undivided(splits: Collection[str], origin: str) -> str:
    """Returns the only one of the splits; raises UsageError if there are several, or if it is dev or test."""
    if len(splits) > 1:
        raise UsageError(
            f"--dev and --test divide a single split; splits of {origin}: {listed(sorted(splits))}",
            "leave --dev and --test out, or ingest one of them alone",
        )
    (split,) = splits
    if split in (DEV, TEST):
        raise UsageError(
            f"--dev and --test divide a training split; split of {origin}: {split}",
            "leave --dev and --test out, or name the split with --split train",
        )
    return split


def divide_arriving(store: Database, division: Division) -> int:
    """Gives the arriving judgments the split that `division` assigns to their query.

    Queries of equal texts, and those of one cluster of copies in the store, get the same split. Queries that
    the store has in the split, in dev or in test stay there; the result is the number of different texts
    among them that the division alone would put elsewhere. Queries without a positive stay in the split.
    Call it when the store has the arriving queries. Raises UsageError if the judgments have several splits,
    or a split would be empty.
    """
    splits = [
        split for (split,) in store.rows("SELECT DISTINCT split FROM arriving_judgments WHERE undivided")
    ]
    if not splits:
        return 0
    split = require_undivided(splits, "the sources")
    store.execute(f"CREATE OR REPLACE TEMP TABLE query_groups AS {_GROUPS}")
    groups = store.rows(
        """SELECT DISTINCT key FROM arriving_judgments JOIN query_groups USING (query_id)
        WHERE undivided AND relevance > 0 AND text_key <> 0"""
    )
    if not groups:
        raise UsageError(
            "--dev and --test divide queries with positives: the sources have none", "leave them out"
        )
    kept = store.rows(
        f"""SELECT key, max(split) FROM {GOLD} JOIN query_groups USING (query_id)
        WHERE relevance > 0 AND split IN (?, ?, ?) GROUP BY key""",
        [split, DEV, TEST],
    )
    mine = {key for (key,) in groups}
    stay = {key: name for key, name in kept if key in mine}
    found = division.assign(mine, split, stay)
    keys = pa.table({"key": pa.array(found, pa.int64()), "split": pa.array(found.values(), pa.string())})
    store.execute("CREATE OR REPLACE TEMP TABLE divided (key BIGINT, split VARCHAR)")
    store.insert("divided", keys)
    store.execute(
        """UPDATE arriving_judgments SET split = divided.split
        FROM query_groups JOIN divided USING (key)
        WHERE undivided AND arriving_judgments.query_id = query_groups.query_id"""
    )
    alone = division.drawn(mine, split) if stay else {}
    return sum(alone[key] != name for key, name in stay.items())


def require_apart(store: Database) -> None:
    """Raises UsageError if the store has an arriving query text in another of these splits.

    Only labelled texts need this check: their source divides them without knowing the store.
    """
    crossing = store.rows(
        f"""SELECT count(DISTINCT q.text_key) FROM arriving_judgments a
        JOIN queries q ON q.query_id = a.query_id JOIN queries same USING (text_key)
        JOIN {GOLD} j ON j.query_id = same.query_id
        WHERE NOT a.undivided AND j.relevance > 0 AND j.split <> a.split
            AND j.split IN (SELECT split FROM arriving_judgments WHERE NOT undivided)"""
    )
    if crossing != [(0,)]:
        raise UsageError(
            f"{counted(crossing[0][0], 'text')} would be in two splits: the store has them in another split",
            "ingest all sources at once into a new store",
        )


def queries_by_split(store: Database) -> dict[str, int]:
    """Returns the number of arriving queries with positives, per split."""
    return dict(
        store.rows(
            """SELECT split, count(DISTINCT query_id) FROM sorted_judgments
            WHERE reason IS NULL AND relevance > 0 GROUP BY split ORDER BY split"""
        )
    )
