"""How a GPU computes, for every command: the switches that torch keeps for the whole process."""

from __future__ import annotations

import torch

from ialcms.config import Config


def set_arithmetic(config: Config, *, fixed_shapes: bool = False) -> None:
    """TF32 in float32 matrix products and convolutions where `train.tf32` says so: torch's own defaults are full
    float32 in products and TF32 in convolutions.

    fixed_shapes: all passes have the same shapes, so `train.cudnn_benchmark` may have cuDNN try the algorithms of each
    convolution once. On a CPU nothing changes.
    """
    torch.backends.cuda.matmul.allow_tf32 = config.train.tf32
    torch.backends.cudnn.allow_tf32 = config.train.tf32
    torch.backends.cudnn.benchmark = fixed_shapes and config.train.cudnn_benchmark
