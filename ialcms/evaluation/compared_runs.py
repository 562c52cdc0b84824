"""The evaluations of a comparison's page, each with a letter, and what to hear of them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import torch

from ialcms.config import Config
from ialcms.data.clip_reader import BadClip
from ialcms.evaluation.compare import Comparison
from ialcms.evaluation.reopened import Heard, hear, reopen
from ialcms.evaluation.result_files import read_results
from ialcms.evaluation.results import MixResult, Summary, summarise
from ialcms.runs import checkpoint
from ialcms.runs.run_folder import RunFolder


@dataclass(frozen=True)
class ComparedRun:
    letter: str
    folder: Path  # of the evaluation
    about: Mapping[str, Any]  # as in summary.json
    figures: Summary  # of the mixes that all runs scored

    @property
    def label(self) -> str:
        return f"{self.letter}: {self.about['run']}"


def compared_runs(comparisons: Sequence[Comparison]) -> list[ComparedRun]:
    """comparisons: of the same first run with one other each."""
    folders = [comparisons[0].folders[0], *(comparison.folders[1] for comparison in comparisons)]
    evaluations = [read_results(folder) for folder in folders]
    in_all = set.intersection(*(_scored_indices(results) for _, results in evaluations))
    runs = []
    for letter, folder, (about, results) in zip(ascii_uppercase, folders, evaluations):
        figures = summarise([result for result in results if result.index in in_all])
        runs.append(ComparedRun(letter, folder, about, figures=figures))
    return runs


def _scored_indices(results: Sequence[MixResult]) -> set[int]:
    return {result.index for result in results if not result.scores.problem}


def config_of(run: ComparedRun, overrides: Sequence[str] = ()) -> Config:
    """The configuration of the run whose folder the evaluation lies in. ValueError where it lies in none."""
    return _run_folder(run).read_config(overrides)


def hear_mixes(run: ComparedRun, config: Config, indices: Collection[int]) -> dict[int, Heard]:
    """What the run makes of these mixes, by their indices.

    config: of the run. ValueError where the checkpoint that was evaluated, or the shards, are not there any more.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    opened = reopen(config, _evaluated_checkpoint(run), device, out=run.folder)
    try:
        return {index: hear(opened.separated, opened.mixes[index]) for index in indices}
    except BadClip as error:
        raise ValueError(f"a clip of {run.label} cannot be used any more: {error}") from error


def _run_folder(run: ComparedRun) -> RunFolder:
    for folder in run.folder.absolute().parents:
        if (found := RunFolder(folder)).config.is_file():
            return found
    raise ValueError(f"{run.folder} lies in no run's folder")


def _evaluated_checkpoint(run: ComparedRun) -> Path:
    root = _run_folder(run).checkpoints
    for folder in sorted(root.glob("*")):
        with contextlib.suppress(ValueError):  # it is damaged, or none
            if checkpoint.read_meta(folder)["state_sha256"] == run.about.get("state_sha256"):
                return folder
    raise ValueError(
        f"the checkpoint of {run.label}, step {run.about['step']}, which was evaluated, is not in {root}: evaluate the "
        "run again"
    )
