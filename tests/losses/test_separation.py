"""SI-SNR: closed forms, scale, silence."""

from __future__ import annotations

import math

import pytest
import torch

from ialcms import losses


def tone(cycles: float, samples: int = 4_000, phase: float = 0.0) -> torch.Tensor:
    return torch.sin(2 * math.pi * cycles * torch.arange(samples) / samples + phase)


class TestSiSnr:
    def test_perfect_estimate_gives_the_cap(self) -> None:
        assert float(losses.si_snr(3 * tone(5), tone(5))) == pytest.approx(30.0, abs=1e-3)
        assert float(losses.si_snr(tone(5), tone(5), cap_db=20.0)) == pytest.approx(20.0, abs=1e-3)

    def test_scale_and_offset_do_not_matter(self) -> None:
        estimate, target = tone(5) + 0.3 * tone(11), tone(5)
        value = float(losses.si_snr(estimate, target))
        assert float(losses.si_snr(7 * estimate + 2, target)) == pytest.approx(value, abs=1e-3)
        assert float(losses.si_snr(estimate, 0.2 * target - 1)) == pytest.approx(value, abs=1e-3)

    def test_closed_form(self) -> None:
        # an orthogonal rest of a tenth of the energy: p / (0.1 p + 0.001 p)
        value = losses.si_snr(tone(5) + math.sqrt(0.1) * tone(11), tone(5))
        assert float(value) == pytest.approx(10 * math.log10(1 / 0.101), abs=1e-3)

    def test_silent_and_orthogonal_estimates_are_finite(self) -> None:
        assert float(losses.si_snr(torch.zeros(4_000), tone(5))) == pytest.approx(-80.0, abs=1e-3)
        assert float(losses.si_snr(tone(11), tone(5))) < -60
        assert float(losses.si_snr(tone(11), torch.zeros(4_000))) == pytest.approx(-80.0, abs=1e-3)

    def test_gradient_of_a_silent_estimate_is_finite(self) -> None:
        estimate = torch.zeros(4_000, requires_grad=True)
        losses.si_snr(estimate, tone(5)).backward()
        assert torch.isfinite(estimate.grad).all()


def test_separation_loss_is_the_negative_mean() -> None:
    target = torch.stack([tone(5), tone(9)]).unsqueeze(0)
    estimate = target + 0.1 * torch.stack([tone(20), tone(30)])
    expected = -(losses.si_snr(estimate[0, 0], target[0, 0]) + losses.si_snr(estimate[0, 1], target[0, 1])) / 2
    assert float(losses.separation_loss(estimate, target)) == pytest.approx(float(expected))
