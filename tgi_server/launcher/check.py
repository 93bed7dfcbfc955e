"""Checks between options, and what follows from options and machine. Nothing slow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tgi_server.config.schema import ModelOptions, ServerConfig
from tgi_server.errors import ConfigError


def options(config: ServerConfig) -> None:
    """Raises ConfigError that tells all problems at once, each with a value that works."""
    problems = [*_budget_problems(config), *_missing_files(config), *_forced_dtype(config)]
    if problems:
        raise ConfigError("; ".join(problems))


def _forced_dtype(config: ServerConfig) -> Iterator[str]:
    """Quantised layers come with a type of their own for what is not quantised."""
    if config.dtype is not None and config.quantize != ServerConfig().quantize:
        yield f"dtype={config.dtype.name} cannot be used with quantize: leave one of the two out"


def _missing_files(config: ModelOptions) -> Iterator[str]:
    """Files that nothing opens before the model is loaded."""
    path = config.tokenizer_config_path
    if path is not None and not Path(path).is_file():
        yield f"tokenizer_config_path={path}: there is no such file"


def _budget_problems(config: ServerConfig) -> Iterator[str]:
    """Budgets that contradict each other, or that no request or step could ever use."""
    longest, total = config.max_input_length, config.max_total_tokens
    prefill, cache = config.max_batch_prefill_tokens, config.max_batch_total_tokens
    if longest >= total:
        yield (
            f"max_input_length={longest} leaves no room for an answer within max_total_tokens={total}: "
            f"set max_input_length to at most {total - 1}"
        )
    if longest > prefill and config.prefill_chunk_tokens is None:
        yield (
            f"max_batch_prefill_tokens={prefill} is less than one prompt of max_input_length={longest}: "
            f"set max_batch_prefill_tokens to at least {longest}"
        )
    if cache is not None and prefill > cache:
        yield (
            f"max_batch_prefill_tokens={prefill} is more than max_batch_total_tokens={cache}: "
            f"set max_batch_prefill_tokens to at most {cache}"
        )
    if cache is not None and total > cache:
        yield (
            f"max_total_tokens={total} is more than max_batch_total_tokens={cache}: "
            f"set max_batch_total_tokens to at least {total}"
        )


def number_of_shards(config: ServerConfig, accelerators: int) -> int:
    """Shard processes to start; raises ConfigError when they are more than the machine can give a device each.

    Args:
        config: `num_shard` decides where it is set; without accelerators any number works.
        accelerators: visible devices.
    """
    wanted = config.num_shard or max(1, accelerators)
    if 0 < accelerators < wanted:
        raise ConfigError(f"num_shard={wanted}: only {accelerators} accelerator(s) visible")
    if wanted > 1 and config.master_port == config.port:
        raise ConfigError(f"master_port={config.master_port}: the server's own port; set another master_port")
    return wanted
