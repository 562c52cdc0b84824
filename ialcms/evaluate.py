"""Evaluation: a run's separator on a fixed list of mixes of held-out videos, every mix exactly once.

Separation runs on the workers, BSS Eval beside it in a pool of processes (one BLAS thread each). Results are
`mixes.csv` (a line per source), `summary.json` and `report.html`.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm

from ialcms import checkpoint
from ialcms.config import Config
from ialcms.data.evaluation_sets import EvaluationItem, EvaluationMix, list_mixes, load_mix, share
from ialcms.data.manifest import Manifest, read_manifest
from ialcms.engine import Workers
from ialcms.metrics import MixScores, score_mix
from ialcms.models import Separator
from ialcms.results import (
    MixResult,
    choose_examples,
    format_tables,
    write_evaluation_report,
    write_mixes,
    write_summary,
)
from ialcms.separation import Separated, separate_recording


def load_separator(folder: Path, config: Config, device: torch.device) -> Separator:
    """The separator of a checkpoint, ready to separate; ValueError when there is none or it does not fit."""
    if not folder.is_dir():
        raise ValueError(f"there is no checkpoint {folder}; train first, or name one with --checkpoint")
    state, _ = checkpoint.load(folder, config, manifest_digest=None)
    separator = Separator(config.model, config.audio)
    separator.load_state_dict(state["separator"]["module"])
    return separator.to(device).eval()


def evaluate(config: Config, checkpoint_folder: Path, workers: Workers, out: Path) -> Path | None:
    """Score every mix of the list once, write the results into `out`; on the first worker returns the report."""
    manifest = read_manifest(config.data.shards)
    options = config.eval
    mixes = list_mixes(
        manifest, options.split, options.num_mix, options.draws, options.seed, options.seconds, config.data.instruments
    )
    separator = load_separator(checkpoint_folder, config, workers.device)
    own = share(mixes, workers.rank, workers.world_size)
    scored = list(_score_all(separator, manifest, own, config, workers))
    results = sorted((r for part in workers.gather_objects(scored) for r in part), key=lambda result: result.index)
    assert [result.index for result in results] == [mix.index for mix in mixes]
    if not workers.is_first:
        return None
    out.mkdir(parents=True, exist_ok=True)
    meta = checkpoint.read_meta(checkpoint_folder)
    write_mixes(out / "mixes.csv", results)
    write_summary(out / "summary.json", results, config, meta["progress"]["step"])
    print(format_tables(results))
    shown = choose_examples(results, options.examples, options.seed)
    examples = [(why, _separate(separator, manifest, mixes[r.index], config, workers.device), r) for why, r in shown]
    title = f"{config.name}: {options.num_mix}-mixes of {options.split} videos"
    report = write_evaluation_report(out / "report.html", title, config, meta["progress"]["step"], results, examples)
    print(f"report: {report}")
    return report


def _separate(
    separator: Separator, manifest: Manifest, mix: EvaluationMix, config: Config, device: torch.device
) -> tuple[EvaluationItem, Separated]:
    num_samples = round(config.eval.seconds * config.audio.sample_rate)
    item = load_mix(manifest, mix, config.data, num_samples)
    separated = separate_recording(
        separator,
        torch.as_tensor(item.sources.sum(0)).to(device),
        torch.as_tensor(item.pictures).to(device),
        config,
        config.eval.hop,
    )
    return item, Separated(separated.estimates.cpu(), separated.localisation.cpu())


def _score_all(
    separator: Separator, manifest: Manifest, mixes: Sequence[EvaluationMix], config: Config, workers: Workers
) -> Iterator[MixResult]:
    """Results of these mixes; while one is separated, those before it are scored in other processes."""
    processes = max(1, (os.cpu_count() or 1) // workers.local_world_size)
    with (
        _one_thread_each(),
        ProcessPoolExecutor(processes, multiprocessing.get_context("forkserver")) as pool,
        tqdm(total=len(mixes), unit="mix", desc="evaluate", disable=not workers.is_first) as bar,
    ):
        pending: deque[tuple[EvaluationItem, Future[MixScores]]] = deque()
        for mix in mixes:
            item, separated = _separate(separator, manifest, mix, config, workers.device)
            pending.append((item, pool.submit(score_mix, item.sources, separated.estimates.numpy())))
            if len(pending) > 2 * processes:
                yield _result(*pending.popleft())
                bar.update()
        for item, future in pending:
            yield _result(item, future)
            bar.update()


def _result(item: EvaluationItem, scores: Future[MixScores]) -> MixResult:
    return MixResult(item.mix.index, item.instruments, item.keys, scores.result())


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside get one BLAS thread: many at once would only fight for the cores."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
