"""What does each kind of retriever and reranker cost: seconds to encode, to search, to score, and bytes?

Every model has the size of the bundled encoder (6 layers of 384), and its weights where they fit; the other
layers have random weights. So the costs can be compared, and the hits mean nothing. The sparse models keep
256 weights per text, the multi-vector model has token vectors of 128 numbers. Encoding is the time of the
first search less that of a second one, whose vectors are cached; searching includes reading them.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import TLDR, Figures, alternate, parser, report, scratch, spread, timed
from corpora import BUNDLED_FOLDER, new_store

from miner.collection.collection import Collection
from miner.models.names import BUNDLED
from miner.models.reranker import Reranker
from miner.retrieval.bm25 import Bm25
from miner.retrieval.config import Bm25Config, DenseConfig
from miner.retrieval.encoders import encoder_retriever
from miner.store.database import Database

CRANFIELD = TLDR.parent / "cranfield"
WEIGHTS = 256
TOKEN_NUMBERS = 128
SYSTEMS = (
    "bm25",
    "dense",
    "static",
    "sparse",
    "inference-free",
    "multi-vector",
    "multi-vector-fp16",
    "reranker",
)


def models(folder: Path) -> dict[str, str]:
    """Writes a model of each kind; returns their folders, by system."""
    import torch
    from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
    from transformers import (
        AutoTokenizer,
        BertConfig,
        BertForMaskedLM,
        BertForSequenceClassification,
        BertModel,
    )

    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_FOLDER)
    bert = BertModel.from_pretrained(BUNDLED_FOLDER)
    config = BertConfig.from_pretrained(BUNDLED_FOLDER)

    def written(name: str, model: Any) -> str:
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        return str(folder / name)

    masked = BertForMaskedLM(config)
    masked.bert.load_state_dict(bert.state_dict(), strict=False)
    head = BertForSequenceClassification(BertConfig.from_pretrained(BUNDLED_FOLDER, num_labels=1))
    head.bert.load_state_dict(bert.state_dict(), strict=False)
    masked_folder, head_folder = written("masked", masked), written("head", head)

    def splade() -> list[Any]:
        transformer = Transformer(masked_folder, transformer_task="fill-mask", max_seq_length=256)
        return [transformer, SpladePooling("max")]

    words: Any = tokenizer
    table = SparseStaticEmbedding(words, weight=torch.rand(len(tokenizer)))
    late = [
        Transformer(str(BUNDLED_FOLDER), max_seq_length=256),
        Dense(384, TOKEN_NUMBERS, False, torch.nn.Identity(), module_input_name="token_embeddings"),
        MultiVectorMask([]),
        Normalize(module_input_name="token_embeddings"),
    ]
    words = bert.embeddings.word_embeddings.weight.detach().float().numpy()
    made: dict[str, Any] = {
        "static": SentenceTransformer(
            modules=[StaticEmbedding(tokenizer.backend_tokenizer, embedding_weights=words)], device="cpu"
        ),
        "sparse": SparseEncoder(modules=splade(), device="cpu", max_active_dims=WEIGHTS),
        "inference-free": SparseEncoder(
            modules=[Router.for_query_document([table], splade())], device="cpu", max_active_dims=WEIGHTS
        ),
        "multi-vector": MultiVectorEncoder(modules=late, device="cpu"),
        "reranker": CrossEncoder(head_folder, device="cpu", max_length=256),
    }
    for name, model in made.items():
        model.save_pretrained(str(folder / name), create_model_card=False)
    paths = {name: str(folder / name) for name in made}
    return {"dense": BUNDLED, **paths, "multi-vector-fp16": paths["multi-vector"]}


def measure(name: str, model: str, store: Path, given: Namespace) -> dict[str, float]:
    """Returns the costs of one scorer of a fresh store: seconds, and bytes per document."""
    with Database.open(store) as opened:
        collection = Collection.load(opened, given.split, given.queries, given.seed)
        queries = range(collection.queries.num_rows)
        drawn = np.random.default_rng(given.seed)
        pairs = (
            drawn.integers(0, len(queries), given.pairs).astype(np.int32),
            drawn.integers(0, len(collection.documents), given.pairs).astype(np.int32),
        )
        if name == "reranker":
            reranker = Reranker(model)
            texts = (
                [collection.queries["text"][int(one)].as_py() for one in pairs[0]],
                collection.texts_of(pairs[1]).to_pylist(),
            )
            reranker.score(texts[0][:1], texts[1][:1])
            return {"pairs_per_second": given.pairs / timed(lambda: reranker.score(*texts))}

        def opener() -> Any:
            if name == "bm25":
                return Bm25(collection, Bm25Config())
            dtype = "fp16" if name.endswith("fp16") else "fp32"
            settings = DenseConfig(model, token_dtype=dtype)
            return encoder_retriever(opened, collection, settings, name=name)

        def search(retriever: Any) -> float:
            return timed(lambda: retriever.search(queries, given.depth))

        first = search(opener())
        retriever = opener()
        second = search(retriever)
        third = search(retriever)
        scoring = timed(lambda: retriever.score_pairs(*pairs))
        return {
            "encode_seconds": first - second,
            "open_seconds": second - third,
            "search_seconds": third,
            "pairs_per_second": given.pairs / scoring,
            "bytes_per_document": sum(
                one.stat().st_size for one in opened.vectors.rglob("*") if one.is_file()
            )
            / len(collection.documents),
        }


def figures(found: list[dict[str, float]]) -> Figures:
    """Returns the spread of each cost over the repeats."""
    return {cost: spread(one[cost] for one in found) for cost in found[0]}


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, default=CRANFIELD, help="BEIR folder [%(default)s]")
    arguments.add_argument("--split", default="test", help="split of the queries [test]")
    arguments.add_argument("--queries", type=int, help="search this many queries only: a trial")
    arguments.add_argument("--depth", type=int, default=100, help="candidates per query [100]")
    arguments.add_argument("--pairs", type=int, default=1000, help="pairs that are scored [1000]")
    arguments.add_argument(
        "--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="[%(default)s]"
    )
    given = arguments.parse_args()
    found = report("retrievers", given, full_size=given.queries is None)
    with scratch(given.work) as folder:
        known = models(folder / "models")

        def system(name: str) -> Callable[[int], dict[str, float]]:
            def run(repeat: int) -> dict[str, float]:
                store = new_store(folder / f"{name}-{repeat}.duckdb", given.data)
                return measure(name, known.get(name, ""), store, given)

            return run

        for name, costs in alternate({name: system(name) for name in given.systems}, given.repeats).items():
            found.row(name, figures(costs), value=costs[0].get("search_seconds"))
    found.show()


if __name__ == "__main__":
    main()
