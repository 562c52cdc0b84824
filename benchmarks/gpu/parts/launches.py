"""What a step makes the host do: operations on the device, and waiting for it; counted by torch's profiler."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.counting import count_step, lines_that_wait
from benchmarks.gpu.parts.environment import synchronise
from benchmarks.gpu.parts.steps import run_cycle
from benchmarks.gpu.setting import Recorder, Setting
from benchmarks.gpu.sizes import has_field, make_batch, sized_config
from ialcms.engine import Ranks
from ialcms.models.arithmetic import set_arithmetic
from ialcms.training.step import Experiment

FORMS: dict[str, dict[str, Any]] = {
    "bf16": {"precision": "bf16"},
    "float32": {},
    "bf16, graphs": {"precision": "bf16", "cuda_graphs": True},
    "bf16, compiled": {"precision": "bf16", "compile": True},
}


def measure(setting: Setting, recorder: Recorder) -> None:
    """Record operations and waits of a step in each form."""
    for name, fields in FORMS.items():
        unknown = [field for field in fields if not has_field(field)]
        if unknown:
            recorder.missing(name, f"this version has no train.{unknown[0]}")
            continue
        if name == "bf16, compiled" and (recorder.seconds_left < 60 or setting.small):
            recorder.missing(name, "compiling takes longer than what is left")
            continue
        try:
            _measure_form(setting, recorder, name, fields=fields)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            recorder.missing(name, error)


def _measure_form(setting: Setting, recorder: Recorder, name: str, fields: dict[str, Any]) -> None:
    """Record what a cycle makes the host do. name: of the form. fields: of the configuration in which it differs."""
    config = sized_config(setting.small, 4 if setting.small else 8, **fields)
    device = setting.torch_device
    set_arithmetic(config, fixed_shapes=True)
    with Ranks() as ranks:
        experiment = Experiment(config, ranks, pretrained=False)
        cycle = [make_batch(config, step, device) for step in range(config.train.separator_every)]
        for number in range(4):
            run_cycle(experiment, cycle, number)
        synchronise(device)
        for title, batch in (("both learn", cycle[0]), ("critic only", cycle[1])):
            batch.step += config.train.separator_every
            count_step(recorder, f"{name}, {title}", lambda batch=batch: experiment.step(batch), device=device)
        if device.type == "cuda":
            batch = cycle[0]
            batch.step += config.train.separator_every
            for line, count in lines_that_wait(lambda: experiment.step(batch)).most_common(20):
                recorder.add(f"{name}, both learn: waits at", count, "times", note=line)
