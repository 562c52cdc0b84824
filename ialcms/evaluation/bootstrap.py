"""Confidence intervals of mean scores, by resampling mixes.

The scores of one mix are correlated, so whole mixes are drawn, not sources. Mixes that share a video are correlated
too, which this ignores: the interval is about other mixes of the same videos, not about other videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

import numpy as np

from ialcms.evaluation.metrics import METRICS, Scores
from ialcms.rng import keyed_generator

RESAMPLES = 2_000
LEVEL = 0.95

Intervals = dict[str, tuple[float, float]]


def mean_intervals(groups: Sequence[Sequence[Scores]], *key: int | str) -> Intervals:
    """LEVEL percentile intervals of the mean over all sources of every metric.

    groups: the scored sources of each mix. key: of the random numbers; the same key and groups give the same interval.
    {} for fewer than two mixes, which say nothing about their spread.
    """
    groups = [group for group in groups if group]
    if len(groups) < 2:
        return {}
    sums = np.array([_sums(group) for group in groups])
    counts = np.array([len(group) for group in groups])
    rng = keyed_generator("bootstrap", *key)
    times_drawn = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=RESAMPLES)
    means = (times_drawn @ sums) / (times_drawn @ counts)[:, None]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {name: (float(low[n]), float(high[n])) for n, name in enumerate(METRICS)}


def _sums(scores: Sequence[Scores]) -> list[float]:
    """The sum of each metric over the sources of a mix."""
    return [sum(column) for column in zip(*map(itemgetter(*METRICS), scores))]
