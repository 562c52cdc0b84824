"""The benchmarks that run from a plain checkout do so, and what they compare is the same method."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.costs import PeakMemory, count
from tests.support import python

# Only PyTorch, torchvision, NumPy and PyYAML (and what they need themselves) can be imported.
PLAIN = """
import sys
for name in ("soundfile", "webdataset", "av", "deepspeed", "torchaudio", "mir_eval", "tensorboard", "jinja2",
             "matplotlib", "scipy", "tqdm"):
    sys.modules[name] = None
from benchmarks.cycle import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_both_forms_of_a_cycle_agree_without_other_packages(tmp_path: Path) -> None:
    done = python(
        "-c",
        PLAIN,
        "--device",
        "cpu",
        "--small",
        "--batch",
        "2",
        "--repeats",
        "1",
        "--precision",
        "float32",
        "bf16",
        "--out",
        str(tmp_path),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    agreement, *cases = json.loads((tmp_path / "cycle.json").read_text())
    differences = agreement["agreement"]
    assert {"gradients of the separator", "gradients of the critic", "loss/critic"} < differences.keys()
    assert max(differences.values()) < 1e-4
    assert [case["precision"] for case in cases] == ["float32", "bf16"]
    for case in cases:
        ours, naive = case["costs"]["ours"], case["costs"]["naive"]
        assert 0 < ours["multiply_adds"] < 0.6 * naive["multiply_adds"]
        assert 0 < ours["operators"] < naive["operators"]
        assert "kernels" not in ours
        assert len(case["seconds"]["ours"]) == 1


@pytest.mark.slow
def test_forms_that_differ_are_an_error(tmp_path: Path) -> None:
    broken = PLAIN.replace(
        "from benchmarks.cycle import main",
        "from benchmarks import naive_method\n"
        "naive_method._similarities = lambda picture, audio: (picture * audio[:, :, None, None]).sum(1).mean((1, 2))\n"
        "from benchmarks.cycle import main",
    )
    done = python("-c", broken, "--device", "cpu", "--small", "--repeats", "1", "--no-costs")
    assert done.returncode == 1
    assert "the two forms differ by more than 0.0001" in done.stderr


def test_a_gpu_that_is_not_there() -> None:
    done = python("-m", "benchmarks.cycle", "--device", "cuda", "--small")
    assert done.returncode == 2
    assert done.stderr.strip() == "--device cuda: this machine shows no GPU to PyTorch; use --device cpu"


def test_costs_of_a_product() -> None:
    """A product of (3, 4) and (4, 5): 60 multiply-adds; views cost nothing; the sum reads 15 values and writes one."""
    a, b = torch.ones(3, 4), torch.ones(5, 4)
    costs = count(lambda: (a @ b.T).view(15).sum())
    assert costs.multiply_adds == 60
    assert costs.operators == 2
    assert costs.num_bytes == 4 * (12 + 20 + 15 + 15 + 1)


def test_costs_of_a_product_in_another_type() -> None:
    a, b = (torch.ones(2, 3, 4, dtype=torch.bfloat16, device="meta") for _ in range(2))
    assert count(lambda: torch.bmm(a, b.mT, out_dtype=torch.float32)).multiply_adds == 2 * 3 * 4 * 3
    assert count(lambda: torch.bmm(a, b.mT)).multiply_adds == 2 * 3 * 4 * 3


def test_peak_of_memory() -> None:
    with PeakMemory(torch.device("cpu")) as memory:
        torch.ones(50_000_000).sum()
    assert 190e6 < memory.num_bytes < 300e6
