"""Results of an evaluation as figures: per mix, per instrument, per pair of instruments, overall.

`summarise` computes all of them once. Three writers show them: `format_tables` as text, `result_files` as files, `page`
as the listening page.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ialcms.evaluation.bootstrap import Intervals, mean_intervals
from ialcms.evaluation.metrics import METRICS, MixScores, Scores, mean_scores, score_difference


@dataclass(frozen=True)
class MixResult:
    """Scores of one mix and what it was made of; one entry per source."""

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


@dataclass(frozen=True)
class BestProtocol:
    """What `eval.protocol` gives, over the mixes that both protocols scored."""

    overall: Row
    per_instrument: tuple[Row, ...]
    gain: Row  # the paired difference, best less published


@dataclass(frozen=True)
class Summary:
    """Every figure of an evaluation, for the text, the files and the page alike; by the published protocol."""

    results: tuple[MixResult, ...]  # in the order of the list of mixes
    unscored: tuple[MixResult, ...]
    overall: Row
    per_instrument: tuple[Row, ...]  # over the sources of each instrument, sorted by name
    per_combination: tuple[Row, ...]  # over all sources of the mixes of the same instruments, in the mixes' order
    per_pair: tuple[Row, ...]  # (instrument, other): sources of an instrument in mixes with another, sorted by name
    best: BestProtocol | None  # None where `eval.protocol` was not used, or scored nothing

    @property
    def instruments(self) -> tuple[str, ...]:
        return tuple(row.names[0] for row in self.per_instrument)


def summarise(results: Sequence[MixResult]) -> Summary:
    """All means and intervals of an evaluation."""
    return Summary(
        results=tuple(results),
        unscored=tuple(result for result in results if result.scores.problem),
        overall=_row(("all",), results),
        per_instrument=_per_instrument(results),
        per_combination=_per_combination(results),
        per_pair=_per_pair(results),
        best=_best_protocol(results),
    )


def _per_instrument(results: Sequence[MixResult]) -> tuple[Row, ...]:
    names = sorted({name for result in results for name in result.instruments})
    return tuple(_row((name,), results, name) for name in names)


def _per_combination(results: Sequence[MixResult]) -> tuple[Row, ...]:
    groups: dict[tuple[str, ...], list[MixResult]] = {}
    for result in results:
        groups.setdefault(result.instruments, []).append(result)
    return tuple(_row((" + ".join(names),), group) for names, group in groups.items())


def _per_pair(results: Sequence[MixResult]) -> tuple[Row, ...]:
    pairs: set[tuple[str, str]] = set()
    for result in results:
        pairs.update(itertools.permutations(result.instruments, 2))
    return tuple(_row(pair, results, *pair) for pair in sorted(pairs))


def _best_protocol(results: Sequence[MixResult]) -> BestProtocol | None:
    both = [result for result in results if result.scores.best and not result.scores.problem]
    if not both:
        return None
    best = [replace(result, scores=MixScores(result.scores.best)) for result in both]
    gains = [replace(result, scores=MixScores(_gains(result.scores))) for result in both]
    return BestProtocol(_row(("all",), best), _per_instrument(best), _row(("best - published",), gains))


def _gains(scores: MixScores) -> tuple[Scores, ...]:
    return tuple(map(score_difference, scores.best, scores.sources))


def _row(
    names: tuple[str, ...], results: Sequence[MixResult], instrument: str | None = None, other: str | None = None
) -> Row:
    """Over the sources of an instrument in mixes with another one.

    names: of the row; also the key of its intervals' random numbers. instrument, other: None stands for any.
    """
    scored = [result for result in results if not result.scores.problem]
    groups = [group for result in scored if (group := _sources(result, instrument, other))]
    means = mean_scores(itertools.chain.from_iterable(groups))
    return Row(names, len(groups), means, intervals=mean_intervals(groups, *names))


def _sources(result: MixResult, instrument: str | None, other: str | None) -> list[Scores]:
    """Scores of a mix's sources of an instrument beside another one."""
    chosen = []
    for index, (name, scores) in enumerate(zip(result.instruments, result.scores.sources)):
        others = result.instruments[:index] + result.instruments[index + 1 :]
        if instrument in (None, name) and other in (None, *others):
            chosen.append(scores)
    return chosen


def format_tables(summary: Summary) -> str:
    """The tables as text, in dB: per combination, per instrument, overall with intervals, and what was not scored."""
    lines: list[str] = []
    for title, rows in (("combination", summary.per_combination), ("instrument", summary.per_instrument)):
        lines += [_heading(title), *map(_line, rows), ""]
    lines += [_heading("overall"), _line(summary.overall), *_interval_lines(summary.overall), ""]
    if summary.best is not None:
        lines += [
            _heading("protocol"),
            _line(summary.overall, "published"),
            _line(summary.best.overall, "best (eval.protocol)"),
            _line(summary.best.gain),
            *_interval_lines(summary.best.gain),
            "",
        ]
    for result in summary.unscored:
        lines.append(f"not scored: mix {result.index} ({' + '.join(result.keys)}): {result.scores.problem}")
    return "\n".join(lines).rstrip()


def _heading(title: str) -> str:
    return f"{title:<30}{'mixes':>6}" + "".join(f"{name:>8}" for name in METRICS)


def _line(row: Row, name: str = "") -> str:
    return f"{name or row.names[0]:<30}{row.num_mixes:>6}{_figures(row.means)}"


def _interval_lines(row: Row) -> list[str]:
    """The limits of a row's intervals; none where it has none."""
    if not row.intervals:
        return []
    lines = []
    for side, name in enumerate(("  95% of resamples from", "  to")):
        limits = {metric: interval[side] for metric, interval in row.intervals.items()}
        lines.append(f"{name:<36}{_figures(limits)}")
    return lines


def _figures(scores: Scores) -> str:
    return "".join(f"{scores[metric]:8.2f}" if scores else f"{'-':>8}" for metric in METRICS)


def choose_examples(results: Sequence[MixResult], count: int, seed: int) -> list[tuple[str, MixResult]]:
    """A third each of the best and the worst mixes by mean SDR improvement and of mixes drawn at random.

    Returns why each is shown, and its result.
    """
    scored = [result for result in results if not result.scores.problem]
    gains = [mean_scores(result.scores.sources)["SDRi"] for result in scored]
    return [(why, scored[index]) for why, index in choose_extremes(gains, count, seed)]


def choose_extremes(values: Sequence[float], count: int, seed: int) -> list[tuple[str, int]]:
    """Why it is shown and index of `count` values: a third each of the largest, the smallest, and drawn at random."""
    order = sorted(range(len(values)), key=lambda index: -values[index])
    count = min(count, len(order))
    ends = count // 3
    middle = order[ends : len(order) - ends]
    drawn = np.random.default_rng(seed).permutation(len(middle))[: count - 2 * ends]
    chosen = [("best", index) for index in order[:ends]]
    chosen += [("worst", index) for index in order[::-1][:ends]]
    chosen += [("random", middle[index]) for index in sorted(drawn.tolist())]
    return chosen
