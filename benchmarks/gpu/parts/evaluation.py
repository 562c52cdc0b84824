"""How fast mixes are separated and scored, by both ways of scoring."""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import dataclass

from benchmarks.gpu.setting import Recorder, Setting
from benchmarks.gpu.sizes import sized_config
from ialcms.data.evaluation_mixes import EvaluationMix, list_mixes
from ialcms.data.remote import open_manifest
from ialcms.evaluation.scoring import Scoring, SeparatedMixes, metrics_of
from ialcms.evaluation.timing import EvaluationTime
from ialcms.models.arithmetic import set_arithmetic
from ialcms.models.build import build_networks


def measure(setting: Setting, recorder: Recorder) -> None:
    """Record how many mixes a second are evaluated, by the metrics of each kind."""
    manifest = open_manifest(setting.shards)
    config = sized_config(setting.small)
    options, device = config.eval, setting.torch_device
    mix_seconds, hop = (3.0, 16_383) if setting.small else (options.seconds, options.hop)
    mixes = list_mixes(manifest, "test", options.num_sources, draws=1, seed=options.seed, seconds=mix_seconds)
    set_arithmetic(config)
    separator, _ = build_networks(config, pretrained=False)
    separated = SeparatedMixes(separator.to(device).eval(), manifest, config, seconds=mix_seconds, hop=hop)
    recorder.add("eval.metrics: auto", metrics_of(config, device))
    known = [name for name in ("fast", "mir_eval") if name == "fast" or importlib.util.find_spec(name)]
    for index, name in enumerate(known):
        seconds = recorder.seconds_left / (len(known) - index)
        try:
            measured = _time(Scoring(separated, name), mixes, seconds, quick=setting.small)
            _record(recorder, measured, f"{name} metrics", mix_seconds=mix_seconds)
        except (RuntimeError, ValueError) as error:
            recorder.missing(name, error)
    if "mir_eval" not in known:
        recorder.missing("mir_eval", "mir_eval is not installed")


@dataclass(frozen=True)
class _Measured:
    spent: EvaluationTime
    problems: list[str]  # of mixes that were not scored


def _time(scoring: Scoring, mixes: list[EvaluationMix], seconds: float, *, quick: bool) -> _Measured:
    """Score `mixes`, timed from the third result on: the first ones wait for processes and for the choice of kernels.

    seconds: that this may take. quick: stop after the fourth result.
    """
    before = EvaluationTime()
    scored = scoring(mixes)
    problems = []
    for number, (_, scores) in enumerate(scored, start=1):
        problems += [scores.problem] if scores.problem else []
        if number == 3:
            before = copy.deepcopy(scoring.time)
        if number > 3 and quick:
            break
        if number > 3 and scoring.time.elapsed_s > 0.8 * seconds:
            break
    scored.close()
    return _Measured(scoring.time.since(before), problems)


def _record(recorder: Recorder, measured: _Measured, label: str, *, mix_seconds: float) -> None:
    """Record rates and shares of `measured` under `label`, in mixes of `mix_seconds`."""
    spent = measured.spent
    rate = spent.num_mixes / spent.elapsed_s
    recorder.add(f"{label}: rate", rate, "mixes/s", note=f"{spent.num_mixes} mixes of {mix_seconds:g} s")
    recorder.add(f"{label}: sound", rate * mix_seconds, "s/s", note="seconds of mixes in a second")
    if spent.beside_s:
        recorder.add(f"{label}: of a process", spent.beside_s / spent.num_mixes, "s", note="for each mix")
    for part, share in spent.shares().items():
        recorder.add(f"{label}: {part}", 100 * share, "%", note="of the time")
    if measured.problems:
        recorder.add(f"{label}: not scored", len(measured.problems), note=measured.problems[0])
