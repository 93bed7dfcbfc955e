"""Models whose linear layers bitsandbytes' methods keep: made while loading, and read as the package saves them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.bitsandbytes_files import METHODS, saved, settings_4bit
from tests.families.harness import ThreadGroup
from tests.models import CONFIG, Steps, needs, write_llama
from tgi_server.layers.parallel import Group
from tgi_server.quantize.bitsandbytes import Bitsandbytes

PROMPT = [5, 17, 3, 40, 22, 8, 31]


def scores(directory: Path, plain: bool = False, **more: object) -> Tensor:
    return Steps(directory, [PROMPT], needs(plain), **more).logits([0], [len(PROMPT)])[0]  # type: ignore[arg-type]


def layers(tensors: dict[str, Tensor]) -> list[str]:
    return [name for name, tensor in tensors.items() if "layers" in name and tensor.dim() == 2]


@pytest.fixture
def llama(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """Its rows are whole blocks of 64, or one and a half."""
    directory = tmp_path / "float"
    directory.mkdir()
    write_llama(directory)
    return directory, load_file(directory / "model.safetensors")


def written(place: Path, tensors: dict[str, Tensor], **config: object) -> Path:
    place.mkdir()
    save_file(tensors, place / "model.safetensors")
    (place / "config.json").write_text(json.dumps(CONFIG | config))
    return place


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("plain", [True, False])
def test_4_bits_while_loading(llama: tuple[Path, dict[str, Tensor]], kind: str, plain: bool, tmp_path: Path) -> None:
    """The same as float weights that have the rounded values."""
    directory, tensors = llama
    method = METHODS[kind]()
    for name in layers(tensors):
        tensors[name] = method.reader(None).read({"weight": tensors[name]}).widened(torch.float32)
    expected = scores(written(tmp_path / "rounded", tensors))
    got = scores(directory, plain, quantize=method)
    assert torch.allclose(got, expected, atol=1e-4 * float(expected.abs().max()))
    assert not torch.allclose(got, scores(directory), atol=1e-2)


@pytest.mark.parametrize("kind", METHODS)
def test_a_saved_checkpoint(llama: tuple[Path, dict[str, Tensor]], kind: str, tmp_path: Path) -> None:
    """What is not quantised beside it stays; it says itself how it is to be read."""
    directory, tensors = llama
    for name in layers(tensors):
        weight = tensors[name]
        if weight.shape[1] % 64 == 0:
            del tensors[name]
            tensors |= {name.removesuffix("weight") + key: value for key, value in saved(weight, kind).items()}
    place = written(tmp_path / "saved", tensors, quantization_config=dict(settings_4bit(kind).entries))
    whole = scores(place)
    for rank_scores in (scores(place, plain=True), _spread(place)):
        assert torch.allclose(rank_scores, whole, atol=1e-4 * float(whole.abs().max()))
    assert (whole - scores(directory)).norm() < 0.5 * whole.norm()


def _spread(place: Path) -> Tensor:
    """Over two ranks, of which the first has the scores."""

    @torch.inference_mode()
    def work(group: Group) -> Tensor | None:
        steps = Steps(place, [PROMPT], needs(), group=group)
        return steps.model.logits(steps.hidden([0], [len(PROMPT)]))

    with ThreadPoolExecutor(2) as pool:
        found, _ = pool.map(work, ThreadGroup.of(2))
    assert found is not None
    return found


@pytest.mark.parametrize("threshold", [None, 0.0, 1.0])
def test_8_bits_while_loading(llama: tuple[Path, dict[str, Tensor]], threshold: float | None) -> None:
    directory, _ = llama
    method, exact = Bitsandbytes(threshold), scores(directory)
    for plain in (True, False):
        got = scores(directory, plain, quantize=method)
        assert 0 < (got - exact).norm() < 0.05 * exact.norm()
