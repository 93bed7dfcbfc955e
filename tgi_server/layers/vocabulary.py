"""Token embedding and output head, their rows spread over the ranks."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import embedding

from tgi_server.layers.parallel import Group


class VocabularyEmbedding:
    """Rows `[start, stop)` of the embedding matrix; ids of other ranks contribute zeros to the sum."""

    def __init__(self, weight: Tensor, start: int, group: Group) -> None:
        self.weight = weight
        self.start = start
        self.group = group

    def __call__(self, ids: Tensor) -> Tensor:
        """Token ids `[tokens]` to float32 vectors `[tokens, hidden]`."""
        if self.group.world == 1:
            return embedding(ids, self.weight).float()
        local = ids - self.start
        mine = (local >= 0) & (local < self.weight.shape[0])
        vectors = embedding(local.where(mine, local.new_zeros(())), self.weight).float()
        return self.group.all_reduce(vectors.masked_fill_(~mine.unsqueeze(-1), 0.0))
