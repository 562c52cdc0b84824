"""Compiles the null GPU against the CUDA headers that torch's wheels bring: python -m tests.null_gpu.build FOLDER"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

_HERE = Path(__file__).parent
_LIBRARY, _DRIVER = "libnullgpu.so", "libcuda.so.1"
# Their device code is for NVIDIA's compiler only.
_LEFT_OUT = ["-D__CUDA_FP16_H__", "-D__CUDA_BF16_H__", "-D__CUDA_FP8_H__"]


def missing() -> str | None:
    """Why the null GPU cannot be built or used here; None if it can."""
    if sys.platform != "linux":
        return "the null GPU needs Linux"
    if shutil.which("g++") is None:
        return "the null GPU needs g++"
    if torch.version.cuda is None:
        return "the null GPU needs a torch with CUDA, and this one is for CPUs only"
    folders = _include_folders()
    for header in ("cuda_runtime_api.h", "crt/host_defines.h", "nccl.h"):
        if not any((folder / header).is_file() for folder in folders):
            return f"the null GPU needs {header}, which torch's wheels bring with them; looked in {folders}"
    return None


def _include_folders() -> list[Path]:
    site = Path(torch.__file__).parents[1]
    assert torch.version.cuda is not None
    toolkit = f"cu{torch.version.cuda.partition('.')[0]}"
    triton = site / "triton" / "backends" / "nvidia"  # of the toolkit's headers the wheel leaves some out
    return [folder / "include" for folder in (site / "nvidia" / toolkit, triton, site / "nvidia" / "nccl")]


def build(folder: Path) -> None:
    """Compile into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    compiler = ["g++", "-O1", "-std=c++17", "-shared", "-fPIC", "-w"]
    includes = [f"-I{include}" for include in _include_folders()]
    sources = [str(_HERE / name) for name in ("runtime.cpp", "libraries.cpp", "capture.cpp")]
    subprocess.run([*compiler, *_LEFT_OUT, *includes, *sources, "-o", str(folder / _LIBRARY)], check=True)
    driver = [str(_HERE / "driver.cpp"), f"-L{folder}", f"-l:{_LIBRARY}", f"-Wl,-soname,{_DRIVER}"]
    subprocess.run([*compiler, *driver, "-o", str(folder / _DRIVER)], check=True)


def environment(folder: Path) -> dict[str, str]:
    """Variables with which a Python process finds the null GPU built in `folder`."""
    assert not set(" :") & set(str(folder)), f"LD_PRELOAD takes no path like '{folder}'"
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "LD_LIBRARY_PATH": str(folder),
        "LD_PRELOAD": str(folder / _LIBRARY),
        "NULL_GPU": str(folder / _LIBRARY),
        "TORCH_NCCL_ENABLE_MONITORING": "0",
        "TORCH_NCCL_RANKS_PER_ROOT": "4096",  # with more than one root, rank 0 waits for ids of other ranks
    }


if __name__ == "__main__":
    reason = missing()
    if reason is not None:
        sys.exit(reason)
    build(Path(sys.argv[1]))
