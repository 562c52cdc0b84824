"""3x3 convolution of an upsampled picture, computed at the picture's own size.

Bilinear upsampling and convolution are linear, and upsampling treats all channels alike. So the channels are mixed
first, at the low resolution, by a 1x1 convolution to nine values per output channel, one for each tap of the kernel.
Upsampling each of the nine, shifting it by its tap and adding them up is then the same matrix for every channel, and
that matrix is a product of one for the rows and one for the columns. A quarter of the multiply-adds is left where a
picture is upsampled by two.

Two more identities: the picture's channels can be split (a part that several pictures share is convolved once), and a
channel that is the same everywhere only shows the picture's border to the kernel: nine different values.

Shapes: n pictures, c input and o output channels, h x w cells upsampled to H x W (corners aligned), taps t (rows) and
s (columns) of the kernel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ialcms.models.constants import constant

# How to compute it: "full" mixes the channels at the low resolution, "product" too, but by a matrix product per picture
# in place of a convolution, "half" upsamples the columns first and mixes at h x W, "direct" upsamples and convolves.
# "auto" is full, or half where matrices of the full form would cost more than they save. benchmarks/cycle.py sets it,
# to measure.
FORM = "auto"
FORMS = ("auto", "full", "product", "half", "direct")


def _shifted_upsampling(cells: int, size: int) -> Tensor:
    """(3, size, cells): linear upsampling of a line, as tap 0, 1 or 2 of a kernel of three sees it; zeros beyond."""
    identity = torch.eye(cells, dtype=torch.float64).unsqueeze(0)
    upsampling = F.interpolate(identity, size=size, mode="linear", align_corners=True)[0].T
    padded = F.pad(upsampling, (0, 0, 1, 1))
    return torch.stack([padded[tap : tap + size] for tap in range(3)])


@constant
def row_matrix(cells: int, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size, 3 * cells): the rows of the three taps, one after the other, to the rows of the result.

    cells: rows that are given. size: rows of the result. dtype, device: of the matrix.
    """
    return _shifted_upsampling(cells, size).transpose(0, 1).reshape(size, 3 * cells).to(device, dtype)


@constant
def column_matrices(cells: int, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(3, cells, size): the columns of each tap to the columns of the result.

    cells: columns that are given. size: columns of the result. dtype, device: of the matrices.
    """
    return _shifted_upsampling(cells, size).transpose(1, 2).contiguous().to(device, dtype)


@constant
def border_sums(dtype: torch.dtype, device: torch.device) -> Tensor:
    """(9, 9): from the kernel's taps (t, s) to their sums over what lies in the picture, for its first, a middle and
    its last row and column."""
    inside = torch.tensor([[0, 1, 1], [1, 1, 1], [1, 1, 0]], dtype=torch.float64)
    return torch.kron(inside, inside).T.contiguous().to(device, dtype)


@constant
def border_cells(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(9, height * width): spreads the nine values of `border_sums` over a picture of at least 2 x 2.

    dtype, device: of the result.
    """

    def line(size: int) -> Tensor:
        first, last = F.pad(torch.ones(1), (0, size - 1)), F.pad(torch.ones(1), (size - 1, 0))
        return torch.stack([first, 1 - first - last, last])

    return torch.kron(line(height), line(width)).to(device, dtype)


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, c, h, w) -> (n, c, H, W), bilinear with aligned corners, in the type of x: autocast would widen it."""
    with torch.autocast(x.device.type, enabled=False):
        return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def conv_of_upsampled(x: Tensor, weight: Tensor, size: tuple[int, int], form: str | None = None) -> Tensor:
    """conv3x3(upsample(x)), zero padded: x (n, c, h, w), weight (o, c, 3, 3), size (H, W) -> (n, o, H, W).

    form: see FORMS; None takes FORM.
    """
    form = form or FORM
    if form == "auto":
        form = "half" if _prefers_half(x, weight) else "full"
    if form == "direct":
        return F.conv2d(upsample(x, size), weight, padding=1)
    return _half(x, weight, size) if form == "half" else _full(x, weight, size, by_product=form == "product")


def _prefers_half(x: Tensor, weight: Tensor) -> bool:
    """Multiply-adds per cell and output channel are 9c + 18h + 12w and 18c + 12h; with few outputs only the size of
    what is written counts, which is less in the full form."""
    outputs, channels = weight.shape[:2]
    height, width = x.shape[-2:]
    return outputs >= 16 and 9 * channels <= 6 * height + 12 * width


def _full(x: Tensor, weight: Tensor, size: tuple[int, int], *, by_product: bool) -> Tensor:
    """x (n, c, h, w), weight (o, c, 3, 3) -> (n, o, *size). by_product: mix channels by a matrix product."""
    (count, channels, h, w), outputs = x.shape, weight.shape[0]
    height, width = size
    mixing = weight.permute(0, 2, 3, 1).reshape(9 * outputs, channels, 1, 1)  # (o, t, s), c
    if by_product:
        mixed = torch.bmm(mixing.flatten(1).expand(count, -1, -1), x.flatten(2)).unflatten(2, (h, w))
    else:
        mixed = F.conv2d(x, mixing)
    # One copy, so that rows and columns are one product each: (n, o), (t, h), (s, w)
    mixed = mixed.unflatten(1, (outputs, 3, 3)).transpose(3, 4).reshape(count * outputs, 3 * h, 3 * w)
    rows = row_matrix(h, height, mixed.dtype, mixed.device).expand(len(mixed), -1, -1)
    tall = torch.bmm(rows, mixed).view(count, outputs, height, 3 * w)
    return tall @ column_matrices(w, width, mixed.dtype, mixed.device).flatten(0, 1)


def _half(x: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
    (count, channels, h, w), outputs = x.shape, weight.shape[0]
    height, width = size
    wide = x @ column_matrices(w, width, x.dtype, x.device)[1]
    mixing = weight.permute(0, 2, 1, 3).reshape(3 * outputs, channels, 1, 3)  # (o, t), c, s
    mixed = F.conv2d(wide, mixing, padding=(0, 1)).reshape(count * outputs, 3 * h, width)
    rows = row_matrix(h, height, mixed.dtype, mixed.device).expand(len(mixed), -1, -1)
    return torch.bmm(rows, mixed).view(count, outputs, height, width)


def add_conv_of_constant(result: Tensor, constant: Tensor, weight: Tensor) -> Tensor:
    """result (n, o, H, W) plus conv3x3, zero padded, of a picture of that size with constant (n, c) in every cell."""
    count, outputs, height, width = result.shape
    channels = weight.shape[1]
    sums = weight.reshape(outputs, channels, 9) @ border_sums(weight.dtype, weight.device)
    cells = F.linear(constant, sums.transpose(1, 2).reshape(9 * outputs, channels))
    border = border_cells(height, width, cells.dtype, cells.device)
    flat = torch.addmm(result.reshape(count * outputs, -1), cells.reshape(count * outputs, 9), border)
    return flat.view_as(result)


class UpsampledConv2d(nn.Conv2d):
    """3x3 convolution, zero padded, of pictures side by side, some of which are upsampled before.

    Its input channels are those of `constant`, of `shared`, of x and of `fine`, in this order, where there are any.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=bias)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        shared: Tensor | None = None,
        *,
        constant: Tensor | None = None,
        fine: Tensor | None = None,
    ) -> Tensor:
        """x (n, c, h, w), upsampled -> (n, o, H, W), where H x W is the size of `fine`, or else 2h x 2w.

        shared: (n / k, c', h, w), each the same for k successive pictures, upsampled. constant: (n, c'), in every cell
        of the result's size. fine: (n, c', H, W) as it is.
        """
        height, width = (2 * x.shape[-2], 2 * x.shape[-1]) if fine is None else fine.shape[-2:]
        last = self.in_channels - (0 if fine is None else fine.shape[1])
        first = last - x.shape[1]
        # One split: the gradients of slices would be filled up with zeros and added.
        before, own, after = self.weight.split([first, last - first, self.in_channels - last], dim=1)
        result = conv_of_upsampled(x, own, (height, width))
        if constant is not None:
            result = add_conv_of_constant(result, constant, before)
        if shared is not None:
            once = conv_of_upsampled(shared, before, (height, width))
            result = (result.unflatten(0, (len(shared), -1)) + once.unsqueeze(1)).flatten(0, 1)
        if fine is not None:
            return result + F.conv2d(fine, after, self.bias, padding=1)
        return result if self.bias is None else result + self.bias.view(-1, 1, 1)
