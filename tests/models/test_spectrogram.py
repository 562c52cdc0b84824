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


@pytest.mark.parametrize(("n_fft", "hop"), [(1_022, 256), (512, 128), (500, 200)])
@pytest.mark.parametrize("more", [0, -333, 4_000])
def test_inverse_is_torchs(n_fft: int, hop: int, more: int) -> None:
    """Any numbers of frames and samples, also beyond the last frame; gradients too."""
    config = AudioConfig(n_fft=n_fft, hop=hop, num_samples=20_000)
    spectrogram = Spectrogram(config)
    for frames in (config.num_frames, config.num_frames - 5):
        samples = hop * (frames - 1) + more
        generator = torch.Generator().manual_seed(0)
        spectrum = torch.randn(2, n_fft // 2 + 1, frames, dtype=torch.complex64, generator=generator)
        spectrum.requires_grad_()
        ours = spectrogram.istft(spectrum, samples)
        window = torch.hann_window(n_fft)
        known = min(samples, hop * (frames - 1) + n_fft // 4)  # where windows fade out torch divides by next to nothing
        theirs = torch.istft(spectrum, n_fft, hop, window=window, length=samples)
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours[:, :known], theirs[:, :known], rtol=1e-4, atol=1e-5)
        (own,) = torch.autograd.grad(ours[:, :known].pow(3).sum(), spectrum)
        (expected,) = torch.autograd.grad(theirs[:, :known].pow(3).sum(), spectrum)
        assert (own - expected).abs().max() < 1e-4 * expected.abs().max()


def test_inverse_is_one_graph_for_the_compiler() -> None:
    config = AudioConfig(n_fft=512, hop=128, num_samples=4_096)
    spectrogram = Spectrogram(config)
    spectrum = torch.randn(2, 257, config.num_frames, dtype=torch.complex64)
    compiled = torch.compile(lambda x: spectrogram.istft(x, 4_000), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(spectrum), spectrogram.istft(spectrum, 4_000))
