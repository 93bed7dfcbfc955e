"""The only way to a model: for the runner, the profiler and the tests alike."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from tgi_server.errors import ModelError
from tgi_server.kernels.row import Needs
from tgi_server.layers.parallel import Group
from tgi_server.models import adapter, tensors
from tgi_server.models.check import check_cuts, reader_of
from tgi_server.models.checkpoint import Checkpoint, Tensors
from tgi_server.models.description import Description
from tgi_server.models.merged import Merged
from tgi_server.models.model import Model
from tgi_server.models.weights import WeightLoader
from tgi_server.quantize.base import QuantizeMethod, marks


def load_model(
    directory: Path, spec: Description, needs: Needs, max_positions: int, quantize: QuantizeMethod | None = None,
    group: Group | None = None, report: Callable[[float], None] = lambda fraction: None,
    adapter_dir: Path | None = None,
) -> Model:  # fmt: skip
    """The model in `directory`, one rank's part of it.

    Args:
        directory: holds safetensors.
        spec: what `families.read_spec` says of it.
        needs: the device, the serving dtype, and what may compute.
        max_positions: longest text it will see.
        quantize: how linear layers keep their weights; as the checkpoint has them by default.
        group: the ranks; one by default.
        report: hears how much is loaded, from 0 to 1.
        adapter_dir: holds an adapter to merge into the weights; see `adapter.read`.

    Raises:
        ModelError: tensors are missing or have the wrong shape.
        ConfigError: the ranks would cut what a quantised checkpoint keeps together.
        UnavailableError: attention of one library is wanted that does not work here.
    """
    group = group or Group()
    reader = reader_of(directory, spec, quantize)
    stored = reader.stored()
    check_cuts(spec, group.world, stored)
    files = Checkpoint(directory, report)
    checkpoint: Tensors = files
    tensors.check(spec, files.infos, stored)
    files.wanted = sum(files.infos[name].bytes for name in tensors.read_by(spec, files.infos, stored)) // group.world
    if marks(stored) and adapter_dir is not None:
        raise ModelError(f"{adapter_dir}: an adapter cannot be merged into weights that are quantised already")
    if adapter_dir is not None:
        changes = adapter.read(adapter_dir, spec)
        spec, checkpoint = changes.spec, Merged(files, changes)
    loader = WeightLoader(checkpoint, spec.prefixes, reader, group, needs)
    module, _, name = spec.builder.partition(":")
    model: Model = getattr(import_module(module), name)(spec, loader, max_positions)
    report(1.0)
    return model
