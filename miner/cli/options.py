"""Options made from the configuration's keys, so that a recipe and the flags cannot drift apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click

from miner.cli.numbers import Within
from miner.errors import UsageError
from miner.mining.config import SECTIONS, MiningConfig, is_optional, read_recipe

Function = TypeVar("Function", bound=Callable[..., Any])


def config_options(*sections: type) -> Callable[[Function], Function]:
    """Returns a decorator that adds an option for every key of the sections, and `--config`."""

    def decorate(function: Function) -> Function:
        """Adds the options, in the order of the keys."""
        for section in reversed(sections):
            for key in reversed(fields(section)):
                if key.name not in SECTIONS:
                    function = _option(key)(function)
        return click.option(
            "--config",
            "recipe",
            type=click.Path(path_type=Path),
            help="TOML recipe with any of the keys below; flags win over it.",
        )(function)

    return decorate


def _option(key: Field[Any]) -> Callable[[Function], Function]:
    flag = f"--{key.name.replace('_', '-')}"
    kind, choices = key.metadata["kind"], key.metadata["choices"]
    text = key.metadata["help"]
    if kind is bool:
        default = flag.lstrip("-") if key.default else f"no-{flag.lstrip('-')}"
        return click.option(f"{flag}/--no-{flag[2:]}", default=None, help=f"{text} [default: {default}]")
    if kind is tuple:
        return click.option(flag, multiple=True, help=f"{text} @FILE reads one id a line. Repeatable.")
    if key.default is not None and "[default" not in text:
        text = f"{text} [default: {key.default}]"
    if choices:
        return click.option(flag, type=click.Choice(choices), default=None, help=text)
    allowed = key.metadata.get("range")
    accepted = str if allowed is None else Within(allowed, is_optional(key))
    return click.option(flag, type=accepted, default=None, help=text)


def given(recipe: Path | None, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the flat keys that were set: the recipe's, and over them the flags."""
    values = read_recipe(recipe) if recipe else {}
    known = {f.name for c in (MiningConfig, *SECTIONS.values()) for f in fields(c)}
    for name, value in flags.items():
        if name in known and value not in (None, ()):
            values[name] = _ids(value) if name == "protected" else value
    return values


def _ids(values: tuple[str, ...]) -> tuple[str, ...]:
    """Replaces every @FILE by the lines of the file."""
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


def field_options(
    defaults: Any, table: Mapping[str, tuple[click.ParamType[Any] | None, str]]
) -> Callable[[Function], Function]:
    """Returns a decorator with one option per field of a configuration, its default shown.

    Where the table has None for the kind, it is the field's range.
    """
    parts = {part.name: part for part in fields(defaults)}

    def _add(function: Function) -> Function:
        for name, (given_kind, text) in reversed(list(table.items())):
            kind = given_kind or Within(parts[name].metadata["range"])
            value = getattr(defaults, name)
            flag = f"--{name.replace('_', '-')}"
            if kind is click.BOOL:
                flag = f"{flag}/--no-{flag[2:]}"
            shown = value is not None
            function = click.option(flag, name, type=kind, default=value, show_default=shown, help=text)(
                function
            )
        return function

    return _add


HIDING: dict[str, tuple[click.ParamType[Any] | None, str]] = {
    "share": (None, "Share of each query's positives to hide; one is always left."),
    "repeats": (None, "How often to draw."),
    "seed": (None, "Seed of the draws."),
}
"""Every field of AuditConfig, with what it may be and what it means."""
