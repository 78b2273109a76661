"""A calibration as people read it, and as a recipe that `mine` and `decide` take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from miner.auditing.audit import CANNOT_KNOW
from miner.auditing.calibrate import Calibration, Measured, Setting
from miner.auditing.report import limits
from miner.engine.files import WAIT, locked, replacing_all
from miner.mining.config import RULES, Rules
from miner.ranges import OFF
from miner.reporting.charts import Curve, Panel, draw
from miner.reporting.tables import decimal, percent, percent_interval, text_table
from miner.stats import Rate

_MADE = "# Calibrated on run"
_OF_ALL = "The frontier is of all queries, those that chose among them: its lowest leaks flatter."


def table(found: Calibration) -> str:
    """Returns the frontier, the run's own rules, and the chosen setting on both halves."""
    chosen = found.chosen
    head = (
        f"run {found.run}: {len(found.sweep)} settings, {100 * found.settings.share:g} % of the positives "
        f"hidden, {found.settings.repeats} repeats (seed {found.settings.seed}); "
        f"{_asked(found)}"
    )
    rows = [["frontier", "leak", "95 % interval", *_cost_names(found.asked)]]
    rows += [
        [one.name + " (chosen)" * (one.name == chosen.name), *_leak(one.whole.leak), *_costs(one.whole)]
        for one in found.frontier()
    ]
    rows.append(["the run's own: " + found.own.name, *_leak(found.own.whole.leak), *_costs(found.own.whole)])
    halves = [["chosen: " + chosen.name, "leak", "95 % interval", *_cost_names(found.asked)]]
    for name, half in (("half that chose", chosen.chosen_on), ("half that confirms", chosen.confirmed_on)):
        halves.append([name, *_leak(half.leak), *_costs(half)])
    return "\n\n".join(
        [
            "\n".join([head, *text_table(rows), _OF_ALL]),
            "\n".join(text_table(halves)) + "\n" + _verdict(found),
            *limits(found.barred, found.untold),
            CANNOT_KNOW,
        ]
    )


def _asked(found: Calibration) -> str:
    return "the run's own yield" if found.target is None else f"target leak {percent(found.target, 2)}"


def _cost_names(asked: int) -> list[str]:
    return ["negatives", f"all {asked}", "mean rank", "mean margin"]


def _leak(rate: Rate) -> list[str]:
    return [percent(rate.rate, 2), percent_interval(rate.low, rate.high, 2)]


def _costs(one: Measured) -> list[str]:
    return [decimal(one.per_query, 2), percent(one.full), decimal(one.rank, 1), decimal(one.margin, 3)]


def _verdict(found: Calibration) -> str:
    interval = percent_interval(found.expected.low, found.expected.high, 2)
    expected = f"expected of the other half: {interval}"
    rate = found.chosen.confirmed_on.leak.rate
    if rate is None:
        return f"{expected}\nnot confirmed: no positive of the other half may be hidden; try another --seed"
    where = "lies inside" if found.expected.low <= rate <= found.expected.high else "does not lie inside"
    lines = [f"{expected}; it {where}"]
    if found.target is None:
        lines.append(_as_much(found))
    elif found.confirmed:
        lines.append("confirmed: the other half meets the target too")
    else:
        advice = "ask for a lower one to be sure" if found.target else "no setting is sure to leak nothing"
        lines.append(f"not confirmed: the other half leaks more than the target; {advice}")
    return "\n".join(lines)


def _as_much(found: Calibration) -> str:
    own, chosen = found.own.confirmed_on, found.chosen.confirmed_on
    told = (
        f"the other half leaks {percent(chosen.leak.rate, 2)}, {percent(own.leak.rate, 2)} with the run's "
        f"own rules, and {percent(chosen.full)} of its queries get all negatives, "
        f"{percent(own.full)} with those"
    )
    return f"{'confirmed' if found.confirmed else 'not confirmed'}: {told}"


def recipe(found: Calibration) -> str:
    """Returns the chosen rules as TOML for `--config`, with the figures as comments.

    Rules that are off are left out: those that a recipe names replace the others. Without any, each is turned
    off by name.
    """
    chosen = found.chosen
    verdict = "confirmed" if found.confirmed else "not confirmed"
    lines = [
        f"{_MADE} {found.run}: {chosen.name}.",
        f"# {_asked(found).capitalize()}; on the half that chose {percent(chosen.chosen_on.leak.rate, 2)}, "
        f"on the other {percent(chosen.confirmed_on.leak.rate, 2)}: {verdict}.",
        f"# Share {found.settings.share:g}, repeats {found.settings.repeats}, seed {found.settings.seed}.",
        "[rules]",
    ]
    values = {field.name: getattr(chosen.rules, field.name) for field in fields(Rules)}
    on = {name: value for name, value in values.items() if name not in RULES or value != RULES[name]}
    named = on if any(name in RULES for name in on) else values
    lines += [f"{name} = {_toml(value)}" for name, value in named.items()]
    return "\n".join(lines) + "\n"


def is_recipe(file: Path) -> bool:
    """Returns whether a file begins as the recipes do that calibrations wrote."""
    with file.open("rb") as stream:
        return stream.read(len(_MADE)) == _MADE.encode()


def charts_of(recipe: Path) -> tuple[Path, Path]:
    """Returns where the charts of a recipe lie: beside it, by its name."""
    return recipe.with_suffix(".png"), recipe.with_suffix(".svg")


def _toml(value: object) -> str:
    if value is None:
        return f'"{OFF}"'
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


def write(found: Calibration, out: Path) -> None:
    """Writes the recipe to `out`, and the frontier beside it as .png and .svg."""
    # The recipe first: a chart without one is taken for somebody else's.
    with locked(out, WAIT), replacing_all([out, *charts_of(out)]) as (toml, png, svg):
        toml.write_text(recipe(found), "utf-8")
        draw(f"{found.run}: leak against what is left", _panels(found), png, svg)


def _panels(found: Calibration) -> list[Panel]:
    groups: dict[str, list[Setting]] = {}
    for one in found.sweep:
        groups.setdefault(_family(one), []).append(one)
    for settings in groups.values():
        settings.sort(key=lambda one: one.whole.leak.rate or 0)
    groups["chosen"] = [found.chosen]
    groups["the run's own"] = [found.own]
    return [
        Panel("leak, %", f"queries with all {found.asked}, %", _lines(groups, "full", 100), True),
        Panel("leak, %", "mean rank of the negatives", _lines(groups, "rank", 1), True),
    ]


def _lines(groups: dict[str, list[Setting]], field: str, times: float) -> Sequence[Curve]:
    lines = []
    for name, settings in groups.items():
        known = [one.whole for one in settings if getattr(one.whole, field) is not None]
        leaks = [100 * (one.leak.rate or 0) for one in known]
        lines.append(Curve(name, leaks, [times * getattr(one, field) for one in known]))
    return lines


def _family(setting: Setting) -> str:
    """The rule without its parameter."""
    words = setting.name.replace(",", "").split()
    return " ".join(word for word in words if not word.lstrip("-").replace(".", "").isdigit())
