"""The switches are those of the configuration, whatever they were before; torch's own defaults differ."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ialcms.models.arithmetic import set_arithmetic
from tests.support import small_config


def switches() -> dict[str, bool]:
    return {
        "products": torch.backends.cuda.matmul.allow_tf32,
        "convolutions": torch.backends.cudnn.allow_tf32,
        "tries": torch.backends.cudnn.benchmark,
    }


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    before = switches()
    yield
    torch.backends.cuda.matmul.allow_tf32 = before["products"]
    torch.backends.cudnn.allow_tf32 = before["convolutions"]
    torch.backends.cudnn.benchmark = before["tries"]


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_what_the_configuration_says(tf32: bool) -> None:
    torch.backends.cudnn.allow_tf32 = not tf32
    set_arithmetic(small_config(train={"tf32": tf32}))
    assert switches() == {"products": tf32, "convolutions": tf32, "tries": False}
    set_arithmetic(small_config(train={"tf32": tf32, "cudnn_benchmark": True}), fixed_shapes=True)
    assert switches()["tries"]


def test_nobody_else_sets_them() -> None:
    package = Path(__file__).parents[2] / "ialcms"
    setters = {
        path.name for path in package.rglob("*.py") if re.search(r"allow_tf32\b.* = |benchmark = ", path.read_text())
    }
    assert setters == {"arithmetic.py"}


_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_HUGE_PAGES = _SETTING.exists() and "[always]" in _SETTING.read_text()

FAULTS = """
import resource, sys, torch
from ialcms.models.arithmetic import set_arithmetic
from tests.support import small_config

set_arithmetic(small_config(), fixed_shapes=sys.argv[1] == "training")
for _ in range(3):  # its first places are not its last
    torch.ones(2**24)  # 64 MB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(_HUGE_PAGES, reason="the kernel gives pages of 2 MB here, of which a few are enough")
@pytest.mark.skipif(sys.platform != "linux" or torch.cuda.is_available(), reason="without a GPU, and with glibc")
def test_training_keeps_its_memory() -> None:
    def faults(command: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, command], capture_output=True, text=True, check=True)
        return int(done.stdout)

    pages = 2**24 * 4 // resource.getpagesize()
    assert faults("training") < pages / 10
    assert faults("evaluation") > pages  # or the test would see nothing
