"""The quantisation methods, one file each, and which of them a checkpoint asks for. Stdlib only.

A method is found by being here; nothing else names it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache

from tgi_server import quantize
from tgi_server.errors import ModelError
from tgi_server.quantize.base import QuantizeMethod
from tgi_server.quantize.settings import Settings


@cache
def methods() -> tuple[type[QuantizeMethod], ...]:
    """The classes that have what a method needs."""
    return tuple(_methods())


def _methods() -> Iterator[type[QuantizeMethod]]:
    for module in pkgutil.iter_modules(quantize.__path__):
        own = importlib.import_module(f"{quantize.__name__}.{module.name}")
        for kind in vars(own).values():
            if isinstance(kind, type) and kind.__module__ == own.__name__ and _is_method(kind):
                yield kind


def _is_method(kind: type) -> bool:
    return all(hasattr(kind, name) for name in ("reader", "reads")) and not getattr(kind, "_is_protocol", False)


def asked_for(settings: Settings) -> type[QuantizeMethod]:
    """The method that reads a checkpoint which says this of itself; raises ModelError where there is none."""
    for kind in methods():
        if kind.reads(settings):
            return kind
    raise ModelError(
        f"{settings.place}: checkpoints quantised by {settings.method!r} are not served (docs/quantisation.md)"
    )
