"""Options that are numbers: each has a range, and says so when it is left."""

from __future__ import annotations

from typing import Any

import click

from miner.ranges import OFF, Range, shown


class Within(click.ParamType[Any]):
    """A number of a range; with `may_be_off` also the text `off` for none."""

    def __init__(self, allowed: Range, may_be_off: bool = False) -> None:
        self.allowed = allowed
        self._may_be_off = may_be_off
        self.name = "integer" if allowed.is_whole else "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the number, or the text `off`; fails for anything else, with the range and the value."""
        if not isinstance(value, str) or (self._may_be_off and value == OFF):
            return value
        found = self.allowed.parse(value)
        if found is None:
            self.fail(f"must be {self.allowed.allowed(self._may_be_off)}, got {_bare(value)}", param, ctx)
        return found


def _bare(value: str) -> str:
    text = shown(value)
    return text.strip("'\"") if value.strip() else text
