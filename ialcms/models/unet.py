"""Audio U-Net: the encoder runs once per mix, everything from the audio-visual module on once per object.

Shapes: B mixes, K objects a mix, N = B*K; F x T the log-frequency spectrogram; w the width of the first stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ialcms.models.casting import with_cast_weights
from ialcms.models.instance_scaling import scale_instances
from ialcms.models.norm import BatchNorm2d, MovedBatchNorm
from ialcms.models.resnet import leaky_relu, stage
from ialcms.models.shards import in_shards
from ialcms.models.upsampled_conv import UpsampledConv2d


class Encoder(nn.Module):
    """ResNet-18-like, LeakyReLU(0.2): 7x7/2 and four strided stages, down to 8w channels and 1/32 of the size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 7, 2, padding=3, bias=False), BatchNorm2d(width), leaky_relu())
        channels = [width, 2 * width, 4 * width, 8 * width]
        self.stages = nn.ModuleList(
            stage(inputs, outputs, 2, activation=leaky_relu) for inputs, outputs in zip([width, *channels], channels)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 1, F, T) -> features from the largest (B, w, F/2, T/2) to the bottom (B, 8w, F/32, T/32)."""
        features = [self.stem(x)]
        *others, last = self.stages
        for block in others:
            features.append(block(features[-1]))
        return [*features, with_cast_weights(last, features[-1])]


class AdaptiveInstanceNorm(nn.Module):
    """Instance normalisation whose gain and offset are linear in a context vector (Huang & Belongie 2017)."""

    def __init__(self, channels: int, context_channels: int) -> None:
        super().__init__()
        self.gain = nn.Linear(context_channels, channels)
        self.offset = nn.Linear(context_channels, channels)

    def forward(self, x: Tensor, style: Style, norm: MovedBatchNorm) -> Tensor:
        """Of norm(x), in one pass over x with it; x (n, c, h, w)."""
        return scale_instances(x, norm, style.gain, offset=style.offset, whole=getattr(norm, "whole", None))


class Style(NamedTuple):
    """Of an AdaptiveInstanceNorm, in float32."""

    gain: Tensor  # (n, c)
    offset: Tensor  # (n, c)


def styles(norms: Sequence[AdaptiveInstanceNorm], context: Tensor) -> list[Style]:
    """Of all of them, for context (n, C): one product in place of two each."""
    layers = [layer for norm in norms for layer in (norm.gain, norm.offset)]
    if in_shards(layer.weight for layer in layers):
        values = [layer(context).float() for layer in layers]
    else:
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([layer.bias for layer in layers])
        sizes = [layer.out_features for layer in layers]
        values = list(F.linear(context, weight, bias).float().split(sizes, dim=1))
    return [Style(gain, offset) for gain, offset in zip(values[::2], values[1::2])]


class UpBlock(nn.Module):
    """Twice the size: bilinear, 3x3 convolution, LeakyReLU(0.2), BatchNorm, AdaIN."""

    def __init__(self, inputs: int, channels: int, context_channels: int) -> None:
        super().__init__()
        self.conv = UpsampledConv2d(inputs, channels)
        self.activation = leaky_relu()
        self.norm = BatchNorm2d(channels)
        self.style = AdaptiveInstanceNorm(channels, context_channels)

    def forward(
        self, x: Tensor, style: Style, shared: Tensor | None = None, *, constant: Tensor | None = None
    ) -> Tensor:
        """x (n, c, h, w) -> (n, c', 2h, 2w). style: of `self.style`.

        shared, constant: further channels, see UpsampledConv2d.
        """
        return self.style(self.activation(self.conv(x, shared, constant=constant)), style, self.norm)  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """From the audio-visual module's output to one score per spectrogram cell.

    The bottom's input is a picture's embedding, the same in all cells, and a sound's feature; `inputs` counts both.
    """

    def __init__(self, inputs: int, width: int, context_channels: int) -> None:
        super().__init__()
        outputs = [8 * width, 4 * width, 2 * width, width]
        skips = [0, 4 * width, 2 * width, width]  # of the encoder features that join each block's input
        block_inputs = [inputs, *outputs[:-1]]
        self.blocks = nn.ModuleList(
            UpBlock(below + skip, channels, context_channels)
            for below, skip, channels in zip(block_inputs, skips, outputs)
        )
        self.score = UpsampledConv2d(2 * width, 1, bias=True)

    def forward(self, sound: Tensor, picture: Tensor, context: Tensor, features: list[Tensor]) -> Tensor:
        """sound (N, c, h, w) and picture (N, D), context (N, C), features of the B mixes as Encoder gives them.

        Returns (N, 1, F, T).
        """
        first, *others = styles([block.style for block in self.blocks], context)  # type: ignore[misc]
        x = self.blocks[0](sound, first, constant=picture)
        shared = features[-2::-1]  # each the same for all objects of a mix
        for block, style, feature in zip(self.blocks[1:], others, shared):
            x = block(x, style, feature)
        return self.score(x, shared[-1])  # type: ignore[no-any-return]
