"""Evaluation: a run's separator on a fixed list of mixes of held-out videos, every mix exactly once.

`ialcms.evaluation.scoring` separates and scores. Scores are written down as they come: an evaluation that was killed
resumes, on any number of ranks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ialcms.config import Config
from ialcms.data.evaluation_mixes import EvaluationMix, mixes_to_evaluate, share
from ialcms.data.manifest import Manifest
from ialcms.data.mix_list import read_mix_list
from ialcms.engine import Ranks
from ialcms.engine.held_folder import held_folder
from ialcms.engine.same_input import open_same_manifest, read_same
from ialcms.evaluation.journal import Journal, end_journal, list_journals, read_journal, start_journal
from ialcms.evaluation.metrics import MixScores
from ialcms.evaluation.page import SeparatedExample, write_evaluation_page
from ialcms.evaluation.reopened import hear, reopen
from ialcms.evaluation.result_files import FILE_NAMES, MIXES, is_evaluation, write_results
from ialcms.evaluation.results import MixResult, Summary, choose_examples, format_tables, summarise
from ialcms.evaluation.scoring import Scoring, SeparatedMixes, metrics_of
from ialcms.evaluation.timing import EvaluationTime
from ialcms.lease import Lease
from ialcms.models.arithmetic import set_arithmetic
from ialcms.overwriting import refuse_overwriting
from ialcms.runs.separators import LoadedSeparator, load_separator

PAGE = "report.html"


@dataclass(frozen=True)
class _Inputs:
    """What an evaluation reads; the same on all ranks."""

    manifest: Manifest
    mixes: Sequence[EvaluationMix]
    loaded: LoadedSeparator


def evaluate(config: Config, source: Path, ranks: Ranks, *, out: Path, mix_list: Path | None = None) -> Path | None:
    """Score every mix once, write the results into `out`; on rank 0 returns the page.

    config: of the run, which says what is evaluated and how. source: a checkpoint's folder, a run's (its best one), or
    a file of `ialcms export`. mix_list: CSV as in `ialcms.data.mix_list`; without it the list of `eval.split`,
    `eval.num_sources`, `eval.draws`. ValueError with a remedy.
    """
    if mix_list is not None:
        refuse_overwriting([out / MIXES], [mix_list], "give another folder with --out")
    with held_folder(ranks, lease_of(out), must_be_shared=False):
        inputs = _read_inputs(config, source, ranks, mix_list=mix_list)
        metrics = metrics_of(config, ranks.device)
        separated = SeparatedMixes(inputs.loaded.separator, inputs.manifest, config)
        scores, spent = _score(separated, inputs, ranks, metrics=metrics, out=out, key=_key(config, inputs, metrics))
        if not ranks.is_first:
            return None
        figures = summarise([_result(inputs.manifest, mix, scores[mix.index]) for mix in inputs.mixes])
        about = _about(config, inputs, metrics, mix_list=mix_list)
        write_results(out, figures, about)
        print(format_tables(figures))
        print(f"{metrics} metrics: {EvaluationTime.total(spent)}")
        page = _write_page(separated, inputs.mixes, config, out=out, about=about, figures=figures)
        end_journal(out / "scores")
        print(f"figures: {out}\nreport: {page}")
        return page


def lease_of(out: Path) -> Lease:
    """The lease that a writer of an evaluation's results needs."""
    return Lease(out, "evaluation", "--out", name="the folder of results", unwritable="no results can be written to")


def _read_inputs(config: Config, source: Path, ranks: Ranks, mix_list: Path | None) -> _Inputs:
    """The same on all ranks; the arguments are those of `evaluate`. ValueError for what cannot be read."""
    manifest = open_same_manifest(ranks, config.data.shards)

    def read_mixes() -> list[EvaluationMix]:
        if mix_list is not None:
            return read_mix_list(mix_list, manifest)
        return mixes_to_evaluate(manifest, config)

    mixes = read_same(ranks, f"the list of mixes {mix_list or ''}".strip(), read_mixes, digest=_digest)
    loaded = read_same(
        ranks,
        f"the checkpoint {source}",
        lambda: load_separator(source, ranks.device, config),
        digest=lambda read: read.digest[:16],
    )
    set_arithmetic(config)
    return _Inputs(manifest, mixes, loaded)


def _score(
    separated: SeparatedMixes, inputs: _Inputs, ranks: Ranks, metrics: str, *, out: Path, key: str
) -> tuple[dict[int, MixScores], list[EvaluationTime]]:
    """Scores of all mixes by their index, those of an earlier start too, and the times of all ranks.

    metrics: of `metrics_of`. key: of the evaluation (see `_key`): scores that an earlier start left in `out` count
    where they have the same one.
    """
    folder, mixes = out / "scores", inputs.mixes
    known: dict[int, MixScores] = ranks.broadcast(read_journal(folder, key) if ranks.is_first else None)
    if ranks.is_first:
        _check_ours(out, folder)
        start_journal(folder, key, known)
        if known:
            print(f"resuming: {len(known)} of {len(mixes)} mixes are scored already")
    ranks.barrier()
    local_mixes = share([mix for mix in mixes if mix.index not in known], ranks.rank, ranks.world_size)
    scoring = Scoring(separated, metrics, show_progress=ranks.is_first)
    local: dict[int, MixScores] = {}
    with Journal(folder, f"rank-{ranks.rank}", key) as journal:
        for index, scores in scoring(local_mixes):
            journal.write(index, scores)
            local[index] = scores
    gathered = ranks.gather_objects((local, scoring.time))
    for part, _ in gathered:
        known |= part
    assert sorted(known) == [mix.index for mix in mixes]
    return known, [spent for _, spent in gathered]


def _check_ours(out: Path, journal_folder: Path) -> None:
    """Raises ValueError for files by the names of results that no evaluation wrote."""
    foreign = [out / name for name in (*FILE_NAMES, PAGE) if (out / name).exists()]
    if foreign and not is_evaluation(out) and not any(list_journals(journal_folder)):
        raise ValueError(f"{foreign[0]} is there already, and no evaluation wrote it; give another folder with --out")


def rewrite_page(config: Config, source: Path, device: torch.device, out: Path) -> Path:
    """The page of an evaluation again, from its files and with `eval.examples` examples; nothing is scored.

    config, source: as for `evaluate`. out: the evaluation's folder. Raises ValueError where it holds no evaluation, or
    one of another checkpoint or of other shards.
    """
    opened = reopen(config, source, device, out=out)
    figures = summarise(opened.results)
    return _write_page(opened.separated, opened.mixes, config, out=out, about=opened.about, figures=figures)


def _write_page(
    separated: SeparatedMixes,
    mixes: Sequence[EvaluationMix],
    config: Config,
    *,
    out: Path,
    about: Mapping[str, Any],
    figures: Summary,
) -> Path:
    """mixes: the whole list, by index. out: the evaluation's folder. about: as in summary.json."""
    examples = []
    for why, result in choose_examples(figures.results, config.eval.examples, config.eval.seed):
        examples.append(SeparatedExample(why, hear(separated, mixes[result.index]), result))
    return write_evaluation_page(out / PAGE, about, separated.sample_rate, figures=figures, examples=examples)


def _about(config: Config, inputs: _Inputs, metrics: str, mix_list: Path | None) -> dict[str, Any]:
    """What was evaluated and how: the first part of summary.json.

    metrics: of `metrics_of`. mix_list: None where the mixes are those of `eval`.
    """
    options = config.eval
    listed = {"split": options.split, "num_sources": options.num_sources}
    return {
        "run": config.name,
        "step": inputs.loaded.step,
        **(listed if mix_list is None else {"list": mix_list.name}),
        "metrics": metrics,
        "seconds": options.seconds,
        "hop": options.hop,
        "protocol": asdict(options.protocol),
        "data_set": str(inputs.manifest.info.get("dataset") or Path(config.data.shards).name),
        "manifest": inputs.manifest.digest,
        "state_sha256": inputs.loaded.digest,
    }


def _digest(mixes: Sequence[EvaluationMix]) -> str:
    return hashlib.sha256(json.dumps([*map(asdict, mixes)]).encode()).hexdigest()[:16]


def _key(config: Config, inputs: _Inputs, metrics: str) -> str:
    """Equal for evaluations that give every mix the same scores."""
    options = config.eval
    values = [inputs.loaded.digest, inputs.manifest.digest, options.seconds, options.hop, metrics]
    values += [asdict(options.protocol), *map(asdict, inputs.mixes)]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _result(manifest: Manifest, mix: EvaluationMix, scores: MixScores) -> MixResult:
    clips = [manifest.clips[index] for index in mix.clips]
    keys = tuple(clip.key for clip in clips)
    return MixResult(
        index=mix.index,
        instruments=tuple(clip.instrument for clip in clips),
        keys=keys,
        boxes=mix.rows,
        starts=mix.starts,
        scores=scores,
    )
