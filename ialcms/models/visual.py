"""Visual net: frozen ResNet-18, ASPP and DeepLabv3+ decoder, common-space MLP.

Shapes: N object pictures of 3 x S x S, D channels of the common space, H x W = S/8 x S/8 cells.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ialcms.config import VisualConfig
from ialcms.models.casting import with_cast_weights
from ialcms.models.layout import arrange
from ialcms.models.norm import BatchNorm2d
from ialcms.models.resnet import Backbone
from ialcms.models.unit_length import unit_length
from ialcms.models.upsampled_conv import UpsampledConv2d


class AtrousBranch(nn.Sequential):
    def __init__(self, inputs: int, channels: int, kernel: int, dilation: int) -> None:
        """inputs: channels of what it is given. channels: of what it returns. kernel: size, 1 or 3."""
        padding = dilation if kernel == 3 else 0
        super().__init__(
            nn.Conv2d(inputs, channels, kernel, padding=padding, dilation=dilation, bias=False),
            BatchNorm2d(channels),
            nn.LeakyReLU(0.01, inplace=True),
        )


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al. 2018): dilations 1, 3, 6, 9 and image pooling, fused by 1x1."""

    def __init__(self, inputs: int, channels: int, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [AtrousBranch(inputs, channels, 1, dilation=1)]
            + [AtrousBranch(inputs, channels, 3, dilation=d) for d in (3, 6, 9)]
        )
        self.pooling = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(inputs, channels, 1, bias=False),
            BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.fusion = nn.Sequential(
            nn.Conv2d(5 * channels, outputs, 1, bias=False), BatchNorm2d(outputs), nn.ReLU(inplace=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        pool, *pooled_layers = self.pooling
        layers = list(zip(*self.branches, pooled_layers))  # convolutions, normalisations, activations
        inputs = [x] * len(self.branches) + [pool(x)]
        convolved = [layer(each) for layer, each in zip(layers[0], inputs)]
        normalised = layers[1][0].of_each(layers[1], convolved)  # independent of each other
        *features, pooled = [layer(each) for layer, each in zip(layers[2], normalised)]
        spread = pooled.expand(-1, -1, *x.shape[-2:])  # upsampling a single cell is repeating it
        return self.fusion(torch.cat([*features, spread], dim=1))


class VisualNet(nn.Module):
    """Object pictures to L2-normalised features of the common audio-visual space."""

    def __init__(self, config: VisualConfig) -> None:
        super().__init__()
        width, channels, low_level = config.width, config.channels, config.low_level_channels
        self.backbone = Backbone(width).requires_grad_(False)
        self.aspp = ASPP(8 * width, config.aspp_channels, channels)
        self.reduce = nn.Sequential(nn.Conv2d(2 * width, low_level, 1), nn.ReLU(inplace=True), BatchNorm2d(low_level))
        self.decoder = nn.Sequential(
            UpsampledConv2d(channels + low_level, channels, bias=True), nn.ReLU(inplace=True), BatchNorm2d(channels)
        )
        self.common_space = nn.Sequential(
            nn.Conv2d(channels, channels, 1),
            nn.ReLU(inplace=True),
            BatchNorm2d(channels),
            nn.Conv2d(channels, channels, 1),
        )
        self.dropout = nn.Dropout(config.dropout)

    def train(self, mode: bool = True) -> VisualNet:
        super().train(mode)
        self.backbone.eval()  # frozen: its BatchNorm statistics must not move
        return self

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (N, 3, S, S) -> two features (N, D, H, W) of unit length over D.

        Pictures are uint8, or floats that are already ImageNet-normalised. The second feature is for the consistency
        loss: while training with dropout it has passed the dropout, otherwise it is the first one.
        """
        with torch.no_grad():
            low_level, last = with_cast_weights(self.backbone, arrange(image))
        feature = self.decoder[0](with_cast_weights(self.aspp, last), fine=self.reduce(low_level))
        for layer in list(self.decoder)[1:]:
            feature = layer(feature)
        visual = unit_length(self.common_space(feature))
        if not self.training or self.dropout.p == 0:
            return visual, visual
        return visual, unit_length(self.common_space(self.dropout(feature)))
