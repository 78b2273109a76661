"""Mine hard negatives, keep the evidence, prove the result."""

__version__ = "0.1.0"
