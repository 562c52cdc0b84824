"""Audio-visual module at the bottom of the U-Net: where picture and sound meet.

Shapes: N objects, C bottom channels of the U-Net, h x w bottom cells, D common-space channels, H x W visual cells.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ialcms.models.norm import BatchNorm1d, BatchNorm2d
from ialcms.models.unit_length import unit_length


class AudioVisualOutput(NamedTuple):  # a tuple, so that an engine finds the tensors in it
    attended_audio: Tensor  # (N, C, h, w), to be decoded; the picture's half is `attended_visual` in every cell
    context: Tensor  # (N, D + C), conditions the decoder
    cosine_map: Tensor  # (N, H, W)
    localisation: Tensor  # (N, H, W) in (0, 1)
    audio_embedding: Tensor  # (N, D), unit length
    attended_visual: Tensor  # (N, D), unit L1 length


class AudioVisualModule(nn.Module):
    """Fuses the mix's feature with an object's, localises the sound in the picture, attends both ways."""

    def __init__(self, audio_channels: int, visual_channels: int) -> None:
        super().__init__()
        c, d = audio_channels, visual_channels
        self.fusion = nn.Sequential(
            nn.Conv2d(c + d, c + d, 1),
            nn.LeakyReLU(0.2, inplace=True),
            BatchNorm2d(c + d),
            nn.Conv2d(c + d, c, 1),
            nn.LeakyReLU(0.2, inplace=True),
            BatchNorm2d(c),
        )
        self.common_space = nn.Sequential(
            nn.Conv2d(c, d, 1), nn.LeakyReLU(0.2, inplace=True), BatchNorm2d(d), nn.Conv2d(d, d, 1)
        )
        self.channel_attention = nn.Sequential(
            nn.Conv1d(d, c, 1), nn.LeakyReLU(0.2, inplace=True), BatchNorm1d(c), nn.Conv1d(c, c, 1)
        )
        self.localisation_gain = nn.Parameter(torch.tensor(1.0))
        self.localisation_bias = nn.Parameter(torch.tensor(-0.2))

    def forward(self, audio: Tensor, visual: Tensor) -> AudioVisualOutput:
        """audio (N, C, h, w): the mix's bottom feature, once per object; visual (N, D, H, W), unit length over D."""
        cells = audio.shape[-2:]
        picture = visual.amax(dim=(2, 3))[:, :, None, None].expand(-1, -1, *cells)
        fused = self.fusion(torch.cat([audio, picture.to(audio.dtype)], dim=1))

        audio_common = unit_length(self.common_space(fused)).mean(dim=(2, 3))
        audio_embedding = unit_length(audio_common)
        # The attention stays in float32: its BatchNorm sees a variance of about 4e-12 at the start of training, which
        # would be lost in 16 bits.
        with torch.autocast(audio.device.type, enabled=False):
            cosine_map = torch.einsum("ndhw,nd->nhw", visual, audio_embedding)
            localisation = torch.sigmoid(self.localisation_gain * cosine_map + self.localisation_bias)
            attended = unit_length(torch.einsum("nhw,ndhw->nd", localisation, visual), p=1)
            agreement = attended * audio_common
            weight = torch.sigmoid(self.channel_attention(agreement.unsqueeze(-1))).unsqueeze(-1)
            attended_audio = fused.float() * (1 + weight)

        return AudioVisualOutput(
            attended_audio=attended_audio,
            context=torch.cat([attended, attended_audio.mean(dim=(2, 3))], dim=1),
            cosine_map=cosine_map,
            localisation=localisation,
            audio_embedding=audio_embedding,
            attended_visual=attended,
        )
