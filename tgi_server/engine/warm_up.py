"""The largest prefill that the options allow, run once before anybody asks for it.

On an accelerator the memory of a step is taken when it runs: one that does not fit has to stop the start, not fail
requests later. Processors take theirs from what the system has, which says nothing of what it will have.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Protocol

from tgi_server.config.schema import BatchingOptions
from tgi_server.errors import ConfigError, GenerationError, ValidationError
from tgi_server.types import GenerationRequest, SamplingParams, ShardInfo, StoppingParams

log = logging.getLogger(__name__)


class Reader(Protocol):
    """What is generated."""

    async def drain(self) -> Sequence[object]:
        """See `Generation`."""
        ...


def worst_prompts(options: BatchingOptions, info: ShardInfo) -> list[int]:
    """The lengths of prompts that fill the largest step together; none where that is not to be tried.

    A step takes prompts until its tokens are enough (`efficient_tokens`), so the last one may be a long one.
    """
    if info.device_type == "cpu":
        return []
    longest = min(options.max_input_length, options.max_total_tokens - 1)
    most = options.prefill_chunk_tokens
    if most is None:
        most = min(options.max_batch_prefill_tokens, info.efficient_tokens - 1 + longest)
    last = min(longest, most)
    whole, part = divmod(most - last, longest)
    prompts = [*[longest] * whole, *[part] * (part > 0), last]
    return prompts[-min(options.max_concurrent_requests, options.max_batch_size or len(prompts)) :]


async def warm_up(
    options: BatchingOptions,
    info: ShardInfo,
    generate: Callable[[GenerationRequest], AbstractAsyncContextManager[Reader]],
    repeated: Callable[[], str | None],
) -> None:
    """Run it, with the scores of all prompt tokens. Raises ConfigError where it does not fit.

    Args:
        repeated: says why a step failed that was tried again in parts, where one was: that did not fit, either.
    """
    prompts = worst_prompts(options, info)
    if not prompts:
        return
    started = time.monotonic()
    scored = SamplingParams(prompt_logprobs=info.start_token_id is None)  # and not kept for others who begin alike
    ends = StoppingParams(max_new_tokens=1, ignore_eos=True)
    tokens = sum(prompts)
    try:
        async with AsyncExitStack() as running:
            requests = [GenerationRequest(prompt_ids=[0] * n, sampling=scored, stopping=ends) for n in prompts]
            readers = [await running.enter_async_context(generate(request)) for request in requests]
            await asyncio.gather(*(reader.drain() for reader in readers))
        if (reason := repeated()) is not None:
            raise GenerationError(reason)
    except (GenerationError, ValidationError) as error:
        budget = "max_batch_prefill_tokens" if options.prefill_chunk_tokens is None else "prefill_chunk_tokens"
        raise ConfigError(
            f"{budget}={getattr(options, budget)}: a step of {tokens} prompt tokens fails: {error}; a smaller number, "
            "or a smaller cuda_memory_fraction for the caches, leaves it more memory"
        ) from error
    log.info("a step of %d prompt tokens took %.2f s", tokens, time.monotonic() - started)
