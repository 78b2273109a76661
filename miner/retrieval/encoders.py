"""The retriever of an encoder, by the kind that the model's files name."""

from __future__ import annotations

from miner.collection.collection import Collection
from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError
from miner.models.endpoint import is_served
from miner.models.kinds import encoder_kind
from miner.models.names import resolve
from miner.retrieval.config import DenseConfig
from miner.retrieval.dense import Dense
from miner.retrieval.multi_vector import MultiVector
from miner.retrieval.sparse import Sparse
from miner.store.database import Database
from miner.store.scorers import DENSE, SPARSE


def kind_of(model: str, revision: str | None = None) -> str:
    """Returns the kind of an encoder: `dense` (also a served one), `sparse` or `multi-vector`.

    Raises ModelError if there is no such model, or it is not an encoder.
    """
    return DENSE if is_served(model) else encoder_kind(resolve(model, revision))


def encoder_retriever(
    store: Database,
    collection: Collection,
    config: DenseConfig,
    *,
    name: str,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> Dense | Sparse | MultiVector:
    """Returns the retriever for the encoder `config.encoder`: dense, sparse or multi-vector. Served: dense.

    `name` is the scorer's name. The setting `index` is for dense encoders, `token_dtype` for multi-vector
    encoders. Raises ModelError if the model is not an encoder, UsageError if `dimension` is given for an
    encoder that is not dense.
    """
    kind = kind_of(config.encoder, config.revision)
    if kind == DENSE:
        return Dense(store, collection, config, name=name, workers=workers, progress=progress)
    if config.dimension is not None:
        raise UsageError(
            f"{config.encoder} is a {kind} encoder, whose vectors are not truncated: dimension is for dense "
            "encoders",
            "leave dimension out",
        )
    made = Sparse if kind == SPARSE else MultiVector
    return made(store, collection, config, name=name, workers=workers, progress=progress)
