"""What the commands that ask a language model print alike: what it would take, and what it took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from miner.errors import counted


class _Cost(Protocol):
    @property
    def requests(self) -> int:
        """The number of requests."""

    @property
    def tokens_in(self) -> int:
        """The tokens that the model reads."""

    @property
    def tokens_out(self) -> int:
        """The tokens that it writes."""

    @property
    def money(self) -> float | None:
        """What they cost, in the currency of the prices; None without prices."""


class _Planned(_Cost, Protocol):
    @property
    def first(self) -> str:
        """The first request, as it would be sent; empty if there is none."""


class _Used(_Cost, Protocol):
    @property
    def stopped(self) -> bool:
        """Whether the budget ended the work."""


def plan_text(what: str, plan: _Planned, hosts: Sequence[str]) -> str:
    """Returns `what` the requests are about, what they would take, where they would go, and the first one."""
    cost = "" if plan.money is None else f", about {plan.money:,.2f} at these prices"
    lines = [
        what,
        f"{counted(plan.requests, 'request')} to {', '.join(hosts)}: about {plan.tokens_in:,} tokens to read "
        f"and {plan.tokens_out:,} to write{cost}",
    ]
    if plan.first:
        lines += ["", "the first one:", "", plan.first]
    return "\n".join(lines)


def use_line(report: _Used) -> str:
    """Returns the line about the requests and tokens that were used, and what they cost."""
    cost = "" if report.money is None else f", {report.money:,.2f} at these prices"
    tokens = f"{report.tokens_in:,} tokens read, {report.tokens_out:,} written"
    return f"  {counted(report.requests, 'request')}, {tokens}{cost}"


def budget_lines(report: _Used) -> list[str]:
    """Returns the line about a budget that ended the work, if one did."""
    if not report.stopped:
        return []
    if not report.requests:
        return ["  the budget is less than one request may take: raise it"]
    return ["  the budget is used: the same command goes on"]
