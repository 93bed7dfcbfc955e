"""Checkpoints that are served on top of another model, which they name: an adapter of its weights, or heads that guess
for it. Stdlib only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tgi_server.errors import ModelError
from tgi_server.models import adapter, adapter_config, medusa
from tgi_server.models.check import settings_of
from tgi_server.models.description import Description


@dataclass(frozen=True)
class Kind:
    """One kind of such a checkpoint.

    Attributes:
        name: the attribute of `origin.Model` that tells where it is.
        title, one: for people; the latter with an article.
        config: the file that names the model.
        weights: the file of its tensors.
        pickle: the same as torch saves it, to be converted.
        is_here: whether a directory holds such a thing instead of a model.
        base: the id of the model and its revision, by a directory that holds one; raises ModelError where it is of no
            use.
    """

    name: Literal["adapter", "heads"]
    title: str
    one: str
    config: str
    weights: str
    pickle: str
    is_here: Callable[[Path], bool]
    base: Callable[[Path], tuple[str, str | None]]


KINDS = (
    Kind(
        "adapter", "adapter", "an adapter", adapter_config.CONFIG, adapter_config.WEIGHTS, adapter_config.PICKLE,
        adapter_config.is_adapter, adapter_config.base,
    ),
    Kind(
        "heads", "Medusa heads", "Medusa heads", medusa.CONFIG, medusa.WEIGHTS, medusa.PICKLE,
        medusa.is_alone, medusa.base,
    ),
)  # fmt: skip


def kind_of(directory: Path) -> Kind | None:
    """What a directory holds; None for a model."""
    return next((kind for kind in KINDS if kind.is_here(directory)), None)


def with_adapter(changes: Path, directory: Path, spec: Description) -> Description:
    """The model in a directory as the adapter in `changes` makes it.

    Raises ModelError where it cannot be merged into it, FitError where it is not for it.
    """
    if (said := settings_of(directory, spec)) is not None:
        raise ModelError(
            f"it is quantised already by {said.method} ({said.place}), and an adapter is merged into float weights; "
            f"name a base model that is not quantised in base_model_name_or_path of {adapter_config.CONFIG}"
        )
    known = next(spec.tensors(), None) is not None  # else they are once the files are there
    return adapter.read(changes, spec).spec if known else spec
