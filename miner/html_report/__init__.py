"""The report of a run as one HTML page: no script, no network, nothing outside the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from miner.engine.files import WAIT, locked, require_file, write_whole
from miner.errors import UsageError, listed
from miner.html_report.facts import gather
from miner.html_report.page import not_measured, render
from miner.reporting.readable import Readable
from miner.store.database import Database
from miner.store.runs import StoredRun


@dataclass(frozen=True, repr=False)
class WrittenPage(Readable):
    """A report that was written."""

    out: Path
    run: str
    against: str | None
    """The run that it is compared with."""
    size: int
    """Bytes of the file."""
    not_measured: tuple[str, ...]
    """What the page says is not measured, beside the commands that measure it."""

    def as_text(self) -> str:
        """Returns what was written, and what it lacks."""
        beside = f" against {self.against}" if self.against else ""
        lines = [f"{self.out}: run {self.run}{beside}, {self.size / 1000:,.0f} kB"]
        if self.not_measured:
            lines.append(f"not measured: {listed(self.not_measured)}; the page has the commands")
        return "\n".join(lines)


def write_report(
    store: Database,
    out: Path,
    run: StoredRun,
    against: StoredRun | None = None,
    *,
    training: Sequence[Path] = (),
) -> WrittenPage:
    """Writes the page on a run to `out`, in place of a file that is there; returns what was written.

    With `against` the page sets that run beside this one. `training` are folders of trained models and of
    benches, whose curves and verdicts the page shows too. The same store gives the same bytes. Raises
    UsageError for a run against itself, or if a folder has no such record or `out` is a folder or a store;
    InputError for a record of another form.
    """
    require_file(out)
    if against is not None and against.run_id == run.run_id:
        raise UsageError(f"run '{run.name}' is to be compared with itself", "name another run with --against")
    facts = gather(store, run, against, training)
    content = render(facts)
    with locked(out, WAIT):
        write_whole(out, content)
    compared = None if against is None else against.name
    size = len(content.encode("utf-8"))
    return WrittenPage(out, run.name, compared, size, tuple(not_measured(facts)))
