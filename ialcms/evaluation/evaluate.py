"""Evaluation: a run's separator on a fixed list of mixes of held-out videos, every mix exactly once.

`ialcms.evaluation.scoring` separates and scores. Scores are written down as they come: an evaluation that was killed
goes on where it was, on any number of ranks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ialcms.config import Config, EvalConfig
from ialcms.data.evaluation_mixes import EvaluationItem, EvaluationMix, list_mixes, share
from ialcms.data.manifest import Manifest
from ialcms.data.mix_list import read_mix_list
from ialcms.data.remote import open_manifest
from ialcms.engine import Ranks
from ialcms.engine.held_folder import held_folder
from ialcms.engine.same_input import open_same_manifest, read_same
from ialcms.evaluation.journal import Journal, end_journal, list_journals, read_journal, start_journal
from ialcms.evaluation.metrics import MixScores
from ialcms.evaluation.page import write_evaluation_page
from ialcms.evaluation.result_files import FILE_NAMES, MIXES, is_evaluation, read_results, write_results
from ialcms.evaluation.results import MixResult, choose_examples, format_tables
from ialcms.evaluation.scoring import load_item, metrics_of, score_all, separate_item
from ialcms.evaluation.timing import EvaluationTime
from ialcms.evaluation.windows import Separated
from ialcms.lease import Lease
from ialcms.models import Separator
from ialcms.models.arithmetic import set_arithmetic
from ialcms.models.build import check_memory
from ialcms.overwriting import refuse_overwriting
from ialcms.published import import_remedy
from ialcms.runs import checkpoint

PAGE = "report.html"


def load_separator(folder: Path, config: Config, device: torch.device) -> Separator:
    """The separator of a checkpoint, ready to separate; ValueError when there is none or it does not fit."""
    if folder.is_file():
        raise ValueError(import_remedy(folder))
    if not folder.is_dir():
        raise ValueError(f"there is no checkpoint {folder}; train first, or name one with --checkpoint")
    state, _ = checkpoint.load(folder, config, manifest_digest=None)
    check_memory(config)
    separator = Separator(config.model, config.audio)
    with checkpoint.fitting(folder):
        separator.load_state_dict(checkpoint.separator_weights(state))
    set_arithmetic(config)
    return separator.to(device).eval()


def evaluate(
    config: Config, checkpoint_folder: Path, ranks: Ranks, out: Path, mix_list: Path | None = None
) -> Path | None:
    """Score every mix once, write the results into `out`; on rank 0 returns the page.

    mix_list: CSV as in `ialcms.data.mix_list`; without it the list of `eval.split`, `eval.num_sources`, `eval.draws`.
    """
    if mix_list is not None:
        refuse_overwriting([out / MIXES], [mix_list], "give another folder with --out")
    with held_folder(ranks, lease_of(out), must_be_shared=False):
        return _evaluate(config, checkpoint_folder, ranks, out, mix_list)


def lease_of(out: Path) -> Lease:
    """For whoever writes the results of an evaluation."""
    return Lease(out, "evaluation", "--out", name="the folder of results", unwritable="no results can be written to")


def _evaluate(config: Config, checkpoint_folder: Path, ranks: Ranks, out: Path, mix_list: Path | None) -> Path | None:
    manifest = open_same_manifest(ranks, config.data.shards)
    options = dataclasses.replace(config.eval, metrics=metrics_of(config, ranks.device))
    config = dataclasses.replace(config, eval=options)

    def read_mixes() -> list[EvaluationMix]:
        return (
            list_mixes(manifest, options.split, options.num_sources, options.draws, options.seed, options.seconds,
                       config.data.instruments)
            if mix_list is None else read_mix_list(mix_list, manifest)
        )  # fmt: skip

    mixes = read_same(ranks, f"the list of mixes {mix_list or ''}".strip(), read_mixes, _digest)
    separator, meta = read_same(
        ranks,
        f"the checkpoint {checkpoint_folder}",
        lambda: (load_separator(checkpoint_folder, config, ranks.device), checkpoint.read_meta(checkpoint_folder)),
        lambda read: str(read[1]["state_sha256"])[:16],
    )
    journal_folder, key = out / "scores", _key(config, manifest, mixes, meta["state_sha256"])

    known = ranks.broadcast(read_journal(journal_folder, key) if ranks.is_first else None)
    if ranks.is_first:
        _check_ours(out, journal_folder)
        start_journal(journal_folder, key, known)
        if known:
            print(f"going on: {len(known)} of {len(mixes)} mixes are scored already")
    ranks.barrier()
    own = share([mix for mix in mixes if mix.index not in known], ranks.rank, ranks.world_size)
    scores, spent = {}, EvaluationTime(ranks.device)
    with Journal(journal_folder, f"rank-{ranks.rank}", key) as journal:
        for index, score in score_all(separator, manifest, own, config, spent, show_progress=ranks.is_first):
            journal.write(index, score)
            scores[index] = score
    times = []
    for part, spent_there in ranks.gather_objects((scores, spent)):
        known |= part
        times.append(spent_there)
    assert sorted(known) == [mix.index for mix in mixes]
    if not ranks.is_first:
        return None

    results = [_result(manifest, mix, known[mix.index]) for mix in mixes]
    about = {
        "run": config.name,
        "step": meta["progress"]["step"],
        **_list_words(options, mix_list),
        "metrics": options.metrics,
        "seconds": options.seconds,
        "hop": options.hop,
        "protocol": asdict(options.protocol),
        "manifest": manifest.digest,
        "state_sha256": meta["state_sha256"],
    }
    write_results(out, results, about)
    print(format_tables(results))
    print(f"{config.eval.metrics} metrics: {EvaluationTime.total(times)}")
    page = _write_page(separator, manifest, mixes, config, ranks.device, out, about, results)
    end_journal(journal_folder)
    print(f"figures: {out}\nreport: {page}")
    return page


def _check_ours(out: Path, journal_folder: Path) -> None:
    """Raises ValueError for files by the names of results that no evaluation wrote."""
    foreign = [out / name for name in (*FILE_NAMES, PAGE) if (out / name).exists()]
    if foreign and not is_evaluation(out) and not any(list_journals(journal_folder)):
        raise ValueError(f"{foreign[0]} is there already, and no evaluation wrote it; give another folder with --out")


def rewrite_page(config: Config, checkpoint_folder: Path, device: torch.device, out: Path) -> Path:
    """The page of an evaluation again, from its files and with `eval.examples` examples; nothing is scored.

    Raises ValueError where `out` holds no evaluation, or one of another checkpoint or of other shards.
    """
    about, results = read_results(out)
    meta = checkpoint.read_meta(checkpoint_folder)
    if about.get("state_sha256") != meta["state_sha256"]:
        raise ValueError(
            f"the evaluation in {out} is of step {about['step']}, but {checkpoint_folder} is another checkpoint: "
            "evaluate the run again, or name its checkpoint with --checkpoint"
        )
    manifest = open_manifest(config.data.shards)
    if about["manifest"] != manifest.digest:
        raise ValueError(
            f"the evaluation in {out} is of other shards than {config.data.shards}: evaluate the run again"
        )
    mixes = read_mix_list(out / MIXES, manifest)
    separator = load_separator(checkpoint_folder, config, device)
    options = dataclasses.replace(config.eval, seconds=about["seconds"], hop=about["hop"])
    config = dataclasses.replace(config, eval=options)
    return _write_page(separator, manifest, mixes, config, device, out, about, results)


def _write_page(
    separator: Separator,
    manifest: Manifest,
    mixes: Sequence[EvaluationMix],
    config: Config,
    device: torch.device,
    out: Path,
    about: Mapping[str, Any],
    results: Sequence[MixResult],
) -> Path:
    shown = choose_examples(results, config.eval.examples, config.eval.seed)
    examples = [(why, *_separate(separator, manifest, mixes[r.index], config, device), r) for why, r in shown]
    return write_evaluation_page(out / PAGE, about, config.audio.sample_rate, results, examples)


def _list_words(options: EvalConfig, mix_list: Path | None) -> dict[str, Any]:
    """What the summary says of the list of mixes."""
    if mix_list is not None:
        return {"list": mix_list.name}
    return {"split": options.split, "num_sources": options.num_sources}


def _digest(mixes: Sequence[EvaluationMix]) -> str:
    return hashlib.sha256(json.dumps([*map(asdict, mixes)]).encode()).hexdigest()[:16]


def _key(config: Config, manifest: Manifest, mixes: Sequence[EvaluationMix], state_sha256: str) -> str:
    """Equal for evaluations that give every mix the same scores."""
    options = config.eval
    values = [state_sha256, manifest.digest, options.seconds, options.hop, options.metrics, asdict(options.protocol)]
    values += map(asdict, mixes)
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _separate(
    separator: Separator, manifest: Manifest, mix: EvaluationMix, config: Config, device: torch.device
) -> tuple[EvaluationItem, list[Separated]]:
    """Sounds on the host, separated ones too, by each protocol."""
    item = load_item(manifest, mix, config)
    separated = separate_item(separator, item, config, device)
    return item, [Separated(one.estimates.cpu(), one.localisation.cpu()) for one in separated]


def _result(manifest: Manifest, mix: EvaluationMix, scores: MixScores) -> MixResult:
    def of_clips(name: str) -> tuple[str, ...]:
        return tuple(getattr(manifest.clips[index], name) for index in mix.clips)

    return MixResult(mix.index, of_clips("instrument"), of_clips("key"), mix.rows, mix.starts, scores)
