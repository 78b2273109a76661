"""Opens a model by its name, whether its weights are on this machine or a server runs it."""

from __future__ import annotations

from miner.engine.progress import SILENT, Progress
from miner.errors import ModelError, UsageError
from miner.models import kinds
from miner.models.encoder import Encoder
from miner.models.endpoint import RefusedError, is_served
from miner.models.kinds import is_reranker, no_instruction
from miner.models.names import resolve
from miner.models.reranker import Reranker
from miner.models.served import ServedEncoder, ServedReranker

AnyEncoder = Encoder | ServedEncoder
AnyReranker = Reranker | ServedReranker


def open_encoder(
    name: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    dimension: int | None = None,
    progress: Progress = SILENT,
) -> AnyEncoder:
    """Returns the encoder of a name: hub id, folder, `bundled`, or `URL#MODEL` of an `/embeddings` endpoint.

    `dtype` has no effect on a served model, whose precision is the server's. Raises ModelError if there is
    no such encoder, and UsageError for a revision or a `dimension` of a served model.
    """
    if is_served(name):
        _require_no_revision(name, revision)
        if dimension is not None:
            raise UsageError(
                f"{name} is a served model: its vectors are not truncated", "leave dimension out"
            )
        return ServedEncoder(name, progress=progress)
    return Encoder(name, revision=revision, dtype=dtype, dimension=dimension)


def open_reranker(
    name: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    instruction: str | None = None,
    progress: Progress = SILENT,
) -> AnyReranker:
    """Returns the reranker of a name: hub id, folder, or `URL#MODEL` of a `/rerank` endpoint.

    `instruction` replaces the model's own prompt. Otherwise as `open_encoder`; raises `instruction_refused`
    for a model that takes none.
    """
    if is_served(name):
        _require_no_revision(name, revision)
        if instruction is not None:
            raise instruction_refused(name)
        return ServedReranker(name, progress=progress)
    return Reranker(name, revision=revision, dtype=dtype, instruction=instruction)


def names_reranker(name: str) -> bool:
    """Returns whether a name is that of a reranker; raises ModelError if there is no such model.

    A server is asked: a model with vectors is an encoder, even if the server also compares these in
    `/rerank`, as vLLM does.
    """
    if not is_served(name):
        return is_reranker(resolve(name).path)
    try:
        ServedEncoder(name)
    except RefusedError as no_vectors:
        try:
            ServedReranker(name)
        except RefusedError as error:
            raise ModelError(
                f"{name} is neither an encoder ({no_vectors.reason}) nor a reranker ({error.reason})",
                no_vectors.hint,
            ) from error
        return True
    return False


def _require_no_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        raise UsageError(
            f"{name} is a served model: the server decides on its revision, not '{revision}'",
            "leave the revision out",
        )


def instruction_refused(name: str) -> UsageError | ModelError:
    """Returns the error for an instruction of a reranker that takes none: UsageError for a served one."""
    if not is_served(name):
        return no_instruction(name)
    return UsageError(
        f"{name} is a served model: the server decides on its prompt, and no instruction is sent",
        "leave the instruction out, or set the prompt where the model is served",
    )


def takes_instruction(name: str, revision: str | None = None) -> bool:
    """Returns whether a reranker may take an instruction, by its files; a served one takes none."""
    return not is_served(name) and kinds.takes_instruction(resolve(name, revision).path)
