"""Writes docs/cli.md from the Click commands. usage: cli_reference.py [--check]"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from miner.cli.main import COMMANDS, group

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
HEAD = """# Command line

Written by `scripts/docs` from the commands themselves; a test holds it current. stdout is data, stderr is
for people. Exit codes: 0 done, 1 failure, 2 wrong use, 130 interrupted. `--debug`, anywhere, shows the
traceback of an error.
"""


def reference() -> str:
    """Returns the page: every command with its help, arguments and options."""
    context = click.Context(group, info_name="miner")
    parts = [HEAD]
    for name in COMMANDS:
        command = group.get_command(context, name)
        if command is None:
            raise SystemExit(f"no command '{name}'")
        parts.extend(_section(command, click.Context(command, context, info_name=name)))
    return "\n".join(parts)


def _section(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"## {context.command_path}\n"
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
    """Writes the page, or with `--check` ends with 1 when it is not current."""
    page = reference()
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(page, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
        raise SystemExit(f"{PAGE} is not current: run scripts/docs")


if __name__ == "__main__":
    main()
