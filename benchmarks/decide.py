"""How fast is another margin, once everything is known, against calling the peer again?

tldr, dense candidates, depth 50, 5 negatives. miner decides over the evidence it stored:
`decide_again` in this process, and `miner decide` as a whole process. The peer is called again with
its embeddings in its cache_folder: the call alone, with the model already loaded, and as a whole
process. Each repeat has a margin of its own, so that no run is finished already. Both systems have the
same vectors.

Targets: decide_again at least 80 x as fast as the peer's call, miner decide as a process 20 x.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import (
    TLDR,
    Goal,
    Report,
    alternate,
    miner,
    parser,
    ratios,
    report,
    run_process,
    scratch,
    spread,
    timed,
)
from corpora import BUNDLED_FOLDER, Beir, warm_store
from peer import Texts, fill_cache, load_encoder
from peer import mine as call_peer
from systems import peer

from miner.mining.config import MiningConfig, with_values
from miner.mining.pipeline import decide_again, mine
from miner.store.database import Database
from miner.store.runs import StoredRun

DEPTH = 50
OVER_PEER = Goal("seconds of the peer's call over decide_again's", ">=", 80, " x")
PROCESS = Goal("seconds of the peer's call over those of the process miner decide", ">=", 20, " x")
CONFIG = MiningConfig(depth=DEPTH, bm25=False, encoder="bundled")

System = Callable[[int], float]


def margin(repeat: int, offset: float = 0.0) -> float:
    """Returns a margin that no other repeat has."""
    return round(0.06 + offset + repeat / 1000, 6)


def decided(path: Path, run: StoredRun) -> System:
    """Returns the system that calls `decide_again` on an open store."""

    def system(repeat: int) -> float:
        """Decides with this repeat's margin."""
        config = with_values(CONFIG, {"relative_margin": margin(repeat)})
        with Database.open(path) as store:
            return timed(lambda: decide_again(store, run, config))

    return system


def decided_by_process(path: Path, run: StoredRun) -> System:
    """Returns the system that runs `miner decide`."""

    def system(repeat: int) -> float:
        """Decides with a margin of its own."""
        wanted = str(margin(repeat, offset=0.0005))
        return run_process(miner("decide", path, "--run", run.name, "--relative-margin", wanted)).seconds

    return system


def called(texts: Texts, model: Any, cache: Path) -> System:
    """Returns the system that calls the peer with its embeddings cached."""

    def system(repeat: int) -> float:
        """Calls with this repeat's margin."""
        settings = {"range_max": DEPTH, "relative_margin": margin(repeat), "cache_folder": str(cache)}
        return timed(lambda: call_peer(texts, model, **settings))

    return system


def called_by_process(data: Path, cache: Path) -> System:
    """Returns the system that runs the peer as a process with its embeddings cached."""

    def system(repeat: int) -> float:
        """Runs it with this repeat's margin."""
        wanted = str(margin(repeat))
        return peer(data, DEPTH, "--cache", cache, "--relative-margin", wanted).took.seconds

    return system


def add_rows(found: Report, seconds: dict[str, list[float]], about: dict[str, Any]) -> None:
    """Adds a row per system and the ratios."""
    most = about["most_positives_of_a_query_text"]
    note = f"the peer searches again, range_max + {most} = {DEPTH + most} neighbours of each query"
    for name, values in seconds.items():
        figures = {"seconds": spread(values)}
        found.row(f"{name}: seconds", figures, value=figures["seconds"]["median"], note=note, **about)
    pairs = (
        ("peer call", "decide_again", OVER_PEER),
        ("peer call", "miner decide", PROCESS),
        ("peer process", "miner decide", None),
    )
    for theirs, ours, goal in pairs:
        ratio = ratios(seconds[theirs], seconds[ours])
        found.row(
            f"{theirs} / {ours}", {"ratio": ratio}, goal=goal, value=ratio["median"], note=note, **about
        )


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, default=TLDR, help="BEIR folder [%(default)s]")
    arguments.add_argument("--fraction", type=float, default=1.0, help="share of the data: a trial [1]")
    arguments.add_argument("--single-positive", action="store_true", help="queries with one positive only")
    given = arguments.parse_args()
    found = report("decide", given, full_size=given.fraction >= 1)
    with scratch(given.work) as folder:
        data = Beir.read(given.data)
        data = (data.single_positive() if given.single_positive else data).fraction(
            given.fraction, given.seed
        )
        written = data.write(folder / "data")
        path, vectors = warm_store(given.work / f"warm-{given.data.name}.duckdb", written, data)
        texts, model = Texts.read(written), load_encoder(str(BUNDLED_FOLDER), "fp32")
        rows = vectors.of("query", texts.distinct_queries), vectors.of("document", texts.distinct_corpus)
        fill_cache(folder / "cache", model, texts, rows)
        with Database.open(path) as store:
            run = mine(store, CONFIG)
        systems = {
            "decide_again": decided(path, run),
            "peer call": called(texts, model, folder / "cache"),
            "miner decide": decided_by_process(path, run),
            "peer process": called_by_process(written, folder / "cache"),
        }
        add_rows(found, alternate(systems, given.repeats), data.sizes())
    found.show()


if __name__ == "__main__":
    main()
