"""Commands with settings: keys of `--set` and of a recipe, some of them options too, each described once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from shlex import quote
from typing import Any, TypeVar

import click
from rich_click import RichCommand, RichOption

from miner.cli.numbers import Within
from miner.errors import UsageError, near, nearest
from miner.ranges import NO_VALUE
from miner.recipe import TOP, Setting, Tables, by_name, lines_of, parse_all, published_for, read, setting

Described = Mapping[str, tuple[click.ParamType[Any] | None, str]]
"""The type (None: the range of the field) and the help of fields of a configuration."""

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])

HELP = "help"
"""What `--set` takes instead of `KEY=VALUE` to list the settings."""
_WIDTH = 100
"""The most columns of that list."""

RUN, OUTPUT, SETTINGS = "Run", "Output", "Settings"
"""Titles of groups of options in the help of a command."""


def described(config: type, about: Described) -> dict[str, Setting]:
    """Returns the settings of the described fields of a configuration, in the order of the description."""
    known = {field.name: field for field in fields(config)}
    return {
        name: setting(
            known[name],
            text,
            bool if kind is click.BOOL else str,
            tuple(kind.choices) if isinstance(kind, click.Choice) else (),
        )
        for name, (kind, text) in about.items()
    }


_LONGEST_CHOICES = 24
"""Characters of the choices of an option that its help shows as its value; more are listed in its text."""
_DEFAULT = re.compile(r" \[default: [^]]*\]")


class OneOf(click.Choice[str]):
    """One of several texts; the error for another text names the nearest one."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """Returns what is wrong with a text that is none of the choices."""
        message = super().get_invalid_choice_message(value, ctx)
        return f"{message.removesuffix('.')}{near(str(value), self.choices)}."


class Settings:
    """The settings of a command: keys of `--set` and of a recipe, some of them options too."""

    def __init__(
        self,
        tables: Tables,
        flags: Mapping[str, Sequence[str]],
        fixed: Mapping[str, str] | None = None,
        *,
        others: Sequence[str] = (),
        top: str | None = None,
        kept: str | None = None,
    ) -> None:
        """Takes the settings by table of the recipe, and the names of the options by title in the help.

        A name that several tables have is written `table.name` among the options. `fixed` says of tables
        whose settings the command reads, but cannot change, what to do instead. `others` and `top` are those
        of `recipe.read`. `kept` says in the help what a setting stays as, instead of a default.
        """
        self.tables = tables
        self._flags = flags
        self._fixed = fixed or {}
        self._others, self._top, self._kept = others, top, kept

    def options(self) -> Iterator[click.Option]:
        """Yields the options of the settings, then `--config` and `--set`."""
        for title, names in self._flags.items():
            for name in names:
                table, key = self._find(name)
                yield _option(self._shown(self.tables[table][key]), title)
        published = ", or a published one by name" if published_for(self.tables, self._top) else ""
        yield RichOption(
            ["--config", "recipe"],
            type=click.Path(path_type=Path),
            panel=SETTINGS,
            help=f"TOML recipe of settings{published}. --set and options override it.",
        )
        yield RichOption(
            ["--set", "assignments"],
            multiple=True,
            metavar="KEY=VALUE",
            panel=SETTINGS,
            is_eager=True,
            callback=self._list_if_requested,
            help="Set any setting, also one that has no option: --set help lists them. Repeatable.",
        )

    def _list_if_requested(
        self, context: click.Context, option: click.Parameter, given: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Prints the settings and ends the command for `--set help`, whatever else is given."""
        if HELP in given:
            click.echo(self.listing(context.command_path))
            context.exit()
        return given

    def listing(self, command: str) -> str:
        """Returns every setting of a command: its key, meaning, values, default and option, by table."""
        formatter = click.HelpFormatter(max_width=_WIDTH)
        formatter.write_text(
            f"Settings of {command}: --set KEY=VALUE, or KEY = VALUE in a TOML recipe for --config. "
            f"{NO_VALUE}: no value, or a rule that is off."
        )
        options = set(self._options())
        for table, settings in self.tables.items():
            rows = []
            for key, known in settings.items():
                known = self._shown(known)
                rows += [(key, known.help), ("", _facts(known, (table, key) in options))]
            title = f"[{table}]" if table else "Keys above the first table of a recipe"
            if table in self._fixed:
                title = f"{title} (only with the values of the run)"
            with formatter.section(title):
                formatter.write_dl(rows)
        return formatter.getvalue().rstrip()

    def _shown(self, known: Setting) -> Setting:
        """Returns a setting with the default that the help shows."""
        if self._kept is None:
            return known
        return replace(known, help=f"{_DEFAULT.sub('', known.help)} [default: {self._kept}]")

    def _options(self) -> Iterator[tuple[str, str]]:
        """Yields the table and the key of every setting that is an option."""
        return (self._find(name) for names in self._flags.values() for name in names)

    def _find(self, name: str) -> tuple[str, str]:
        table, _, key = name.rpartition(".")
        return table or next(title for title in self.tables if key in self.tables[title]), key

    def values(self, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Returns the given values by table and name; options and `--set` override the recipe.

        `given` has the values of the command's options. Raises UsageError as `read` and `parse_all` do, and
        for a setting that an option and `--set` both give.
        """
        found = {table: dict[str, Any]() for table in self.tables}
        if given["recipe"] is not None:
            found = read(given["recipe"], self.tables, self._others, self._top)
        assigned = parse_all(given["assignments"], self.tables)
        for table, values in assigned.items():
            found[table] |= values
        for table, key in self._options():
            known, value = self.tables[table][key], given[key]
            if value is None or value == ():
                continue
            if key in assigned[table]:
                raise UsageError(f"{flag(key)} and --set {key} are both given", "leave one out")
            found[table][key] = known.check(lines_of(value) if known.kind is tuple else value)
        return found

    def advice(self, option: str) -> str | None:
        """Returns what to do about an unknown option that names a setting; None if it names none."""
        name = option.lstrip("-").replace("-", "_").removeprefix("no_")
        for table, instead in self._fixed.items():
            if name in self.tables[table]:
                return f"It {instead}."
        key = self.key_of(option)
        return None if key is None else f"It is a setting: {key}"

    def key_of(self, option: str) -> str | None:
        """Returns the `--set` of the setting that an unknown option names, or None if there is none."""
        name = option.lstrip("-").replace("-", "_")
        for title, settings in self.tables.items():
            for key, value in ((name, "VALUE"), (name.removeprefix("no_"), "false")):
                if key in settings and (value == "VALUE" or settings[key].kind is bool):
                    if settings[key].kind is bool and key == name:
                        value = "true"
                    is_clear = sum(key in other for other in self.tables.values()) == 1
                    return f"--set {key if is_clear else f'{title or TOP}.{key}'}={value}"
        return None


class Command(RichCommand):
    """A command with settings. Its error for an unknown option names the setting or the nearest option."""

    def __init__(
        self,
        *args: Any,
        settings: Settings | None = None,
        renamed: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Takes the arguments of a Click command, the settings, and the new names of renamed options."""
        super().__init__(*args, **kwargs)
        self.settings = settings
        self._renamed = renamed or {}
        if settings is not None:
            self.params += settings.options()
        last = (OUTPUT, SETTINGS)
        self.params.sort(key=lambda param: last.index(panel) if (panel := _panel(param)) in last else -1)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses as Click does."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise click.UsageError(
                f"No such option '{error.option_name}'.{self._hint(error)}", ctx
            ) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; raises UsageError if a store is given as another argument than STORE."""
        values = {
            argument: str(ctx.params[argument.name])
            for argument in self.params
            # Not isinstance: rich-click replaces the class once a help page was shown.
            if argument.param_type_name == "argument" and argument.nargs == 1 and argument.name in ctx.params
        }
        slot = next((one for one in values if one.name in _STORES), None)
        for argument, value in values.items():
            if slot is not None and argument is not slot and _is_store(value) and not _is_store(values[slot]):
                others = [other for one, other in values.items() if one is not argument]
                others.insert(list(values).index(slot), value)
                raise UsageError(
                    f"{value} is a store, not {argument.make_metavar(ctx)}: the order is "
                    f"{' '.join(one.make_metavar(ctx) for one in values)}",
                    f"miner {self.name} {' '.join(map(quote, others))}",
                )
        return super().invoke(ctx)

    def _hint(self, error: click.NoSuchOption) -> str:
        option = error.option_name
        if option in self._renamed:
            return f" It is {self._renamed[option]} now."
        if self.settings is not None and (advice := self.settings.advice(option)):
            return f" {advice}"
        options = [name for param in self.params for name in (*param.opts, *param.secondary_opts)]
        tables = {} if self.settings is None else self.settings.tables
        keys = [flag(key) for settings in tables.values() for key in settings if flag(key) not in options]
        meant = nearest(option, [*options, *keys])
        if self.settings is not None and meant in keys:
            advice = self.settings.advice(meant) or ""
            key = self.settings.key_of(meant)
            return f" Did you mean {key}?" if str(key) in advice else f" Did you mean {meant}? {advice}"
        return f" Did you mean {meant}?" if meant else ""


PUSHING = by_name(
    Setting(
        "public",
        "The repository on the Hub may be public; otherwise a push makes a private one, and none into a "
        "public one.",
        False,
        bool,
    ),
    Setting(
        "create_pr",
        "Push as a pull request [default: into repositories of others].",
        kind=bool,
        may_be_none=True,
    ),
    Setting("dry_run", "List what a push would send, and send nothing.", False, bool),
)
"""The settings of a push to the Hugging Face Hub: the fields of PushConfig."""

_STORES = ("store", "triplets")
"""Names of the arguments that take a store."""


def _is_store(value: str) -> bool:
    from miner.store.access import is_store  # imports DuckDB, which the help does not need

    return os.path.isfile(value) and is_store(Path(value))


def _panel(param: click.Parameter) -> object:
    return getattr(param, "panel", None)


def flag(name: str) -> str:
    """Returns the option of a setting's name: `--max-score` of `max_score`."""
    return f"--{name.replace('_', '-')}"


def option_of(known: Setting) -> str:
    """Returns the name of a setting's option: `--no-bm25` of one that is true by default."""
    return f"--no-{flag(known.name)[2:]}" if known.kind is bool and known.default else flag(known.name)


def _facts(known: Setting, is_option: bool) -> str:
    default = f"; default: {known.shown_default}" if known.shown_default else ""
    return f"{known.values}{default}{f'; option: {option_of(known)}' if is_option else ''}"


def _with_choices(text: str, choices: Sequence[str]) -> str:
    """Returns a help text that has all choices, before the default if it names one."""
    if all(re.search(rf"\b{re.escape(choice)}\b", text) for choice in choices):
        return text
    start, sign, default = text.partition(" [default")
    return f"{start.removesuffix('.')}. One of {', '.join(choices)}{f'{sign}{default}' or '.'}"


def _option(known: Setting, title: str) -> click.Option:
    option, text = option_of(known), known.help
    kind: click.ParamType[Any]
    if known.kind is bool:
        if known.default and option not in text:
            text = f"Turn off: {text[0].lower()}{text[1:]}"
        return RichOption(
            [option, known.name],
            is_flag=True,
            flag_value=not known.default,
            default=None,
            help=text,
            panel=title,
        )
    kind, metavar = OneOf(known.choices) if known.choices else click.STRING, known.metavar
    if len("|".join(known.choices)) > _LONGEST_CHOICES:  # a help page would break them in mid-word
        text, metavar = _with_choices(text, known.choices), "NAME"
    if known.range is not None:
        kind = Within(known.range, known.may_be_none)
    if known.shown_default:
        text = f"{text} [default: {known.shown_default}]"
    return RichOption(
        [option, known.name],
        type=kind,
        default=None,
        multiple=known.kind is tuple,
        metavar=metavar,
        help=text,
        panel=title,
    )


def language_model(panel: str) -> Callable[[AnyFunction], AnyFunction]:
    """Returns what adds the options `--endpoint` and `--model`, for `model_named`, to a command."""
    endpoint = click.option(
        "--endpoint",
        cls=RichOption,
        required=True,
        metavar="URL",
        panel=panel,
        help="Server with OpenAI's chat API, such as http://localhost:8000/v1. The texts go there.",
    )
    model = click.option(
        "--model", cls=RichOption, metavar="NAME", panel=panel, help="The model of the server."
    )
    return lambda command: endpoint(model(command))


def dry_run(command: AnyFunction) -> AnyFunction:
    """Adds the option `--dry-run` to a command that asks a language model."""
    return click.option(
        "--dry-run",
        cls=RichOption,
        is_flag=True,
        panel=OUTPUT,
        help="Ask nothing; print how many requests and tokens it would be, and the first one.",
    )(command)


def model_named(endpoint: str, model: str | None) -> str:
    """Returns the name `URL#MODEL` of a server and its model; raises UsageError unless it is named once."""
    if model is None:
        if "#" not in endpoint:
            raise UsageError("the server's model is not named", "add --model NAME")
        return endpoint
    if "#" in endpoint:
        raise UsageError("--endpoint and --model both name a model", "leave one out")
    return f"{endpoint}#{model}"


HIDING: Described = {
    "share": (None, "Share of each query's positives to hide, and of queries with a single one."),
    "repeats": (None, "How often to draw."),
    "seed": (None, "Seed of the draws."),
}
"""Every field of AuditConfig, with what it may be and what it means."""
