"""Two evaluations side by side: means, and the paired difference over the mixes that both scored."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ialcms.evaluation.bootstrap import Intervals, mean_intervals
from ialcms.evaluation.metrics import METRICS, Scores, mean_scores, score_difference
from ialcms.evaluation.published_scores import published_tables
from ialcms.evaluation.result_files import MIXES, read_results
from ialcms.evaluation.results import MixResult
from ialcms.runs.run_folder import RunFolder

_NAME_WIDTH = 36
_EQUAL = ("manifest", "seconds")  # of the evaluations' options: they say what the mixes sound like
_SAID = ("hop", "metrics")  # how they were separated and scored


@dataclass(frozen=True)
class Difference:
    """Over the sources of a group that both runs scored: means of each, mean of B - A with its interval."""

    num_mixes: int
    a: Scores
    b: Scores
    difference: Scores
    intervals: Intervals


@dataclass(frozen=True)
class Comparison:
    folders: tuple[Path, Path]
    summaries: tuple[dict[str, Any], dict[str, Any]]
    num_mixes: int  # of the list
    num_sources: int  # of each mix; 0 where they differ
    overall: Difference
    per_instrument: dict[str, Difference]

    def __str__(self) -> str:
        return "\n".join([*self._heading(), *self._overall(), *self._instruments(), *self._published()])

    def _heading(self) -> list[str]:
        lines = [
            f"{letter}  {summary['run']}, step {summary['step']}  ({folder})"
            for letter, summary, folder in zip("AB", self.summaries, self.folders)
        ]
        for name in _SAID:
            a, b = (summary.get(name) for summary in self.summaries)
            if a != b:
                lines.append(f"eval.{name} differs: A {a}, B {b}")
        return [*lines, f"{self.overall.num_mixes} of {self.num_mixes} mixes are scored in both", ""]

    def _overall(self) -> list[str]:
        rows = [("A", self.overall.a, ".2f"), ("B", self.overall.b, ".2f"), ("B - A", self.overall.difference, "+.2f")]
        for side, name in enumerate(("  95% of resamples from", "  to")):
            limits = {metric: interval[side] for metric, interval in self.overall.intervals.items()}
            rows.append((name, limits, "+.2f"))
        return [_line("overall (dB)", METRICS), *(_line(name, _cells(scores, form)) for name, scores, form in rows)]

    def _instruments(self) -> list[str]:
        lines = ["", f"{'SDR (dB)':<{_NAME_WIDTH}}{'A':>8}{'B':>8}{'B - A':>8}   95% interval"]
        for name, group in self.per_instrument.items():
            if not group.difference:
                lines.append(f"{name:<{_NAME_WIDTH}}{'-':>8}{'-':>8}{'-':>8}")
                continue
            limits = "{:+.2f} to {:+.2f}".format(*group.intervals["SDR"]) if group.intervals else "-"
            cells = f"{group.a['SDR']:8.2f}{group.b['SDR']:8.2f}{group.difference['SDR']:+8.2f}"
            lines.append(f"{name:<{_NAME_WIDTH}}{cells}   {limits}")
        return lines

    def _published(self) -> list[str]:
        """For mixes of as many sources."""
        lines = []
        for title, rows in published_tables(self.num_sources).items():
            lines += ["", _line(f"published, {title} (dB)", METRICS[:3])]
            for name, figures in rows.items():
                lines.append(_line(name, ["-" if value is None else f"{value:.2f}" for value in figures]))
        if lines:
            lines += [
                "",
                "The published figures are of their authors' data: they compare only with runs on the same.",
                "All figures are by the published protocol.",
            ]
        return lines


def compare(a: Path, b: Path, overrides: Sequence[str] = ()) -> Comparison:
    """Compare two runs, or two folders of results.

    overrides: which evaluation of the runs, like eval.num_sources=3. Raises ValueError where one is not evaluated or
    their mixes are not the same ones.
    """
    folders = (_results_folder(a, overrides), _results_folder(b, overrides))
    (summary_a, results_a), (summary_b, results_b) = read_results(folders[0]), read_results(folders[1])
    if list(map(_identity, results_a)) != list(map(_identity, results_b)):
        raise ValueError(
            f"{folders[0]} and {folders[1]} are of different mixes: evaluate both with the same shards and the same "
            f"eval.* options, or both with --mixes {folders[0] / MIXES}"
        )
    for name in _EQUAL:
        if summary_a.get(name) != summary_b.get(name):
            what = "of other shards" if name == "manifest" else f"of mixes of {summary_a[name]} and {summary_b[name]} s"
            raise ValueError(
                f"{folders[0]} and {folders[1]} are {what}: evaluate both with the same shards and the same "
                "eval.seconds"
            )
    pairs = [(x, y) for x, y in zip(results_a, results_b) if not (x.scores.problem or y.scores.problem)]
    names = sorted({name for result in results_a for name in result.instruments})
    sizes = {len(result.keys) for result in results_a}
    return Comparison(
        folders=folders,
        summaries=(summary_a, summary_b),
        num_mixes=len(results_a),
        num_sources=sizes.pop() if len(sizes) == 1 else 0,
        overall=_difference(pairs, None),
        per_instrument={name: _difference(pairs, name) for name in names},
    )


def _difference(pairs: Sequence[tuple[MixResult, MixResult]], instrument: str | None) -> Difference:
    """Over the sources of an instrument; None: of all."""
    groups: list[list[tuple[Scores, Scores]]] = []
    for x, y in pairs:
        scored = zip(x.instruments, x.scores.sources, y.scores.sources)
        group = [(of_a, of_b) for name, of_a, of_b in scored if instrument in (None, name)]
        if group:
            groups.append(group)
    sources = list(itertools.chain.from_iterable(groups))
    scores_a = [of_a for of_a, _ in sources]
    scores_b = [of_b for _, of_b in sources]
    differences = [_differences(group) for group in groups]
    return Difference(
        num_mixes=len(groups),
        a=mean_scores(scores_a),
        b=mean_scores(scores_b),
        difference=mean_scores(itertools.chain.from_iterable(differences)),
        intervals=mean_intervals(differences, "compare", instrument or "all"),
    )


def _differences(group: Sequence[tuple[Scores, Scores]]) -> list[Scores]:
    """B - A of the sources of a mix."""
    return [score_difference(of_b, of_a) for of_a, of_b in group]


def _results_folder(path: Path, overrides: Sequence[str]) -> Path:
    if (path / MIXES).is_file():
        return path
    run = RunFolder(path)
    return run.evaluation_of(run.read_config(overrides))


def _identity(result: MixResult) -> tuple:
    return result.keys, result.boxes, result.starts


def _cells(scores: Scores, form: str) -> list[str]:
    return [format(scores[name], form) if scores else "-" for name in METRICS]


def _line(name: str, cells: Sequence[str]) -> str:
    return f"{name:<{_NAME_WIDTH}}" + "".join(f"{cell:>8}" for cell in cells)
