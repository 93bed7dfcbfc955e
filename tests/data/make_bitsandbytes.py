"""Writes bitsandbytes.safetensors: random matrices, and what bitsandbytes 0.50.2 made of them on a CPU.

    pip install bitsandbytes==0.50.2 safetensors && python tests/data/make_bitsandbytes.py

`SHAPE.float` is a matrix. Of each `KIND.SHAPE`, `made` is what the package gives back of it in float32, the rest is
the layer's state dict as transformers saves it. `statistics` are scales of blocks, and `statistics.made` what is left
of them after they were kept in 8 bits.

Two things of the package's own CPU code differ from its other devices and are kept out: it gives back wrong numbers
where rows are no whole number of blocks (so its portable code is called), and it rounds some numbers within 1e-5 of the
middle between two of the 8-bit type the other way (these numbers hold none).
"""

from __future__ import annotations

from pathlib import Path

import torch
from bitsandbytes import functional  # type: ignore[import-not-found]
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute as portable  # type: ignore[import-not-found]
from bitsandbytes.nn import Linear8bitLt  # type: ignore[import-not-found]
from safetensors.torch import save_file

SHAPES = {"whole": (16, 128), "running": (6, 96), "odd": (6, 51)}
"""Rows of whole blocks of 64; of one and a half; rows that end within a byte."""

SEED = 0


def matrix(shape: tuple[int, int]) -> torch.Tensor:
    weight = torch.randn(shape) * torch.logspace(-2, 0, shape[0]).unsqueeze(1)
    weight[1, :64] = 0.0
    return weight


def four_bits(weight: torch.Tensor, kind: str, nested: bool) -> dict[str, torch.Tensor]:
    codes, state = functional.quantize_4bit(weight, blocksize=64, compress_statistics=nested, quant_type=kind)
    absmax = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset if nested else state.absmax
    made = portable(codes.flatten(), absmax, state.code, 64, weight.shape, torch.float32)
    return {"made": made, "weight": codes} | {
        f"weight.{key}": value for key, value in state.as_dict(packed=True).items()
    }


def eight_bits(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    layer = Linear8bitLt(weight.shape[1], weight.shape[0], bias=False, has_fp16_weights=False, threshold=6.0)
    layer.weight.data.copy_(weight)
    saved = {key: value.detach() for key, value in layer.to("cpu").state_dict().items()}
    return {"made": saved["weight"].float() * (saved["SCB"] / 127).unsqueeze(1), **saved}


def main() -> None:
    torch.manual_seed(SEED)
    tensors: dict[str, torch.Tensor] = {}
    for shape, size in SHAPES.items():
        weight = tensors[f"{shape}.float"] = matrix(size)
        made = {"int8": eight_bits(weight)}
        for kind in ("nf4", "fp4"):
            made |= {kind: four_bits(weight, kind, False), f"{kind}-nested": four_bits(weight, kind, True)}
        tensors |= {f"{kind}.{shape}.{key}": value for kind, own in made.items() for key, value in own.items()}
    statistics = tensors["statistics"] = torch.rand(300) + 0.1
    mean = statistics.mean()
    tensors["statistics.made"] = (
        functional.dequantize_blockwise(*functional.quantize_blockwise(statistics - mean, blocksize=256)) + mean
    )
    save_file(
        {name: tensor.clone().contiguous() for name, tensor in tensors.items()},
        Path(__file__).with_name("bitsandbytes.safetensors"),
    )


if __name__ == "__main__":
    main()
