"""Windows over a recording: where they lie, that they are averaged, and that a short recording is padded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ialcms.config import PUBLISHED, Config, ProtocolConfig
from ialcms.evaluation.windows import MixSeparator, Separated, window_starts, window_weights
from ialcms.models import Separator
from tests.support.configuration import SMALL
from tests.support.evaluation import evaluation_config, make_separator


@pytest.fixture(scope="module")
def config() -> Config:
    return evaluation_config()


@pytest.fixture(scope="module")
def separator(config: Config) -> Separator:
    return make_separator(config)


def recording(num_samples: int) -> torch.Tensor:
    return 0.1 * torch.randn(num_samples, generator=torch.Generator().manual_seed(num_samples))


def pictures(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)


def separate_recording(
    separator: Separator, mix: torch.Tensor, objects: torch.Tensor, config: Config, hop: int
) -> Separated:
    """By the published protocol; objects (M, 3, side, side)."""
    (separated,) = MixSeparator(separator, config, hop)(mix, objects.unsqueeze(1))
    return separated


@pytest.mark.parametrize(
    ("num_samples", "hop", "expected"),
    [
        (100, 30, [0]),
        (40, 30, [0]),  # shorter than a window
        (101, 30, [0, 1]),
        (160, 30, [0, 30, 60]),  # the last one ends where the recording ends
        (170, 30, [0, 30, 60, 70]),
        (350, 200, [0, 200, 250]),
    ],
)
def test_window_starts(num_samples: int, hop: int, expected: list[int]) -> None:
    assert window_starts(num_samples, 100, hop) == expected


def test_published_protocol_has_22_windows() -> None:
    starts = window_starts(110_250, 65_535, 2_205)
    assert len(starts) == 22
    assert starts[-2:] == [44_100, 110_250 - 65_535]


@pytest.mark.parametrize("masks", ["free", "shares"])
def test_a_window_is_what_the_network_gives(masks: str) -> None:
    config = evaluation_config(model={**SMALL["model"], "masks": masks})
    separator = make_separator(config)
    mix, objects = recording(310), pictures(2)
    separated = separate_recording(separator, mix, objects, config, hop=100)
    with torch.no_grad():
        output = separator(mix[None], objects[None, :, None])
        waves = separator.component_waves(output, 310)[0, :, 0]
    torch.testing.assert_close(separated.estimates, waves)
    torch.testing.assert_close(separated.localisation, output.localisation[0, :, 0])
    assert not torch.allclose(waves[0], waves[1])


@pytest.mark.parametrize("num_sources", [1, 2, 3])
def test_overlapping_windows_are_averaged(separator: Separator, config: Config, num_sources: int) -> None:
    mix, objects = recording(700), pictures(num_sources)
    separated = separate_recording(separator, mix, objects, config, hop=150)
    starts = [0, 150, 300, 390]
    alone = [separate_recording(separator, mix[s : s + 310], objects, config, hop=310) for s in starts]
    expected = torch.zeros(num_sources, 700)
    for sample in range(0, 700, 7):
        covering = [(s, part) for s, part in zip(starts, alone) if s <= sample < s + 310]
        expected[:, sample] = torch.stack([part.estimates[:, sample - s] for s, part in covering]).mean(0)
    torch.testing.assert_close(separated.estimates[:, ::7], expected[:, ::7], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(separated.localisation, torch.stack([p.localisation for p in alone]).mean(0))


def test_result_does_not_depend_on_how_many_windows_pass_together(separator: Separator) -> None:
    mix, objects = recording(900), pictures(2)
    few, many = (
        separate_recording(separator, mix, objects, evaluation_config(eval={"batch_windows": n}), hop=60)
        for n in (1, 16)
    )
    torch.testing.assert_close(few.estimates, many.estimates, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(few.localisation, many.localisation, rtol=1e-4, atol=1e-6)


def test_a_short_recording_is_padded_with_silence(separator: Separator, config: Config) -> None:
    mix, objects = recording(200), pictures(2)
    separated = separate_recording(separator, mix, objects, config, hop=100)
    assert separated.estimates.shape == (2, 200)
    padded = separate_recording(separator, torch.nn.functional.pad(mix, (0, 110)), objects, config, hop=100)
    torch.testing.assert_close(separated.estimates, padded.estimates[:, :200])


def test_protocols_share_one_pass_and_do_not_change_each_other(separator: Separator, config: Config) -> None:
    mix, objects = recording(700), pictures(6).unflatten(0, (2, 3))
    best = ProtocolConfig(pictures=3)
    separate = MixSeparator(separator, config, hop=150)
    published, filtered = separate(mix, objects, (PUBLISHED, best))
    (alone,) = separate(mix, objects, (best,))
    torch.testing.assert_close(
        published.estimates, separate_recording(separator, mix, objects[:, 0], config, 150).estimates
    )
    torch.testing.assert_close(filtered.estimates, alone.estimates)
    torch.testing.assert_close(filtered.estimates.sum(0), mix, rtol=0, atol=1e-6)
    assert not torch.allclose(published.estimates.sum(0), mix, atol=1e-3)


def test_masks_of_an_objects_pictures_are_averaged(separator: Separator, config: Config) -> None:
    mix, objects = recording(310), pictures(4).unflatten(0, (2, 2))
    both, first, second = (
        MixSeparator(separator, config, hop=310)(mix, chosen, (replace(PUBLISHED, pictures=2),))[0].estimates
        for chosen in (objects, objects[:, :1], objects[:, 1:])
    )
    torch.testing.assert_close(both, (first + second) / 2, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(first, second, atol=1e-4)


def test_a_cross_fade_of_a_constant_is_that_constant() -> None:
    for join in ("hann", "mean"):
        weights = window_weights(join, 310)
        total, weight = torch.zeros(700), torch.zeros(700)
        for start in window_starts(700, 310, 150):
            total[start : start + 310] += 0.25 * weights
            weight[start : start + 310] += weights
        torch.testing.assert_close(total / weight, torch.full((700,), 0.25))
    assert window_weights("hann", 310)[0] < 0.01 < window_weights("hann", 310)[155]
