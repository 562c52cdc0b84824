"""Masks to sounds, by closed forms."""

from __future__ import annotations

import pytest
import torch

from ialcms.config import PUBLISHED, ProtocolConfig
from ialcms.evaluation.masking import REMAINDER_MASK, source_spectra, stem_gains, stem_masks, wiener_masks

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


class TestStems:
    @pytest.mark.parametrize("num_objects", [1, 2, 3])
    def test_stems_and_remainder_sum_to_the_mix(self, num_objects: int) -> None:
        """The remainder has its own share by the same filter, at least what its mask asks for."""
        masks, mix = 2 * random(num_objects, 8, 6), spectrum(8, 6)
        masks[:, 2] = 0
        stems = stem_masks(masks, torch.ones(num_objects), WIENER) * mix
        remainder = REMAINDER_MASK**2 / (masks.square().sum(0) + REMAINDER_MASK**2) * mix
        torch.testing.assert_close(stems.sum(0) + remainder, mix, rtol=0, atol=1e-6)

    def test_a_single_object_gets_what_its_mask_asks_for_against_the_remainder(self) -> None:
        found = stem_masks(torch.tensor([0.0, REMAINDER_MASK, 3.0]).view(1, 3, 1), torch.ones(1), WIENER).flatten()
        assert found[:2].tolist() == pytest.approx([0, 0.5])
        assert found[2] > 0.98

    def test_where_all_masks_are_zero_the_remainder_has_everything(self) -> None:
        for protocol in (WIENER, PUBLISHED):
            assert stem_masks(torch.zeros(2, 8, 6), torch.ones(2), protocol).abs().max() == 0

    def test_disjoint_sources_are_found_exactly_where_they_are_loud(self) -> None:
        mix, owner = spectrum(8, 6), random(8, 6) < 0.5
        stems = stem_masks(torch.stack([1e4 * owner, 1e4 * ~owner]), torch.ones(2), WIENER) * mix
        torch.testing.assert_close(stems, torch.stack([mix * owner, mix * ~owner]))

    def test_the_scale_of_the_masks_does_not_matter(self) -> None:
        """Gains are measured on stems that have it."""
        masks, stems = random(2, 8, 6), random(2, 500) - 0.5
        for protocol in (WIENER, PUBLISHED):
            first, second = (
                stem_masks(scale * masks, gains_of(scale * stems, stems.sum(0), protocol).float(), protocol)
                for scale in (1.0, 50.0)
            )
            torch.testing.assert_close(first, second)


def gains_of(stems: torch.Tensor, mix: torch.Tensor, protocol: ProtocolConfig) -> torch.Tensor:
    return stem_gains(stems @ stems.T, stems @ mix, protocol)


class TestGains:
    def test_a_single_stem_gets_its_least_squares_gain(self) -> None:
        source = random(500) - 0.5
        for protocol in (WIENER, PUBLISHED):
            assert gains_of(4 * source[None], source, protocol).tolist() == pytest.approx([0.25])

    def test_the_filter_has_one_gain_for_all(self) -> None:
        sources = random(2, 500) - 0.5
        first, second = gains_of(4 * sources, sources.sum(0), WIENER).tolist()
        assert first == second == pytest.approx(0.25, rel=0.1)  # the sources are nearly uncorrelated

    def test_plain_stems_come_closer_to_their_levels(self) -> None:
        sources, scale = random(2, 5000) - 0.5, torch.tensor([[2.0], [0.5]])
        gains = gains_of(sources * scale, sources.sum(0), PUBLISHED)
        before, after = (
            (sources * scale - sources).square().sum(),
            (sources * scale * gains.float()[:, None] - sources).square().sum(),
        )
        assert after < 0.1 * before
        assert (gains > 0).all()

    def test_of_stems_that_are_alike_none_vanishes(self) -> None:
        source = random(500) - 0.5
        stems = torch.stack([source, source + 0.05 * (random(500, seed=1) - 0.5)])
        gains = gains_of(stems, source, PUBLISHED)
        assert (gains > 0.3).all()
        assert gains.sum() == pytest.approx(1, rel=0.2)

    def test_silent_stems_and_inverted_ones_get_nothing(self) -> None:
        source = random(500) - 0.5
        gains = gains_of(torch.stack([source, torch.zeros(500), -source]), source, PUBLISHED)
        assert gains[1:].tolist() == [0, 0]
        for protocol in (WIENER, PUBLISHED):
            assert gains_of(torch.zeros(2, 500), source, protocol).tolist() == [0, 0]
