"""`--multirun` with a sweeper or launcher of Hydra's: they choose the points; each is composed as one of ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from tgi_server.config import directory, files, load, typed_parts
from tgi_server.config.arguments import Arguments
from tgi_server.config.hydra_flags import SETTINGS
from tgi_server.errors import UsageError


def run(arguments: Arguments, place: Path, loss: Callable[[Arguments], float]) -> None:
    """Have the plugins of `arguments.plugins` choose among the values that overrides hold, for the least loss.

    Args:
        place: a directory for what the plugins write.
        loss: of one configuration, given as arguments without several values. Launchers may call a copy of it in
            another process.

    Raises:
        UsageError: there is no such plugin, or it cannot be set up so.
    """
    fixed, swept = load.parted(arguments)
    base = replace(arguments, overrides=fixed, plugins=[], multirun=False)
    overrides = [
        *typed_parts.opened(swept), *SETTINGS, f"hydra.sweep.dir='{place}'", "hydra.sweep.subdir=.", *arguments.plugins,
    ]  # fmt: skip
    directory.use(arguments.config_dir)
    try:
        search_path = create_config_search_path(str(files.directory()))
        hydra = Hydra.create_main_hydra2("tgi_server", search_path)
        GlobalHydra.instance().clear()  # each point is composed by a Hydra of its own
        hydra.multirun(arguments.config_name, _Point(base, loss), overrides, with_log_configuration=False)
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(" ".join(str(error).split())) from error


@dataclass(frozen=True)
class _Point:
    """Hydra's task: the values that were chosen, on top of what was fixed."""

    base: Arguments
    loss: Callable[[Arguments], float]

    def __call__(self, config: DictConfig) -> Any:
        chosen = [each for each in HydraConfig.get().overrides.task if not each.startswith("hydra")]
        plain = [override.removeprefix("++") for override in chosen]
        return self.loss(replace(self.base, overrides=[*self.base.overrides, *plain]))
