"""Who computes an operation best here. The only judge of what this machine's devices and processors can do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, get_args

import torch

from tgi_server.kernels import flash, plain
from tgi_server.kernels.native import rows as native
from tgi_server.kernels.native.build import NativeError, library
from tgi_server.kernels.row import Kernel, Needs, Operation, Recorder
from tgi_server.kernels.triton import rows as triton

log = logging.getLogger(__name__)

TABLE: list[Kernel] = [*flash.ROWS, *triton.ROWS, *native.ROWS, *plain.ROWS]
"""In order of preference."""
OLDEST_GPU = (8, 0)
"""Compute capability from which on bfloat16, float16 and float32 can be multiplied by tensor cores."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What computes an operation, and why not what would have been preferred."""

    operation: Operation
    library: str
    run: Callable[..., Any]
    recorder: Recorder | None
    detail: str | None
    passed_over: Mapping[str, list[str]]
    streams: bool = False

    def __str__(self) -> str:
        """One line for a log."""
        others = "; ".join(f"not {name}: {', '.join(reasons)}" for name, reasons in self.passed_over.items())
        told = [text for text in (self.detail, others) if text]
        return f"{self.operation}: {self.library}" + (f" ({'; '.join(told)})" if told else "")


class UnavailableError(Exception):
    """Nothing that was asked for can compute an operation; the text says why."""


@lru_cache(maxsize=256)
def best(operation: Operation, needs: Needs) -> Choice:
    """The first row of the table that nothing speaks against. Raises UnavailableError when each has a reason.

    torch's own rows have none, so that only a wish for one library (`needs.library`) can fail.
    """
    passed_over: dict[str, list[str]] = {}
    for kernel in TABLE:
        if kernel.operation != operation:
            continue
        if operation == "attention" and needs.library not in (None, kernel.library):
            continue
        if reasons := _LIBRARIES[kernel.library](needs) + kernel.unsupported(needs):
            passed_over[kernel.library] = reasons
        else:
            detail = kernel.detail() if kernel.detail else None
            run = kernel.load()
            return Choice(operation, kernel.library, run, kernel.recorder, detail, passed_over, kernel.streams)
    wanted = passed_over.get(needs.library or "", ["there is no such library"])
    raise UnavailableError("; ".join(wanted))


def every(needs: Needs) -> Iterator[Choice]:
    """The best of each operation."""
    return (best(operation, needs) for operation in get_args(Operation))


def report(needs: Needs) -> Iterator[str]:
    """A line on who computes each operation, and why not others."""
    for operation in get_args(Operation):
        try:
            yield str(best(operation, needs))
        except UnavailableError as error:
            yield f"{operation}: none, as {needs.library} was asked for: {error}"


def libraries(operation: Operation) -> list[str]:
    """Who could compute it, in order of preference."""
    return [kernel.library for kernel in TABLE if kernel.operation == operation]


def _native(needs: Needs) -> list[str]:
    """The compiled kernels for CPUs."""
    if needs.plain:
        return [_PLAIN]
    if needs.device.type != "cpu":
        return ["it is for CPUs"]
    if needs.dtype not in (torch.float32, torch.bfloat16):
        return [f"it computes in float32 and bfloat16, not {_name(needs.dtype)}"]
    try:
        library()
    except NativeError as error:
        return [str(error)]
    return []


def _triton(needs: Needs) -> list[str]:
    """The Triton kernels. On a CPU its interpreter could run them, but that is made for tests."""
    if needs.plain:
        return [_PLAIN]
    if needs.device.type != "cuda":
        return ["it needs a GPU"]
    if find_spec("triton") is None:
        return ["the package triton is not installed"]
    capability = torch.cuda.get_device_capability(needs.device)
    if capability < OLDEST_GPU:
        have, need = (".".join(map(str, version)) for version in (capability, OLDEST_GPU))
        return [f"it needs compute capability {need}; this GPU has {have}"]
    return []


def _flash_attn(needs: Needs) -> list[str]:
    """The package flash_attn, for prompts; everything else goes through the Triton kernels."""
    reasons = [] if find_spec("flash_attn") else ["the package flash_attn is not installed"]
    if needs.dtype not in (torch.float16, torch.bfloat16):
        reasons.append(f"it computes in float16 and bfloat16, not {_name(needs.dtype)}")
    return reasons + _triton(needs)


def _onednn(needs: Needs) -> list[str]:
    if needs.plain:
        return [_PLAIN]
    if needs.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return ["torch has it for CPUs only, if at all"]
    if needs.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return ["this processor does not multiply bfloat16"]
    return [] if needs.dtype in (torch.float32, torch.bfloat16) else [f"not in {_name(needs.dtype)}"]


def _cublas(needs: Needs) -> list[str]:
    return [] if needs.device.type == "cuda" else ["it needs a GPU"]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


_PLAIN = "disable_custom_kernels=true"
_LIBRARIES: dict[str, Callable[[Needs], list[str]]] = {
    "flash_attn": _flash_attn,
    "triton": _triton,
    "native": _native,
    "onednn": _onednn,
    "cublas": _cublas,
    "torch": lambda needs: [],
}


def efficient_tokens(device: torch.device) -> int:
    """New positions that fill a step on this device, see `types.ShardInfo`."""
    return 4096 if device.type == "cuda" else 256
