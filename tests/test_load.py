"""How many threads compute: what this process may use, less what other programs use."""

from __future__ import annotations

import os
import subprocess
import sys
from math import inf
from pathlib import Path

import pytest

from miner.engine.load import Usage, busy_seconds, free_threads, threads_for
from miner.engine.work import worker_count
from miner.processors import affinity, cores, quota

TICKS = os.sysconf("SC_CLK_TCK")


def groups(folder: Path, own: str, **files: str) -> float:
    """Returns the quota that a tree of control groups grants; `a__b` names the file b of group a."""
    (folder / "own").write_text(own, "utf-8")
    for name, content in files.items():
        file = folder / "cgroup" / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, "ascii")
    return quota(folder / "cgroup", folder / "own")


def test_the_quota_of_a_container(tmp_path: Path) -> None:
    assert groups(tmp_path, "0::/\n", cpu_dot_max="150000 100000\n") == 1.5


def test_the_strictest_group_on_the_way_to_the_top_counts(tmp_path: Path) -> None:
    files = {
        "a__cpu_dot_max": "200000 100000",
        "a__b__cpu_dot_max": "max 100000",
        "a__b__c__cpu_dot_max": "400000 100000",
        "other__cpu_dot_max": "1000 100000",
    }
    assert groups(tmp_path, "0::/a/b/c\n", **files) == 2


def test_a_path_of_the_host_inside_a_container(tmp_path: Path) -> None:
    assert groups(tmp_path, "0::/docker/abc\n", cpu_dot_max="300000 100000") == 3


def test_the_first_version_of_control_groups(tmp_path: Path) -> None:
    files = {
        "cpu__box__cpu_dot_cfs_quota_us": "250000\n",
        "cpu__box__cpu_dot_cfs_period_us": "100000\n",
        "cpu__cpu_dot_cfs_quota_us": "-1\n",
        "cpu__cpu_dot_cfs_period_us": "100000\n",
    }
    assert groups(tmp_path, "4:memory:/box\n3:cpuset:/box\n1:cpu:/box\n0::/\n", **files) == 2.5


@pytest.mark.parametrize("content", ["max 100000", "", "many 100000", "0 0"])
def test_no_limit_and_nonsense_are_no_limit(tmp_path: Path, content: str) -> None:
    assert groups(tmp_path, "0::/\n", cpu_dot_max=content) == inf


def test_without_control_groups_the_affinity_counts(tmp_path: Path) -> None:
    assert quota(tmp_path / "none", tmp_path / "none") == inf
    assert 1 <= cores() <= len(affinity())
    assert worker_count() == cores()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux alone pins processes")
def test_a_pinned_process_has_the_processors_that_it_is_pinned_to() -> None:
    script = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from miner.processors import cores\nfrom miner.store.database import Database\n"
        "import tempfile\n"
        "with Database.open(tempfile.mkdtemp() + '/s.duckdb', create=True) as store:\n"
        "    print(cores(), store.rows(\"SELECT current_setting('threads')\")[0][0])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "1 1\n"


STAT = """cpu  9 9 9 9 9 9 9 9 0 0
cpu0 100 40 10 900 5 1 2 3 50 0
cpu1 200 0 20 800 5 0 0 0 0 0
cpu2 7000 0 20 800 5 0 0 0 0 0
intr 1 2
"""


def test_busy_is_what_programs_use_of_the_own_processors() -> None:
    """User, system, irq, softirq and what the host takes; not idle, waiting for a disk, or guests."""
    assert busy_seconds(STAT, {0, 1}, niced=False) == (100 + 10 + 1 + 2 + 3 + 200 + 20) / TICKS
    assert busy_seconds(STAT, {0}, niced=True) == (100 + 40 + 10 + 1 + 2 + 3) / TICKS
    assert busy_seconds("cpu0 5 1 2 9\n", {0}, niced=False) == 7 / TICKS


def test_what_others_use_is_what_this_process_does_not() -> None:
    before, after = Usage(at=10, every=100, own=50), Usage(at=14, every=107, own=51)
    assert after.others_since(before) == 1.5
    assert Usage(at=14, every=100, own=54).others_since(before) == 0


@pytest.mark.parametrize(
    ("planned", "processors", "others", "threads"),
    [
        (2, 2, 0.0, 2),
        (2, 2, 0.7, 2),  # a browser: no reason to halve the work
        (2, 2, 0.8, 1),
        (2, 2, 2.0, 1),  # one thread always
        (4, 4, 1.0, 3),
        (4, 4, 3.9, 1),
        (64, 64, 8.0, 64),
        (64, 64, 30.0, 34),
        (2, 64, 30.0, 2),  # a quota of two on a large machine that has room
        (2, 64, 63.0, 1),
        (1, 1, 1.0, 1),
    ],
)
def test_threads_beside_other_programs(planned: int, processors: int, others: float, threads: int) -> None:
    assert threads_for(planned, processors, others) == threads


def test_what_the_user_decided_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert free_threads(5) == 5
    assert free_threads() == cores()
    assert worker_count(9) == 9
