"""Windows over a recording: where they lie, that they are averaged, and that a short recording is padded."""

from __future__ import annotations

import pytest
import torch

from ialcms.config import Config
from ialcms.data.train_batches import normalise_objects
from ialcms.evaluation.windows import separate_recording, window_starts
from ialcms.models import Separator
from tests.evaluation.support import evaluation_config, make_separator


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


def test_a_window_is_what_the_network_gives(separator: Separator, config: Config) -> None:
    mix, objects = recording(310), pictures(2)
    separated = separate_recording(separator, mix, objects, config, hop=100)
    with torch.no_grad():
        output = separator(mix[None], normalise_objects(objects)[None, :, None])
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
