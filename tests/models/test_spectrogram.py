from __future__ import annotations

import math

import pytest
import torch

from ialcms.config import AudioConfig
from ialcms.models.spectrogram import Spectrogram

FULL = AudioConfig()


@pytest.fixture(scope="module")
def spectrogram() -> Spectrogram:
    return Spectrogram(FULL)


def test_shapes_of_the_full_size(spectrogram: Spectrogram) -> None:
    spectrum = spectrogram.stft(torch.randn(2, 3, FULL.num_samples))
    assert spectrum.shape == (2, 3, 512, 256)
    assert spectrogram.to_log(spectrum.abs()).shape == (2, 3, 256, 256)


def test_mask_of_ones_gives_the_wave_back(spectrogram: Spectrogram) -> None:
    wave = torch.randn(2, FULL.num_samples)
    ones = spectrogram.to_linear(torch.ones(2, FULL.log_bins, FULL.num_frames))
    back = spectrogram.istft(ones * spectrogram.stft(wave), FULL.num_samples)
    assert (back - wave).abs().max() < 1e-5


def test_stft_is_float32_under_autocast(spectrogram: Spectrogram) -> None:
    wave = torch.randn(1, FULL.num_samples)
    with torch.autocast("cpu", torch.bfloat16):
        spectrum = spectrogram.stft(wave)
    assert spectrum.dtype == torch.complex64
    assert torch.equal(spectrum, spectrogram.stft(wave))


def test_a_tone_is_in_its_row(spectrogram: Spectrogram) -> None:
    frequency = 1_000.0
    wave = torch.sin(2 * math.pi * frequency * torch.arange(FULL.num_samples) / FULL.sample_rate)
    linear = spectrogram.stft(wave).abs()
    assert int(linear[:, 100].argmax()) == round(frequency / FULL.sample_rate * FULL.n_fft)
    # row i samples the linear row (21^(i/255) - 1) / 20 * 511
    row = int(spectrogram.to_log(linear)[:, 100].argmax())
    assert (21 ** (row / 255) - 1) / 20 * 511 == pytest.approx(frequency / FULL.sample_rate * FULL.n_fft, abs=1.0)


def test_warp_of_a_ramp_is_exact(spectrogram: Spectrogram) -> None:
    """Linear interpolation of a function that is linear in the row gives its value at the sampled position."""
    rows = torch.arange(512.0).unsqueeze(1)
    expected = (21 ** (torch.arange(256, dtype=torch.float64) / 255) - 1) / 20 * 511
    assert torch.allclose(spectrogram.to_log(rows).squeeze(1).double(), expected, atol=1e-3)


def test_warp_there_and_back(spectrogram: Spectrogram) -> None:
    rows = torch.linspace(0, 1, 512).unsqueeze(1)
    smooth = torch.exp(-4 * rows) * torch.cos(6 * rows)
    back = spectrogram.to_linear(spectrogram.to_log(smooth))
    assert (back - smooth).abs().max() < 1e-3
