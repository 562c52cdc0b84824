"""What a piece of a program costs: multiply-adds, bytes and operators, whatever the machine; memory and kernels."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Counts:
    """What some operations cost, whatever the device."""

    multiply_adds: int  # of convolutions and matrix products
    num_bytes: int  # read and written, each operator by itself, without caches
    operators: int  # that read or write memory


def count(run: Callable[[], object]) -> Counts:
    """Count what `run` does."""
    counter, flops = _Counter(), flop_counter()
    with counter, flops:
        run()
    return Counts(flops.get_total_flops() // 2, counter.num_bytes, counter.operators)


def flop_counter() -> FlopCounterMode:
    """torch's, which fails at a batched product whose result is asked for in another type."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.bmm: _bmm_flops})


def _bmm_flops(a: Sequence[int], b: Sequence[int], *_: Any, out_shape: Any = None) -> int:
    """a (n, i, k), b (n, k, j)."""
    return 2 * math.prod(a) * b[-1]


class _Counter(TorchDispatchMode):
    """Sees each operator, forward and backward, below autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = self.operators = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not _is_free(func):
            given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
            made = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
            self.num_bytes += sum(x.numel() * x.element_size() for x in [*given, *made])
            self.operators += 1
        return result


def _is_free(func: Any) -> bool:
    """Views, and tensors that nothing is written to yet."""
    if func.overloadpacket.__name__.startswith(("empty", "new_empty", "_local_scalar")):
        return True
    aliases = [value.alias_info for value in func._schema.returns]
    return bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)


class PeakMemory:
    """`with` it, then `num_bytes`: the peak beyond what was allocated before."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self.num_bytes = 0

    def __enter__(self) -> PeakMemory:
        if self._on_gpu:
            torch.cuda.synchronize()
            self._before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the highest value so far is the present one
            self._before = _status("VmRSS")
        return self

    def __exit__(self, *error: object) -> None:
        if self._on_gpu:
            torch.cuda.synchronize()
        self.num_bytes = (torch.cuda.max_memory_allocated() if self._on_gpu else _status("VmHWM")) - self._before


def _status(name: str) -> int:
    """A field of this process's status in bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, name
    return 1024 * int(found[1])


_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


@dataclass(frozen=True)
class Launches:
    """What some operations ask of a device."""

    kernels: int  # on the device, copies included
    host_waits: int  # of the host for the device


def launches(run: Callable[[], object]) -> Launches:
    """Of a run on a GPU, by torch's profiler."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run()
    events = profiler.events()
    assert events is not None
    on_device = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
    # the profiler itself waits for the device once, at its end
    return Launches(len(on_device), max(0, sum(event.name in _WAITS for event in events) - 1))
