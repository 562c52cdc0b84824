"""Masks to sounds, by closed forms."""

from __future__ import annotations

import pytest
import torch

from ialcms.config import PUBLISHED, ProtocolConfig
from ialcms.evaluation.masking import gains_from_products, least_squares_gains, source_spectra, wiener_masks

WIENER = ProtocolConfig(masks="wiener", exponent=2.0)
CONSISTENT = ProtocolConfig(masks="plain", consistency=True)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def spectrum(*shape: int) -> torch.Tensor:
    return torch.complex(random(*shape, seed=1) - 0.5, random(*shape, seed=2) - 0.5)


def test_disjoint_sources_are_found_exactly() -> None:
    """Where each cell belongs to one source, the filter gives it all of the cell, at any level of the masks."""
    mix, owner = spectrum(8, 6), random(8, 6) < 0.5
    sources = torch.stack([mix * owner, mix * ~owner])
    masks = torch.stack([3.0 * owner, 0.2 * ~owner])
    torch.testing.assert_close(source_spectra(masks, mix, WIENER), sources)


def test_the_filter_of_two_powers() -> None:
    masks = torch.tensor([3.0, 1.0]).view(2, 1, 1)
    assert wiener_masks(masks, 2.0).flatten().tolist() == pytest.approx([0.9, 0.1])
    assert wiener_masks(masks, 1.0).flatten().tolist() == pytest.approx([0.75, 0.25])
    torch.testing.assert_close(wiener_masks(1000 * masks, 2.0), wiener_masks(masks, 2.0))


@pytest.mark.parametrize("protocol", [WIENER, CONSISTENT], ids=["wiener", "consistency"])
@pytest.mark.parametrize("num_sources", [1, 2, 3])
def test_sources_add_up_to_the_mix(protocol: ProtocolConfig, num_sources: int) -> None:
    mix, masks = spectrum(4, 8, 6), 2 * random(4, num_sources, 8, 6)
    masks[:, :, 2] = 0
    found = source_spectra(masks, mix, protocol)
    assert found.shape == masks.shape
    torch.testing.assert_close(found.sum(1), mix, rtol=0, atol=1e-6)


@pytest.mark.parametrize("protocol", [WIENER, CONSISTENT], ids=["wiener", "consistency"])
def test_where_all_masks_are_zero_sources_share_evenly(protocol: ProtocolConfig) -> None:
    mix = spectrum(8, 6)
    found = source_spectra(torch.zeros(2, 8, 6), mix, protocol)
    torch.testing.assert_close(found, torch.stack([mix / 2, mix / 2]))


@pytest.mark.parametrize("masks", [1e-25, 1e25, 0.0])
def test_extreme_masks_and_silence_stay_finite(masks: float) -> None:
    values = torch.full((2, 8, 6), masks)
    assert bool(wiener_masks(values, 2.0).isfinite().all())
    assert source_spectra(values, torch.zeros(8, 6, dtype=torch.complex64), WIENER).abs().max() == 0


def test_the_published_way_is_the_mask_times_the_mix() -> None:
    mix, masks = spectrum(8, 6), 2 * random(2, 8, 6)
    torch.testing.assert_close(source_spectra(masks, mix, PUBLISHED), masks * mix)


class TestGains:
    def test_levels_of_scaled_sources_are_found(self) -> None:
        sources = random(2, 500) - 0.5
        gains = least_squares_gains(sources * torch.tensor([[4.0], [0.25]]), sources.sum(0))
        assert gains.tolist() == pytest.approx([0.25, 4.0], rel=1e-4)

    def test_a_silent_stem_and_an_inverted_one_get_nothing(self) -> None:
        source = random(500) - 0.5
        stems = torch.stack([2 * source, torch.zeros(500), -0.1 * source])
        gains = least_squares_gains(stems, source)
        assert gains[0] == pytest.approx(0.5, rel=1e-3)
        assert gains[1:].tolist() == [0, 0]

    def test_equal_stems_share_and_silence_gives_nothing(self) -> None:
        source = random(500) - 0.5
        gains = least_squares_gains(torch.stack([source, source]), source)
        assert gains.sum() == pytest.approx(1, rel=1e-3)
        assert gains_from_products(torch.zeros(2, 2).double(), torch.zeros(2).double()).tolist() == [0, 0]
