"""BSS Eval of mixes: against its definition in simple cases, silent and broken sounds."""

from __future__ import annotations

import numpy as np
import pytest

from ialcms.metrics import METRICS, mean_scores, score_mix

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


def test_sources_keep_their_places(references: np.ndarray) -> None:
    scores = score_mix(references, references[::-1].copy())
    assert all(source["SIR"] < -5 for source in scores.sources)


@pytest.mark.parametrize("place", [0, 1])
def test_silence_is_named_not_scored(references: np.ndarray, place: int) -> None:
    quiet = references.copy()
    quiet[place] = 0
    silent_reference = score_mix(quiet, references)
    assert silent_reference.problem == f"silent reference {place + 1}"
    assert silent_reference.sources == ({}, {})
    silent_estimate = score_mix(references, quiet)
    assert silent_estimate.problem == f"silent estimate {place + 1}"
    assert silent_estimate.sources == ({}, {})


def test_numbers_that_are_none_are_named(references: np.ndarray) -> None:
    broken = references.copy()
    broken[1, 7] = np.nan
    assert score_mix(references, broken).problem == "estimate not finite"
    assert score_mix(broken, references).problem == "reference not finite"


def test_mean_over_the_scored_sources() -> None:
    first, second = ({name: value for name in METRICS} for value in (1.0, 4.0))
    assert mean_scores([first, {}, second]) == {name: 2.5 for name in METRICS}
    assert mean_scores([{}, {}]) == {}
    assert mean_scores([]) == {}
