"""4x4 convolution with stride 2, as a matrix product where a CPU is slow at the convolution itself.

With 1,024 input channels and a picture of 8 x 8 the weight is 67 MB. oneDNN reorders it, and its gradient, in each
pass, and convolves at a third of the rate of a matrix product. The product takes the weight as it lies in memory; what
is reordered are the pictures' cells, of which there are few.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

KERNEL, STRIDE, PADDING = 4, 2, 1
LARGE = 2**22  # numbers in a weight from which on the product was measured to be faster; it is slower with 2**21


def halving_conv(x: Tensor, weight: Tensor) -> Tensor:
    """x (n, c, h, w), h and w even, weight (o, c, 4, 4) -> (n, o, h / 2, w / 2), zero padded."""
    if x.device.type == "cpu" and weight.numel() >= LARGE:
        return by_product(x, weight)
    return F.conv2d(x, weight, stride=STRIDE, padding=PADDING)


def by_product(x: Tensor, weight: Tensor) -> Tensor:
    """As `halving_conv`. The result lies channels last."""
    count, _, height, width = x.shape
    seen = F.unfold(x, KERNEL, padding=PADDING, stride=STRIDE)  # (n, 16 c, cells)
    rows = seen.transpose(1, 2).reshape(-1, seen.shape[1])
    return F.linear(rows, weight.flatten(1)).view(count, height // 2, width // 2, len(weight)).permute(0, 3, 1, 2)
