"""How fast mixes are separated and scored, by both ways of scoring."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util

from benchmarks.gpu.setting import Recorder, Setting
from benchmarks.gpu.sizes import sized_config
from ialcms.config import Config
from ialcms.data.evaluation_mixes import EvaluationMix, list_mixes
from ialcms.data.manifest import Manifest
from ialcms.data.remote import open_manifest
from ialcms.evaluation.scoring import metrics_of, score_all
from ialcms.evaluation.timing import EvaluationTime
from ialcms.models import Separator
from ialcms.models.arithmetic import set_arithmetic
from ialcms.models.build import build_networks


def measure(setting: Setting, recorder: Recorder) -> None:
    manifest = open_manifest(setting.shards)
    config = sized_config(setting.small)
    if setting.small:
        config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, seconds=3.0, hop=16_383))
    options, device = config.eval, setting.torch_device
    mixes = list_mixes(manifest, "test", options.num_sources, 1, options.seed, options.seconds)
    set_arithmetic(config)
    separator, _ = build_networks(config, pretrained=False)
    separator = separator.to(device).eval()
    recorder.add("eval.metrics: auto", metrics_of(config, device))
    known = [name for name in ("fast", "mir_eval") if name == "fast" or importlib.util.find_spec(name)]
    for index, name in enumerate(known):
        try:
            _measure_metrics(setting, recorder, config, manifest, mixes, separator, name,
                             recorder.seconds_left / (len(known) - index))  # fmt: skip
        except (RuntimeError, ValueError) as error:
            recorder.missing(name, error)
    if "mir_eval" not in known:
        recorder.missing("mir_eval", "mir_eval is not installed")


def _measure_metrics(
    setting: Setting,
    recorder: Recorder,
    config: Config,
    manifest: Manifest,
    mixes: list[EvaluationMix],
    separator: Separator,
    metrics: str,
    seconds: float,
) -> None:
    """From the third result on, as the first ones wait for processes to start and for kernels to be chosen."""
    config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, metrics=metrics))
    spent, before = EvaluationTime(setting.torch_device), EvaluationTime()
    scored = score_all(separator, manifest, mixes, config, spent)
    problems = []
    for number, (_, scores) in enumerate(scored, start=1):
        problems += [scores.problem] if scores.problem else []
        if number == 3:
            before = copy.deepcopy(spent)
        if number > 3 and setting.small:
            break
        if number > 3 and spent.elapsed_s > 0.8 * seconds:
            break
    scored.close()
    spent = spent.since(before)
    label = f"{metrics} metrics"
    rate = spent.num_mixes / spent.elapsed_s
    recorder.add(f"{label}: rate", rate, "mixes/s", f"{spent.num_mixes} mixes of {config.eval.seconds:g} s")
    recorder.add(f"{label}: sound", rate * config.eval.seconds, "s/s", "seconds of mixes in a second")
    if spent.beside_s:
        recorder.add(f"{label}: of a process", spent.beside_s / spent.num_mixes, "s", "for each mix")
    for part, share in spent.shares().items():
        recorder.add(f"{label}: {part}", 100 * share, "%", "of the time")
    if problems:
        recorder.add(f"{label}: not scored", len(problems), note=problems[0])
