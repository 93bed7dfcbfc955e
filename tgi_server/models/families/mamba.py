"""Mamba (arXiv:2312.00752), as transformers writes it."""

from __future__ import annotations

from tgi_server.models.config import ModelConfig
from tgi_server.models.recurrent_spec import MixerSpec, RecurrentSpec
from tgi_server.models.spec import EmbeddingSpec, HeadSpec, NormSpec, Source, side_by_side

model_types = ("mamba",)


def describe(config: ModelConfig) -> RecurrentSpec:
    """See `families`. Nothing limits how long a text may be."""
    hidden = config.whole("hidden_size")
    channels = config.whole("intermediate_size", default=int(config.number("expand", 2) * hidden))
    rank = config.get("time_step_rank", "auto")
    eps = config.number("layer_norm_epsilon", 1e-5)
    config.one_of("hidden_act", {"silu": "silu", "swish": "silu"}, "silu")
    return RecurrentSpec(
        vocab_size=config.whole("vocab_size"),
        hidden_size=hidden,
        mixers=tuple(_mixer(config, f"layers.{number}", channels, eps) for number in range(config.layers())),
        embedding=EmbeddingSpec("embeddings"),
        norm=NormSpec("norm_f", eps=eps),
        head=HeadSpec(None if config.flag("tie_word_embeddings", True) else "lm_head"),
        channels=channels,
        states=config.whole("state_size", default=16),
        taps=config.whole("conv_kernel", default=4),
        time_rank=-(-hidden // 16) if rank == "auto" else config.whole("time_step_rank"),
        max_positions=None,
        prefixes=("backbone.", ""),
        float16=False,
    )


def _mixer(config: ModelConfig, name: str, channels: int, eps: float) -> MixerSpec:
    bias, own = config.flag("use_bias"), f"{name}.mixer"
    value, gate = side_by_side(f"{own}.in_proj", [(channels, 1)] * 2, bias)
    return MixerSpec(
        norm=NormSpec(f"{name}.norm", eps=eps),
        value=value,
        gate=gate,
        output=Source(f"{own}.out_proj", channels, bias=bias),
        convolution=f"{own}.conv1d",
        convolution_bias=config.flag("use_conv_bias", True),
        select=f"{own}.x_proj",
        time=f"{own}.dt_proj",
        rates=f"{own}.A_log",
        skip=f"{own}.D",
    )
