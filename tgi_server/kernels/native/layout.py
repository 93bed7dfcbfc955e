"""What the compiled library and its callers have to agree on, checked once when it is loaded.

The library describes itself (kernel.h): constants, and for each kernel the members of its struct of arguments.
"""

from __future__ import annotations

import ctypes

import torch

from tgi_server.kernels.sampling import ROW
from tgi_server.types import BLOCK_SIZE

PANEL = 32
"""Outputs whose weights lie side by side in a packed weight."""
WIDEST = 256
"""Most numbers in a head of keys or of values."""
CALL = 32
"""8-byte fields of a call: the kernel's address, then room for its arguments."""
CONSTANTS = {"BLOCK": BLOCK_SIZE, "PANEL": PANEL, "WIDEST": WIDEST, "CALL": CALL}

NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.int8: "int8"}
"""How the kernels' names spell a dtype."""


def _norm(name: str) -> str:
    return f" {name}_kind {name}_weight {name}_bias {name}_eps:d"


_COMPUTED = ["float32", "bfloat16"]
_PRODUCTS = [
    "float32_float32_float32", "float32_int8_float32", "bfloat16_bfloat16_bfloat16", "bfloat16_int8_bfloat16",
    "bfloat16_bfloat16_float32",
]  # fmt: skip
_CODED = ["float32", "bfloat16", "float32_steps", "bfloat16_steps"]
_CODED_MEMBERS = "starts active weights x out scratch rows inner outer room seen threshold:d"
_ARGUMENTS = {
    "add_norm": (_COMPUTED, "residual x out rows size scale:d" + _norm("norm") + _norm("post")),
    "rotate_store": (
        _COMPUTED,
        "qkv cos sin slots squares query key keys values rows heads kv key_width value_width turned"
        + (_norm("query") + _norm("key")),
    ),
    "mean_squares": (_COMPUTED, "x out rows stride queries keys query_total:d key_total:d"),
    "gate": (_COMPUTED, "x out rows inner activation gated slope:d limit:d offset:d"),
    "attend": (
        _COMPUTED,
        "query keys values starts contexts tables tiles scratch out slopes sinks biases table_width count most_rows "
        "parts heads kv key_width value_width window causal reach scale:d softcap:d",
    ),
    "convolve": (
        _COMPUTED,
        "projected weight bias state starts contexts tables out sequences channels taps table_width",
    ),
    "scan": (
        _COMPUTED,
        "x time select projected rates skip bias state starts contexts tables out sequences channels states "
        "table_width",
    ),
    "linear": (_PRODUCTS, "x weight scale bias out rows inner outer"),
    "grouped": (_PRODUCTS[:-1], "starts active x weight scale bias out rows inner outer"),
    "route": (
        _COMPUTED,
        "scores bias x experts weights places starts active sorted rows size count columns chosen over_all",
    ),
    "combine": (
        _COMPUTED,
        "x places weights shared scores out rows size count columns chosen",
    ),
    "coded_4": (_CODED, _CODED_MEMBERS),
    "coded_8": (_CODED, _CODED_MEMBERS),
    "coded": (["weight"], "panels scale offset book order ends bias quads groups own_book"),
    "pack": (["8", "16", "32"], "rows panels outer units"),
    "sample": (
        ["float32"],
        "scores rows texts starts ids values masks tokens logprobs normalisers count size stride longest words "
        "gamma:d delta:d",
    ),
    "sampling": (["row"], " ".join(f"{name}:d" if ROW[name].kind == "f" else name for name in ROW.names or ())),
}
ARGUMENTS = {f"{kernel}_{types}": members for kernel, (variants, members) in _ARGUMENTS.items() for types in variants}
"""The members of each kernel's struct of arguments in order: pointers and whole numbers, or floats (marked d)."""


def letters(kernel: str) -> str:
    """The members as module `struct` spells them."""
    return "".join("d" if member.endswith(":d") else "q" for member in ARGUMENTS[kernel].split())


def mismatches(library: ctypes.CDLL) -> list[str]:
    """Where `library` says something else than this module."""
    wrong = []
    if (constants := _described(library, "constants")) != {name: str(value) for name, value in CONSTANTS.items()}:
        wrong.append(f"its constants are {constants}, not {CONSTANTS}")
    for kernel, expected in ARGUMENTS.items():
        types = _described(library, f"{kernel}_layout")
        members = " ".join(f"{name}:d" if type == "double" else name for name, type in types.items())
        if members != expected:
            wrong.append(f"{kernel} takes ({members}), not ({expected})")
    return wrong


def _described(library: ctypes.CDLL, function: str) -> dict[str, str]:
    """The items of a description `name=what;name=what;`; none when the library does not have it."""
    try:
        describe = getattr(library, function)
    except AttributeError:
        return {}
    describe.restype = ctypes.c_char_p
    text: bytes = describe()
    return dict(item.split("=", 1) for item in text.decode().split(";")[:-1])
