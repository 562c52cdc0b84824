"""Results of an evaluation as figures: per mix, per instrument, per pair of instruments, overall.

The files that hold them are in `result_files`, the page to listen to in `page`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ialcms.evaluation.bootstrap import Intervals, mean_intervals
from ialcms.evaluation.metrics import METRICS, MixScores, Scores, mean_scores


@dataclass(frozen=True)
class MixResult:
    """Scores of one mix and what it was made of; a place per source."""

    index: int  # in the list of mixes
    instruments: tuple[str, ...]
    keys: tuple[str, ...]  # of the clips
    boxes: tuple[int, ...]  # row of the clip's detections whose picture guided the separator
    starts: tuple[int, ...]  # first sample of the clip
    scores: MixScores


@dataclass(frozen=True)
class Row:
    """Means in dB over some sources of some mixes."""

    names: tuple[str, ...]  # what the sources have in common
    num_mixes: int  # that were scored
    means: Scores  # {} where none was
    intervals: Intervals  # 95% bootstrap intervals of the means over mixes; {} for fewer than two


def overall(results: Sequence[MixResult]) -> Row:
    return _row(("all",), results)


def per_instrument(results: Sequence[MixResult]) -> list[Row]:
    """Over the sources of each instrument, sorted by name."""
    names = sorted({name for result in results for name in result.instruments})
    return [_row((name,), results, name) for name in names]


def per_combination(results: Sequence[MixResult]) -> list[Row]:
    """Over all sources of the mixes of the same instruments, in the order of the mixes."""
    groups: dict[tuple[str, ...], list[MixResult]] = {}
    for result in results:
        groups.setdefault(result.instruments, []).append(result)
    return [_row((" + ".join(names),), group) for names, group in groups.items()]


def per_pair(results: Sequence[MixResult]) -> list[Row]:
    """(instrument, other): over the sources of an instrument in mixes with another, sorted by name."""
    pairs = {
        (name, other)
        for result in results
        for n, name in enumerate(result.instruments)
        for other in _without(result.instruments, n)
    }
    return [_row(pair, results, *pair) for pair in sorted(pairs)]


def by_best_protocol(results: Sequence[MixResult]) -> list[MixResult]:
    """The mixes that both protocols scored, with the scores of the best one in the place of the published one's."""
    both = [result for result in results if result.scores.best and not result.scores.problem]
    return [replace(result, scores=MixScores(result.scores.best)) for result in both]


def gain_of_best_protocol(results: Sequence[MixResult]) -> Row:
    """The paired difference of both protocols, best less published, over the mixes that both scored."""
    differences = []
    for result in results:
        if result.scores.best and not result.scores.problem:
            pairs = zip(result.scores.sources, result.scores.best)
            gains = tuple({name: best[name] - published[name] for name in METRICS} for published, best in pairs)
            differences.append(replace(result, scores=MixScores(gains)))
    return _row(("best - published",), differences)


def unscored(results: Sequence[MixResult]) -> list[MixResult]:
    return [result for result in results if result.scores.problem]


def _row(
    names: tuple[str, ...], results: Sequence[MixResult], instrument: str | None = None, other: str | None = None
) -> Row:
    """Over the sources of an instrument, in mixes with another one; None: whichever."""
    groups = []
    for result in results:
        places = [
            place
            for place, name in enumerate(result.instruments)
            if instrument in (None, name) and other in (None, *_without(result.instruments, place))
        ]
        groups.append([result.scores.sources[place] for place in places if not result.scores.problem])
    groups = [group for group in groups if group]
    sources = [source for group in groups for source in group]
    return Row(names, len(groups), mean_scores(sources), mean_intervals(groups, *names))


def _without(names: tuple[str, ...], place: int) -> tuple[str, ...]:
    return names[:place] + names[place + 1 :]


def format_tables(results: Sequence[MixResult]) -> str:
    """The tables as text, in dB: per combination, per instrument, overall with intervals, and what was not scored."""
    lines: list[str] = []
    everything = overall(results)
    for title, rows in (
        ("combination", per_combination(results)),
        ("instrument", per_instrument(results)),
        ("overall", [everything]),
    ):
        lines.append(f"{title:<30}{'mixes':>6}" + "".join(f"{name:>8}" for name in METRICS))
        for row in rows:
            lines.append(f"{row.names[0]:<30}{row.num_mixes:>6}{_figures(row.means)}")
        lines.append("")
    if everything.intervals:
        lines.pop()
        for place, name in enumerate(("  95% of resamples from", "  to")):
            lines.append(f"{name:<36}{_figures({m: limits[place] for m, limits in everything.intervals.items()})}")
        lines.append("")
    best = by_best_protocol(results)
    if best:
        gain = gain_of_best_protocol(results)
        lines.append(f"{'protocol':<30}{'mixes':>6}" + "".join(f"{name:>8}" for name in METRICS))
        for name, row in (("published", everything), ("best (eval.protocol)", overall(best)), (gain.names[0], gain)):
            lines.append(f"{name:<30}{row.num_mixes:>6}{_figures(row.means)}")
        if gain.intervals:
            for place, name in enumerate(("  95% of resamples from", "  to")):
                lines.append(f"{name:<36}{_figures({m: limits[place] for m, limits in gain.intervals.items()})}")
        lines.append("")
    lines += [f"not scored: mix {r.index} ({' + '.join(r.keys)}): {r.scores.problem}" for r in unscored(results)]
    return "\n".join(lines).rstrip()


def _figures(scores: Scores) -> str:
    return "".join(f"{scores[metric]:8.2f}" if scores else f"{'-':>8}" for metric in METRICS)


def choose_examples(results: Sequence[MixResult], count: int, seed: int) -> list[tuple[str, MixResult]]:
    """A third each of the best and the worst mixes by mean SDR improvement and of mixes drawn at random."""
    scored = sorted((r for r in results if not r.scores.problem), key=lambda r: -mean_scores(r.scores.sources)["SDRi"])
    count = min(count, len(scored))
    ends = count // 3
    middle = scored[ends : len(scored) - ends]
    drawn = np.random.default_rng(seed).permutation(len(middle))[: count - 2 * ends]
    return (
        [("best", r) for r in scored[:ends]]
        + [("worst", r) for r in scored[::-1][:ends]]
        + [("random", middle[n]) for n in sorted(drawn.tolist())]
    )
