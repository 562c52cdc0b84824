"""ResNet-18 stages with a choice of width, activation and dilation.

Module names follow torchvision's ResNet, so that its weights load by name; torchvision's own BasicBlock has a fixed
base width and refuses dilation.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ialcms.models.norm import BatchNorm2d, MovedBatchNorm
from ialcms.models.picture_normalisation import PictureNormalisation

Activation = Callable[[], nn.Module]


def relu() -> nn.Module:
    return nn.ReLU(inplace=True)


def leaky_relu() -> nn.Module:
    return nn.LeakyReLU(0.2, inplace=True)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut (He et al. 2016), each with its own dilation."""

    def __init__(
        self, inputs: int, channels: int, stride: int, dilations: tuple[int, int], activation: Activation
    ) -> None:
        """inputs: channels of what it is given. channels: of what it returns. stride: of the first convolution.
        dilations: of the first and of the second.
        """
        super().__init__()
        first, second = dilations
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=first, dilation=first, bias=False)
        self.bn1 = BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=second, dilation=second, bias=False)
        self.bn2 = BatchNorm2d(channels)
        self.activation = activation()
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, channels, 1, stride, bias=False), BatchNorm2d(channels))
            if stride != 1 or inputs != channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut, x = x, self.conv1(x)
        if self.downsample is None:
            x = self.bn1(x)
        else:  # independent of each other
            convolution, norm = self.downsample
            assert isinstance(norm, MovedBatchNorm)
            x, shortcut = self.bn1.of_each([self.bn1, norm], [x, convolution(shortcut)])
        x = self.activation(x)
        return self.activation(self.bn2(self.conv2(x)) + shortcut)


def stage(inputs: int, channels: int, stride: int, dilation: int = 1, activation: Activation = relu) -> nn.Sequential:
    """Two basic blocks; the first one strides. Dilation starts behind the convolution that would have strided.

    inputs: channels of what it is given. channels: of what it returns. activation: of both blocks.
    """
    return nn.Sequential(
        BasicBlock(inputs, channels, stride, dilations=(1, dilation), activation=activation),
        BasicBlock(channels, channels, 1, dilations=(dilation, dilation), activation=activation),
    )


class Backbone(nn.Module):
    """ResNet-18 without its head; the last stage is dilated instead of strided (output stride 16)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_channels = 8 * width  # of the last feature
        self.origin = ""  # what was stripped from the file that its weights come from, for the log
        self.normalise = PictureNormalisation()
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = stage(width, width, 1)
        self.layer2 = stage(width, 2 * width, 2)
        self.layer3 = stage(2 * width, 4 * width, 2)
        self.layer4 = stage(4 * width, 8 * width, 1, dilation=2)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (N, 3, S, S), uint8 or normalised floats -> third-stage and last feature.

        They are (N, 2w, S/8, S/8) and (N, 8w, S/16, S/16), w the width.
        """
        x = self.maxpool(self.relu(self.bn1(self.conv1(self.normalise(image)))))
        low_level = self.layer2(self.layer1(x))
        return low_level, self.layer4(self.layer3(low_level))
