"""Quantised Llamas for tests: the formats as they are publicly described, and what transformers says of the weights.

Nothing here knows the code under test. Layouts: GPTQ's by AutoGPTQ's README and transformers' documentation, AWQ's
`gemm` likewise, `pack-quantized` by the documentation of compressed-tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Linear, Module

REFERENCE = "reference.safetensors"
"""In the directory of a stored checkpoint: `prompt.I`, `text.I` and `logits.I`, the scores `text.I` was chosen by."""
LENGTHS, NEW_TOKENS = (21, 3), 3
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbouring outputs the nibbles of a word belong to, lowest first."""

Text = tuple[list[int], list[int], Tensor]
"""A prompt, what greedy choice adds, and the logits of each choice."""


@dataclass(frozen=True)
class Codes:
    """A layer as integers: weights are `(codes - zeros[:, groups]) * scales[:, groups]`.

    Attributes:
        bits: of a code.
        codes: [out, in] from 0 to 2**bits - 1.
        zeros: [out, groups], likewise.
        scales: float16 [out, groups].
        groups: [in].
    """

    bits: int
    codes: np.ndarray
    zeros: np.ndarray
    scales: np.ndarray
    groups: np.ndarray

    @classmethod
    def random(
        cls, rng: np.random.Generator, out: int, inputs: int, bits: int, group: int, symmetric: bool, ordered: bool
    ) -> Codes:
        """Weights of about 1 / sqrt(inputs); `group` -1 for one group of all; `ordered` for act-order."""
        size = inputs if group == -1 else group
        groups = np.arange(inputs) // size
        if ordered:
            np.random.default_rng(1).shuffle(groups)  # the same of layers with the same inputs, as tools have it
        count, most = inputs // size, 2**bits - 1
        middle = 2 ** (bits - 1)
        zeros = np.full((out, count), middle) if symmetric else rng.integers(1, most + 1, (out, count))
        scales = rng.uniform(0.5, 1.5, (out, count)) * 3.5 / most / inputs**0.5
        return cls(bits, rng.integers(0, most + 1, (out, inputs)), zeros, scales.astype(np.float16), groups)

    def dense(self) -> Tensor:
        """Float32 `[out, in]`."""
        steps = (self.codes - self.zeros[:, self.groups]).astype(np.float32)
        return torch.from_numpy(steps * self.scales.astype(np.float32)[:, self.groups])


def words(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Each row of numbers as a string of bits, lowest first, in int32 words: `[rows, n]` to `[rows, n * bits / 32]`."""
    each = (numbers[..., None] >> np.arange(bits)) & 1
    string = np.packbits(each.reshape(len(numbers), -1).astype(np.uint8), axis=1, bitorder="little")
    return string.view("<i4")


def gptq(layer: Codes, version: int = 1) -> dict[str, Tensor]:
    """Words down the inputs, zero points in words along the outputs: less one in version 1."""
    stored = (layer.zeros.T - (version == 1)) & (2**layer.bits - 1)
    return _tensors(
        qweight=words(layer.codes, layer.bits).T,
        qzeros=words(stored, layer.bits),
        scales=layer.scales.T,
        g_idx=layer.groups.astype(np.int32),
    )


def gptq_v2(layer: Codes) -> dict[str, Tensor]:
    """The same with zero points as they are."""
    return gptq(layer, version=2)


def awq(layer: Codes, order: Sequence[int] = AWQ_ORDER) -> dict[str, Tensor]:
    """Words along the outputs in AWQ's order, both of codes and of zero points."""

    def ordered(numbers: np.ndarray) -> np.ndarray:
        return numbers.reshape(len(numbers), -1, 8)[:, :, order].reshape(numbers.shape)

    return _tensors(
        qweight=words(ordered(layer.codes.T), 4), qzeros=words(ordered(layer.zeros.T), 4), scales=layer.scales.T
    )


def compressed(layer: Codes, symmetric: bool, ordered: bool) -> dict[str, Tensor]:
    """Words along the inputs; zero points, where there are, in words down the outputs."""
    tensors = _tensors(weight_packed=words(layer.codes, layer.bits), weight_scale=layer.scales)
    if not symmetric:
        tensors |= _tensors(weight_zero_point=words(layer.zeros.T, layer.bits).T)
    if ordered:
        tensors |= _tensors(weight_g_idx=layer.groups.astype(np.int32))
    return tensors | _tensors(weight_shape=np.array(layer.codes.shape))


def _tensors(**arrays: np.ndarray) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 64, "hidden_size": 384,
    "intermediate_size": 384, "num_hidden_layers": 1, "num_attention_heads": 6, "num_key_value_heads": 3,
    "head_dim": 64, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0, "torch_dtype": "float16",
}  # fmt: skip
LAYERS = {
    "self_attn.q_proj": (384, 384), "self_attn.k_proj": (192, 384), "self_attn.v_proj": (192, 384),
    "self_attn.o_proj": (384, 384), "mlp.gate_proj": (384, 384), "mlp.up_proj": (384, 384), "mlp.down_proj": (384, 384),
}  # fmt: skip
"""The linear layers and their sizes: three key heads, so that three ranks part evenly."""


def write(
    directory: Path, made: Callable[[np.random.Generator, int, int], Codes],
    spelled: Callable[[Codes], Mapping[str, Tensor]], settings: Mapping[str, Any],
) -> dict[str, Tensor]:  # fmt: skip
    """Writes a checkpoint whose linear layers are `made` of (random numbers, out, in) and stored as `spelled`.

    Returns:
        All weights, float32, under the names of a checkpoint that is not quantised.
    """
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    plain = {"model.embed_tokens.weight": 0.3 * torch.randn(64, 384, generator=generator)}
    for name in ("layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"):
        plain[f"model.{name}.weight"] = 1 + 0.2 * torch.randn(384, generator=generator)
    plain = {name: tensor.half() for name, tensor in plain.items()}
    stored, dense = dict(plain), {name: tensor.float() for name, tensor in plain.items()}
    for name, size in LAYERS.items():
        layer = made(rng, *size)
        stored |= {f"model.layers.0.{name}.{suffix}": tensor for suffix, tensor in spelled(layer).items()}
        dense[f"model.layers.0.{name}.weight"] = layer.dense()
    save_file(stored, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": settings}))
    return dense


def expected(directory: Path, dense: Mapping[str, Tensor], threshold: float | None = None) -> list[Text]:
    """What transformers says in float32 of a model with these weights, and the checkpoint's own config.json.

    With `threshold`, linear layers see their inputs as LLM.int8 does: a row in 255 steps, from minus to plus its
    largest number below the threshold, and the others as they are.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = json.loads((directory / "config.json").read_text())
    config.pop("quantization_config")
    model = LlamaForCausalLM(LlamaConfig.from_dict(config)).float().eval()
    missing, unexpected = model.load_state_dict(dict(dense), strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
    if threshold is not None:
        for name, module in model.named_modules():
            if isinstance(module, Linear) and name != "lm_head":
                module.register_forward_pre_hook(lambda _, inputs: in_steps(inputs[0], threshold))
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(2, 64, (length,), generator=generator).tolist() for length in LENGTHS]
    return [(prompt, *_greedy(model, prompt)) for prompt in prompts]


def in_steps(x: Tensor, threshold: float) -> Tensor:
    """Inputs `[..., in]` as LLM.int8 multiplies them (arXiv:2208.07339)."""
    large = x.abs() >= threshold
    step = x.masked_fill(large, 0).abs().amax(dim=-1, keepdim=True) / 127
    return torch.where(large, x, (x / step).round() * step)


@torch.no_grad()
def _greedy(model: Module, prompt: list[int]) -> tuple[list[int], Tensor]:
    text: list[int] = []
    scores: list[Tensor] = []
    for _ in range(NEW_TOKENS):
        scores.append(model(torch.tensor([prompt + text]), use_cache=False).logits[0, -1])
        text.append(int(scores[-1].argmax()))
    return text, torch.stack(scores)


def store(texts: list[Text], path: Path) -> None:
    """Writes them as `REFERENCE` has them."""
    tensors: dict[str, Tensor] = {}
    for i, (prompt, text, scores) in enumerate(texts):
        tensors |= {f"prompt.{i}": torch.tensor(prompt), f"text.{i}": torch.tensor(text), f"logits.{i}": scores}
    save_file(tensors, path)


def stored(path: Path) -> list[Text]:
    """Reads what `store` wrote."""
    tensors = load_file(path)
    count = len(tensors) // 3
    return [
        (tensors[f"prompt.{i}"].tolist(), tensors[f"text.{i}"].tolist(), tensors[f"logits.{i}"]) for i in range(count)
    ]
