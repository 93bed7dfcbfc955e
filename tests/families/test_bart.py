from __future__ import annotations

from typing import Any, ClassVar

from tests.families.harness import Seq2SeqFamilyTests

SIZES: dict[str, Any] = {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 72, "decoder_ffn_dim": 80, "max_position_embeddings": 128, "init_std": 0.2,
    "decoder_start_token_id": 2, "forced_eos_token_id": None,
}  # fmt: skip


class TestBart(Seq2SeqFamilyTests):
    config = "BartConfig"
    numbers: ClassVar[dict[str, Any]] = SIZES
    shards = (2,)

    @classmethod
    def make(cls) -> Any:
        """Scores have offsets of their own too."""
        model = super().make()
        model.final_logits_bias.normal_()
        return model


class TestMBart(TestBart):
    """Norms before, vectors scaled."""

    config = "MBartConfig"
    interpreted_tokens = 1
    numbers: ClassVar[dict[str, Any]] = {**SIZES, "scale_embedding": True}
