"""Training steps as the trainer makes them, on synthetic batches that lie on the device: rate, memory, arithmetic.

A cycle is `train.separator_every` steps: one in which both networks learn, and those in which only the critic does.
"""

from __future__ import annotations

import functools
import gc
import statistics
import time
from typing import Any

import torch

from benchmarks.costs import flop_counter
from benchmarks.gpu.counting import count_step
from benchmarks.gpu.parts.environment import synchronise
from benchmarks.gpu.setting import Recorder, Setting
from benchmarks.gpu.sizes import has_field, make_batch, sized_config
from ialcms.config import Config
from ialcms.data.batch import Batch
from ialcms.engine import Ranks
from ialcms.models.arithmetic import set_arithmetic
from ialcms.training.step import Experiment

# fields of the `train` section by the form's name
EAGER: dict[str, dict[str, Any]] = {
    "float32": {},
    "TF32": {"tf32": True},
    "bf16": {"precision": "bf16"},
}
GRAPHS: dict[str, dict[str, Any]] = {
    "bf16, graphs": {"precision": "bf16", "cuda_graphs": True},
    "TF32, graphs": {"tf32": True, "cuda_graphs": True},
}
COMPILED: dict[str, dict[str, Any]] = {
    "bf16, compiled": {"precision": "bf16", "compile": True},
    "bf16, compiled, graphs": {"precision": "bf16", "compile": True, "cuda_graphs": True},
}
FORMS = {"eager": EAGER, "graphs": GRAPHS, "compiled": COMPILED}


def measure(setting: Setting, recorder: Recorder, kind: str) -> None:
    """kind: of FORMS."""
    sizes = (4,) if setting.small else (8, 32)
    todo = [(size, name, fields) for size in sizes for name, fields in FORMS[kind].items()]
    for index, (size, name, fields) in enumerate(todo):
        label = f"{name}, batch {size}"
        unknown = [field for field in fields if not has_field(field)]
        if unknown:
            recorder.missing(label, f"this version has no train.{unknown[0]}")
            continue
        try:
            _measure_form(
                setting,
                recorder,
                label,
                config=sized_config(setting.small, size, **fields),
                seconds=recorder.seconds_left / (len(todo) - index),
                kind=kind,
            )
        except (RuntimeError, ValueError, NotImplementedError) as error:  # out of memory is a RuntimeError
            recorder.missing(label, error)
        gc.collect()
        if setting.device == "cuda":
            torch.cuda.empty_cache()


def _measure_form(setting: Setting, recorder: Recorder, label: str, config: Config, seconds: float, kind: str) -> None:
    """seconds: for everything about this form.

    label: how the lines begin. kind: of the form. setting, recorder: of the part that calls it.
    """
    began = time.monotonic()
    device = setting.torch_device
    set_arithmetic(config, fixed_shapes=True)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with Ranks() as ranks:
        experiment = Experiment(config, ranks, pretrained=False)
        cycle = [make_batch(config, step, device) for step in range(config.train.separator_every)]
        for number in range(4):  # graphs may be captured and kernels chosen in them
            run_cycle(experiment, cycle, number)
        synchronise(device)
        recorder.add(f"{label}: until warm", time.monotonic() - began, "s")
        least = 2 if setting.small else 5
        times, issued = [], []
        most = least if setting.small else 50
        while len(times) < least or (len(times) < most and time.monotonic() - began < 0.8 * seconds):
            issue_s, cycle_s = timed_cycle(experiment, cycle, len(times) + 4, device=device)
            times.append(cycle_s)
            issued.append(issue_s)
            if time.monotonic() - began > 2 * seconds:
                break
        cycle_s = statistics.median(times)
        mixes = config.train.global_batch * len(cycle)
        recorder.add(f"{label}: rate", mixes / cycle_s, "mixes/s", note=f"median of {len(times)} cycles")
        recorder.add(f"{label}: cycle", 1e3 * cycle_s, "ms", note=f"{len(cycle)} steps, from {1e3 * min(times):.4g} ms")
        recorder.add(f"{label}: host", statistics.median(issued) / cycle_s, note="share of a cycle until it is issued")
        if device.type == "cuda":
            recorder.add(f"{label}: peak memory", torch.cuda.max_memory_allocated() / 1e9, "GB")
        if kind != "eager":  # those of eager forms are a part of their own
            for title, batch in (("both learn", cycle[0]), ("critic only", cycle[1])):
                step = functools.partial(experiment.step, _at(batch, batch.step + len(cycle)))
                count_step(recorder, f"{label}, {title}", step, device=device)
        elif config.train.precision == "float32" and not config.train.tf32:
            flops = counted_flops(experiment, cycle)
            recorder.add(f"{label}: multiply-adds of a cycle", flops / 2e9, "G")
            recorder.add(f"{label}: reached", flops / cycle_s / 1e12, "TFLOP/s")


def run_cycle(experiment: Experiment, cycle: list[Batch], number: int) -> None:
    """Take the steps of cycle `number`, without waiting for the device."""
    for batch in cycle:
        experiment.step(_at(batch, number * len(cycle) + batch.step % len(cycle)))


def timed_cycle(experiment: Experiment, cycle: list[Batch], number: int, device: torch.device) -> tuple[float, float]:
    """Seconds until the host has issued a cycle, and until the device has finished it.

    experiment: takes the steps on `device`. cycle: batches of a cycle. number: of its first step.
    """
    began = time.perf_counter()
    run_cycle(experiment, cycle, number)
    issued = time.perf_counter() - began
    synchronise(device)
    return issued, time.perf_counter() - began


def counted_flops(experiment: Experiment, cycle: list[Batch]) -> int:
    """Of matrix products and convolutions, forward and backward."""
    with flop_counter() as counter:
        run_cycle(experiment, cycle, 100)
    return int(counter.get_total_flops())


def _at(batch: Batch, step: int) -> Batch:
    batch.step = step
    return batch
