"""BSS Eval v3 of separated sources, and what it gains over the unprocessed mix.

Shapes: M sources of S samples.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = dict[str, float]
METRICS = ("SDR", "SIR", "SAR", "SDRi", "SIRi")


@dataclass(frozen=True)
class MixScores:
    """Scores in dB of one mix, a dictionary per source (empty where it could not be scored), and why not."""

    sources: tuple[Scores, ...]
    problem: str = ""


def score_mix(references: NDArray[np.float32], estimates: NDArray[np.float32]) -> MixScores:
    """SDR, SIR, SAR of the estimates, SDR and SIR improvement over the mix itself as estimate; both (M, S).

    mir_eval's bss_eval_sources without permutation. A silent source or estimate cannot be scored: the mix is then
    returned without scores and with the problem's name.
    """
    for name, waves in (("reference", references), ("estimate", estimates)):
        if not np.isfinite(waves).all():
            return MixScores(tuple({} for _ in references), f"{name} not finite")
        silent = [n for n, wave in enumerate(waves) if not np.any(wave)]
        if silent:
            return MixScores(tuple({} for _ in references), f"silent {name} {silent[0] + 1}")
    mix = np.broadcast_to(references.sum(0), references.shape)
    sdr, sir, sar = _bss_eval(references, estimates)
    mix_sdr, mix_sir, _ = _bss_eval(references, mix)
    return MixScores(
        tuple(
            {
                "SDR": float(sdr[n]),
                "SIR": float(sir[n]),
                "SAR": float(sar[n]),
                "SDRi": float(sdr[n] - mix_sdr[n]),
                "SIRi": float(sir[n] - mix_sir[n]),
            }
            for n in range(len(references))
        )
    )


def _bss_eval(references: NDArray, estimates: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    import mir_eval.separation  # slow to import; scoring runs in processes of its own

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # mir_eval 0.8 announces that the module will go
        sdr, sir, sar, _ = mir_eval.separation.bss_eval_sources(
            references.astype(np.float64), estimates.astype(np.float64), compute_permutation=False
        )
    return sdr, sir, sar


def mean_scores(scores: list[Scores]) -> Scores:
    """Mean of each metric over the sources that were scored; {} where none was."""
    scored = [s for s in scores if s]
    return {name: float(np.mean([s[name] for s in scored])) for name in METRICS} if scored else {}
