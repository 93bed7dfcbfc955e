from __future__ import annotations

from typing import Any, ClassVar

import torch

from tests.families.harness import Seq2SeqFamilyTests

SIZES: dict[str, Any] = {
    "d_model": 48, "d_kv": 16, "d_ff": 72, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "initializer_factor": 1.5,
    "decoder_start_token_id": 0,
}  # fmt: skip


class TestT5(Seq2SeqFamilyTests):
    """Tied and scaled, without a gate; distances beyond the last bucket."""

    config = "T5Config"
    numbers: ClassVar[dict[str, Any]] = {**SIZES, "feed_forward_proj": "relu"}
    shards = (2, 3)


class TestFlanT5(Seq2SeqFamilyTests):
    """A head of its own, of which transformers writes that it is tied; no scale."""

    config = "T5Config"
    interpreted_tokens = 1
    numbers: ClassVar[dict[str, Any]] = {
        **SIZES, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "decoder_start_token_id": 5
    }  # fmt: skip

    @classmethod
    def make(cls) -> Any:
        model = super().make()
        generator = torch.Generator().manual_seed(2)
        model.lm_head.weight = torch.nn.Parameter(torch.randn(model.lm_head.weight.shape, generator=generator))
        return model


class TestUmt5(Seq2SeqFamilyTests):
    """Biases of every layer."""

    config = "UMT5Config"
    interpreted_tokens = 1
    numbers: ClassVar[dict[str, Any]] = {**SIZES, "feed_forward_proj": "gated-gelu"}
