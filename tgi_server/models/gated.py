"""The block that most families share: RMS norms, rotary positions, grouped queries, a gated MLP. Stdlib only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tgi_server.models.config import ModelConfig
from tgi_server.models.spec import (
    AttentionSpec,
    BlockSpec,
    EmbeddingSpec,
    ExpertsSpec,
    HeadSpec,
    MlpSpec,
    ModelSpec,
    NormSpec,
    Source,
)

Change = Callable[[BlockSpec, str], BlockSpec]
"""What a family does otherwise: takes a block and the start of its names, gives another one."""


@dataclass(frozen=True, slots=True)
class Style:
    """In what families differ most often.

    Attributes:
        attention_bias, output_bias, mlp_bias: which layers have one.
        activation_entry, activation: what names the activation of the gate, and which it is where nothing does.
        head_width: where the configuration says none; the part of the hidden size by default.
        norm_offset: see `NormSpec`.
        tied: whether the head is the embedding, where the configuration does not say.
        windows: of each layer, where the configuration has no `layer_types`.
    """

    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    activation_entry: str = "hidden_act"
    activation: str = "silu"
    head_width: int | None = None
    norm_offset: float = 0.0
    tied: bool = False
    windows: tuple[int | None, ...] | None = None


def model(config: ModelConfig, style: Style, change: Change = lambda block, name: block) -> ModelSpec:
    """A decoder of such blocks, under the names of the Llama checkpoints."""
    heads = config.whole("num_attention_heads")
    width = style.head_width or (0 if config.get("head_dim") else config.head_width(config.whole("hidden_size"), heads))
    width = config.whole("head_dim", default=width)
    norm = NormSpec("model.norm", eps=config.number("rms_norm_eps", 1e-6), offset=style.norm_offset)
    blocks = []
    for number, window in enumerate(config.windows(config.layers(), style.windows)):
        name = f"model.layers.{number}"
        block = BlockSpec(
            _attention(config, style, name, (heads, width), window),
            _mlp(config, style, name),
            attention_norm=replace(norm, name=f"{name}.input_layernorm"),
            mlp_norm=replace(norm, name=f"{name}.post_attention_layernorm"),
        )
        blocks.append(change(block, name))
    return ModelSpec(
        vocab_size=config.whole("vocab_size"),
        hidden_size=config.whole("hidden_size"),
        blocks=tuple(blocks),
        embedding=EmbeddingSpec("model.embed_tokens"),
        norm=norm,
        head=HeadSpec(None if config.flag("tie_word_embeddings", style.tied) else "lm_head"),
        max_positions=config.max_positions(config.rope(width)),
    )


def sandwiched(block: BlockSpec, name: str) -> BlockSpec:
    """With norms behind attention and MLP as well, as Gemma has them from its second version on."""
    post = block.mlp_norm  # under the name that other families give the norm before the MLP
    return replace(
        block,
        attention_post=post,
        mlp_norm=replace(post, name=f"{name}.pre_feedforward_layernorm"),
        mlp_post=replace(post, name=f"{name}.post_feedforward_layernorm"),
    )


def normed_behind(block: BlockSpec, name: str) -> BlockSpec:
    """With norms behind attention and MLP only, and those of queries and keys over all heads together (OLMo 2, 3)."""
    post = block.mlp_norm  # post_attention_layernorm
    query = NormSpec(f"{name}.self_attn.q_norm", eps=post.eps)
    return replace(
        block,
        attention=replace(
            block.attention, query_norm=query, key_norm=replace(query, name=f"{name}.self_attn.k_norm"),
            normed_together=True,
        ),
        attention_norm=NormSpec(kind="identity"),
        mlp_norm=NormSpec(kind="identity"),
        attention_post=post,
        mlp_post=replace(post, name=f"{name}.post_feedforward_layernorm"),
    )  # fmt: skip


def _attention(
    config: ModelConfig, style: Style, name: str, shape: tuple[int, int], window: int | None
) -> AttentionSpec:
    heads, width = shape
    kv_heads = config.whole("num_key_value_heads", default=heads)
    return AttentionSpec(
        query=Source(f"{name}.self_attn.q_proj", heads, width, style.attention_bias),
        key=Source(f"{name}.self_attn.k_proj", kv_heads, width, style.attention_bias),
        value=Source(f"{name}.self_attn.v_proj", kv_heads, width, style.attention_bias),
        output=Source(f"{name}.self_attn.o_proj", heads, width, style.output_bias),
        scale=width**-0.5,
        rope=config.rope(width, "full_attention" if window is None else "sliding_attention"),
        window=window,
    )


def _mlp(config: ModelConfig, style: Style, name: str) -> MlpSpec:
    activation = config.activation(style.activation_entry, default=style.activation)
    return mlp(f"{name}.mlp", config.whole("intermediate_size"), activation, style.mlp_bias)


def mlp(
    name: str, inner: int, activation: str, bias: bool = False,
    layers: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
) -> MlpSpec:  # fmt: skip
    """A gated MLP whose three layers have these names below `name`."""
    gate, up, down = (Source(f"{name}.{layer}", inner, bias=bias) for layer in layers)
    return MlpSpec(up, down, activation, gate)


def with_experts(config: ModelConfig, block: BlockSpec, name: str) -> BlockSpec:
    """With experts, in the layers in which the models of Qwen have them where not in all; the others keep their MLP."""
    every, without = config.whole("decoder_sparse_step", default=1), config.get("mlp_only_layers", [])
    layer = int(name.rpartition(".")[2])
    if not isinstance(without, list):
        raise ValueError(f"mlp_only_layers={without!r:.60} (a list of numbers is expected)")
    if layer in without or (layer + 1) % every:
        return block
    count, inner = config.whole("num_experts", "num_local_experts"), config.whole("moe_intermediate_size")
    activation = config.activation("hidden_act", default="silu")
    mixture = ExpertsSpec(
        router=Source(f"{name}.mlp.gate", count),
        experts=tuple(mlp(f"{name}.mlp.experts.{number}", inner, activation) for number in range(count)),
        chosen=config.whole("num_experts_per_tok"),
        over_all=not config.flag("norm_topk_prob"),
    )
    return replace(block, mlp=mixture)


def later_windows(config: ModelConfig) -> tuple[int | None, ...]:
    """Of each layer, where the configuration has no `layer_types`: from `max_window_layers` on, as Qwen has it."""
    layers = config.layers()
    first = int(config.get("max_window_layers", 28))
    window = config.whole("sliding_window", default=4096) if config.flag("use_sliding_window") else None
    return tuple(window if number >= first else None for number in range(layers))
