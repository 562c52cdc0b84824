"""The separator: a mix and pictures of its sounding objects in, one mask per object out.

Shapes: B mixes, M mixtures a mix, O objects a mixture, N = B*M*O; L samples, Fq linear and F log-frequency bins,
T frames; D channels and H x W cells of the visual feature.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ialcms.config import AudioConfig, ModelConfig
from ialcms.models.audio_visual import AudioVisualModule
from ialcms.models.casting import with_cast_weights
from ialcms.models.layout import arrange
from ialcms.models.norm import BatchNorm2d, MovedBatchNorm, move_all, move_together
from ialcms.models.spectrogram import Spectrogram
from ialcms.models.unet import Decoder, Encoder
from ialcms.models.visual import VisualNet

_REMAINDER = 0.1  # beside the masks of the objects, whose shares sum to less than 1; see docs/quality.md


class SeparatorOutput(NamedTuple):  # a tuple, so that an engine finds the tensors in it
    mask: Tensor  # (B, M, O, F, T), ratio to the mix, at least 0; unbounded, but for shares
    magnitude: Tensor  # (B, M, O, F, T), mask times the mix's magnitude: what the critic sees
    mix_spectrum: Tensor  # complex (B, Fq, T)
    visual: Tensor  # (B, M, O, D, H, W), unit length over D
    visual_for_loss: Tensor  # the same through dropout, for the consistency loss
    cosine_map: Tensor  # (B, M, O, H, W)
    localisation: Tensor  # (B, M, O, H, W) in (0, 1)
    audio_embedding: Tensor  # (B, M, O, D), unit length
    attended_visual: Tensor  # (B, M, O, D), unit L1 length


class Separator(nn.Module):
    """Visual net, audio U-Net and the audio-visual module between them.

    Call it on waves (B, L) and pictures (B, M, O, 3, S, S), uint8 or ImageNet-normalised floats; `component_waves` and
    `mixture_waves` turn its output into sound.

    With P pictures of each object, (B, M, O, P, 3, S, S), all their cells lie side by side, H = P * S/8: the maximum,
    the attention and the consistency loss find the object in whichever picture shows it best. Features keep their unit
    length, cells of different crops are not mixed, the decoder runs once an object, and with P = 1 it is the network
    as published. (Averaged features would need aligned crops; averaged masks cost P decoders. Outside training masks
    are averaged: see `eval.protocol`.)

    With `model.masks: shares` an object gets m_k / (sum_j m_j + 0.1) of a cell, over all objects j of the mix, where m
    are the network's masks: objects compete for the mix in training as they do in a Wiener filter.
    """

    def __init__(self, model: ModelConfig, audio: AudioConfig) -> None:
        super().__init__()
        width, common = model.unet.width, model.visual.channels
        bottom = 8 * width
        self.spectrogram = Spectrogram(audio)
        self.visual = VisualNet(model.visual)
        self.input_norm = BatchNorm2d(1)
        self.encoder = Encoder(width)
        self.audio_visual = AudioVisualModule(bottom, common)
        self.decoder = Decoder(common + bottom, width, common + bottom)
        self._has_shares = model.masks == "shares"
        self.mask_scale = nn.Parameter(torch.ones(1))
        self.mask_bias = nn.Parameter(torch.zeros(1))
        for module in (self.encoder, self.audio_visual, self.decoder):
            _initialise(module)
        self._moved_together: list[MovedBatchNorm] = []  # from the first call of `train` on

    def train(self, mode: bool = True) -> Separator:
        super().train(mode)
        self._moved_together = move_together(self, mode)
        return self

    def forward(self, mix: Tensor, objects: Tensor) -> SeparatorOutput:
        spectrum = self.spectrogram.stft(mix)
        visual, visual_for_loss = self.visual(objects.flatten(0, -4))
        if objects.dim() == 7:
            pictures = objects.shape[3]
            visual, visual_for_loss = _side_by_side(visual, pictures), _side_by_side(visual_for_loss, pictures)
        output = self.separate(spectrum, visual, visual_for_loss, objects=(objects.shape[1], objects.shape[2]))
        if self.training:
            move_all(self._moved_together)
        if self._has_shares:
            divisor = output.mask.sum(dim=(1, 2), keepdim=True) + _REMAINDER
            output = output._replace(mask=output.mask / divisor, magnitude=output.magnitude / divisor)
        return output

    def final_masks(self, masks: Tensor) -> Tensor:
        """`separate`'s masks (B, K, F, T) of the K objects of a mix, as they are laid over it: as they are, or shares.

        They may be means over several pictures of each object.
        """
        return masks / (masks.sum(dim=1, keepdim=True) + _REMAINDER) if self._has_shares else masks

    def separate(
        self, spectrum: Tensor, visual: Tensor, visual_for_loss: Tensor, objects: tuple[int, int]
    ) -> SeparatorOutput:
        """The audio half: spectrum (B, Fq, T) and visual features (N, D, H, W) of objects = (M, O) pictures a mix.

        Windows of one clip see the same pictures: compute the features once with `self.visual`, repeat them here. The
        masks are not shares yet, whatever `model.masks` is: `final_masks` makes them so.

        visual_for_loss: visual features, with a dropout of their own, that are handed on to the losses.
        """
        shape = (spectrum.shape[0], *objects)
        num_objects = objects[0] * objects[1]
        mix_magnitude = self.spectrogram.to_log(spectrum.abs()).unsqueeze(1)  # (B, 1, F, T)
        loudness = arrange(self.input_norm(torch.log(mix_magnitude + 1e-8).detach()))
        features = with_cast_weights(self.encoder, loudness, apart=self.encoder.stages[-1])
        bottom = features[-1].repeat_interleave(num_objects, dim=0)
        fused = with_cast_weights(self.audio_visual, bottom, visual)
        score = with_cast_weights(
            self.decoder, fused.attended_audio, fused.attended_visual, fused.context, features=features
        )
        mask = torch.relu(score.float() * self.mask_scale + self.mask_bias + 0.5).unflatten(0, shape).squeeze(3)
        return SeparatorOutput(
            mask=mask,
            magnitude=mask * mix_magnitude.unsqueeze(1),
            mix_spectrum=spectrum,
            visual=visual.unflatten(0, shape),
            visual_for_loss=visual_for_loss.unflatten(0, shape),
            cosine_map=fused.cosine_map.unflatten(0, shape),
            localisation=fused.localisation.unflatten(0, shape),
            audio_embedding=fused.audio_embedding.unflatten(0, shape),
            attended_visual=fused.attended_visual.unflatten(0, shape),
        )

    def component_waves(self, output: SeparatorOutput, num_samples: int) -> Tensor:
        """Each object's sound, (B, M, O, num_samples)."""
        return self._waves(output.mask, output.mix_spectrum[:, None, None], num_samples)

    def mixture_waves(self, output: SeparatorOutput, num_samples: int) -> Tensor:
        """The sum of the sounds of each mixture's objects, (B, M, num_samples).

        Resampling, masking and inverse STFT are linear: the masks are summed first, at a fraction of the work.
        """
        return self._waves(output.mask.sum(dim=2), output.mix_spectrum[:, None], num_samples)

    def _waves(self, mask: Tensor, spectrum: Tensor, num_samples: int) -> Tensor:
        return self.spectrogram.istft(self.spectrogram.to_linear(mask) * spectrum, num_samples)


def _side_by_side(features: Tensor, pictures: int) -> Tensor:
    """The cells of the pictures of each object as those of one taller picture: (N * P, D, H, W) -> (N, D, P * H, W)."""
    return features.unflatten(0, (-1, pictures)).transpose(1, 2).flatten(2, 3)


def _initialise(module: nn.Module) -> None:
    """Convolutions from N(0, 0.02^2), BatchNorm gains from N(1, 0.02^2), zero offsets: Sound of Pixels' start."""
    for part in module.modules():
        if isinstance(part, (nn.Conv1d, nn.Conv2d)):
            nn.init.normal_(part.weight, 0, 0.02)
        elif isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(part.weight, 1, 0.02)
            nn.init.zeros_(part.bias)
