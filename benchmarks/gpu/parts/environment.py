"""The machine, and its limits: arithmetic, bandwidth, launches."""

from __future__ import annotations

import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable

import numpy as np
import torch
import torchvision

from benchmarks.gpu.part import ROOT
from benchmarks.gpu.setting import Recorder, Setting
from ialcms.processes import available_cores

_LAUNCHES, _READINGS = 1_000, 100  # in a measurement
_REPETITIONS = 5  # of a measurement


def measure(setting: Setting, recorder: Recorder) -> None:
    """Record the machine, its versions and the limits of its device."""
    recorder.add("device", device_name(setting.device))
    recorder.add("revision", output_of("git", "describe", "--always", "--dirty", "--abbrev=12") or "unknown")
    recorder.add("Python", platform.python_version())
    recorder.add("torch", torch.__version__, note=f"torchvision {torchvision.__version__}, NumPy {np.__version__}")
    recorder.add("cores", available_cores(), note=cpu_name())
    if setting.device == "cuda":
        describe_gpus(recorder)
    device, side = setting.torch_device, 512 if setting.small else 8_192
    if setting.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        recorder.add("TF32 matrix products", products_per_s(side, torch.float32, device), "TFLOP/s", note=note_of(side))
        torch.backends.cuda.matmul.allow_tf32 = False
    recorder.add("bf16 matrix products", products_per_s(side, torch.bfloat16, device), "TFLOP/s", note=note_of(side))
    recorder.add("float32 matrix products", products_per_s(side, torch.float32, device), "TFLOP/s", note=note_of(side))
    recorder.add("memory bandwidth", copied_per_s(2**20 if setting.small else 2**28, device), "GB/s", note="copy")
    recorder.add(
        "launch of a small operation", launch_us(device), "us", note="added to one number, one after the other"
    )
    if setting.device == "cuda":
        recorder.add("copy of one number to the host", read_us(device), "us", note="waits for the device")


def device_name(device: str) -> str:
    """As its maker calls it."""
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu ({cpu_name()})"


def describe_gpus(recorder: Recorder) -> None:
    """Record what the GPUs are."""
    properties = torch.cuda.get_device_properties(0)
    recorder.add("GPUs", torch.cuda.device_count())
    recorder.add("GPU memory", properties.total_memory / 2**30, "GiB")
    recorder.add(
        "multiprocessors",
        properties.multi_processor_count,
        note=f"compute capability {properties.major}.{properties.minor}",
    )
    query = "driver_version,power.limit,clocks.max.sm,clocks.max.memory"
    recorder.add(
        "driver", output_of("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader") or "unknown", note=query
    )
    nccl = ".".join(map(str, torch.cuda.nccl.version())) if torch.distributed.is_nccl_available() else "none"
    recorder.add("CUDA", str(torch.version.cuda), note=f"cuDNN {torch.backends.cudnn.version()}, NCCL {nccl}")
    recorder.add("C compiler", shutil.which("gcc") or shutil.which("cc") or "none", note="torch.compile needs one")


def output_of(*command: str) -> str:
    """What a program prints; empty where it fails or is missing."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "; ".join(done.stdout.split("\n")).strip("; ") if done.returncode == 0 else ""


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def note_of(side: int) -> str:
    """The size of square matrices, as text."""
    return f"{side} x {side}"


def products_per_s(side: int, dtype: torch.dtype, device: torch.device) -> float:
    """TFLOP/s of products of matrices with `side` rows and columns."""
    left = torch.randn(side, side, device=device, dtype=dtype)
    return 2 * side**3 / seconds_of(lambda: left @ left, device) / 1e12


def copied_per_s(size: int, device: torch.device) -> float:
    """Bytes read and written."""
    source = torch.zeros(size, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * size / seconds_of(lambda: target.copy_(source), device) / 1e9


def launch_us(device: torch.device) -> float:
    """Microseconds from one small operation to the next."""
    number = torch.zeros(1, device=device)

    def add() -> None:
        for _ in range(_LAUNCHES):
            number.add_(1)

    return 1e6 * seconds_of(add, device) / _LAUNCHES


def read_us(device: torch.device) -> float:
    """Microseconds to read a number from the device."""
    number = torch.zeros(1, device=device)

    def read() -> None:
        for _ in range(_READINGS):
            number.item()

    return 1e6 * seconds_of(read, device) / _READINGS


def seconds_of(action: Callable[[], object], device: torch.device) -> float:
    """Median of `_REPETITIONS`, after one that does not count."""
    times = []
    for _ in range(_REPETITIONS + 1):
        synchronise(device)
        began = time.perf_counter()
        action()
        synchronise(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
