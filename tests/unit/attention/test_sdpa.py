import torch
from torch.nn.functional import scaled_dot_product_attention

from tgi_server.attention.base import AttentionBatch, LayerCache
from tgi_server.attention.sdpa import SdpaAttention
from tgi_server.types import BLOCK_SIZE

HEADS, KV_HEADS, DIM = 6, 2, 8


def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Causal attention over whole sequences `[n, heads, dim]`."""
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
    return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(0, 1)


def test_any_split_into_steps_equals_whole_sequences() -> None:
    """Three sequences computed in mixed steps of prompt chunks and single tokens, blocks out of order."""
    torch.manual_seed(0)
    lengths, tables = [40, 17, 5], [[9, 2, 5], [1, 7], [4]]
    whole = [tuple(torch.randn(n, heads, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS)) for n in lengths]
    cache = LayerCache(*(torch.full((10, KV_HEADS, BLOCK_SIZE, DIM), torch.nan) for _ in range(2)))
    padded = torch.tensor([t + [0] * (3 - len(t)) for t in tables])
    done = [0, 0, 0]
    results: list[list[torch.Tensor]] = [[], [], []]
    for counts in ([20, 16, 0], [19, 1, 4], [1, 0, 1]):
        which = [i for i in range(3) if counts[i]]
        rows = [range(done[i], done[i] + counts[i]) for i in which]
        batch = AttentionBatch(
            query_starts=[0, *torch.tensor([len(r) for r in rows]).cumsum(0).tolist()],
            query_lengths=[len(r) for r in rows],
            context_lengths=[r.stop for r in rows],
            block_tables=padded[which],
            slots=torch.tensor(
                [
                    tables[i][p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE
                    for i, r in zip(which, rows, strict=True)
                    for p in r
                ]
            ),
        )
        q, k, v = (
            torch.cat([whole[i][x][r.start : r.stop] for i, r in zip(which, rows, strict=True)]) for x in range(3)
        )
        out = SdpaAttention()(q, k, v, cache, batch)
        for i, part in zip(which, torch.split(out, batch.query_lengths), strict=True):
            results[i].append(part)
            done[i] += len(part)
    for i in range(3):
        assert torch.allclose(torch.cat(results[i]), dense(*whole[i]), atol=1e-5)
