"""Models in tests: a small random Llama made without transformers, and steps of any model without a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tgi_server.cache.memory import allocate
from tgi_server.config.schema import RopeOptions
from tgi_server.kernels.row import Needs
from tgi_server.layers.parallel import Group
from tgi_server.models.description import Description
from tgi_server.models.families import read_spec
from tgi_server.models.load import load_model
from tgi_server.shard.batch import BatchState
from tgi_server.shard.graphs import Forward, Run
from tgi_server.types import BLOCK_SIZE, NewSequence, Plan, SamplingParams

CPU = torch.device("cpu")
HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM, LAYERS, VOCABULARY = 64, 96, 4, 2, 32, 2, 50
CONFIG = {
    "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": INNER,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "eos_token_id": 0,
}  # fmt: skip


def write_llama(directory: Path) -> None:
    """Write config.json and float32 model.safetensors."""
    torch.manual_seed(0)
    shapes = {"model.embed_tokens": (VOCABULARY, HIDDEN), "model.norm": (HIDDEN,)}
    of_layer = {
        "input_layernorm": (HIDDEN,), "post_attention_layernorm": (HIDDEN,),
        "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN), "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
        "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN), "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
        "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER),
    }  # fmt: skip
    for layer in range(LAYERS):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in of_layer.items()}
    save_file({f"{n}.weight": torch.randn(shape) / 4 for n, shape in shapes.items()}, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(CONFIG))


def needs(plain: bool = False, device: torch.device = CPU, **more: Any) -> Needs:
    """Float32 on the CPU, unless something else is said; `plain` for torch alone."""
    return replace(Needs(device=device, dtype=torch.float32, plain=plain), **more)


class Steps:
    """Some sequences in a model of their own caches, computed step by step.

    Args:
        directory: of the checkpoint.
        prompts: the ids of each sequence.
        longest: positions that a sequence may get.
        answers: what is generated after each prompt, whatever the model says; nothing by default.
        read: describes the model; as a family does by default.
        shared: blocks of the first sequence that the others find computed and begin with.
        more: of `load_model`.
    """

    def __init__(
        self, directory: Path, prompts: Sequence[Sequence[int]], of: Needs, longest: int = 64,
        rope: RopeOptions | None = None, answers: Sequence[Sequence[int]] | None = None, group: Group | None = None,
        read: Callable[[Path], Description] | None = None, shared: int = 0, **more: Any,
    ) -> None:  # fmt: skip
        self.spec = read_spec(directory, rope) if read is None else read(directory)
        self.model = load_model(directory, self.spec, of, longest, group=group, **more)
        self._answers = [list(answer) for answer in answers] if answers else [[] for _ in prompts]
        each = -(-longest // BLOCK_SIZE)
        groups = len(self.spec.groups)
        world = group.world if group else 1
        self.caches = allocate(self.spec, [each * len(prompts) + 1] * groups, world, of.dtype, of.device)
        self.state = BatchState(longest, of.device, self.spec.groups, start=self.spec.start_token_id)
        own = [list(range(each * i, each * (i + 1)))[::-1] for i in range(len(prompts))]
        new = [
            NewSequence(
                id=i, prompt_ids=list(prompt), sampling=SamplingParams(), cached=shared * BLOCK_SIZE if i else 0,
                blocks=[[*own[0][:shared], *own[i][shared:]] for _ in range(groups)],
                max_length=len(prompt) + len(self._answers[i]) + 1,
            )
            for i, prompt in enumerate(prompts)
        ]  # fmt: skip
        self.state.update(Plan(0, [], [], new=new))
        self.run: Run = Forward(self.model, self.caches)

    @torch.inference_mode()
    def hidden(self, ids: list[int], counts: list[int]) -> Tensor:
        """Hidden states of a step of so many positions of these sequences."""
        plan = Plan(0, ids, counts)
        inputs = self.state.inputs(plan)
        hidden = self.run(inputs).clone()
        answered = [i for i in inputs.yielding if self._answers[ids[i]]]
        self.state.advance(plan, answered, [[self._answers[ids[i]].pop(0)] for i in answered])
        return hidden

    @torch.inference_mode()
    def logits(self, ids: list[int], counts: list[int]) -> list[Tensor]:
        """The scores at each of these positions, `[count, vocabulary]` for each sequence."""
        logits = self.model.logits(self.hidden(ids, counts))
        assert logits is not None
        return list(torch.split(logits.clone(), counts))
