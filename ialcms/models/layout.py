"""In which order pictures lie in memory for the convolutions: channel by channel, or all channels of a cell together.

A network's first convolution takes it from its input, and the layers behind it keep it. Channels last is what tensor
cores want, and on CPUs it makes the critic a seventh faster and the others no slower and no faster; in plain float32 on
a GPU cuDNN is made for the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

# "auto", "channels_last" or "contiguous"; benchmarks/cycle.py sets it, to measure.
LAYOUT = "auto"
LAYOUTS = ("auto", "channels_last", "contiguous")


def arrange(x: Tensor, *, on_cpu: bool = False) -> Tensor:
    """x (n, c, h, w) in the layout for the convolutions that follow; a picture of one channel is not copied.

    on_cpu: whether channels last has been measured to pay there.
    """
    if LAYOUT == "contiguous" or (LAYOUT == "auto" and not _pays(x, on_cpu)):
        return x
    if x.shape[1] == 1:  # torch sees no difference between the two, unless the strides are channels last
        return x.squeeze(1).unsqueeze(-1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def _pays(x: Tensor, on_cpu: bool) -> bool:
    if x.device.type != "cuda":
        return on_cpu
    return torch.is_autocast_enabled("cuda") or torch.backends.cudnn.allow_tf32
