"""How fast is training? Pairs per second against a plain SentenceTransformerTrainer.

Both systems load the bundled encoder and train on the same triplets of tldr (query, positive, a random
document) with the same loss (MNR), batch size, steps, learning rate and token limit, without evaluation; the
time is that of the whole call, loading and saving included. The plain trainer has its no-duplicates sampler
and its defaults for all else. --dtype bf16 asks for it for miner, and adds the plain trainer in bf16.

Targets: at least 1.0 x the plain trainer in fp32; on a processor that multiplies bf16 at least 1.5 x in bf16,
of the plain one in fp32 and, harder, of the plain one in bf16.
"""

from __future__ import annotations

import random
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common import TLDR, Goal, alternate, parser, ratios, report, scratch, spread, timed
from corpora import BUNDLED_FOLDER, Beir

from miner.engine.machine import bf16_multiplies
from miner.training.encoder import train_encoder
from miner.training.encoder_config import EncoderConfig
from miner.training.examples import Examples

LEAST = {"fp32": 1.0, "bf16": 1.5}
MAX_LENGTH = 256
RATE = 2e-5


def rows(data: Beir, number: int, seed: int) -> Examples:
    """Returns triplets with random negatives."""
    rng = random.Random(seed)
    drawn = rng.sample(data.judgments, number)
    documents = list(data.documents.values())
    return Examples(
        {
            "anchor": [data.queries[query] for query, _ in drawn],
            "positive": [data.documents[doc] for _, doc in drawn],
            "negative": rng.choices(documents, k=number),
        },
        origin="tldr",
    )


def plain(examples: Examples, out: Path, dtype: str, given: Namespace) -> None:
    """Trains as the library's documentation does it."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.sampler import BatchSamplers
    from sentence_transformers.sentence_transformer import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
        losses,
    )

    model = SentenceTransformer(str(BUNDLED_FOLDER), device="cpu")
    model.max_seq_length = MAX_LENGTH
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(out),
        max_steps=given.steps,
        per_device_train_batch_size=given.batch,
        learning_rate=RATE,
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        bf16=dtype == "bf16",
        use_cpu=True,
        seed=given.seed,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({name: list(column) for name, column in examples.texts.items()}),
        loss=losses.MultipleNegativesRankingLoss(model),
    )
    trainer.train()
    model.save_pretrained(str(out / "model"))


def main() -> None:
    """Reads the arguments, trains in turn, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, default=TLDR, help="BEIR folder [%(default)s]")
    arguments.add_argument("--steps", type=int, default=20, help="[%(default)s]")
    arguments.add_argument("--batch", type=int, default=64, help="rows per batch [%(default)s]")
    arguments.add_argument("--dtype", default="fp32", choices=("fp32", "bf16"), help="[%(default)s]")
    given = arguments.parse_args()
    found = report("training", given, full_size=given.steps >= 20)
    pairs = given.steps * given.batch
    examples = rows(Beir.read(given.data), pairs, given.seed)
    config = EncoderConfig(
        max_steps=given.steps, batch_size=given.batch, learning_rate=RATE, max_length=MAX_LENGTH,
        dtype=given.dtype, seed=given.seed, evaluations=0,
    )  # fmt: skip
    with scratch(given.work) as folder:

        def ours(repeat: int) -> float:
            return timed(lambda: train_encoder(examples, folder / f"m{repeat}", config))

        def theirs(dtype: str, repeat: int) -> float:
            return timed(lambda: plain(examples, folder / f"p-{dtype}-{repeat}", dtype, given))

        systems: dict[str, Callable[[int], float]] = {"miner": ours}
        for dtype in dict.fromkeys(("fp32", given.dtype)):
            systems["plain" if dtype == "fp32" else f"plain {dtype}"] = partial(theirs, dtype)
        seconds = alternate(systems, given.repeats)
    for system, values in seconds.items():
        speeds = spread(pairs / value for value in values)
        found.row(f"{system}: pairs/s", {"pairs_per_second": speeds}, value=speeds["median"])
    note = (
        ""
        if given.dtype == "fp32" or bf16_multiplies()
        else "this processor multiplies no bf16: the target is not for it"
    )
    for system in (name for name in seconds if name != "miner"):
        ratio = ratios(seconds[system], seconds["miner"])
        goal = Goal(f"pairs per second over those of: {system}", ">=", LEAST[given.dtype], " x")
        found.row(f"miner / {system}", {"ratio": ratio}, goal=goal, value=ratio["median"], note=note)
    found.show()


if __name__ == "__main__":
    main()
