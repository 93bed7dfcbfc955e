"""The router on a real engine and a real tokenizer, with fake shards: for the unit and the integration tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from quart import Quart
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tgi_server.config.schema import Resolved, ServerConfig
from tgi_server.engine.engine import Engine
from tgi_server.router.app import create_app
from tgi_server.router.chat.template import ChatTemplate
from tgi_server.rpc.fake import FAKE_INFO, FakeShards
from tgi_server.telemetry.metrics import Metrics
from tgi_server.types import CacheKind, GroupInfo, NewSequence

EOS = "<|end|>"
SENTENCES = ["the quick brown fox", "Paris is the capital of France", "été à Zürich"]
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'critic' %}{{ raise_exception('no critics here') }}{% endif %}"
    "[{{ message['role'] }}]{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def make_tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer that any text survives."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 9, trainer)
    return tokenizer


TOKENIZER = make_tokenizer()
EOS_ID = TOKENIZER.encode(EOS).ids[0]


@dataclass
class Router:
    """A started router and its parts."""

    app: Quart
    engine: Engine
    shards: FakeShards
    metrics: Metrics

    def metric(self, line: str) -> float:
        """The value of the series that is written as `line`; 0 before its first update."""
        for text in self.metrics.render().splitlines():
            if text.startswith(f"{line} "):
                return float(text.rsplit(" ", 1)[1])
        return 0.0


def says(text: str, then_eos: bool = True) -> Callable[[NewSequence, int], int]:
    """A model that generates `text`, then its end-of-sequence token for ever (or `text` again)."""
    return says_ids(TOKENIZER.encode(text).ids + ([EOS_ID] if then_eos else []))


def says_ids(ids: Sequence[int]) -> Callable[[NewSequence, int], int]:
    """A model that generates `ids` over and over."""
    return lambda new, position: ids[(position - len(new.prompt_ids)) % len(ids)]


def endless(new: NewSequence, position: int) -> int:
    """A model that mixes seed, prompt and position, and never ends by itself."""
    return 1 + (new.sampling.seed + sum(new.prompt_ids) + position * 13) % (TOKENIZER.get_vocab_size() - 1)


@asynccontextmanager
async def started(
    choose: Callable[[NewSequence, int], int] = endless,
    step_seconds: float = 0.0,
    template: str | None = TEMPLATE,
    num_blocks: int = 4096,
    resolved: Resolved | None = None,
    unguided: str | None = None,
    tokenizer: Tokenizer | None = None,
    draft_width: int = 0,
    **options: Any,
) -> AsyncIterator[Router]:
    """A router on fake shards; `options` are options of the server."""
    config, tokenizer = ServerConfig(**options), tokenizer or TOKENIZER
    info = replace(
        FAKE_INFO,
        dtype="torch.float32",
        vocab_size=tokenizer.get_vocab_size(),
        eos_token_ids=[EOS_ID],
        groups=[GroupInfo(CacheKind.FULL, None, num_blocks)],
        unguided=unguided,
        draft_width=draft_width,
    )
    shards = FakeShards(info, step_seconds, choose)
    metrics = Metrics(config.max_input_length, config.max_total_tokens)
    engine = Engine(shards, config, tokenizer, metrics)
    await engine.start()
    chat_template = ChatTemplate(template, {"eos_token": EOS}) if template is not None else None
    app = create_app(config, resolved or Resolved(), engine, tokenizer, chat_template, metrics)
    try:
        yield Router(app, engine, shards, metrics)
    finally:
        await engine.stop()
