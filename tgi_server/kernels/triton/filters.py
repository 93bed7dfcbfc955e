"""Guides, temperature and filters of scores, one program a row: thresholds are found by bisection, nothing is sorted.

A filter keeps what has at least some key. The best such key is found among all 2^32 that a float can be, by halves: the
tokens from a key on are many enough, or likely enough, or not. 32 times a row is read, from the cache it lies in.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from tgi_server.kernels.sampling import ROW, SamplingRows

BLOCK = 4096
_NAMES = ROW.names or ()
FIELDS = tl.constexpr(len(_NAMES))
GUIDE, TOP_K, TEMPERATURE, TOP_P, TYPICAL_P, MIN_P = (
    tl.constexpr(_NAMES.index(name)) for name in ("guide", "top_k", "temperature", "top_p", "typical_p", "min_p")
)
OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "typical_p": 1.0, "min_p": 0.0}
"""Rows that have nothing else are left as they are; so are all of a greedy step, which then takes no pass over them."""
BY_COUNT, BY_MASS, BY_TYPICAL = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _ordered(x):
    """A whole number for each float, in the same order."""
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _load(row, start, vocabulary, BLOCK: tl.constexpr):
    token = start + tl.arange(0, BLOCK)
    return tl.load(row + token, mask=token < vocabulary, other=float("-inf"))


@triton.jit
def _key(score, typical, KIND: tl.constexpr):
    return _ordered(-tl.abs(typical - score) if KIND == BY_TYPICAL else score)


@triton.jit
def _sums(row, vocabulary, highest, BLOCK: tl.constexpr):
    """The sum of all masses exp(score - highest), and of their products with score - highest."""
    mass, weighted = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for start in range(0, vocabulary, BLOCK):
        below = tl.maximum(_load(row, start, vocabulary, BLOCK) - highest, -1e30)
        mass += tl.exp(below)
        weighted += tl.exp(below) * below
    return tl.sum(mass, axis=0), tl.sum(weighted, axis=0)


@triton.jit
def _keep(row, vocabulary, highest, typical, wanted, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """Keep the tokens from the best key on that together have what is `wanted`; the best score that is left."""
    low, high = tl.full([], -(2**31), tl.int64), tl.full([], 2**31 - 1, tl.int64)
    for _ in range(32):
        middle = low + (high - low + 1) // 2
        sum = tl.zeros([BLOCK], tl.float32)
        for start in range(0, vocabulary, BLOCK):
            score = _load(row, start, vocabulary, BLOCK)
            inside = (_key(score, typical, KIND).to(tl.int64) >= middle) & (score > float("-inf"))
            sum += tl.where(inside, 1.0 if KIND == BY_COUNT else tl.exp(score - highest), 0.0)
        enough = tl.sum(sum, axis=0) >= wanted
        low, high = tl.where(enough, middle, low), tl.where(enough, high, middle - 1)
    return _cut(row, vocabulary, typical, low, KIND, BLOCK)


@triton.jit
def _cut(row, vocabulary, typical, least, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """Drop the tokens with smaller keys; the best score that is left."""
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        token = start + tl.arange(0, BLOCK)
        score = _load(row, start, vocabulary, BLOCK)
        score = tl.where(_key(score, typical, KIND).to(tl.int64) >= least, score, float("-inf"))
        tl.store(row + token, score, mask=token < vocabulary)
        best = tl.maximum(best, score)
    tl.debug_barrier()
    return tl.max(best, axis=0)


@triton.jit
def _real(record, FIELD: tl.constexpr):
    return tl.load(record + FIELD).to(tl.float64, bitcast=True).to(tl.float32)


@triton.jit
def _filter(
    logits, records, masks, vocabulary, stride, words, GUIDED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """One program a row."""
    index = tl.program_id(0).to(tl.int64)
    row, record = logits + index * stride, records + index * FIELDS
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        score = _load(row, start, vocabulary, BLOCK)
        if GUIDED:
            guide, token = tl.load(record + GUIDE), start + tl.arange(0, BLOCK)
            inside = (guide >= 0) & (token < vocabulary)
            word = tl.load(masks + guide * words + (token >> 5), mask=inside, other=-1)
            score = tl.where((word >> (token & 31)) & 1 != 0, score, float("-inf"))
            tl.store(row + token, score, mask=inside)
        best = tl.maximum(best, score)
    tl.debug_barrier()
    highest = tl.max(best, axis=0)
    temperature = _real(record, TEMPERATURE)
    if temperature != 1.0:
        for start in range(0, vocabulary, BLOCK):
            token = start + tl.arange(0, BLOCK)
            score = (_load(row, start, vocabulary, BLOCK) - highest) / temperature
            tl.store(row + token, score, mask=token < vocabulary)
        tl.debug_barrier()
        highest = 0.0
    top_k = tl.load(record + TOP_K)
    if top_k != 0:
        _keep(row, vocabulary, highest, 0.0, tl.minimum(top_k, vocabulary).to(tl.float32), BY_COUNT, BLOCK)
    top_p = _real(record, TOP_P)
    if top_p != 1.0:
        mass, _ = _sums(row, vocabulary, highest, BLOCK)
        _keep(row, vocabulary, highest, 0.0, mass * top_p, BY_MASS, BLOCK)
    typical_p = _real(record, TYPICAL_P)
    if typical_p != 1.0:
        mass, weighted = _sums(row, vocabulary, highest, BLOCK)
        typical = highest + weighted / mass
        highest = _keep(row, vocabulary, highest, typical, mass * typical_p, BY_TYPICAL, BLOCK)
    min_p = _real(record, MIN_P)
    if min_p != 0.0:
        _cut(row, vocabulary, 0.0, _ordered(highest + tl.log(min_p)).to(tl.int64), BY_MASS, BLOCK)


def filter_rows(logits: Tensor, rows: SamplingRows, records: Tensor) -> None:
    """The part of `kernels.sampling.process` from the guides on; `records` are those of the rows as int64, on a GPU."""
    size, masks = logits.shape[1], rows.masks
    if masks is None and not any(len(rows.which(name, off)) for name, off in OFF.items()):
        return
    block, words = min(BLOCK, triton.next_power_of_2(size)), 0 if masks is None else masks.shape[1]
    _filter[(len(logits),)](
        logits, records, masks, size, logits.stride(0), words, GUIDED=masks is not None, BLOCK=block,
        num_warps=16 if block == BLOCK else 4,
    )  # fmt: skip
