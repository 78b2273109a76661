"""Mine hard negatives, keep the evidence, prove the result.

The names below are loaded when they are first used: importing miner imports nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from miner.auditing.config import AuditConfig, CalibrationConfig
    from miner.auditing.labels import SampleConfig
    from miner.auditing.relabel import RelabelByJudgeConfig, RelabelConfig
    from miner.curation.contamination import ContaminationConfig
    from miner.curation.dedup import DedupConfig
    from miner.curation.silver_config import SilverConfig
    from miner.door.operations import (
        bench,
        cluster,
        contamination,
        dedup,
        evaluate,
        generate,
        ingest,
        loop,
        plan_generation,
        pretrain,
        push_export,
        push_model,
        read_recipe,
        silver,
        sql,
        train,
        train_reranker,
        tune,
        undo_silver,
    )
    from miner.door.quality import (
        audit,
        calibrate,
        compare_with_judgments,
        export_reviews,
        false_negative_rate,
        import_reviews,
        judge,
        plan_judging,
        relabel,
        relabel_by_judge,
        relabel_by_people,
        report,
        review_summary,
        sample_to_label,
        undo_relabel,
    )
    from miner.door.store import (
        Run,
        Store,
        decide,
        diff,
        explain,
        export_run,
        find_run,
        mine,
        remove_runs,
        runs,
        triplets,
    )
    from miner.door.triplets import Triplets
    from miner.errors import MinerError
    from miner.evaluation.compare import compare
    from miner.evaluation.evaluate import EvaluationConfig
    from miner.export import ExportConfig
    from miner.generation.config import GenerationConfig
    from miner.judging.config import JudgeConfig
    from miner.mining.config import MiningConfig, Rules, Selection
    from miner.models.encoder import Encoder
    from miner.models.reranker import Reranker
    from miner.sources import SourceConfig
    from miner.training.encoder_config import EncoderConfig
    from miner.training.pretrain_config import PretrainConfig
    from miner.training.reranker_config import RerankerConfig
    from miner.workflows.bench_config import BenchConfig
    from miner.workflows.loop import LoopConfig
    from miner.workflows.train import Dev, TrainingRows
    from miner.workflows.tune_config import TuneConfig

_HOME = {
    "AuditConfig": "miner.auditing.config",
    "BenchConfig": "miner.workflows.bench_config",
    "CalibrationConfig": "miner.auditing.config",
    "ContaminationConfig": "miner.curation.contamination",
    "DedupConfig": "miner.curation.dedup",
    "Dev": "miner.workflows.train",
    "Encoder": "miner.models.encoder",
    "EncoderConfig": "miner.training.encoder_config",
    "EvaluationConfig": "miner.evaluation.evaluate",
    "ExportConfig": "miner.export",
    "GenerationConfig": "miner.generation.config",
    "JudgeConfig": "miner.judging.config",
    "LoopConfig": "miner.workflows.loop",
    "MinerError": "miner.errors",
    "MiningConfig": "miner.mining.config",
    "PretrainConfig": "miner.training.pretrain_config",
    "RelabelByJudgeConfig": "miner.auditing.relabel",
    "RelabelConfig": "miner.auditing.relabel",
    "Reranker": "miner.models.reranker",
    "RerankerConfig": "miner.training.reranker_config",
    "Rules": "miner.mining.config",
    "Run": "miner.door.store",
    "SampleConfig": "miner.auditing.labels",
    "Selection": "miner.mining.config",
    "SilverConfig": "miner.curation.silver_config",
    "SourceConfig": "miner.sources",
    "Store": "miner.door.store",
    "TrainingRows": "miner.workflows.train",
    "Triplets": "miner.door.triplets",
    "TuneConfig": "miner.workflows.tune_config",
    "audit": "miner.door.quality",
    "bench": "miner.door.operations",
    "calibrate": "miner.door.quality",
    "cluster": "miner.door.operations",
    "compare": "miner.evaluation.compare",
    "compare_with_judgments": "miner.door.quality",
    "contamination": "miner.door.operations",
    "decide": "miner.door.store",
    "dedup": "miner.door.operations",
    "diff": "miner.door.store",
    "evaluate": "miner.door.operations",
    "explain": "miner.door.store",
    "export_reviews": "miner.door.quality",
    "export_run": "miner.door.store",
    "false_negative_rate": "miner.door.quality",
    "find_run": "miner.door.store",
    "generate": "miner.door.operations",
    "import_reviews": "miner.door.quality",
    "ingest": "miner.door.operations",
    "judge": "miner.door.quality",
    "loop": "miner.door.operations",
    "mine": "miner.door.store",
    "plan_generation": "miner.door.operations",
    "plan_judging": "miner.door.quality",
    "pretrain": "miner.door.operations",
    "push_export": "miner.door.operations",
    "push_model": "miner.door.operations",
    "read_recipe": "miner.door.operations",
    "relabel": "miner.door.quality",
    "relabel_by_judge": "miner.door.quality",
    "relabel_by_people": "miner.door.quality",
    "remove_runs": "miner.door.store",
    "report": "miner.door.quality",
    "review_summary": "miner.door.quality",
    "runs": "miner.door.store",
    "sample_to_label": "miner.door.quality",
    "silver": "miner.door.operations",
    "sql": "miner.door.operations",
    "train": "miner.door.operations",
    "train_reranker": "miner.door.operations",
    "triplets": "miner.door.store",
    "tune": "miner.door.operations",
    "undo_relabel": "miner.door.quality",
    "undo_silver": "miner.door.operations",
}

__all__ = [
    "AuditConfig",
    "BenchConfig",
    "CalibrationConfig",
    "ContaminationConfig",
    "DedupConfig",
    "Dev",
    "Encoder",
    "EncoderConfig",
    "EvaluationConfig",
    "ExportConfig",
    "GenerationConfig",
    "JudgeConfig",
    "LoopConfig",
    "MinerError",
    "MiningConfig",
    "PretrainConfig",
    "RelabelByJudgeConfig",
    "RelabelConfig",
    "Reranker",
    "RerankerConfig",
    "Rules",
    "Run",
    "SampleConfig",
    "Selection",
    "SilverConfig",
    "SourceConfig",
    "Store",
    "TrainingRows",
    "Triplets",
    "TuneConfig",
    "audit",
    "bench",
    "calibrate",
    "cluster",
    "compare",
    "compare_with_judgments",
    "contamination",
    "decide",
    "dedup",
    "diff",
    "evaluate",
    "explain",
    "export_reviews",
    "export_run",
    "false_negative_rate",
    "find_run",
    "generate",
    "import_reviews",
    "ingest",
    "judge",
    "loop",
    "mine",
    "plan_generation",
    "plan_judging",
    "pretrain",
    "push_export",
    "push_model",
    "read_recipe",
    "relabel",
    "relabel_by_judge",
    "relabel_by_people",
    "remove_runs",
    "report",
    "review_summary",
    "runs",
    "sample_to_label",
    "silver",
    "sql",
    "train",
    "train_reranker",
    "triplets",
    "tune",
    "undo_relabel",
    "undo_silver",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'miner' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
