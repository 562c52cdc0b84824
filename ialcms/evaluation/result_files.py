"""The files of an evaluation: mixes.csv, instruments.csv, pairs.csv and summary.json; written whole, read again."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ialcms.csv_cells import cell_text, text_cell
from ialcms.evaluation.bootstrap import LEVEL
from ialcms.evaluation.metrics import METRICS, MixScores, Scores
from ialcms.evaluation.results import BestProtocol, MixResult, Row, Summary
from ialcms.files import open_text, write_whole
from ialcms.names import ENCODING_ERRORS
from ialcms.reading import one_line, shown
from ialcms.reading.text import read_json

MIXES, SUMMARY = "mixes.csv", "summary.json"
FILE_NAMES = (MIXES, "instruments.csv", "pairs.csv", SUMMARY)
_BEST = tuple(f"best_{name}" for name in METRICS)  # by `eval.protocol`
_SUMMARY_KINDS = {
    "run": (str,),
    "step": (int,),
    "split": (str,),
    "num_sources": (int,),
    "list": (str,),
    "metrics": (str,),
    "seconds": (int, float),
    "hop": (int,),
    "manifest": (str,),
    "state_sha256": (str,),
}

Cells = tuple[int | str, ...]


def write_results(folder: Path, figures: Summary, about: dict[str, Any]) -> None:
    """Write all files into `folder`; about: what was evaluated, the first part of summary.json."""
    folder.mkdir(parents=True, exist_ok=True)
    titles = ("mix", "instrument", "clip", "box", "start", *METRICS, "problem", *_BEST)
    _write_csv(folder / MIXES, titles, itertools.chain.from_iterable(map(_mix_rows, figures.results)))
    limits = [f"{metric}_{side}" for metric in METRICS for side in ("low", "high")]
    columns = ("mixes", *METRICS, *limits)
    _write_csv(folder / "instruments.csv", ("instrument", *columns), map(_row_cells, figures.per_instrument))
    _write_csv(folder / "pairs.csv", ("instrument", "with", *columns), map(_row_cells, figures.per_pair))
    write_whole(folder / SUMMARY, json.dumps({**about, **_summary(figures)}, indent=1) + "\n")


def _summary(figures: Summary) -> dict[str, Any]:
    unscored = [{"mix": r.index, "clips": r.keys, "problem": r.scores.problem} for r in figures.unscored]
    best = {} if figures.best is None else {"best_protocol": _best_summary(figures.best)}
    pairs = [{"instrument": row.names[0], "with": row.names[1], **_plain(row)} for row in figures.per_pair]
    return {
        "mixes": len(figures.results),
        "unscored": unscored,
        "interval_level": LEVEL,
        "overall": _plain(figures.overall),
        "per_instrument": {row.names[0]: _plain(row) for row in figures.per_instrument},
        **best,
        "per_pair": pairs,
    }


def _best_summary(best: BestProtocol) -> dict[str, Any]:
    """What `eval.protocol` gives, and its paired difference from the published protocol."""
    instruments = {row.names[0]: _plain(row) for row in best.per_instrument}
    return {"overall": _plain(best.overall), "per_instrument": instruments, "gain": _plain(best.gain)}


def is_evaluation(folder: Path) -> bool:
    """Whether a folder's summary is one of `write_results`."""
    try:
        return "unscored" in read_json(folder / SUMMARY)
    except (OSError, ValueError, TypeError):
        return False


def read_results(folder: Path) -> tuple[dict[str, Any], list[MixResult]]:
    """Summary and mixes of an evaluation; ValueError where `folder` holds none, or damaged ones."""
    if not (folder / MIXES).is_file() or not (folder / SUMMARY).is_file():
        raise ValueError(f"there is no evaluation in {folder}; make one with 'ialcms evaluate RUN'")
    try:
        summary = read_json(folder / SUMMARY)
        if isinstance(summary, dict) and "num_mix" in summary:  # as version 0.1.0 called it
            summary["num_sources"] = summary.pop("num_mix")
        _check_summary(summary)
        sources: dict[int, list[dict[str, str]]] = {}
        with open_text(folder / MIXES, ENCODING_ERRORS) as file:
            for row in csv.DictReader(file):
                sources.setdefault(int(row["mix"]), []).append(row)
        if sorted(sources) != list(range(len(sources))):
            raise ValueError("its mixes are not numbered from 0 on")
        return summary, [_mix_result(index, rows) for index, rows in sources.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"the evaluation in {folder} is damaged ({one_line(error)}); evaluate the run again"
        ) from error


def _check_summary(summary: Any) -> None:
    """Raises ValueError for what others read of it and is not as `write_results` writes it."""
    if not isinstance(summary, dict):
        raise ValueError("its summary is no mapping")
    for name, kinds in _SUMMARY_KINDS.items():
        if name in summary and type(summary[name]) not in kinds:
            raise ValueError(f"its {name} is {shown(summary[name])}")
    for name in ("seconds", "hop"):
        if name in summary and not 0 < summary[name] < 1e9:
            raise ValueError(f"its {name} is {shown(summary[name])}")


def _mix_rows(result: MixResult) -> Iterator[Cells]:
    """A line per source."""
    for index, scores in enumerate(result.scores.sources):
        best = result.scores.best[index] if result.scores.best else {}
        yield (
            result.index,
            text_cell(result.instruments[index]),
            text_cell(result.keys[index]),
            result.boxes[index],
            result.starts[index],
            *_score_cells(scores),
            text_cell(result.scores.problem),
            *_score_cells(best),
        )


def _score_cells(scores: Scores) -> list[str]:
    return [f"{scores[name]:.6f}" if scores else "" for name in METRICS]


def _mix_result(index: int, rows: Sequence[dict[str, str]]) -> MixResult:
    scores = tuple(_read_scores(row) if row["SDR"] else {} for row in rows)
    if not all(scores) and not rows[0]["problem"]:
        raise ValueError(f"mix {index} has no scores and no reason for that")
    best = tuple(_read_scores(row, "best_") for row in rows if row.get(_BEST[0]))
    if len(best) not in (0, len(rows)):
        raise ValueError(f"of mix {index} some sources have no scores by the best protocol")
    return MixResult(
        index=index,
        instruments=tuple(map(cell_text, _column("instrument", rows))),
        keys=tuple(map(cell_text, _column("clip", rows))),
        boxes=tuple(map(int, _column("box", rows))),
        starts=tuple(map(int, _column("start", rows))),
        scores=MixScores(scores, cell_text(rows[0]["problem"]), best),
    )


def _read_scores(row: dict[str, str], prefix: str = "") -> Scores:
    return {name: float(row[prefix + name]) for name in METRICS}


def _column(title: str, rows: Sequence[dict[str, str]]) -> list[str]:
    return [row[title] for row in rows]


def _row_cells(row: Row) -> Cells:
    figures = [f"{row.means[name]:.4f}" if row.means else "" for name in METRICS]
    limits = (f"{limit:.4f}" for name in METRICS for limit in row.intervals.get(name, ()))
    return (*map(text_cell, row.names), row.num_mixes, *figures, *limits)


def _plain(row: Row) -> dict[str, Any]:
    """For JSON, which has no word for infinity: null there."""

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    means = {name: finite(value) for name, value in row.means.items()}
    intervals = {name: list(map(finite, limits)) for name, limits in row.intervals.items()}
    return {"mixes": row.num_mixes, **means, "intervals": intervals}


def _write_csv(path: Path, titles: Sequence[str], rows: Iterable[Cells]) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(titles)
    writer.writerows(rows)
    write_whole(path, text.getvalue())
