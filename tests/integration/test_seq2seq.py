"""A server of a tiny T5 with a tokenizer of its own: texts begin anew, prompts are what the encoder reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tests.integration.server import Server

SENTENCES = ["the quick brown fox jumps over the lazy dog", "translate to German: how are you?", "Paris is in France"]
START, EOS = 0, 1


def write(directory: Path) -> Any:
    """The checkpoint, and transformers' own module of it."""
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(SENTENCES * 10, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", EOS)])
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "pad_token": "<pad>"}))
    torch.manual_seed(3)
    config = T5Config(
        vocab_size=tokenizer.get_vocab_size(), d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2,
        relative_attention_max_distance=16, relative_attention_num_buckets=8, initializer_factor=2.0,
        decoder_start_token_id=START, eos_token_id=EOS, pad_token_id=0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).eval()
    model.save_pretrained(directory)
    return model


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Tokenizer]:
    directory = tmp_path_factory.mktemp("t5")
    model = write(directory)
    return directory, model, Tokenizer.from_file(str(directory / "tokenizer.json"))


@pytest.fixture(scope="module")
def t5(reference: tuple[Path, Any, Tokenizer]) -> Iterator[Server]:
    options = ("max_input_length=70", "max_total_tokens=96", "prefix_caching=true", "max_best_of=2")
    with Server(f"model_id={reference[0]}", "dtype=float32", *options) as server:
        yield server


def greedy(reference: tuple[Path, Any, Tokenizer], prompt: str, tokens: int) -> list[int]:
    _, model, tokenizer = reference
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    with torch.no_grad():
        out = model.generate(ids, max_new_tokens=tokens, do_sample=False)
    return [int(id) for id in out[0, 1:]]


def test_texts_and_details_are_those_of_transformers(reference: tuple[Path, Any, Tokenizer], t5: Server) -> None:
    prompts = [*SENTENCES, "fox", SENTENCES[0] + SENTENCES[1]]

    def ask(prompt: str) -> Any:
        return t5.generate(prompt, max_new_tokens=12, details=True, decoder_input_details=True, top_n_tokens=2)

    with ThreadPoolExecutor(len(prompts)) as pool:
        answers = list(pool.map(ask, prompts))
    for prompt, answer in zip(prompts, answers, strict=True):
        details, expected = answer["details"], greedy(reference, prompt, 12)
        assert [token["id"] for token in details["tokens"]] == expected
        assert details["prefill"] == [{"id": START, "text": "<pad>", "logprob": None}]
        assert answer["generated_text"] == reference[2].decode(expected, skip_special_tokens=True)
        shown = "".join(token["text"] for token in details["tokens"] if not token["special"])
        assert shown == answer["generated_text"] and details["generated_tokens"] == len(expected)
        assert all(len(top) >= 2 for top in details["top_tokens"])


def test_the_prompt_counts_and_is_cut_like_any_other(reference: tuple[Path, Any, Tokenizer], t5: Server) -> None:
    tokenizer, prompt = reference[2], SENTENCES[0]
    body = {"inputs": prompt, "parameters": {"max_new_tokens": 4, "truncate": 5, "return_full_text": True}}
    answer = t5.client.post("/generate", json=body)
    assert answer.headers["x-prompt-tokens"] == "5"
    with torch.no_grad():
        ids = torch.tensor([tokenizer.encode(prompt).ids[-5:]])
        cut = reference[1].generate(ids, max_new_tokens=4, do_sample=False)[0, 1:].tolist()
    assert answer.json()["generated_text"] == prompt + tokenizer.decode(cut, skip_special_tokens=True)
    long = {"inputs": " ".join(SENTENCES * 8), "parameters": {"max_new_tokens": 4}}
    assert t5.client.post("/generate", json=long).status_code == 422


def test_streams_best_of_and_penalties(reference: tuple[Path, Any, Tokenizer], t5: Server) -> None:
    body = {"inputs": SENTENCES[1], "parameters": {"max_new_tokens": 8}}
    with t5.client.stream("POST", "/generate_stream", json=body) as stream:
        lines = [line.removeprefix("data:") for line in stream.iter_lines() if line.startswith("data:")]
    events = [json.loads(line) for line in lines]
    assert [event["token"]["id"] for event in events] == greedy(reference, SENTENCES[1], 8)
    both = t5.generate(SENTENCES[2], max_new_tokens=6, best_of=2, do_sample=True, details=True)
    details: Any = both["details"]
    assert len(details["best_of_sequences"]) == 1
    unlike: Any = t5.generate(SENTENCES[2], max_new_tokens=8, repetition_penalty=50.0, details=True)
    ids = [token["id"] for token in unlike["details"]["tokens"]]
    assert len(set(ids)) == len(ids), "only what was generated is penalised, and all of it"


def test_completions_chat_and_info(t5: Server) -> None:
    completion = t5.client.post("/v1/completions", json={"model": "x", "prompt": SENTENCES[0], "max_tokens": 3}).json()
    assert completion["usage"]["prompt_tokens"] > 3 and completion["usage"]["completion_tokens"] <= 3
    chat = {"model": "x", "messages": [{"role": "user", "content": "hello"}]}
    echo = {"model": "x", "prompt": SENTENCES[0], "max_tokens": 0, "echo": True, "logprobs": 1}
    refused = t5.client.post("/v1/completions", json=echo)
    assert refused.status_code == 400 and "has no scores of them" in refused.text
    assert t5.client.post("/v1/chat/completions", json=chat).status_code == 422, "there is no template"
    assert t5.client.get("/info").json()["max_input_length"] == 70
    assert (
        "prefix_caching has no effect with this model: what an encoder reads depends on the whole prompt" in t5.output
    )


@pytest.mark.parametrize(("option", "reason"), [
    ("prefill_chunk_tokens=16", "an encoder reads a prompt whole"),
    ("num_shard=3", "2 attention heads cannot be split over 3 shards; these numbers work: 1 to 2"),
])  # fmt: skip
def test_what_cannot_be_served_is_refused_in_one_line(
    reference: tuple[Path, Any, Tokenizer], option: str, reason: str
) -> None:
    server = Server(f"model_id={reference[0]}", "max_input_length=64", "max_total_tokens=96", option)
    assert server.process.wait(60) == 1
    assert reason in server.output.splitlines()[-1]
    server.client.close()
    server.directory.cleanup()
