"""What Hydra itself answers: `--cfg hydra|all`, `--info`, `--shell-completion`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import hydra
from omegaconf import DictConfig

from tgi_server.config import composition, directory, files, options, typed_parts
from tgi_server.config.arguments import Arguments
from tgi_server.config.describe import MASK

_COMMAND = "text-generation-launcher"
"""What a shell completes; `python -m tgi_server` is no command of its own."""
SETTINGS = [
    "hydra.job.name=tgi_server",
    "hydra.job.chdir=false",
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
]
"""As the server uses Hydra: no folders, no logging of its own."""


def answer(arguments: Arguments) -> None:
    """Print what `arguments.hydra` asks for.

    Raises:
        UsageError: the configuration that is to be shown cannot be composed.
    """
    completion = "--shell-completion" in arguments.hydra
    overrides = [] if completion else [*_checked(arguments), *SETTINGS]
    directory.use(arguments.config_dir)
    flag, value, *_ = arguments.hydra
    flags = [flag, value] if completion or flag == "--cfg" else [f"{flag}={value}"]
    if arguments.resolve:
        flags.append("--resolve")
    with _argv([_COMMAND, *flags, "--config-name", arguments.config_name, *overrides]):
        hydra.main(version_base="1.3", config_path=str(files.directory()), config_name="config")(_task)()


def _task(config: DictConfig) -> None:
    """Hydra wants one; these flags do not run it."""


def _checked(arguments: Arguments) -> list[str]:
    """The overrides of a configuration that was checked as before a start, the secrets in it masked."""
    config = composition.compose(arguments).config
    secrets = {name: value for name, value in options.values(config).items() if options.is_secret(name)}
    overrides = arguments.overrides
    harmless = [override for override in overrides if override.lstrip("+").partition("=")[0] not in secrets]
    masked = [f"{name}='{MASK}'" for name, value in secrets.items() if value is not None]
    return typed_parts.opened([*harmless, *masked])


@contextmanager
def _argv(argv: Sequence[str]) -> Iterator[None]:
    """Hydra reads `sys.argv` only."""
    before, sys.argv = sys.argv, list(argv)
    try:
        yield
    finally:
        sys.argv = before
