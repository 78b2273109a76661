"""Settings by name: from a recipe (TOML) or from `--set key=value`, checked against what a command knows."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any

from miner.errors import UsageError, near
from miner.published import PUBLISHED, PublishedRecipe
from miner.ranges import BY_ENCODER, NO_VALUE, Range, bare, literal, or_none, require_one_of

_KINDS = {str: "a text", bool: "true or false", tuple: "a text or a list of texts"}
_BOOLEANS = {"true": True, "false": False}
TOP = "mining"
"""How `--set` names the keys above the first table of a recipe, if another table has the key too."""


@dataclass(frozen=True)
class Setting:
    """One setting: what it is for, its default, and the values it may have."""

    name: str
    help: str
    default: Any = None
    kind: type = str
    """`str`, `bool` or `tuple` (of texts); of no meaning if there is a range."""
    range: Range | None = None
    choices: tuple[str, ...] = ()
    may_be_none: bool = False
    """Whether it may have no value, which a recipe and an option write as `none`."""
    convert: Callable[[str], Any] | None = None
    """Makes a value from a text that holds several, such as `a,b`; raises UsageError."""
    metavar: str | None = None
    """How the help writes such a text."""
    by_encoder: bool = False
    """Whether it may be several texts `SCORER=VALUE`, one for each encoder."""

    @property
    def values(self) -> str:
        """The values it may have, in words."""
        if self.by_encoder:
            kind = _KINDS[self.kind] if self.range is None else self.range.words
            return f"{kind}, SCORER=VALUE (repeatable), or {NO_VALUE}"
        if self.range is not None:
            return self.range.allowed(self.may_be_none)
        if self.kind is bool and self.may_be_none:
            return f"true, false or {NO_VALUE}"
        kind = " | ".join(self.choices) if self.choices else _KINDS[self.kind]
        return or_none(kind) if self.may_be_none else kind

    @property
    def shown_default(self) -> str:
        """The default as help and pages show it; empty if there is none, or if the help names it."""
        if "[default" in self.help or self.default in (None, ()):
            return ""
        return str(self.default).lower() if self.kind is bool else str(self.default)

    def check(self, value: Any, where: str = "") -> Any:
        """Returns a value of a recipe or of Python as the configuration takes it, `none` as None.

        `where` begins the message of the UsageError for a value of another kind, or out of its range.
        """
        if self.may_be_none and (value is None or value == NO_VALUE):
            return None
        if self.kind is tuple and (value is None or isinstance(value, str | list | tuple)):
            texts = () if value is None else (value,) if isinstance(value, str) else tuple(map(str, value))
            return () if texts == (NO_VALUE,) else texts
        if self.by_encoder and (isinstance(value, list | tuple) or self._is_assignment(value)):
            return value
        if self.range is not None:
            return self.range.require(f"{where}{self.name}", value, self.may_be_none)
        if not isinstance(value, self.kind):
            hint = f"give {_KINDS[self.kind]}{f' or {NO_VALUE!r}' if self.may_be_none else ''}"
            raise UsageError(f"{where}{self.name} is {literal(value)}", hint)
        if self.choices:
            require_one_of(f"{where}{self.name}", str(value), self.choices)
        return self.convert(str(value)) if self.convert else value

    def parse(self, text: str, where: str) -> Any:
        """Returns the value that a text on the command line writes; UsageError as in `check`."""
        if self.may_be_none and text == NO_VALUE:
            return None
        if self.range is not None and not self._is_assignment(text):
            value = self.range.parse(text)
            if value is None:
                raise UsageError(
                    f"{where}{self.name} {self.range.refusal(text, self.may_be_none, bare(text))}"
                )
            return value
        if self.kind is bool:
            return self.check(_BOOLEANS.get(text, text), where)
        return self.check(lines_of([text]) if self.kind is tuple else text, where)

    def _is_assignment(self, value: object) -> bool:
        """Returns whether a value of a setting with a range is a text `SCORER=VALUE`."""
        return self.by_encoder and self.range is not None and isinstance(value, str) and "=" in value


Tables = Mapping[str, Mapping[str, Setting]]
"""The settings of a command by the table of the recipe that holds them; "" is the top of the recipe."""


def by_name(*settings: Setting) -> dict[str, Setting]:
    """Returns the settings by their names, in the given order."""
    return {setting.name: setting for setting in settings}


def setting(field: Field[Any], help: str = "", kind: type = str, choices: Sequence[str] = ()) -> Setting:
    """Returns the setting that sets a field of a configuration."""
    metadata = field.metadata
    default = None if field.default is MISSING else field.default
    return Setting(
        field.name,
        help or metadata["help"],
        default,
        metadata.get("kind", kind),
        metadata.get("range"),
        metadata.get("choices") or tuple(choices),
        "None" in str(field.type),
        metadata.get("convert"),
        metadata.get("metavar"),
        by_encoder=bool(metadata.get(BY_ENCODER)),
    )


def settings_of(config: type) -> dict[str, Setting]:
    """Returns the settings of a configuration whose fields have a help text."""
    return {field.name: setting(field) for field in fields(config) if "help" in field.metadata}


def read(
    path: Path, tables: Tables, others: Iterable[str] = (), top: str | None = None
) -> dict[str, dict[str, Any]]:
    """Returns the values in a recipe, by table and name; `path` may name one of `published_for`.

    Tables named in `others` are for other commands and are not read. The keys of the table `top` count as
    keys above the first table. Raises UsageError that names the file and what is wrong: an unknown table or
    key with the nearest known one, or a value of the wrong kind.
    """
    content = _content(path, published_for(tables, top), {*tables, top})
    found: dict[str, dict[str, Any]] = {name: {} for name in tables}
    for name, value in content.items():
        is_table = isinstance(value, Mapping) and name not in tables.get("", {})
        if is_table and name in others and name not in tables:
            continue
        if is_table and name not in tables and name != top:
            raise UsageError(f"{path}: unknown table [{name}]{near(name, tables)}", _titles(tables))
        for key, one in value.items() if is_table else [(name, value)]:
            table = name if is_table and name != top else ""
            found[table][key] = _known(path, key, tables, table).check(one, f"{path}: ")
    return found


def published_for(tables: Tables, top: str | None) -> Mapping[str, PublishedRecipe]:
    """Returns the published recipes, if a command reads these tables: one that mines, decides or trains."""
    return PUBLISHED if {"rules", "training"} & {*tables, top} else {}


def _content(path: Path, published: Mapping[str, PublishedRecipe], own: Set[str | None]) -> Mapping[str, Any]:
    """The content of a recipe; a file goes before a published recipe of its name.

    `own` are the tables that are read: a published recipe has to have one of them.
    """
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError as error:
        if (known := published.get(str(path))) is not None:
            if not own & {*known.tables}:
                command = "miner train" if "training" in known.tables else "miner mine and miner decide"
                raise UsageError(
                    f"the published recipe {path} has no setting of this command", f"it is for {command}"
                ) from error
            return known.tables
        others = f", or a published recipe: {', '.join(published)}" if published else ""
        raise UsageError(
            f"no recipe at {path}{near(str(path), published)}", f"name a TOML file{others}"
        ) from error
    except RecursionError as error:
        raise UsageError(f"{path}: it is nested too deeply", "correct the TOML") from error
    except ValueError as error:  # not TOML, not UTF-8, or a number of thousands of digits
        raise UsageError(f"{path}: {error}", "correct the TOML") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "name a TOML file") from error


def written(values: Mapping[str, Any]) -> list[str]:
    """Returns values as the lines of a recipe, `key = value`; None is written `none`."""
    return [f"{name} = {_toml(value)}" for name, value in values.items()]


def as_text(value: object) -> str:
    """Returns a value, but a list, as `--set` takes it; None is written `none`."""
    return NO_VALUE if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _toml(value: object) -> str:
    if value is None:
        return f'"{NO_VALUE}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return json.dumps(",".join(map(str, value)), ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _titles(tables: Tables) -> str:
    titles = [f"[{name}]" for name in tables if name]
    if not titles:
        return "its recipe has no tables"
    return f"a recipe has the table{'s' * (len(titles) > 1)} {' and '.join(titles)}"


def _known(path: Path, key: str, tables: Tables, table: str) -> Setting:
    known = tables.get(table, {})
    if key in known:
        return known[key]
    home = next((title for title, settings in tables.items() if key in settings), None)
    if home is None:
        hint = f"keys: {', '.join(known)}"
    else:
        hint = f"write it under [{home}]" if home else "write it above the first table"
    raise UsageError(f"{path}: unknown key '{key}'{near(key, known)}", hint)


def find(name: str, tables: Tables) -> tuple[str, Setting]:
    """Returns the table and the setting of a name, which may be `key` or `table.key`.

    `mining.key` is the key above the first table. Raises UsageError for an unknown name with the nearest
    known one, and for a name without a table that several tables have.
    """
    table, _, key = name.rpartition(".")
    wanted = "" if table == TOP and TOP not in tables else table
    homes = [title for title in tables if key in tables[title] and (not table or title == wanted)]
    if len(homes) == 1:
        return homes[0], tables[homes[0]][key]
    if homes:
        choice = " or ".join(f"{title or TOP}.{key}" for title in homes)
        raise UsageError(f"'{name}' is in several tables of the recipe", f"write {choice}")
    known = [key for settings in tables.values() for key in settings]
    raise UsageError(f"unknown key '{name}'{near(key, known)}", f"keys: {', '.join(dict.fromkeys(known))}")


def parse_all(texts: Iterable[str], tables: Tables) -> dict[str, dict[str, Any]]:
    """Returns the values of `key=value` texts, by table and name. The last of several counts; lists grow, and
    so do values for each encoder.

    Raises UsageError for a text without `=` and as `find` and `Setting.parse` do.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in tables}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise UsageError(
                f"--set {literal(text)[1:-1]} has no value",
                "write --set key=value; --set help lists the keys",
            )
        table, known = find(name.strip(), tables)
        one = known.parse(value.strip() if known.kind is not str else value, "--set ")
        before = found[table].get(known.name)
        if known.by_encoder and before is not None:
            one = (*(before if isinstance(before, tuple) else (str(before),)), str(one))
        elif isinstance(one, tuple) and not known.convert:
            one = (before or ()) + one
        found[table][known.name] = one
    return found


def lines_of(values: Iterable[str]) -> tuple[str, ...]:
    """Returns the values, each `@FILE` replaced by the lines of that file; UsageError if it is unreadable."""
    ids: list[str] = []
    for value in values:
        if not value.startswith("@"):
            ids.append(value)
            continue
        try:
            ids += [line.strip() for line in Path(value[1:]).read_text("utf-8-sig").splitlines()]
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UsageError(f"cannot read ids from {value[1:]}: {reason}", "give a text file") from error
    return tuple(i for i in ids if i)
