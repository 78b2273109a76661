"""Writes docs/cli.md, docs/settings.md and the tables of presets and published recipes.

usage: cli_reference.py [--check]
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from miner.cli.main import COMMANDS, GROUPS, group
from miner.cli.options import Settings
from miner.mining.presets import MEASURED, PRESETS, PURPOSES, summary
from miner.published import PUBLISHED
from miner.recipe import Setting, as_text

DOCS = Path(__file__).resolve().parent.parent / "docs"
HEAD = """# Command line

Written by `scripts/docs` from the commands themselves; a test holds it current. stdout is data, stderr is
for people. Exit codes: 0 done, 1 failure, 2 wrong use, 130 interrupted. `--debug`, anywhere, shows the
traceback of an error. `--memory SIZE`, anywhere, is the memory that a command should not exceed
([The store](the-store.md#memory)).
"""


SETTINGS_HEAD = """# Settings

Written by `scripts/docs` from the commands themselves; a test holds it current.

Every setting of a command can be given with `--set key=value`, and in a recipe with `--config FILE`. The
settings that most users need are options too. Options and `--set` override the recipe. The value `none` means
no value; for a rule, that it is off. `miner COMMAND --set help` lists the settings of a command.

```sh
miner mine my.duckdb --encoder bundled --set max_score=0.8 --set document_cap=20
miner mine my.duckdb --config recipe.toml --depth 50
```

A recipe is a TOML file. The column *table* names the table of the recipe that holds a key. Keys without a
table come before the first table.

```toml
encoder = "bundled"
depth = 50

[rules]
max_score = 0.8

[selection]
document_cap = 20
```

With `--set`, a key needs its table only if the command has the key twice: `--set training.seed=7`. In
`loop`, the keys above the first table are in `mining`: `--set mining.dtype=fp32`.

`for` in the table `[selection]` stands for the values of a preset, and every named setting goes over it:
[for what you train](how-mining-decides.md#for-what-you-train).

`decide` reads the same recipes as `mine`. It refuses values of keys without a table that differ from those of
the run, because they need a new search.
"""


def commands() -> Iterator[tuple[click.Command, click.Context]]:
    """Yields every command with the context of its help."""
    context = click.Context(group, info_name="miner")
    for name in COMMANDS:
        command = group.get_command(context, name)
        if command is None:
            raise SystemExit(f"no command '{name}'")
        yield command, click.Context(command, context, info_name=name)


def reference() -> str:
    """Returns the page of the commands: each with its help, arguments and options."""
    parts = [HEAD]
    first = {next(iter(names)): title for title, names in GROUPS.items()}
    for command, context in commands():
        if context.info_name in first:
            parts.append(f"## {first[context.info_name]}\n")
        parts.extend(_section(command, context))
    return "\n".join(parts)


def settings() -> str:
    """Returns the page of the settings: one table, with one row for the same setting of several commands."""
    rows: dict[tuple[str, Setting, str], list[str]] = {}
    for command, context in commands():
        known: Settings | None = getattr(command, "settings", None)
        options = {option.name: option.opts[0] for option in command.params}
        for table, members in (known.tables if known else {}).items():
            for setting in members.values():
                row = table, setting, options.get(setting.name, "")
                rows.setdefault(row, []).append(str(context.info_name))
    lines = [
        "| key | option | table | commands | values | default | what it sets |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (table, setting, option), names in rows.items():
        cells = [
            f"`{setting.name}`",
            f"`{option}`" if option else "",
            f"`[{table}]`" if table else "",
            ", ".join(names),
            setting.values,
            setting.shown_default,
            setting.help,
        ]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([SETTINGS_HEAD, *lines, ""])


def with_presets(page: str) -> str:
    """Returns a page with the table of presets between its two marks."""
    lines = ["| `--for` | sets | when you train | measured |", "| --- | --- | --- | --- |"]
    lines += [f"| `{name}` | `{summary(name)}` | {PURPOSES[name]} | {MEASURED[name]} |" for name in PRESETS]
    return _between("presets", lines, page)


def with_published(page: str) -> str:
    """Returns a page with the table of published recipes between its two marks."""
    lines = ["| `--config` | sets | you name | source |", "| --- | --- | --- | --- |"]
    for name, recipe in PUBLISHED.items():
        settings = (
            f"{table}.{key}={as_text(value)}"
            for table, values in recipe.tables.items()
            for key, value in values.items()
        )
        sets = f"{recipe.summary}: {', '.join(f'`{one}`' for one in settings)}"
        lines.append(f"| `{name}` | {sets} | {recipe.needs} | {recipe.source} |")
    return _between("published recipes", lines, page)


def _between(what: str, lines: list[str], page: str) -> str:
    """Returns a page with these lines between the marks of a table."""
    table = "\n".join(lines)
    marks = re.compile(rf"(<!-- {what}: .*? -->\n).*?(<!-- end of {what} -->)", re.DOTALL)
    return marks.sub(lambda found: f"{found[1]}\n{table}\n\n{found[2]}", page)


def _section(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"### {context.command_path}\n"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```\n{context.command_path} {usage}\n```\n"
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):
            yield f"```sh\n{paragraph.lstrip(chr(8)).strip()}\n```\n"
        else:
            yield paragraph.strip().replace("*", "\\*") + "\n"
    for parameter in command.params:
        record = click.Option.get_help_record(parameter, context) if _shown(parameter) else None
        if record is not None:
            names, text = record
            yield f"- `{names}`: {' '.join(text.split())}"
    yield ""


def _shown(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option) and not parameter.hidden


def main() -> None:
    """Writes the pages, or with `--check` ends with 1 if one is not current."""
    decides = DOCS / "how-mining-decides.md"
    pages = {DOCS / "cli.md": reference(), DOCS / "settings.md": settings()}
    pages[decides] = with_presets(decides.read_text(encoding="utf-8"))
    training = DOCS / "training.md"
    pages[training] = with_published(training.read_text(encoding="utf-8"))
    for path, page in pages.items():
        if sys.argv[1:] != ["--check"]:
            path.write_text(page, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != page:
            raise SystemExit(f"{path} is not current: run scripts/docs")


if __name__ == "__main__":
    main()
