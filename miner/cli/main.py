"""The `miner` command: finds the commands, imports only the requested one, ends well."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib import import_module

import click

from miner import __version__
from miner.errors import MinerError, UsageError, near, printable
from miner.faults import explained

GROUPS = {
    "Start": {
        "demo": "Mine, audit and train on the code of Python itself.",
        "doctor": "Show what is installed, the device, and what is missing.",
    },
    "Data": {
        "ingest": "Read documents, queries and judgments into a store.",
        "generate": "Have a language model write queries for a corpus alone.",
        "dedup": "Find exact and near copies; mining treats them as one.",
        "contamination": "Find evaluation texts that also occur in the training data.",
    },
    "Mine": {
        "mine": "Find hard negatives: retrieve, rerank, decide, select.",
        "decide": "Apply other rules to the stored evidence; no model runs.",
        "judge": "Have a language model grade pairs; measure how it errs.",
        "runs": "List the runs of a store, or remove some.",
        "runs diff": "Show what changed between two runs, and why.",
        "explain": "Show what became of every candidate of a query, and why.",
    },
    "Quality": {
        "audit": "Measure false negatives, by labels and hidden positives.",
        "calibrate": "Find rules that leave few false negatives.",
        "review": "Judge candidates by hand, on a local page.",
        "relabel": "Turn suspected positives into judgments, or undo that.",
        "report": "Write an HTML page on a run: what it holds, how wrong it is.",
    },
    "Train": {
        "train": "Train an encoder on triplets or on judged pairs.",
        "train-reranker": "Train a cross-encoder on the judgments of a store.",
        "tune": "Find the negatives that train best.",
        "silver": "Judge unjudged pairs with a cross-encoder.",
        "pretrain": "Adapt an encoder without labels: pays for an untrained base.",
        "loop": "Mine, train, mine again; in our trial it did not pay.",
    },
    "Measure": {
        "evaluate": "Measure a model on a store, and compare it with others.",
        "bench": "Test whether hard negatives train a better model.",
    },
    "Output": {
        "export": "Write triplets as files to train on.",
        "sql": "Run one read-only SELECT on a store.",
    },
}
"""Every command by the group that `miner --help` shows it in, with its short help.

A command is the object `command` of its module: `train-reranker` is in `miner.cli.train_reranker`."""

COMMANDS = {name: about for group in GROUPS.values() for name, about in group.items()}
"""Every command with its short help. A name of two words is a command below another."""

_RENAMED = {"diff": "runs diff", "leakage": "contamination"}
"""Commands that had another name before."""

_MODULE = str.maketrans("- ", "__")

_QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}
"""What keeps other libraries from writing between our progress bars."""

_ANYWHERE = ("--memory", "--cluster", "--work")
"""Options of all commands."""

_CLUSTERED = ("mine", "train-reranker", "silver", "dedup", "evaluate", "relabel", "loop")
"""Commands that compute with models or search, and can do so in a cluster."""

_DUCKDB_INTERRUPTED = "Query interrupted"
"""The RuntimeError that DuckDB makes of Ctrl-C."""


class _Commands(click.Group):
    """Lists the commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Returns the command of that name, imported now, or None if there is none."""
        if name not in COMMANDS:
            return None
        module = import_module(f"miner.cli.{name.translate(_MODULE)}")
        command: click.Command = module.command
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses as Click does; the options of all commands can be given anywhere."""
        return super().parse_args(ctx, _own_first(args))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Returns the command and its arguments; the error for another name says the nearest one."""
        if (longer := " ".join(args[:2])) in COMMANDS and len(args) > 1:
            return longer, self.get_command(ctx, longer), args[2:]
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            name = args[0]
            now = f" (it is 'miner {_RENAMED[name]}' now)" if name in _RENAMED else near(name, COMMANDS)
            raise click.UsageError(f"{error.message}{now}", ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the commands by group."""
        width = max(map(len, COMMANDS))
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{width}}", about) for name, about in commands.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="miner %(version)s")
@click.option(
    "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error. Can be given anywhere."
)
@click.option(
    "--memory",
    metavar="SIZE",
    help="Memory that a command should not exceed, such as 8GiB: larger data are processed in blocks or on "
    "disk. Can be given anywhere. [default: half of what the process may use; sql: 2GB]",
)
@click.option(
    "--cluster",
    metavar="ADDRESS",
    help="Encode, rerank and search on the nodes of the Ray cluster at ADDRESS, such as 10.0.0.1:6379, or on "
    f"`local` ones. For {', '.join(_CLUSTERED)}. Can be given anywhere.",
)
@click.option(
    "--work",
    metavar="URL",
    help="Folder that all nodes of the cluster can use, such as s3://bucket/folder: it keeps their parts of "
    "the index and the vectors. Can be given anywhere.",
)
@click.pass_context
def group(context: click.Context, memory: str | None, cluster: str | None, work: str | None) -> None:
    """Mine training triplets with hard negatives, keep the evidence, prove the result.

    \b
    Start:  miner demo
    Or:     miner ingest my.duckdb FOLDER; miner mine my.duckdb --encoder bundled
    """
    from miner.memory import limit_process, parse_size  # which `miner --help` does not need

    if memory is not None:
        limit_process(parse_size(memory))
        context.call_on_close(lambda: limit_process(None))
        context.obj = memory
    if cluster is not None or work is not None:
        context.with_resource(_in_cluster(context.invoked_subcommand, cluster, work))


def _in_cluster(command: str | None, address: str | None, work: str | None) -> AbstractContextManager[None]:
    """Returns what sends the work of a command to a cluster; raises UsageError for one without such work."""
    from miner.engine.cluster import using

    if address is None:
        raise UsageError("--work is for a cluster", "give --cluster ADDRESS too, or leave it out")
    if command not in _CLUSTERED:
        raise UsageError(
            f"miner {command} does not use a cluster", f"--cluster is for {', '.join(_CLUSTERED)}"
        )
    return using(address, work, lambda: click.echo("the cluster was not needed", err=True))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process: 0 done, 1 failure, 2 wrong use, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    gc.set_threshold(100_000)  # importing makes many objects that stay: looking through them takes 15 ms
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if given[1:] and {"--help", "-h"} & set(given):
        _dress()
    code = _run(given, debug)
    if arguments is None:
        _leave(code)
    sys.exit(code)


def _leave(code: int) -> None:
    """Ends the process without taking Python apart, which takes 0.04 s; returns if that has to be done."""
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        return  # Python waits for it
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return  # Python says so
    atexit._run_exitfuncs()
    os._exit(code)


def _own_first(given: list[str]) -> list[str]:
    """Returns the arguments with the options of all commands, such as `--memory SIZE`, before the command."""
    own: list[str] = []
    others: list[str] = []
    end = given.index("--") if "--" in given else len(given)
    at = 0
    while at < end:
        name, _, value = given[at].partition("=")
        size = 2 if name in _ANYWHERE and not value and at + 1 < end else 1
        (own if name in _ANYWHERE and (size == 2 or value) else others).extend(given[at : at + size])
        at += size
    return own + others + given[end:]


def _dress() -> None:
    """Gives the help of the commands imported from now on its look."""
    from rich_click import rich_click as look
    from rich_click.patch import patch

    look.TEXT_PARAGRAPH_LINEBREAKS = "\n\n"
    look.OPTION_GROUPS = {
        "miner sql": [
            {"name": "Output", "options": ["--format", "--out", "--limit-rows"]},
            {"name": "Limits", "options": ["--timeout"]},
        ]
    }
    patch()


def _run(arguments: list[str], debug: bool) -> int:
    try:
        ended = group.main(arguments, prog_name="miner", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        return _interrupted()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except MinerError as error:
        if debug:
            raise
        return _said(error)
    except Exception as error:
        if str(error) == _DUCKDB_INTERRUPTED:
            return _interrupted()
        if debug:
            raise
        if known := explained(error):
            return _said(known)
        first = next(iter(str(error).splitlines()), "")
        click.echo(f"Error: unexpected {type(error).__name__}: {printable(first)}", err=True)
        click.echo("  run again with --debug for the traceback", err=True)
        return 1
    return ended if isinstance(ended, int) else 0


def _said(error: MinerError) -> int:
    click.echo(f"Error: {error.message}" + (f"\n  {error.hint}" if error.hint else ""), err=True)
    return error.exit_code


def _interrupted() -> int:
    # A second signal, as `timeout -s INT` sends, would end Python while workers still compute: an abort.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    click.echo(
        "Interrupted. Finished work is kept, what was under way is undone: run the same command again.",
        err=True,
    )
    return 130
