"""Medusa heads for the demo model, trained for about a minute on its own greedy answers:

    python -m tests.medusa_training DIRECTORY [own]

writes a checkpoint that can be served; `own` gives each head a projection, else they share the model's head.
"""

from __future__ import annotations

import hashlib
import math
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, silu

from tests.integration import reference
from tests.medusa_heads import write_heads
from tgi_server.config.paths import cache_home

HEADS = 3
TOPICS = [
    "a lighthouse", "the sea", "photosynthesis", "the history of bread", "a lost dog", "electric cars", "the moon",
    "learning to cook", "a city at night", "bees", "mountains", "friendship", "the water cycle", "an old clock",
    "music", "winter", "a train journey", "volcanoes", "healthy food", "the first computer", "a brave mouse",
    "gardens", "the desert", "a good teacher", "whales", "libraries", "a secret door", "the stars", "saving money",
    "a rainy day", "bridges", "football",
]  # fmt: skip
KINDS = [
    "Write a short story about {}.", "Explain {} to a child.", "List five facts about {}.",
    "Write an email that invites people to a talk about {}.",
]  # fmt: skip
TOKENS = 128
"""Of each answer."""
EPOCHS, BATCH, RATE = 16, 256, 2e-3


def question(topic: int, kind: int) -> str:
    """As the demo model was taught to read them."""
    asked = KINDS[kind % len(KINDS)].format(TOPICS[topic % len(TOPICS)])
    return f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"


def learnt() -> list[str]:
    """Some of the questions whose answers were learnt from."""
    return [question(n, n) for n in range(0, len(TOPICS), 5)]


def others() -> list[str]:
    """Others; a minute of training is too short for more than a few right guesses there."""
    return [question(n, n + 1) for n in range(0, len(TOPICS), 5)]


def answers() -> tuple[Tensor, Tensor]:
    """Greedy ones, all at once: the hidden states `[questions, TOKENS, hidden]` and the tokens chosen from them."""
    from transformers import AutoTokenizer, DynamicCache

    model, tokenizer = (
        reference.model(),
        AutoTokenizer.from_pretrained(reference.model_directory(), padding_side="left"),
    )
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    given = tokenizer([question(n, n) for n in range(len(TOPICS))], return_tensors="pt", padding=True)
    ids, mask, past = given.input_ids, given.attention_mask, DynamicCache()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    hidden, tokens = list[Tensor](), list[Tensor]()
    with torch.no_grad():
        for _ in range(TOKENS):
            seen: Any = model.model(ids, attention_mask=mask, position_ids=positions, past_key_values=past)
            hidden.append(seen.last_hidden_state[:, -1])
            tokens.append(model.lm_head(hidden[-1]).argmax(-1))
            ids, positions = tokens[-1][:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
    return torch.stack(hidden, 1), torch.stack(tokens, 1)


def train(hidden: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """The layers of heads that begin as the identity and share the model's head.

    Only tokens that occur are told apart: the whole vocabulary would take thirty times as long.
    """
    torch.manual_seed(0)
    occurring, numbers = torch.unique(tokens, return_inverse=True)
    rows = reference.model().lm_head.weight.detach()[occurring]
    width, last = hidden.shape[-1], TOKENS - HEADS
    inputs = hidden[:, :last].reshape(-1, width)
    wanted = [numbers[:, 1 + n : last + 1 + n].reshape(-1) for n in range(HEADS)]
    layers = [torch.nn.Linear(width, width) for _ in range(HEADS)]
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    for parameter in parameters:
        torch.nn.init.zeros_(parameter)
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    total = EPOCHS * (len(inputs) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / total))
    for _ in range(EPOCHS):
        for chosen in torch.split(torch.randperm(len(inputs)), BATCH)[: len(inputs) // BATCH]:
            x = inputs[chosen]
            loss = torch.stack([
                cross_entropy((x + silu(layer(x))) @ rows.T, right[chosen])
                for layer, right in zip(layers, wanted, strict=True)
            ]).sum()  # fmt: skip
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return {
        f"{n}.0.linear.{name}": parameter.detach()
        for n, layer in enumerate(layers)
        for name, parameter in layer.named_parameters()
    }


@cache
def trained() -> dict[str, Tensor]:
    """The layers of `HEADS` heads; kept in the cache until this file changes."""
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    file = cache_home() / "tgi_server" / "tests" / f"medusa-{digest}.safetensors"
    if not file.is_file():
        made = train(*answers())
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        save_file(made, partial)
        partial.rename(file)
    kept: dict[str, Tensor] = load_file(file)
    return kept


def write_trained(directory: Path, own: bool = False, safe: bool = True) -> Path:
    """A checkpoint of them. Projections of their own are the model's head, from which training would begin."""
    tensors = dict(trained())
    if own:
        head = reference.model().lm_head.weight.detach()
        tensors |= {f"{n}.1.weight": head.clone() for n in range(HEADS)}
    return write_heads(directory, tensors, reference.DEMO, safe)


if __name__ == "__main__":
    write_trained(Path(sys.argv[1]), own="own" in sys.argv[2:])
