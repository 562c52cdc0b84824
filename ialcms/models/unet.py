"""Audio U-Net: the encoder runs once per mix, everything from the audio-visual module on once per object.

Shapes: B mixes, K objects a mix, N = B*K; F x T the log-frequency spectrogram; w the width of the first stage.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ialcms.models.norm import BatchNorm2d
from ialcms.models.resnet import leaky_relu, stage


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
        for block in self.stages:
            features.append(block(features[-1]))
        return features


class AdaptiveInstanceNorm(nn.Module):
    """Instance normalisation whose gain and offset are linear in a context vector (Huang & Belongie 2017)."""

    def __init__(self, channels: int, context_channels: int) -> None:
        super().__init__()
        self.gain = nn.Linear(context_channels, channels)
        self.offset = nn.Linear(context_channels, channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        gain, offset = self.gain(context)[:, :, None, None], self.offset(context)[:, :, None, None]
        return F.instance_norm(x) * gain + offset


class UpBlock(nn.Module):
    """Twice the size: bilinear, 3x3 convolution, LeakyReLU(0.2), BatchNorm, AdaIN."""

    def __init__(self, inputs: int, channels: int, context_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, channels, 3, padding=1, bias=False)
        self.activation = leaky_relu()
        self.norm = BatchNorm2d(channels)
        self.style = AdaptiveInstanceNorm(channels, context_channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.style(self.norm(self.activation(self.conv(upsample(x)))), context)


class Decoder(nn.Module):
    """From the audio-visual module's output (N, inputs, F/32, T/32) to one score per spectrogram cell."""

    def __init__(self, inputs: int, width: int, context_channels: int) -> None:
        super().__init__()
        outputs = [8 * width, 4 * width, 2 * width, width]
        skips = [0, 4 * width, 2 * width, width]  # of the encoder features that join each block's input
        block_inputs = [inputs, *outputs[:-1]]
        self.blocks = nn.ModuleList(
            UpBlock(below + skip, channels, context_channels)
            for below, skip, channels in zip(block_inputs, skips, outputs)
        )
        self.score = nn.Conv2d(2 * width, 1, 3, padding=1)

    def forward(self, x: Tensor, context: Tensor, features: list[Tensor], num_objects: int) -> Tensor:
        """x (N, inputs, h, w), context (N, C), features of the mixes as Encoder gives them -> (N, 1, F, T)."""
        x = self.blocks[0](x, context)
        for block, feature in zip([*self.blocks[1:], None], reversed(features[:-1])):
            x = torch.cat([feature.repeat_interleave(num_objects, dim=0).to(x.dtype), x], dim=1)
            if block is not None:
                x = block(x, context)
        return self.score(upsample(x))


def upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
