"""BSS Eval v3 of separated sources, and what it gains over the unprocessed mix.

Shapes: M sources of S samples.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = dict[str, float]
METRICS = ("SDR", "SIR", "SAR", "SDRi", "SIRi")


@dataclass(frozen=True)
class MixScores:
    """Scores in dB of one mix, a dictionary per source (empty where it could not be scored), and why not."""

    sources: tuple[Scores, ...]  # by the published protocol
    problem: str = ""
    best: tuple[Scores, ...] = ()  # of the same sources by `eval.protocol`; () where it was not used


def score_mix(references: NDArray[np.float32], estimates: NDArray[np.float32]) -> MixScores:
    """SDR, SIR, SAR of the estimates, SDR and SIR improvement over the mix itself as estimate; both (M, S).

    mir_eval's bss_eval_sources without permutation. A silent source or estimate cannot be scored: the mix is then
    returned without scores and with the problem's name.
    """
    problem = find_problem(references, estimates)
    if problem:
        return MixScores(tuple({} for _ in references), problem)
    mix = np.broadcast_to(references.sum(0), references.shape)
    return mix_scores(_bss_eval(references, estimates), _bss_eval(references, mix))


def find_problem(references: Any, estimates: Any) -> str:
    """Why these arrays or tensors cannot be scored: all silent or non-finite ones, by number; '' where they can."""
    problems = []
    for name, waves in (("reference", references), ("estimate", estimates)):
        for number, wave in enumerate(waves, start=1):
            loudest = float(abs(wave).max())
            if not np.isfinite(loudest):
                problems.append(f"{name} {number} not finite")
            elif loudest == 0:
                problems.append(f"silent {name} {number}")
    return ", ".join(problems)


def mix_scores(of_estimates: NDArray, of_mix: NDArray) -> MixScores:
    """Scores from SDR, SIR, SAR, (3, M), of the estimates and of the mix as each estimate."""
    improvement = of_estimates - of_mix
    figures = np.stack([*of_estimates, *improvement[:2]])
    return MixScores(tuple(dict(zip(METRICS, map(float, column))) for column in figures.T))


def _bss_eval(references: NDArray, estimates: NDArray) -> NDArray:
    import mir_eval.separation  # slow to import; scoring runs in processes of its own

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # mir_eval 0.8 announces that the module will go
        sdr, sir, sar, _ = mir_eval.separation.bss_eval_sources(
            references.astype(np.float64), estimates.astype(np.float64), compute_permutation=False
        )
    return np.stack([sdr, sir, sar])


def mean_scores(scores: Iterable[Scores]) -> Scores:
    """Mean of each metric over the sources that were scored; {} where none was."""
    scored = [of_source for of_source in scores if of_source]
    return {name: _mean(name, scored) for name in METRICS} if scored else {}


def _mean(metric: str, scored: Iterable[Scores]) -> float:
    return float(np.mean([of_source[metric] for of_source in scored]))


def score_difference(scores: Scores, others: Scores) -> Scores:
    """`scores` - `others` of each metric."""
    return {name: scores[name] - others[name] for name in METRICS}
