"""Whether anything but plain torch may compute (option `disable_custom_kernels`). Stdlib only.

`native.kernels` and `triton.support` give their reasons not to run from here, so that everything that asks them, now
or later, keeps to it. A setting of the whole process, as those of torch.backends are: the runner makes it before
anything is chosen or loaded.
"""

from __future__ import annotations

_reasons: list[str] = []


def disable() -> None:
    """From now on whoever asks is told to use plain torch."""
    _reasons[:] = ["disable_custom_kernels=true"]


def disabled() -> list[str]:
    """The reason not to use a kernel; empty where kernels may be used."""
    return list(_reasons)
