"""What holds for every test: no network, no time limits inside property tests."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import miner

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# With xdist every core has a worker of its own; and nothing may depend on how busy the machine is.
os.environ.setdefault("OMP_NUM_THREADS", "1")

INSTALLED = os.environ.get("MINER_INSTALLED")
if INSTALLED and not Path(miner.__file__).is_relative_to(INSTALLED):
    raise pytest.UsageError(f"the tests would run against {miner.__file__}, not against {INSTALLED}")

settings.register_profile("miner", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("miner")


def pytest_collection_finish() -> None:
    """Hides what was imported from the garbage collector, which every training runs, on all objects."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Undoes it, so that the interpreter can end as usual."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def root() -> Path:
    """Returns the repository's top folder."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def script_environment() -> dict[str, str]:
    """Returns the environment in which a script finds the modules beside it, whatever this one says."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
