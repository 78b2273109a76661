"""Files of users of other tools, for the pages that name them: candidates, vectors, rows, collections."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")


def bring_your_own(folder: Path, documents: dict[str, str], queries: dict[str, str]) -> None:
    """Writes candidates and vectors of the texts, and sets with scores, as other tools would."""
    rng = np.random.default_rng(1)
    scores = {query: dict(zip(documents, rng.random(len(documents)), strict=True)) for query in queries}
    ranked = {query: sorted(row, key=lambda doc: -row[doc])[:20] for query, row in scores.items()}
    pairs = [(q, d, rank, scores[q][d]) for q, found in ranked.items() for rank, d in enumerate(found, 1)]
    rows = [
        {"query": f"{query} please", "pos": [f"{texts[0]} indeed"], "neg": texts[1:4],
         "pos_scores": [0.9], "neg_scores": [0.3, 0.2, 0.1]}
        for query, texts in ((queries[q], [documents[d] for d in found]) for q, found in ranked.items())
    ]  # fmt: skip
    write(
        folder,
        {
            "bm25.trec": "\n".join(f"{q} Q0 {d} {rank} {score} bm25" for q, d, rank, score in pairs),
            "es.trec": "\n".join(f"{q} Q0 {d} {rank} {score} es" for q, d, rank, score in pairs),
            "splade.csv": "qid,docid,score\n" + "\n".join(f"{q},{d},{score}" for q, d, _, score in pairs),
            "scored.jsonl": "\n".join(map(json.dumps, rows)),
            **other_tools(queries, documents),
            "my-vectors/documents.ids.txt": "\n".join(documents),
            "my-vectors/queries.ids.txt": "\n".join(queries),
        },
    )
    for role, texts in (("documents", documents), ("queries", queries)):
        np.save(folder / "my-vectors" / f"{role}.npy", rng.normal(size=(len(texts), 16)))
    numbers = {doc: number for number, doc in enumerate(documents)}
    lists = {
        "queries": {"query_id": range(len(queries)), "query": list(queries.values())},
        "documents": {"document_id": range(len(documents)), "document": list(documents.values())},
        "scores": {
            "query_id": range(len(queries)),
            "document_ids": [[numbers[doc] for doc in found] for found in ranked.values()],
            "scores": [[scores[query][doc] for doc in found] for query, found in ranked.items()],
        },
    }
    for name, columns in lists.items():
        (folder / "scored-set" / name).mkdir(parents=True)
        pq.write_table(pa.table(columns), folder / "scored-set" / name / "fiqa-00000-of-00001.parquet")


def other_tools(queries: dict[str, str], documents: dict[str, str]) -> dict[str, str]:
    """Returns files as Tevatron and DPR have them."""
    passages = [{"docid": i, "title": "", "text": text} for i, text in documents.items()]
    ctxs = [{"title": "", "text": one["text"], "passage_id": one["docid"]} for one in passages]
    question = {"question": "who knows", "answers": ["nobody"]}
    found = [{**ctx, "score": 2 - i, "has_answer": i == 0} for i, ctx in enumerate(ctxs[:2])]
    query = {"query_id": "q0", "query": queries["q0"]}
    ids = {"positive_document_ids": ["d0-0"], "negative_document_ids": ["d1-0"]}
    lists = {"positive_passages": passages[:1], "negative_passages": passages[1:2]}
    mined = {"query": queries["q0"], "pos": [documents["d0-0"]], "neg": [documents["d0-1"]]}
    return {
        "mined.jsonl": json.dumps(mined),
        "pool.jsonl": "\n".join(json.dumps({"text": text}) for text in documents.values()),
        "run.txt": "q0\td0-0\t0.9\nq0\td1-0\t0.8",
        "passages.jsonl": json.dumps(query | lists),
        "docids.jsonl": "\n".join(map(json.dumps, passages)),
        "tevatron-ids.jsonl": json.dumps({"query_id": "q0", "query_text": queries["q0"], **ids}),
        "nq-train.json": json.dumps(
            [{**question, "positive_ctxs": ctxs[:1], "negative_ctxs": [], "hard_negative_ctxs": ctxs[1:2]}]
        ),
        "nq-output.json": json.dumps([{**question, "ctxs": found}]),
    }


def collections(folder: Path, pairs: list[tuple[str, str]]) -> None:
    """Writes collections, judgments and labels in the layouts of docs/sources.md."""
    for name in ("collection.tsv", "queries.train.tsv", "qrels.train.tsv"):
        write(folder, {f"msmarco/{name}": (folder / name).read_text("utf-8")})
    triples = "".join(f"{2000 + i}\t{1000 + i}\t{1000 + (i + 5) % 20}\n" for i in range(20))
    runs = "1 Q0 101 1 12.5 bm25\n2 Q0 104 1 9.5 bm25\n"
    for name, text in (
        ("qidpidtriples.train.full.2.tsv.gz", triples),
        ("msmarco-doctrain-top100.gz", runs),
    ):
        (folder / name).write_bytes(gzip.compress(text.encode()))
    texts = {
        "corpus": [{"_id": f"s{i}", "text": f"{d} as a claim"} for i, (_, d) in enumerate(pairs)],
        "queries": [{"_id": f"sq{i}", "text": f"{q} as claimed"} for i, (q, _) in enumerate(pairs)],
        "qrels": [{"query-id": f"sq{i}", "corpus-id": f"s{i}", "score": 1} for i in range(len(pairs))],
    }
    contents = [{"id": f"PLAIN-{i}", "contents": f"{d} plainly"} for i, (_, d) in enumerate(pairs)]
    labels = ("entailment", "neutral", "contradiction")
    nli = [
        {"gold_label": labels[i % 2], "sentence1": f"{q} or so", "sentence2": d}
        for i, (q, d) in enumerate(pairs)
    ]
    tasks = [
        {
            "data": {"query": f"{q} again", "passage": d},
            "annotations": [
                {"result": [{"from_name": "relevance", "type": "choices", "value": {"choices": [answer]}}]}
            ],
        }
        for (q, d), answer in zip(pairs, ["relevant", "not relevant"] * 50, strict=False)
    ]
    write(
        folder,
        {
            **{
                f"scifact/{name}/test.jsonl": "\n".join(map(json.dumps, rows)) for name, rows in texts.items()
            },
            "collection/docs.jsonl": "\n".join(map(json.dumps, contents)),
            "topics.dl19-passage.tsv": "\n".join(
                f"{3000 + i}\t{q} plainly" for i, (q, _) in enumerate(pairs)
            ),
            "qrels.dl19-passage.txt": "\n".join(f"{3000 + i} 0 PLAIN-{i} 1" for i in range(len(pairs))),
            "triples.train.small.tsv": "\n".join(f"{q} at last\t{d}\tno {d}" for q, d in pairs),
            "log.tsv": "\n".join(f"{q} at all\t{d}\tno {d}" for q, d in pairs),
            "answers.tsv": "\n".join(f"{4000 + i}\t{d} as an answer" for i, (_, d) in enumerate(pairs)),
            "verdicts.csv": "question,answer,verdict\n"
            + "\n".join(f'{q} now,"{d}",{("good", "fair", "poor")[i % 3]}' for i, (q, d) in enumerate(pairs)),
            "snli_1.0_train.jsonl": "\n".join(map(json.dumps, nli)),
            "project-7.json": json.dumps(tasks),
        },
    )
