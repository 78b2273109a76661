"""Options that are numbers: each has a range, and says so when it is left."""

from __future__ import annotations

from typing import Any

import click

from miner.ranges import NO_VALUE, VAST, Range, bare, bound


class Within(click.FloatRange):
    """A number of a range; with `may_be_none` also the text `none`.

    It is one of Click's ranges so that the help shows what it allows.
    """

    def __init__(self, allowed: Range, may_be_none: bool = False) -> None:
        super().__init__(allowed.low, allowed.high, allowed.above, allowed.below)
        self.allowed = allowed
        self._may_be_none = may_be_none
        self.name = "integer range" if allowed.is_whole else "float range"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the number, or the text `none`; fails for anything else, with the range and the value."""
        if not isinstance(value, str) or (self._may_be_none and value == NO_VALUE):
            return value
        found = self.allowed.parse(value)
        if found is None:
            self.fail(self.allowed.refusal(value, self._may_be_none, bare(value)), param, ctx)
        return found

    def _describe_range(self) -> str:
        """Returns the range as the help shows it, without ends that nobody meets."""
        low = f"{bound(self.allowed.low)}{'<' if self.allowed.above else '<='}"
        high = f"{'<' if self.allowed.below else '<='}{bound(self.allowed.high)}"
        shown = f"{low * (self.allowed.low > -VAST)}x{high * (self.allowed.high < VAST)}"
        if shown.endswith("x") and shown != "x":
            shown = f"x{'>' if self.allowed.above else '>='}{bound(self.allowed.low)}"
        return shown + (f" or {NO_VALUE}" if self._may_be_none else "")
