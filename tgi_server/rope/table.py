"""Angles of a step's rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tgi_server.kernels.operations import Angles
from tgi_server.rope.base import Rope

IntArray = npt.NDArray[np.int64]


class RotaryTable:
    """Cosines and sines of all positions up to `max_positions`; of a kind that goes by lengths, made for each step."""

    def __init__(self, rope: Rope, max_positions: int, device: torch.device) -> None:
        self._rope = rope
        if not rope.by_length:
            angles = torch.outer(torch.arange(max_positions).float(), rope.frequencies())
            whole = self._turns(angles)
            self._whole = Angles(whole.cos.to(device), whole.sin.to(device))

    def rows(self, positions: Tensor, lengths: IntArray, limits: IntArray) -> Angles:
        """Of tokens at `positions`, in texts of `lengths` that may get `limits` long: all int64 `[tokens]`.

        See `Rope.frequencies`.
        """
        if not self._rope.by_length:
            return Angles(self._whole.cos[positions], self._whole.sin[positions])
        counts = (torch.from_numpy(numbers).to(positions.device) for numbers in (lengths, limits))
        return self._turns(positions.float().unsqueeze(1) * self._rope.frequencies(*counts).to(positions.device))

    def _turns(self, angles: Tensor) -> Angles:
        scale = self._rope.attention_scale
        cos, sin = angles.cos(), angles.sin()
        return Angles(cos, sin) if scale == 1.0 else Angles(cos * scale, sin * scale)
