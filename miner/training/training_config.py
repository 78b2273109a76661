"""The settings that all trainings have. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from miner.ranges import DTYPES, SEED, THREADS, check_fields, require_one_of, within


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a training computes; UsageError for values out of range."""

    dtype: str = "auto"
    """One of DTYPES; `auto`: bf16 if the hardware supports it, else fp32."""
    seed: int = within(13, SEED)
    threads: int | None = within(None, THREADS)
    """Processor threads; None: as many as are free. Another number can change the last digits of the
    weights."""

    def __post_init__(self) -> None:
        check_fields(self)
        require_one_of("dtype", self.dtype, DTYPES)

    def identity(self) -> dict[str, Any]:
        """Returns the settings that the weights depend on, as JSON-able values."""
        return {name: value for name, value in asdict(self).items() if name != "threads"}
