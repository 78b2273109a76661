"""Retrieval sets in configurations: `corpus`, `queries` and `qrels`, as MTEB and NanoBEIR publish them.

A set is a folder of a data set (Parquet or JSON lines, with or without the `configs` of its card) or a name
on the Hugging Face hub. Texts have the columns `_id` or `id`, `text` and perhaps `title`; judgments
`query-id`, `corpus-id` and perhaps `score`. In older sets of MTEB the judgments are the configuration
`default`; sets with several languages have `en-corpus`, `en-queries`, `en-qrels`. Layouts as of mteb 2 and of
the sets that sentence-transformers 6.2 evaluates on (sentence-transformers/NanoBEIR-en, where each split is a
set).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from miner.errors import InputError, listed, near, shown
from miner.sources import hub
from miner.sources.cards import CARD, matching, patterns, read_card
from miner.sources.config import SourceConfig, require_splits, split_in
from miner.sources.files import HUB, File, tree, unread
from miner.sources.id_sets import text_layout
from miner.sources.layouts import Layout
from miner.sources.part import Part, Source
from miner.sources.qrels import id_columns, judgments_as, table_judgments
from miner.sources.saved import is_saved_dataset, load_saved, saved_parts
from miner.sources.table import Table
from miner.sources.tabular import is_table, one_kind_parts, open_table
from miner.sources.understood import read_as

_ROLE = re.compile(r"(?:(?P<name>.+)-)?(?P<role>corpus|queries|qrels|default)")
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_TEXT_FILES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv")
_NEEDED = ("corpus", "queries")
_KINDS = {"corpus": "documents", "queries": "queries"}
_UNNAMED = ("default", "data", "qrels", "corpus", "queries")
"""Names of splits of judgments that say nothing."""

Splits = dict[str, list[Table]]
"""The tables of a configuration by split."""


@dataclass(frozen=True)
class _Files:
    """A configuration of a folder: its files by split, or the folder that `save_to_disk` wrote."""

    splits: Mapping[str, Sequence[File]]
    saved: Path | None = None


def is_mteb(source: str, folder: Path) -> bool:
    """Returns whether a path is a folder with the configurations `corpus` and `queries`."""
    return folder.is_dir() and bool(_sets(_configurations_in(source, folder)))


def open_mteb(source: str, folder: Path, config: SourceConfig) -> Source:
    """Returns the folder of a set as a source.

    Raises InputError if the corpus has several splits or there are several sets, and none is chosen, and for
    columns that are missing.
    """
    found = _configurations_in(source, folder) if folder.is_dir() else {}
    chosen = _require_set(source, found, "")
    tables: dict[str, Splits] = {}
    read = set[Path]()
    for role, name in chosen.items():
        one = found[name]
        if one.saved is not None:
            tables[role] = _saved_tables(source, name, one.saved)
            parts = saved_parts(one.saved)
            read |= {path for paths in parts.values() for path in paths}
            continue
        tables[role] = {
            split: [open_table(file) for file in files if not file.fault]
            for split, files in one.splits.items()
        }
        read |= {file.path for files in one.splits.values() for file in files}
    left = [file for file in tree(source, folder) if file.path not in read and file.path.name != CARD]
    notes = unread([(file, "not a part of the set") for file in left], folder)
    return _opened(source, tables, config, [*filter(None, [read_card(source, folder).note]), *notes])


def open_hub_set(source: str, config: SourceConfig) -> Source | None:
    """Returns `hf:NAME` or, for one of several sets, `hf:NAME:SET` as a source; None for another data set.

    Raises InputError as `open_mteb`.
    """
    name, _, wanted = source.removeprefix(HUB).partition(":")
    found = {one: one for one in _configurations_of(name)} if name else {}
    if wanted in found or (wanted and _set_in(found, wanted) is None) or not _sets(found):
        return None
    chosen = _require_set(source, found, wanted)
    tables: dict[str, Splits] = {}
    for role, configuration in chosen.items():
        data = hub.load(f"{HUB}{name}:{configuration}", replace(config, hf_split=None))
        splits = data if isinstance(data, dict) else {str(data.split or "train"): data}
        tables[role] = {
            split: [hub.dataset_table(f"{HUB}{name}:{configuration}/{split}", one)]
            for split, one in splits.items()
        }
    others = [one for one in found if one not in chosen.values()]
    notes = [f"not read: configurations {listed(others)}"] if others else []
    if "qrels" not in chosen:
        notes.append("if its judgments are a data set of their own, as in BEIR, name that too: NAME-qrels")
    return _opened(source, tables, config, notes)


def _opened(source: str, tables: dict[str, Splits], config: SourceConfig, notes: Sequence[str]) -> Source:
    """Returns a source of the corpus, the queries and the judgments, of one split if the user names it."""
    texts = [
        (table, text_layout(table.origin, table.columns, kind), "")
        for role, kind in _KINDS.items()
        for table in _of_split(source, role, tables[role], config.hf_split)
    ]
    judged = _judged(source, tables.get("qrels", {}), config)
    unscored = any(len(id_columns(table) or ()) == 2 for table, _ in judged)
    others = dict.fromkeys(
        split for splits in tables.values() if config.hf_split in splits for split in splits
    )
    others.pop(config.hf_split or "", None)
    notes = [
        *notes,
        *([f"not read: splits {listed(others)}"] if others else []),
        *_unread_columns(texts, judged),
        *([] if judged else [f"{source}: no configuration qrels: no judgments"]),
        *([f"{source}: judgments without a column score: every pair is a positive"] if unscored else []),
    ]
    every = [*(table for table, _, _ in texts), *(table for table, _ in judged)]
    total = sum(table.size for table in every)
    parts = _parts(source, texts, judged, config)
    return Source(source, total, every[0].unit, parts, "\n".join(notes), read_as=_read_as(texts, judged))


def _read_as(texts: Sequence[tuple[Table, Layout, str]], judged: Sequence[tuple[Table, str]]) -> str:
    """Returns what the columns of each configuration hold."""
    found = [
        read_as([(table, layout) for table, layout, _ in texts if layout.kind == kind])
        for kind in _KINDS.values()
    ]
    return f"a retrieval set: {'; '.join([*found, *judgments_as([table for table, _ in judged])])}"


def _unread_columns(
    texts: Sequence[tuple[Table, Layout, str]], judged: Sequence[tuple[Table, str]]
) -> list[str]:
    left = [name for table, layout, _ in texts for name in table.columns if name not in layout.read]
    left += [name for table, _ in judged for name in table.columns if name not in (id_columns(table) or ())]
    return [f"not read: columns {listed(dict.fromkeys(left))}"] if left else []


def _parts(
    source: str, texts: Sequence[Any], judged: Sequence[tuple[Table, str]], config: SourceConfig
) -> Iterator[Part]:
    yield from one_kind_parts(source, texts, config)
    yield from table_judgments(judged)


def _of_split(source: str, role: str, splits: Splits, wanted: str | None) -> list[Table]:
    """Returns the tables of the corpus or the queries: of the split that is wanted, or of all.

    Several splits of a corpus are several corpora, of which one must be chosen.
    """
    if wanted in splits:
        return splits[wanted or ""]
    if len(splits) > 1 and (role == "corpus" or wanted is not None):
        raise InputError(
            f"{source}: its {role} has {len(splits)} splits ({listed(splits)})"
            + (f" and none is '{shown(wanted)}'{near(wanted, splits)}" if wanted else ", each a corpus"),
            f"choose one: --set hf_split={next(iter(splits))}",
        )
    return [table for tables in splits.values() for table in tables]


def _judged(source: str, splits: Splits, config: SourceConfig) -> list[tuple[Table, str]]:
    """Returns the tables of judgments, each with the split of its judgments."""
    chosen = splits
    if splits and config.hf_split is not None:
        if config.hf_split not in splits:
            raise InputError(
                f"{source}: no split '{shown(config.hf_split)}' of judgments{near(config.hf_split, splits)}",
                f"its splits: {listed(splits)}",
            )
        chosen = {config.hf_split: splits[config.hf_split]}
    for table in (table for tables in chosen.values() for table in tables):
        if id_columns(table) is None:
            raise InputError(
                f"{table.origin}: no columns of a query id and a document id, such as query-id and corpus-id",
                f"its columns: {table.listed}",
            )
    names = {split: split_in(split) or ("train" if split in _UNNAMED else split) for split in chosen}
    require_splits(config, source, list(names.values()))
    return [(table, config.split or names[split]) for split, tables in chosen.items() for table in tables]


def _sets(found: Mapping[str, object]) -> list[str]:
    """Returns the names of the sets among configurations; "" is the name of a set without one."""
    matches = [match for name in found if (match := _ROLE.fullmatch(name))]
    names = dict.fromkeys(match["name"] or "" for match in matches)
    return [name for name in names if all(_named(name, role) in found for role in _NEEDED)]


def _named(name: str, role: str) -> str:
    return f"{name}-{role}" if name else role


def _set_in(found: Mapping[str, object], name: str) -> dict[str, str] | None:
    """Returns the configuration of each role of a set; None if it lacks one."""
    sets = _sets(found)
    if not name and sets and "" not in sets:
        name = sets[0]
    if name not in sets:
        return None
    roles = {role: _named(name, role) for role in _NEEDED}
    judged = next((one for role in ("qrels", "default") if (one := _named(name, role)) in found), None)
    return roles | ({"qrels": judged} if judged else {})


def _require_set(source: str, found: Mapping[str, object], name: str) -> dict[str, str]:
    """Returns the configurations of a set; raises InputError if there are several and none is named."""
    sets = _sets(found)
    if not name and len(sets) > 1 and "" not in sets:
        raise InputError(
            f"{source}: {len(sets)} sets: {listed(sets)}",
            f"name one: {HUB}{source.removeprefix(HUB)}:{sets[0]}",
        )
    chosen = _set_in(found, name)
    if chosen is None:
        raise InputError(
            f"{source}: no configurations corpus and queries", "name a folder or a data set that has them"
        )
    return chosen


def _configurations_of(name: str) -> list[str]:
    """Returns the configurations of a data set on the hub; none if it cannot be reached."""
    import datasets

    try:
        return list(datasets.get_dataset_config_names(name))
    except (OSError, ValueError, KeyError, RuntimeError, datasets.exceptions.DatasetsError):
        return []


def _configurations_in(source: str, folder: Path) -> dict[str, _Files]:
    """Returns the configurations of a folder: those that its card lists, else its folders and files."""
    base = source.rstrip("/")
    found: dict[str, _Files] = {}
    for name, splits in _in_card(source, folder).items():
        files = {
            split: [File(path, f"{base}/{path.relative_to(folder)}") for path in paths]
            for split, paths in splits.items()
        }
        if any(files.values()):
            found[name] = _Files({split: few for split, few in files.items() if few})
    if _sets(found):
        return found
    found = {}
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        name = "default" if path.name == "data" else _SHARD.sub("", File(path, "").stem)
        if _ROLE.fullmatch(name) is None:
            continue
        if path.is_dir() and is_saved_dataset(path):
            found[name] = _Files({}, path)
        elif path.is_dir():
            inside = tree(f"{base}/{path.name}", path)
            found[name] = _Files(_by_split([file for file in inside if _is_part(file, name)]))
        elif _is_part(file := File(path, f"{base}/{path.name}"), name):
            before = found[name].splits if name in found else {}
            found[name] = _Files({name: [*before.get(name, ()), file]})
    return {name: one for name, one in found.items() if one.splits or one.saved}


def _is_part(file: File, name: str) -> bool:
    """Returns whether a file may belong to a configuration; texts in .tsv may have no header."""
    return file.suffix in _TEXT_FILES or (not name.endswith(_NEEDED) and is_table(file))


def _by_split(files: Sequence[File]) -> dict[str, list[File]]:
    splits: dict[str, list[File]] = {}
    for file in files:
        splits.setdefault(_SHARD.sub("", file.stem), []).append(file)
    return splits


def _in_card(source: str, folder: Path) -> dict[str, dict[str, list[Path]]]:
    """Returns the files of each configuration by split, as the `configs` of the folder's card list them."""
    found: dict[str, dict[str, list[Path]]] = {}
    for one in read_card(source, folder).configs:
        splits = found.setdefault(str(one.get("config_name")), {})
        for split, pattern in patterns(one.get("data_files")):
            paths = [path for path in matching(folder, pattern) if is_table(File(path, ""))]
            splits.setdefault(split, []).extend(paths)
    return found


def _saved_tables(source: str, name: str, folder: Path) -> Splits:
    try:
        loaded = load_saved(folder)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{source}/{name}: cannot load the data set: {error}", "write it again") from error
    return {
        split: [hub.dataset_table(f"{source}/{name}/{split}", data)]
        for split, data in loaded.items()
        if data is not None
    }
