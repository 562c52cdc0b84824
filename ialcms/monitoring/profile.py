"""Where the time of training steps goes: a trace for Perfetto and TensorBoard, and the costliest modules by name.

Some steps at the start are left out, in which kernels are chosen and memory is allocated. Operations belong to the
innermost module in whose forward pass they run, those of the backward pass to the module whose forward operation they
are the gradient of (autograd gives both the same number).
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler_util import DeviceType, FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from ialcms.files import replacing

log = logging.getLogger(__name__)

SKIPPED = 6  # steps before those that are looked at; in the last of them the profiler itself gets ready
_MODULE, _OPTIMIZER = "module ", "Optimizer.step#"
_SHOWN_MODULES = 10
GRADIENTS = "(gradients added to the parameters)"
ELSEWHERE = "(outside of modules: losses, memory bank, copies)"


@dataclass
class ModuleCost:
    """Time of a module's operations, without those of modules inside it; ms over all steps."""

    name: str
    forward_ms: float = 0.0
    backward_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        return self.forward_ms + self.backward_ms


def check_profile(num_steps: int, steps_left: int) -> None:
    """ValueError where a run ends before so many steps can be looked at."""
    if SKIPPED + num_steps > steps_left:
        raise ValueError(
            f"--profile {num_steps} needs {SKIPPED + num_steps} steps, {SKIPPED} of them before it looks, and the run "
            f"has {steps_left} left; look at fewer, or raise train.steps"
        )


class StepProfile:
    """Profiles some steps of a loop that calls `after_step` after each; use as a context manager around it."""

    def __init__(
        self,
        num_steps: int,
        folder: Path,
        networks: Mapping[str, nn.Module],
        *,
        device: torch.device,
        first_step: int = 0,
    ) -> None:
        """num_steps: 0 for none. folder: for trace and table. networks: name -> module, none where passes are compiled.
        first_step: finished steps at the start of the loop.

        device: that the steps run on.
        """
        self._num_steps, self._folder = num_steps, folder
        self._networks, self._device = networks, device
        self._step = first_step
        self._last = first_step + SKIPPED + num_steps
        self._handles: list[Any] = []
        self._profile: profile | None = None
        if not num_steps:
            return
        if device.type == "cpu":  # the profiler's library takes a machine without a GPU for an error, and says so
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
        steps = schedule(wait=0, warmup=1, active=num_steps, skip_first=SKIPPED - 1, repeat=1)
        self._profile = profile(activities=activities, schedule=steps, on_trace_ready=self._write, acc_events=True)
        self._profile.start()

    def __enter__(self) -> StepProfile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def after_step(self) -> None:
        """A step is finished."""
        if self._profile is None:
            return
        self._step += 1
        if self._step == self._last - self._num_steps - 1:
            self._handles = [*name_modules(self._networks)]
        self._profile.step()
        if self._step >= self._last:
            self.close()

    def close(self) -> None:
        """Write what was seen of a run that ended earlier, if anything."""
        if self._profile is not None:
            self._profile.stop()
            self._profile = None
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _write(self, seen: profile) -> None:
        first = self._last - self._num_steps
        count = min(self._step, self._last) - first
        events = seen.events()
        if count < 1 or not events:
            return
        table = format_costs(costs_by_module(events, self._device.type == "cuda"), count, self._device.type)
        # the name by which TensorBoard's profiler plugin knows a trace: rank.number.pt.trace.json.gz
        path = self._folder / f"{platform.node()}_{os.getpid()}.{first}.pt.trace.json.gz"
        try:
            with replacing(path, suffix=".gz") as unfinished:  # torch compresses by the name's end
                seen.export_chrome_trace(str(unfinished))
            (self._folder / "modules.txt").write_text(table + "\n")
        except OSError as error:  # a profile is not worth a run
            log.warning("the profile cannot be written to %s (%s); training continues", self._folder, error.strerror)
            return
        log.info("profile of steps %d to %d: %s\n%s", first + 1, first + count, path, table)


def name_modules(networks: Mapping[str, nn.Module]) -> Iterable[Any]:
    """Let every pass through a module show its name in a trace; yields handles whose `remove` ends that."""
    for network_name, network in networks.items():
        for name, module in network.named_modules():
            passes: list[record_function] = []
            label = f"{_MODULE}{'.'.join(filter(None, (network_name, name)))}"

            def enter(_: nn.Module, __: Any, passes: list[record_function] = passes, label: str = label) -> None:
                passes.append(record_function(label))
                passes[-1].__enter__()

            def leave(_: nn.Module, __: Any, ___: Any, passes: list[record_function] = passes) -> None:
                if passes:  # none if the pass began before
                    passes.pop().__exit__(None, None, None)

            yield module.register_forward_pre_hook(enter, prepend=True)
            yield module.register_forward_hook(leave, always_call=True)


def costs_by_module(events: Iterable[FunctionEvent], on_device: bool) -> list[ModuleCost]:
    """The costliest first. on_device: count the time of kernels on the device, else that of operations on the CPU."""
    ours = [event for event in events if event.device_type == DeviceType.CPU and not event.is_async]
    ours.sort(key=lambda event: event.time_range.start)
    forward: dict[int, str] = {}  # event -> module
    by_number: dict[tuple[int | None, int], str] = {}  # thread and number of an operation with a gradient -> module
    for event in ours:
        owner = _named(event)
        if owner is None:
            parent = event.cpu_parent
            owner = forward.get(parent.id) if parent is not None else None
        if owner is None:
            continue
        forward[event.id] = owner
        if event.sequence_nr >= 0:
            # Operations without a gradient have the number of the next one: the last one is right.
            by_number[event.thread, event.sequence_nr] = owner
    backward: dict[int, str] = {}
    costs: dict[str, ModuleCost] = {}
    for event in ours:
        owner = forward.get(event.id)
        if owner is None:
            parent = event.cpu_parent
            owner_backward = backward.get(parent.id) if parent is not None else None
            if owner_backward is None and event.sequence_nr >= 0:
                owner_backward = by_number.get((event.fwd_thread, event.sequence_nr))
            if owner_backward is not None:
                backward[event.id] = owner_backward
        own_ms = (event.self_device_time_total if on_device else event.self_cpu_time_total) / 1e3
        name = owner or backward.get(event.id) or (GRADIENTS if _is_accumulation(event) else ELSEWHERE)
        cost = costs.setdefault(name, ModuleCost(name))
        if event.id in backward:
            cost.backward_ms += own_ms
        else:
            cost.forward_ms += own_ms
    return sorted((cost for cost in costs.values() if cost.total_ms), key=lambda cost: -cost.total_ms)


def _is_accumulation(event: FunctionEvent) -> bool:
    """Of a gradient into its parameter: it is no operation's gradient, and has no module."""
    around: FunctionEvent | None = event
    while around is not None and "AccumulateGrad" not in around.name:
        around = around.cpu_parent
    return around is not None


def _named(event: FunctionEvent) -> str | None:
    """What a range of the trace says of its owner."""
    if event.name.startswith(_MODULE):
        return event.name.removeprefix(_MODULE)
    if event.name.startswith(_OPTIMIZER):
        return f"(optimizer {event.name.removeprefix(_OPTIMIZER).partition('.')[0]})"
    return None


def format_costs(costs: list[ModuleCost], num_steps: int, device: str) -> str:
    """A table of the costliest modules, and what else there is.

    costs: of `num_steps` steps. device: whose time is meant, for the heading.
    """
    total = sum(cost.total_ms for cost in costs) or 1.0
    modules = [cost for cost in costs if not cost.name.startswith("(")]
    others = [cost for cost in costs if cost.name.startswith("(")]
    shown = modules[:_SHOWN_MODULES]
    left = modules[_SHOWN_MODULES:]
    rest = ModuleCost(f"({len(left)} other modules)", sum(c.forward_ms for c in left), sum(c.backward_ms for c in left))
    rows = [*shown, *([rest] if left else []), *others]
    width = max([40, *(len(row.name) for row in rows)])
    what = "kernels on the GPU" if device == "cuda" else "operations on the CPU"
    lines = [
        f"{f'{what}, ms a step (mean of {num_steps})':<{width}}{'all':>10}{'share':>8}{'forward':>10}{'backward':>10}"
    ]
    for row in rows:
        cells = [row.total_ms / num_steps, row.forward_ms / num_steps, row.backward_ms / num_steps]
        lines.append(
            f"{row.name:<{width}}{cells[0]:>10.3f}{row.total_ms / total:>8.1%}{cells[1]:>10.3f}{cells[2]:>10.3f}"
        )
    if not modules:
        lines.append("no modules are known: their passes were compiled or replayed; profile without train.compile")
    return "\n".join(lines)
