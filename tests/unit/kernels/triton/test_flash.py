"""What goes to flash_attn and what to the Triton kernels; the package itself is stood in for by the definition."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from tests.attention import Case, by_definition, features_of, step
from tests.triton_checks import cases_of, close
from tgi_server.kernels.attention import AttentionBatch, Features
from tgi_server.kernels.flash import ROWS, attention, select
from tgi_server.kernels.row import Needs

CPU = torch.device("cpu")


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Of the sequences in every call of flash_attn."""
    calls: list[list[int]] = []

    def flash_attn_varlen_func(
        query: Tensor, key: Tensor, value: Tensor, starts: Tensor, key_starts: Tensor, longest: int, longest_key: int,
        *, softmax_scale: float, causal: bool, window_size: tuple[int, int], softcap: float,
        alibi_slopes: Tensor | None,
    ) -> Tensor:  # fmt: skip
        before, after = window_size
        assert starts.dtype == torch.int32
        assert after == (0 if causal else -1)
        assert causal or alibi_slopes is None
        features = Features(
            softmax_scale, None if before < 0 else before + 1, softcap or None, alibi_slopes, causal=causal
        )
        counts = starts.diff().tolist()
        assert max(counts) == longest == longest_key
        calls.append(counts)
        runs = zip(*(torch.split(x, counts) for x in (query, key, value)), strict=True)
        return torch.cat([by_definition(q, k, v, features, len(q)).to(query.dtype) for q, k, v in runs])

    package = ModuleType("flash_attn")
    package.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    return calls


def run(features: Features, steps: list[list[int]]) -> list[Case]:
    cases, cache = cases_of(torch.float32, 4, 1, 32, [sum(counts) for counts in zip(*steps, strict=True)])
    for counts in steps:
        step(attention, cache, cases, counts, features)
    return cases


STEPS = [[9, 5, 0], [4, 1, 8], [1, 1, 1]]


@pytest.mark.parametrize("name", ["plain", "window", "softcap", "slopes"])
def test_prompts_go_to_flash_attn(name: str, lengths: list[list[int]]) -> None:
    features = features_of(4)[name]
    for case in run(features, STEPS):
        assert close(torch.cat(case.results), case.expected(features), torch.float32)
    assert lengths == [[9, 5], [8]]


@pytest.mark.parametrize("name", ["sinks", "all"])
def test_layers_with_sinks_do_not(name: str, lengths: list[list[int]]) -> None:
    features = features_of(4)[name]
    for case in run(features, STEPS):
        assert close(torch.cat(case.results), case.expected(features), torch.float32)
    assert lengths == []


@pytest.mark.parametrize(("name", "calls"), [("window", [[20, 7]]), ("slopes", [])])
def test_queries_that_see_what_follows_them(name: str, calls: list[list[int]], lengths: list[list[int]]) -> None:
    features = replace(features_of(4)[name], causal=False)
    for case in run(features, [[20, 7]]):
        query, key, value = case.whole
        assert close(torch.cat(case.results), by_definition(query, key, value, features, case.length), torch.float32)
    assert lengths == calls


def test_reasons_not_to_run() -> None:
    (row,) = ROWS
    assert row.unsupported(Needs(device=CPU, dtype=torch.bfloat16, key_width=80, value_width=80)) == []
    reasons = row.unsupported(Needs(device=CPU, dtype=torch.bfloat16, key_width=264, value_width=84))
    assert len(reasons) == 3
    for reason, part in zip(reasons, ("wider than 256", "84, is not a multiple of 8", "264 and 84"), strict=True):
        assert part in reason


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("1.0.9", "it needs flash_attn 2.6 or newer; 1.0.9 is installed"),
        ("2.5.9.post1", "it needs flash_attn 2.6 or newer; 2.5.9.post1 is installed"),
        ("2.6.0", None),
        ("2.10.1+cu13", None),
        ("3", None),
        (None, "the version of the package flash_attn is not known"),
    ],
)
def test_packages_too_old_for_its_arguments(
    version: str | None, reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, installed = tmp_path / "flash_attn", tmp_path / f"flash_attn-{version}.dist-info"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    if version is not None:
        installed.mkdir()
        (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: flash-attn\nVersion: {version}\n")
    monkeypatch.syspath_prepend(tmp_path)
    needs = Needs(device=CPU, dtype=torch.bfloat16)
    assert ROWS[0].unsupported(needs) == ([reason] if reason else [])


def test_some_sequences_of_a_batch_are_a_batch() -> None:
    batch = AttentionBatch(
        query_starts=[0, 2, 3, 6],
        query_lengths=[2, 1, 3],
        context_lengths=[2, 9, 3],
        starts=torch.tensor([0, 2, 3, 6]),
        contexts=torch.tensor([2, 9, 3]),
        block_tables=torch.tensor([[1], [2], [3]]),
        slots=torch.arange(16, 22),
    )
    rows, part = select(batch, [0, 2])
    assert rows.tolist() == [0, 1, 3, 4, 5]
    assert (part.query_starts, part.query_lengths, part.context_lengths) == ([0, 2, 5], [2, 3], [2, 3])
    assert (part.starts.tolist(), part.contexts.tolist()) == ([0, 2, 5], [2, 3])
    assert (part.block_tables.tolist(), part.slots.tolist()) == ([[1], [3]], [16, 17, 19, 20, 21])
