"""How much CPU time does it save to compute a cross-encoder's last layer for the first token only?

Two cross-encoders with drawn weights: of the size of MiniLM-L6 (6 layers of 384, what `miner train-reranker`
starts from) and of BERT-base (12 layers of 768). Each scores the same pairs of drawn words as `miner mine
--reranker` does, with one thread in fp32, once with its last layer as it was loaded and once shortened, in
turn. It measures the CPU time of the process without tokenizing. The share saved is 1 - shortened / whole in
each repeat, with a 95 % bootstrap interval of the mean.

Target: at least 10 % saved by the smaller model; otherwise models/first_token.py is not worth its lines.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import Figures, Goal, Report, alternate, parser, report, scratch, spread
from corpora import BUNDLED_FOLDER

from miner.engine.progress import SILENT
from miner.models.first_token import FirstTokenLayer
from miner.models.pairs import PairTokenizer, PairTokens
from miner.models.reranker import PairScorer
from miner.stats import bootstrap_interval

SAVED = Goal("CPU time saved, 6 layers of 384", ">=", 0.1)
SIZES = {"6 layers of 384": (6, 384), "12 layers of 768": (12, 768)}
LENGTHS = {"50 tokens": (8, 39), "140 tokens": (12, 125)}
"""Words of the query and of the document; three more tokens of a pair are special ones."""


def cross_encoder(folder: Path, layers: int, width: int, seed: int) -> PairScorer:
    """Writes a BERT with one score and drawn weights, with the bundled tokenizer; returns it loaded."""
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(str(BUNDLED_FOLDER))
    shape = BertConfig(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers, num_attention_heads=12,
        intermediate_size=4 * width, max_position_embeddings=512,
    )  # fmt: skip
    shape.num_labels = 1
    BertForSequenceClassification(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return PairScorer(CrossEncoder(str(folder), device="cpu", local_files_only=True), "fp32")


def drawn_pairs(number: int, words: tuple[int, int], seed: int) -> PairTokens:
    """Returns tokenised pairs of so many drawn words in the query and the document, each word one token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(BUNDLED_FOLDER))
    known = sorted(word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha())
    random = np.random.default_rng(seed)
    queries, documents = ([" ".join(random.choice(known, size)) for _ in range(number)] for size in words)
    return PairTokenizer(tokenizer, 512).pairs(queries, documents)


def layers_of(scorer: PairScorer) -> Any:
    """Returns the layers of the model."""
    return scorer._model[0].model.bert.encoder.layer


def cpu_seconds(scorer: PairScorer, tokens: PairTokens, last: object, _: int) -> float:
    """Returns the CPU seconds of scoring the pairs with `last` as the model's last layer."""
    layers_of(scorer)[-1] = last
    started = time.process_time()
    scorer._score_by_length(tokens, 1, SILENT)
    return time.process_time() - started


def measure(found: Report, folder: Path, given: Namespace) -> None:
    """Adds a row per model and length of the pairs."""
    for size, (layers, width) in SIZES.items():
        scorer = cross_encoder(folder / size, layers, width, given.seed)
        shortened = layers_of(scorer)[-1]
        assert isinstance(shortened, FirstTokenLayer)
        pairs = max(1, given.pairs * 6 * 384 * 384 // (layers * width * width))
        for length, words in LENGTHS.items():
            tokens = drawn_pairs(pairs, words, given.seed)
            systems: dict[str, Callable[[int], float]] = {
                f"{size}, {length}: whole": partial(cpu_seconds, scorer, tokens, shortened.layer),
                f"{size}, {length}: shortened": partial(cpu_seconds, scorer, tokens, shortened),
            }
            for system in systems.values():
                system(0)  # to warm up
            whole, short = alternate(systems, given.repeats).values()
            figures = saved(whole, short)
            goal = SAVED if size == next(iter(SIZES)) else None
            found.row(
                f"{size}, pairs of {length}: CPU time saved",
                figures,
                goal=goal,
                value=figures["saved"],
                pairs=pairs,
            )


def saved(whole: list[float], short: list[float]) -> Figures:
    """Returns the mean share of the CPU time that is saved, with its interval over the repeats."""
    shares = 1 - np.array(short) / np.array(whole)
    return {
        "saved": float(shares.mean()),
        "interval": list(bootstrap_interval(shares)),
        "whole_seconds": spread(whole),
        "shortened_seconds": spread(short),
    }


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.set_defaults(repeats=20)
    arguments.add_argument("--pairs", type=int, default=32, help="pairs that the smaller model scores [32]")
    given = arguments.parse_args()
    found = report("first_token", given, full_size=given.pairs >= 32, least=20)
    with scratch(given.work) as folder:
        measure(found, folder, given)
    found.show()


if __name__ == "__main__":
    main()
