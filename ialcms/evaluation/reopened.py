"""An evaluation that was made earlier, with its mixes and the separator that it scored: to listen to, not to score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ialcms.config import Config
from ialcms.data.evaluation_mixes import EvaluationItem, EvaluationMix
from ialcms.data.mix_list import read_mix_list
from ialcms.data.remote import open_manifest
from ialcms.evaluation.result_files import MIXES, read_results
from ialcms.evaluation.results import MixResult
from ialcms.evaluation.scoring import SeparatedMixes
from ialcms.evaluation.windows import Separated
from ialcms.models.arithmetic import set_arithmetic
from ialcms.runs.separators import load_separator


@dataclass(frozen=True)
class Heard:
    """A mix of an evaluation, to listen to."""

    item: EvaluationItem
    separated: Sequence[Separated]  # on the CPU, by the published protocol and, if there is one, by the best


@dataclass(frozen=True)
class Reopened:
    about: dict[str, Any]  # as in summary.json
    results: Sequence[MixResult]
    mixes: Sequence[EvaluationMix]  # the whole list, by index
    separated: SeparatedMixes


def reopen(config: Config, source: Path, device: torch.device, out: Path) -> Reopened:
    """Read the evaluation in `out` and load what it scored.

    config, source: of the run, as for `ialcms.evaluation.evaluate.evaluate`. Raises ValueError where `out` holds no
    evaluation, or one of another checkpoint or of other shards.
    """
    about, results = read_results(out)
    loaded = load_separator(source, device, config)
    if about.get("state_sha256") != loaded.digest:
        raise ValueError(
            f"the evaluation in {out} is of step {about['step']}, but {source} is another checkpoint: "
            "evaluate the run again, or name its checkpoint with --checkpoint"
        )
    manifest = open_manifest(config.data.shards)
    if about["manifest"] != manifest.digest:
        raise ValueError(
            f"the evaluation in {out} is of other shards than {config.data.shards}: evaluate the run again"
        )
    set_arithmetic(config)
    mixes = read_mix_list(out / MIXES, manifest)
    separated = SeparatedMixes(loaded.separator, manifest, config, seconds=about["seconds"], hop=about["hop"])
    return Reopened(about, results, mixes, separated=separated)


def hear(separated: SeparatedMixes, mix: EvaluationMix) -> Heard:
    """Read and separate a mix. BadClip for one that cannot be used."""
    item = separated.load(mix)
    on_cpu = [Separated(one.estimates.cpu(), one.localisation.cpu()) for one in separated.separate(item)]
    return Heard(item, on_cpu)
