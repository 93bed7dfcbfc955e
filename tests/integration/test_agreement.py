"""bfloat16, and 8-bit weights, against transformers in float32: does the same token come first?"""

from __future__ import annotations

import pytest
import torch

from tests.integration import reference
from tests.models import needs
from tgi_server.cache.memory import allocate
from tgi_server.config.schema import BatchingOptions
from tgi_server.models.families import read_spec
from tgi_server.models.load import load_model
from tgi_server.models.model import Model
from tgi_server.quantize.base import QuantizeMethod
from tgi_server.quantize.eetq import Eetq
from tgi_server.quantize.none import NoQuantize
from tgi_server.shard.batch import BatchState
from tgi_server.shard.graphs import best_forward
from tgi_server.types import BLOCK_SIZE, NewSequence, Plan, SamplingParams

CPU = torch.device("cpu")


def best_tokens(model: Model, known: list[int], prompt: int) -> list[int]:
    """The first choice after each position from `prompt - 1` on: prompt in one step, then the rest in two."""
    spec = read_spec(reference.model_directory())
    blocks = list(range(-(-len(known) // BLOCK_SIZE)))
    caches = allocate(spec, [len(blocks)], 1, torch.bfloat16, CPU)
    forward = best_forward(model, caches, spec, BatchingOptions())
    state = BatchState(2048, CPU, spec.groups)
    new = NewSequence(id=0, prompt_ids=known, blocks=[blocks], sampling=SamplingParams(), max_length=len(known) + 1)
    state.update(Plan(0, [], [], new=[new]))
    best: list[int] = []
    rest = len(known) - prompt - 1
    for count, rows in ((prompt, 1), (1, 1), (rest - 1, rest - 1)):
        plan = Plan(0, [0], [count])
        inputs = state.inputs(plan)
        logits = model.logits(forward(inputs)[-rows:])
        assert logits is not None
        best += logits.argmax(-1).tolist()
        state.advance(plan, [], [])
    return best


@pytest.mark.parametrize(("quantize", "wanted"), [(NoQuantize(), 0.98), (Eetq(), 0.97)], ids=["bfloat16", "eetq"])
def test_teacher_forced_agreement(quantize: QuantizeMethod, wanted: float) -> None:
    directory = reference.model_directory()
    model = load_model(directory, read_spec(directory), needs(dtype=torch.bfloat16), 2048, quantize)
    same = total = 0
    for prompt in reference.PROMPTS:
        ids = reference.tokenizer()(prompt)["input_ids"]
        expected = reference.greedy()[prompt]
        with torch.inference_mode():
            best = best_tokens(model, ids + expected, len(ids))
        same += sum(a == b for a, b in zip(best, expected, strict=True))
        total += len(expected)
    print(f"top-1 agreement: {same / total:.4f} of {total}")
    assert total > 1000
    assert same / total >= wanted
