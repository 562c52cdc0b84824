"""Results of an evaluation: per mix, per instrument, per pair, overall; as CSV, JSON, text and report."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ialcms.config import Config
from ialcms.data.evaluation_sets import EvaluationItem
from ialcms.metrics import METRICS, MixScores, Scores, mean_scores
from ialcms.report.page import Example, Source, Table, write_report
from ialcms.separation import Separated


@dataclass(frozen=True)
class MixResult:
    index: int  # in the list of mixes
    instruments: tuple[str, ...]
    keys: tuple[str, ...]  # of the clips
    scores: MixScores


Row = tuple[str, int, Scores]  # name, number of scored mixes, mean scores


def overall(results: Sequence[MixResult]) -> Row:
    return _row("all", results, [source for result in results for source in result.scores.sources])


def per_instrument(results: Sequence[MixResult]) -> list[Row]:
    """Mean over the sources of each instrument, sorted by name."""
    rows = []
    for name in sorted({name for result in results for name in result.instruments}):
        within = [result for result in results if name in result.instruments]
        rows.append(_row(name, within, [r.scores.sources[r.instruments.index(name)] for r in within]))
    return rows


def per_combination(results: Sequence[MixResult]) -> list[Row]:
    """Mean over all sources of each combination of instruments, in the order of the mixes."""
    groups: dict[tuple[str, ...], list[MixResult]] = {}
    for result in results:
        groups.setdefault(result.instruments, []).append(result)
    return [
        _row(" + ".join(names), group, [source for result in group for source in result.scores.sources])
        for names, group in groups.items()
    ]


def unscored(results: Sequence[MixResult]) -> list[MixResult]:
    return [result for result in results if result.scores.problem]


def _row(name: str, results: Sequence[MixResult], sources: list[Scores]) -> Row:
    return name, sum(not result.scores.problem for result in results), mean_scores(sources)


def format_tables(results: Sequence[MixResult]) -> str:
    """The tables as text: per combination, per instrument, overall, in dB."""
    lines: list[str] = []
    for title, rows in (
        ("combination", per_combination(results)),
        ("instrument", per_instrument(results)),
        ("overall", [overall(results)]),
    ):
        lines.append(f"{title:<32}{'mixes':>6}" + "".join(f"{name:>8}" for name in METRICS))
        for name, count, scores in rows:
            figures = "".join(f"{scores[metric]:8.2f}" if scores else f"{'-':>8}" for metric in METRICS)
            lines.append(f"{name:<32}{count:>6}{figures}")
        lines.append("")
    lines += [f"not scored: mix {r.index} ({' + '.join(r.keys)}): {r.scores.problem}" for r in unscored(results)]
    return "\n".join(lines).rstrip()


def write_mixes(path: Path, results: Sequence[MixResult]) -> None:
    """A line per source: mix, instrument, clip, scores in dB, and the problem where the mix could not be scored."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["mix", "instrument", "clip", *METRICS, "problem"])
        for result in results:
            for instrument, key, scores in zip(result.instruments, result.keys, result.scores.sources):
                figures = [f"{scores[name]:.4f}" if scores else "" for name in METRICS]
                writer.writerow([result.index, instrument, key, *figures, result.scores.problem])
    os.replace(temporary, path)


def write_summary(path: Path, results: Sequence[MixResult], config: Config, step: int) -> None:
    summary: dict[str, Any] = {
        "run": config.name,
        "step": step,
        "split": config.eval.split,
        "num_mix": config.eval.num_mix,
        "mixes": len(results),
        "unscored": [{"mix": r.index, "clips": r.keys, "problem": r.scores.problem} for r in unscored(results)],
        "overall": overall(results)[2],
        "per_instrument": {name: scores for name, _, scores in per_instrument(results)},
        "per_combination": {name: scores for name, _, scores in per_combination(results)},
    }
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(summary, indent=1) + "\n")
    os.replace(temporary, path)


def choose_examples(results: Sequence[MixResult], count: int, seed: int) -> list[tuple[str, MixResult]]:
    """A third each of the best and the worst mixes by mean SDR improvement and of mixes drawn at random."""
    scored = sorted(
        (r for r in results if not r.scores.problem), key=lambda r: -mean_scores(list(r.scores.sources))["SDRi"]
    )
    count = min(count, len(scored))
    ends = count // 3
    middle = scored[ends : len(scored) - ends]
    drawn = np.random.default_rng(seed).permutation(len(middle))[: count - 2 * ends]
    return (
        [("best", r) for r in scored[:ends]]
        + [("worst", r) for r in scored[::-1][:ends]]
        + [("random", middle[n]) for n in sorted(drawn.tolist())]
    )


def write_evaluation_report(
    path: Path,
    title: str,
    config: Config,
    step: int,
    results: Sequence[MixResult],
    examples: Sequence[tuple[str, tuple[EvaluationItem, Separated], MixResult]],
) -> Path:
    """The page to listen to: tables of all mixes, sounds and pictures of the examples."""
    _, scored, means = overall(results)
    summary: dict[str, str | float] = {
        "mixes scored": scored,
        "mixes not scored": len(unscored(results)),
        "training step": step,
    }
    summary |= {f"{name} (dB)": round(value, 2) for name, value in means.items()}
    tables = [
        Table(
            label,
            (column, "mixes", *(f"{name} (dB)" for name in METRICS)),
            tuple((name, count, *(scores.get(metric) for metric in METRICS)) for name, count, scores in rows),
            caption,
        )
        for label, column, rows, caption in (
            ("Per instrument", "instrument", per_instrument(results), "Means over the sources of an instrument."),
            ("Per combination", "instruments", per_combination(results), "Means over all sources of the mixes."),
        )
    ]
    return write_report(
        path,
        title=title,
        summary=summary,
        tables=tables,
        examples=[_example(why, item, separated, result) for why, (item, separated), result in examples],
        sample_rate=config.audio.sample_rate,
    )


def _example(why: str, item: EvaluationItem, separated: Separated, result: MixResult) -> Example:
    sources = tuple(
        Source(
            instrument=item.instruments[n],
            clip=item.keys[n],
            picture=item.pictures[n].transpose(1, 2, 0),
            localisation=separated.localisation[n].numpy(),
            reference=item.sources[n],
            estimate=separated.estimates[n].numpy(),
            scores={name: result.scores.sources[n].get(name) for name in METRICS},
        )
        for n in range(len(item.keys))
    )
    return Example(title=" + ".join(item.instruments), why=why, mix=item.sources.sum(0), sources=sources)
