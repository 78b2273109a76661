"""Everything that can go wrong for a reason the user can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

DISTRIBUTION = "hardneg-miner"
"""The name under which pip knows the installed miner. It is in no package index."""


class MinerError(Exception):
    """What is wrong and where (`message`), and what to do about it (`hint`).

    `exit_code` is what the command line ends with: 1 for failure, 2 for wrong use.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(MinerError):
    """The call itself is wrong: an unknown option value, a bad combination."""

    exit_code = 2


class InputError(MinerError):
    """A source holds something that cannot be taken in."""


class StoreError(MinerError):
    """The store is missing, locked, of another version, or lacks what was asked for."""


class ModelError(MinerError):
    """A model cannot be found, loaded or used."""


class MissingExtraError(MinerError):
    """An optional dependency is not installed; the hint names the extra that brings it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed", install_command(extra))


def install_command(extra: str) -> str:
    """Returns the shell command that installs what an extra of miner adds.

    It names the packages themselves: so it works wherever miner was installed from, and leaves the installed
    PyTorch alone. `metadata.PackageNotFoundError` cannot happen in an installed miner.
    """
    from importlib import metadata

    from packaging.requirements import Requirement

    requirements = map(Requirement, metadata.requires(DISTRIBUTION) or [])
    added = [
        f"'{requirement.name}{requirement.specifier}'"
        for requirement in requirements
        if requirement.marker
        and requirement.marker.evaluate({"extra": extra})
        and not requirement.marker.evaluate({"extra": ""})
    ]
    return f"pip install {' '.join(added)}"


def listed(items: Iterable[object], join: str = ", ", most: int = 20) -> str:
    """Returns the items joined; of many more than `most` the first ones, and how many are left out.

    Every note and error that lists what has no bound goes through it: `d1, d2, d3 and 2,997 more`.
    """
    shown = [str(item) for item in items]
    if len(shown) <= most + 1:
        return join.join(shown)
    return f"{join.join(shown[:most])} and {len(shown) - most:,} more"


def near(name: str, known: Iterable[str]) -> str:
    """Returns ` (did you mean 'x'?)` for the nearest of `known`, or an empty string."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{matches[0]}'?)" if matches else ""
