"""Mine hard negatives, keep the evidence, prove the result.

The names below are loaded when they are first used: importing miner imports nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from miner.curation.silver import silver
    from miner.curation.silver_config import SilverConfig
    from miner.errors import MinerError
    from miner.evaluation.evaluate import EvaluationConfig, evaluate
    from miner.export import ExportConfig, export_run
    from miner.mining.config import MiningConfig, Rules, Selection
    from miner.mining.explain import explain
    from miner.mining.pipeline import decide_again, mine
    from miner.models.encoder import Encoder
    from miner.models.reranker import Reranker
    from miner.sources import SourceConfig, ingest
    from miner.store.database import Store
    from miner.store.runs import Run, find_run
    from miner.store.triplets import triplets
    from miner.training.encoder_config import EncoderConfig
    from miner.training.pretrain_config import PretrainConfig
    from miner.training.reranker import train_reranker
    from miner.training.reranker_config import RerankerConfig
    from miner.training.tsdae import pretrain
    from miner.workflows.bench import bench
    from miner.workflows.bench_config import BenchConfig
    from miner.workflows.train import Dev, Rows, train

_HOME = {
    "BenchConfig": "miner.workflows.bench_config",
    "Dev": "miner.workflows.train",
    "Encoder": "miner.models.encoder",
    "EncoderConfig": "miner.training.encoder_config",
    "EvaluationConfig": "miner.evaluation.evaluate",
    "ExportConfig": "miner.export",
    "MinerError": "miner.errors",
    "MiningConfig": "miner.mining.config",
    "PretrainConfig": "miner.training.pretrain_config",
    "Reranker": "miner.models.reranker",
    "RerankerConfig": "miner.training.reranker_config",
    "Rows": "miner.workflows.train",
    "Rules": "miner.mining.config",
    "Run": "miner.store.runs",
    "Selection": "miner.mining.config",
    "SilverConfig": "miner.curation.silver_config",
    "SourceConfig": "miner.sources",
    "Store": "miner.store.database",
    "bench": "miner.workflows.bench",
    "decide_again": "miner.mining.pipeline",
    "evaluate": "miner.evaluation.evaluate",
    "explain": "miner.mining.explain",
    "export_run": "miner.export",
    "find_run": "miner.store.runs",
    "ingest": "miner.sources",
    "mine": "miner.mining.pipeline",
    "pretrain": "miner.training.tsdae",
    "silver": "miner.curation.silver",
    "train": "miner.workflows.train",
    "train_reranker": "miner.training.reranker",
    "triplets": "miner.store.triplets",
}

__all__ = [
    "BenchConfig",
    "Dev",
    "Encoder",
    "EncoderConfig",
    "EvaluationConfig",
    "ExportConfig",
    "MinerError",
    "MiningConfig",
    "PretrainConfig",
    "Reranker",
    "RerankerConfig",
    "Rows",
    "Rules",
    "Run",
    "Selection",
    "SilverConfig",
    "SourceConfig",
    "Store",
    "bench",
    "decide_again",
    "evaluate",
    "explain",
    "export_run",
    "find_run",
    "ingest",
    "mine",
    "pretrain",
    "silver",
    "train",
    "train_reranker",
    "triplets",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'miner' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
