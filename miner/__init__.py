"""Mine hard negatives, keep the evidence, prove the result.

The names below are loaded when they are first used: importing miner imports nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from miner.errors import MinerError
    from miner.export import ExportConfig, export_run
    from miner.mining.config import MiningConfig, Rules, Selection
    from miner.mining.explain import explain
    from miner.mining.pipeline import decide_again, mine
    from miner.models.encoder import Encoder
    from miner.models.reranker import Reranker
    from miner.sources import SourceConfig, ingest
    from miner.store.database import Store
    from miner.store.runs import Run, find_run, triplets
    from miner.training.config import RerankerConfig
    from miner.training.reranker import train_reranker

_HOME = {
    "Encoder": "miner.models.encoder",
    "ExportConfig": "miner.export",
    "MinerError": "miner.errors",
    "MiningConfig": "miner.mining.config",
    "Reranker": "miner.models.reranker",
    "RerankerConfig": "miner.training.config",
    "Rules": "miner.mining.config",
    "Run": "miner.store.runs",
    "Selection": "miner.mining.config",
    "SourceConfig": "miner.sources",
    "Store": "miner.store.database",
    "decide_again": "miner.mining.pipeline",
    "explain": "miner.mining.explain",
    "export_run": "miner.export",
    "find_run": "miner.store.runs",
    "ingest": "miner.sources",
    "mine": "miner.mining.pipeline",
    "train_reranker": "miner.training.reranker",
    "triplets": "miner.store.runs",
}

__all__ = [
    "Encoder",
    "ExportConfig",
    "MinerError",
    "MiningConfig",
    "Reranker",
    "RerankerConfig",
    "Rules",
    "Run",
    "Selection",
    "SourceConfig",
    "Store",
    "decide_again",
    "explain",
    "export_run",
    "find_run",
    "ingest",
    "mine",
    "train_reranker",
    "triplets",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'miner' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
