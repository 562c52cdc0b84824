"""How torch computes, for every command: the switches that hold for the whole process."""

from __future__ import annotations

import ctypes
import sys

import torch

from ialcms.config import Config

# Of glibc's mallopt
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # which to set


def set_arithmetic(config: Config, *, fixed_shapes: bool = False) -> None:
    """TF32 in float32 matrix products and convolutions where `train.tf32` says so: torch's own defaults are full
    float32 in products and TF32 in convolutions.

    fixed_shapes: all passes have the same shapes, so `train.cudnn_benchmark` may have cuDNN try the algorithms of each
    convolution once, and without a GPU the process keeps the memory of one pass for the next.
    """
    torch.backends.cuda.matmul.allow_tf32 = config.train.tf32
    torch.backends.cudnn.allow_tf32 = config.train.tf32
    torch.backends.cudnn.benchmark = fixed_shapes and config.train.cudnn_benchmark
    if fixed_shapes and not torch.cuda.is_available():
        keep_memory()


def keep_memory() -> None:
    """Freed memory stays with the process, from now on; nothing where the C library is not glibc.

    glibc gives blocks of 32 MB and more back at once, and takes new ones: the kernel then fills their pages with zeros,
    one interrupt each. docs/performance.md says what that costs.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)  # never
