"""BSS Eval of mixes: against its definition in simple cases, silent and broken sounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ialcms.demo.instruments import INSTRUMENTS
from ialcms.demo.video import VideoId, draw_video, make_wave
from ialcms.evaluation.bss_eval import score_mix_fast
from ialcms.evaluation.metrics import METRICS, MixScores, mean_scores, score_mix

SAMPLES = 20_000  # many more than the 512 taps of the filters, which fit a little of any noise


def noise(*seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SAMPLES).astype(np.float32)


@pytest.fixture(scope="module")
def references() -> np.ndarray:
    return np.stack([noise(1), 0.5 * noise(2)])


def test_the_mix_as_estimate_improves_nothing(references: np.ndarray) -> None:
    mix = references.sum(0)
    scores = score_mix(references, np.stack([mix, mix]))
    for source in scores.sources:
        assert source["SDRi"] == pytest.approx(0, abs=1e-6)
        assert source["SIRi"] == pytest.approx(0, abs=1e-6)
    # white noises of 0 and -6 dB: one stands 6 dB above the other
    assert scores.sources[0]["SIR"] == pytest.approx(6, abs=0.7)
    assert scores.sources[1]["SIR"] == pytest.approx(-6, abs=0.7)


def test_interference_and_artefacts_are_told_apart(references: np.ndarray) -> None:
    """20 dB of the other source is interference, 20 dB of foreign noise an artefact."""
    leaking = (
        references + 0.1 * references.std(1, keepdims=True) * (references / references.std(1, keepdims=True))[::-1]
    )
    scores = score_mix(references, leaking).sources
    assert scores[0]["SIR"] == pytest.approx(20, abs=0.7)
    assert scores[0]["SAR"] > 60
    noisy = references + 0.1 * references.std(1, keepdims=True) * np.stack([noise(3), noise(4)])
    scores = score_mix(references, noisy).sources

    assert scores[0]["SAR"] == pytest.approx(20, abs=0.7)
    assert scores[0]["SIR"] > 25
    assert scores[0]["SDR"] == pytest.approx(20, abs=1.0)


def test_a_filtered_source_is_no_error(references: np.ndarray) -> None:
    echoed = references + 0.5 * np.pad(references, ((0, 0), (100, 0)))[:, :SAMPLES]
    assert min(source["SDR"] for source in score_mix(references, echoed).sources) > 10
    late = np.pad(references, ((0, 0), (600, 0)))[:, :SAMPLES]  # more than the 512 taps
    assert max(source["SDR"] for source in score_mix(references, late).sources) < 0


def test_sources_keep_their_positions(references: np.ndarray) -> None:
    scores = score_mix(references, references[::-1].copy())
    assert all(source["SIR"] < -5 for source in scores.sources)


@pytest.mark.parametrize("position", [0, 1])
def test_silence_is_named_not_scored(references: np.ndarray, position: int) -> None:
    quiet = references.copy()
    quiet[position] = 0
    silent_reference = score_mix(quiet, references)
    assert silent_reference.problem == f"silent reference {position + 1}"
    assert silent_reference.sources == ({}, {})
    silent_estimate = score_mix(references, quiet)
    assert silent_estimate.problem == f"silent estimate {position + 1}"
    assert silent_estimate.sources == ({}, {})


def test_numbers_that_are_none_are_named(references: np.ndarray) -> None:
    broken = references.copy()
    broken[1, 7] = np.nan
    assert score_mix(references, broken).problem == "estimate 2 not finite"
    assert score_mix(broken, references).problem == "reference 2 not finite"


def test_mean_over_the_scored_sources() -> None:
    first, second = ({name: value for name in METRICS} for value in (1.0, 4.0))
    assert mean_scores([first, {}, second]) == {name: 2.5 for name in METRICS}
    assert mean_scores([{}, {}]) == {}
    assert mean_scores([]) == {}


def test_every_problem_of_a_mix_is_named(references: np.ndarray) -> None:
    estimates = references.copy()
    estimates[0] = 0
    assert score_mix(0 * references, estimates).problem == "silent reference 1, silent reference 2, silent estimate 1"


def demo_waves(count: int, num_samples: int) -> np.ndarray:
    """Played by different instruments of the demo: tones with silence between them, as in music."""
    names = ("violin", "tuba", "xylophone")[:count]
    ids = [VideoId(0, instrument, 3) for instrument in INSTRUMENTS if instrument.name in names]
    waves = [make_wave(draw_video(video_id, (224, 168)), 0)[:num_samples] for video_id in ids]
    return np.stack(waves)


@pytest.mark.parametrize(("num_sources", "num_samples"), [(2, 65_535), (3, 20_001)])
def test_own_solver_agrees_with_mir_eval_on_music(num_sources: int, num_samples: int) -> None:
    references = demo_waves(num_sources, num_samples)
    leaking = 0.8 * references + 0.2 * references.sum(0) + 0.01 * np.random.default_rng(0).standard_normal(num_samples)
    estimates = leaking.astype(np.float32)
    expected = score_mix(references, estimates)
    assert_same(score_mix_fast(torch.as_tensor(references), torch.as_tensor(estimates)), expected)
    assert len({round(source["SDR"]) for source in expected.sources}) > 1


@pytest.mark.parametrize("noise_level", [1e-4, 1.0, 100.0])
def test_own_solver_agrees_from_good_to_bad(references: np.ndarray, noise_level: float) -> None:
    """From +80 to -40 dB."""
    estimates = references + noise_level * np.stack([noise(8), noise(9)])
    assert_same(
        score_mix_fast(torch.as_tensor(references), torch.as_tensor(estimates)), score_mix(references, estimates)
    )


def test_own_solver_on_a_short_sound() -> None:
    """Hardly longer than the filters, which then explain nearly everything."""
    references = np.stack([noise(1)[:700], noise(2)[:700]])
    estimates = references + np.stack([noise(3)[:700], noise(4)[:700]])
    assert_same(
        score_mix_fast(torch.as_tensor(references), torch.as_tensor(estimates)), score_mix(references, estimates)
    )


def test_own_solver_on_references_that_hang_together(references: np.ndarray) -> None:
    """A reference of two sinusoids, and one that is nearly the filtered other: correlations that are near singular."""
    time = np.arange(SAMPLES)
    tones = (np.sin(0.1 * time) + 0.5 * np.sin(0.37 * time)).astype(np.float32)
    estimates = references + 0.3 * np.stack([noise(5), noise(6)])
    for second in (tones, 0.5 * np.roll(references[0], 3) + 1e-3 * references[1]):
        pair = np.stack([references[0], second])
        expected = score_mix(pair, estimates)
        found = score_mix_fast(torch.as_tensor(pair), torch.as_tensor(estimates))
        assert_same(found, expected, tolerance_db=1e-3)


def test_own_solver_names_the_same_problems(references: np.ndarray) -> None:
    quiet = references.copy()
    quiet[1] = 0
    broken = references.copy()
    broken[0, 5] = np.inf
    for a, b in ((quiet, references), (references, quiet), (references, broken), (quiet, broken)):
        assert score_mix_fast(torch.as_tensor(a), torch.as_tensor(b)) == score_mix(a, b)
        assert score_mix(a, b).problem


def assert_same(found: MixScores, expected: MixScores, tolerance_db: float = 1e-6) -> None:
    assert found.problem == expected.problem == ""
    for ours, theirs in zip(found.sources, expected.sources, strict=True):
        assert ours == pytest.approx(theirs, rel=0, abs=tolerance_db)
