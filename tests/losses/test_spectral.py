"""The multi-resolution STFT loss: closed forms, shares of a batch, gradients where sounds are silent."""

from __future__ import annotations

import math

import pytest
import torch

from ialcms.losses.spectral import FLOOR, _magnitudes, spectral_loss

WINDOWS = (512, 1_024, 2_048)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_same_sound_costs_nothing() -> None:
    waves = noise(2, 3, 8_000)
    assert float(spectral_loss(waves, waves, WINDOWS)) == 0


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_a_gain_costs_its_closed_form(gain: float) -> None:
    """|1 - gain| of the norm, |log gain| of every magnitude (none of which is near the floor)."""
    target = 100 * noise(1, 8_000)
    assert float(_magnitudes(target, 512).min()) > 2 * FLOOR
    expected = abs(1 - gain) + abs(math.log(gain))
    assert float(spectral_loss(gain * target, target, (512,))) == pytest.approx(expected, rel=1e-5)


def test_magnitudes_are_those_of_torchs_stft() -> None:
    """In another order of frames."""
    waves = noise(2, 5_003)
    ours = _magnitudes(waves, 512)
    window = torch.hann_window(512)
    theirs = torch.stft(waves, 512, 128, window=window, center=False, return_complex=True).abs().clamp(min=FLOOR)
    assert ours.shape == theirs.transpose(1, 2).shape
    order = torch.tensor([frame for series in range(4) for frame in range(series, ours.shape[1], 4)])
    torch.testing.assert_close(ours, theirs.transpose(1, 2)[:, order], rtol=1e-4, atol=1e-5)


def test_a_batch_costs_the_mean_of_its_sounds() -> None:
    estimates, targets = noise(4, 2, 8_000), noise(4, 2, 8_000, seed=1) * torch.linspace(0.1, 2, 8).view(4, 2, 1)
    whole = spectral_loss(estimates, targets, WINDOWS)
    halves = [spectral_loss(estimates[rows], targets[rows], WINDOWS) for rows in (slice(0, 2), slice(2, 4))]
    assert float(whole) == pytest.approx(float(sum(halves)) / 2, rel=1e-6)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_silence_has_finite_losses_and_gradients(level: float) -> None:
    target = level * noise(1, 8_000)
    for estimate in (torch.zeros(1, 8_000), noise(1, 8_000, seed=2)):
        estimate.requires_grad_()
        loss = spectral_loss(estimate, target, WINDOWS)
        loss.backward()
        assert estimate.grad is not None
        assert loss.isfinite()
        assert estimate.grad.isfinite().all()
