"""A training step on a real GPU, in this process: no synchronisation, the own BatchNorm, skipped steps, graphs.

Needs torch, NumPy and pytest alone. What a GPU is asked for is counted without one in test_null_gpu.py.
"""

from __future__ import annotations

import logging
import math
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ialcms.config import Config
from ialcms.engine import Ranks, batchnorm
from ialcms.training.schedule import step_schedule
from ialcms.training.step import Experiment
from tests.support import make_batch, small_config
from tests.support.states import clone, tensors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; this machine shows none to torch"),
]


@pytest.fixture(autouse=True)
def exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(params=["alone", "group of one"])
def ranks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ranks]:
    """Without a process group, and with NCCL and DDP."""
    if request.param == "group of one":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launch = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": port}
        for name, value in launch.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with Ranks(timeout_s=120) as group:
        yield group


def run_steps(experiment: Experiment, steps: range) -> list[dict[str, float]]:
    """The losses of each step."""
    device = experiment.ranks.device
    scalars = [experiment.step(make_batch(experiment.config, step).to(device)) for step in steps]
    experiment.settle()
    return [{name: float(value) for name, value in of_step.items()} for of_step in scalars]


@contextmanager
def no_synchronisation() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("train", [{}, {"precision": "bf16"}, {"accumulation": 2}, {"cuda_graphs": True}], ids=str)
def test_no_step_waits_for_the_device(ranks: Ranks, train: dict[str, Any]) -> None:
    config = small_config(train={"separator_every": 2, **train}, optim={"clip_norm": 0.5})
    experiment = Experiment(config, ranks)
    first = range(26 if config.train.cuda_graphs else 4)  # with DDP each kind of step is recorded at its twelfth
    run_steps(experiment, first)
    batches = [make_batch(config, first.stop + step).to(ranks.device) for step in range(4)]
    with no_synchronisation():
        for batch in batches:
            experiment.step(batch)
    experiment.settle()
    assert experiment.skipped.count == 0


class TwoRanks(batchnorm.WholeBatch):
    """Two threads instead of two processes: NCCL refuses two on one GPU."""

    def __init__(self) -> None:
        self.parts = 2
        self._barrier = threading.Barrier(2, timeout=60)
        self._rank = threading.local()
        self._values = [torch.empty(0), torch.empty(0)]

    def run(self, function: Callable[[int], Any]) -> list[Any]:
        def of_rank(rank: int) -> Any:
            self._rank.number = rank
            with torch.no_grad():
                return function(rank)

        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(of_rank, range(2)))

    def _reduce(self, values: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
        self._barrier.wait()  # the last sum has been taken
        self._values[self._rank.number] = values.clone()
        self._barrier.wait()
        first, second = self._values
        return values.copy_((first + second) / (2 if op == dist.ReduceOp.AVG else 1))


@pytest.mark.parametrize(
    ("shape", "dtype", "layout"),
    [
        ((6, 5, 7, 3), torch.float32, torch.contiguous_format),
        ((6, 5, 7, 3), torch.float32, torch.channels_last),
        ((6, 5, 7, 3), torch.bfloat16, torch.contiguous_format),
        ((6, 5, 7), torch.float32, torch.contiguous_format),
        ((6, 5), torch.float32, torch.contiguous_format),
        ((6, 5, 7, 3), torch.float64, torch.contiguous_format),
    ],
)
def test_batchnorm_of_two_ranks_is_that_of_the_joined_batch(
    shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format
) -> None:
    """3 rows each; the reference is torch's own, in double precision on the CPU."""
    generator = torch.Generator().manual_seed(3)
    x = (2 + 3 * torch.randn(shape, generator=generator)).to(dtype).double().requires_grad_()
    gradient = torch.randn(shape, generator=generator).to(dtype).double()
    reference = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(shape[1]).double()
    with torch.no_grad():
        reference.weight.copy_(torch.linspace(0.5, 1.5, shape[1]))
        reference.bias.copy_(torch.linspace(-1, 1, shape[1]))
    output = reference(x)
    output.backward(gradient)

    two = TwoRanks()
    rows = [slice(0, 3), slice(3, 6)]
    parameter_type = torch.float32 if dtype == torch.bfloat16 else dtype

    def normalise(rank: int) -> dict[str, Tensor]:
        context = SimpleNamespace()
        context.save_for_backward = lambda *saved: setattr(context, "saved_tensors", saved)
        weight, bias = (value.detach().to("cuda", parameter_type) for value in (reference.weight, reference.bias))
        part, of_output = (
            value[rows[rank]].detach().to("cuda", dtype).contiguous(memory_format=layout) for value in (x, gradient)
        )
        layer = batchnorm.GlobalBatchNorm(shape[1]).to("cuda", parameter_type)
        layer.whole = two
        (result,) = batchnorm._Normalise.forward(context, [layer], part, weight, bias)
        _, d_x, d_weight, d_bias = batchnorm._Normalise.backward(context, of_output)
        return {
            "output": result, "mean": layer.running_mean, "variance": layer.running_var,
            "d_x": d_x, "d_weight": d_weight, "d_bias": d_bias,
        }  # fmt: skip

    first, second = two.run(normalise)
    tolerance = {torch.bfloat16: 3e-2, torch.float32: 1e-4, torch.float64: 1e-10}[dtype]
    assert x.grad is not None
    expected = {
        "output": output, "d_x": x.grad, "d_weight": reference.weight.grad, "d_bias": reference.bias.grad,
        "mean": reference.running_mean, "variance": reference.running_var,
    }  # fmt: skip
    joined = {name: torch.cat([first[name], second[name]]) for name in ("output", "d_x")}
    joined |= {name: first[name] + second[name] for name in ("d_weight", "d_bias")}
    joined |= {name: first[name] for name in ("mean", "variance")}
    for name, value in expected.items():
        assert value is not None
        torch.testing.assert_close(joined[name].cpu().double(), value.detach(), rtol=tolerance, atol=tolerance)
    assert torch.equal(first["mean"], second["mean"])
    assert torch.equal(first["variance"], second["variance"])


def changed(before: Any, after: Any) -> set[str]:
    old, new = dict(tensors(before)), dict(tensors(after))
    assert old.keys() == new.keys()
    return {name for name in old if not torch.equal(old[name], new[name])}


def test_a_step_with_nan_leaves_no_trace(ranks: Ranks, caplog: pytest.LogCaptureFixture) -> None:
    config = small_config(train={"max_skipped_steps": 2, "separator_every": 2})
    experiment = Experiment(config, ranks)
    run_steps(experiment, range(4))
    before = clone(experiment.state_dict())
    batch = make_batch(config, 4)  # both learn
    batch.mix[1, 100] = math.nan
    with caplog.at_level(logging.WARNING, "ialcms"):
        scalars = experiment.step(batch.to(ranks.device))
        assert scalars  # nobody has looked yet
        after = clone(experiment.state_dict())
    assert changed(before, after) == set()
    assert scalars == {}
    assert (before["skipped_steps"], after["skipped_steps"]) == (0, 1)
    assert "step 4: a separated component is not finite" in caplog.text
    assert "input mix not finite" in caplog.text
    run_steps(experiment, range(6, 7))
    learned = clone(experiment.state_dict())
    assert all(value.isfinite().all() for _, value in tensors(learned))
    assert any(name.startswith("separator.") for name in changed(after, learned))


def test_an_infinite_gradient_is_found_one_step_later(ranks: Ranks) -> None:
    config = small_config(train={"max_skipped_steps": 0, "separator_every": 2})
    experiment = Experiment(config, ranks)
    run_steps(experiment, range(4))
    learned = clone(experiment.state_dict())
    handle = experiment.separator.module.mask_bias.register_hook(lambda gradient: gradient * math.inf)
    experiment.step(make_batch(config, 4).to(ranks.device))
    handle.remove()
    with pytest.raises(ValueError, match="step 4: the norm of the gradient of the separator is inf"):
        experiment.settle()
    names = changed(learned, clone(experiment.state_dict()))
    assert {name.split(".")[0] for name in names} == {"critic", "bank"}  # the critic's update came first


def test_a_state_goes_from_gpu_to_cpu_and_back(ranks: Ranks) -> None:
    """Where Adam counts its steps depends on the machine."""
    config = small_config()
    experiment = Experiment(config, ranks)
    run_steps(experiment, range(3))
    state = clone(experiment.state_dict())
    on_cpu = SimpleNamespace(
        device=torch.device("cpu"), world_size=1, rank=0, distributed=False, is_first=True, reads_late=False
    )
    on_cpu.gather, on_cpu.copy_from_first = (lambda x, kind=None: x), (lambda tensors: None)
    on_cpu.gather_objects, on_cpu.from_first = (lambda value: [value]), (lambda action: action())
    on_cpu.sum = on_cpu.largest = lambda values: values
    slow = Experiment(config, on_cpu)  # type: ignore[arg-type]
    slow.load_state_dict(state)
    slow.step(make_batch(config, 3))
    fast = Experiment(config, ranks)
    fast.load_state_dict(clone(slow.state_dict()))
    assert all(math.isfinite(value) for losses in run_steps(fast, range(4, 7)) for value in losses.values())


def losses_of(config: Config) -> list[dict[str, float]]:
    with Ranks() as ranks:
        return losses_of_steps(config, ranks, range(10))


def losses_of_steps(config: Config, ranks: Ranks, steps: range) -> list[dict[str, float]]:
    experiment = Experiment(config, ranks)
    for learner in (experiment.separator, experiment.critic):
        assert learner is not None
        for group in learner.optimizer.param_groups:
            group["eps"] = 1e-3  # or rounding alone makes full steps of some parameters
    return run_steps(experiment, steps)


@pytest.mark.parametrize(
    "train",
    [
        {"cuda_graphs": True},
        pytest.param({"compile": True}, marks=pytest.mark.slow),
        pytest.param({"compile": True, "cuda_graphs": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_graphs_and_compiled_passes_compute_the_same(train: dict[str, Any]) -> None:
    eager = losses_of(small_config())
    other = losses_of(small_config(train=train))
    for expected, got in zip(eager, other):
        assert expected.keys() == got.keys()
        for name, value in expected.items():
            assert got[name] == pytest.approx(value, rel=2e-3, abs=2e-3), name


def test_recorded_steps_compute_the_same(ranks: Ranks) -> None:
    """Also with DDP, of one rank. Learning rates and weights of losses change where steps are repeated."""
    changing = {"loss": {"lambda_ind_steps": [8, 28], "lambda_avc_steps": [9, 30]}, "optim": {"cosine_steps": 40}}
    plain = losses_of_steps(small_config(**changing), ranks, range(36))
    recorded = losses_of_steps(small_config(**changing, train={"cuda_graphs": True}), ranks, range(36))
    for step, (expected, got) in enumerate(zip(plain, recorded)):
        assert expected.keys() == got.keys()
        for name, value in expected.items():
            assert got[name] == pytest.approx(value, rel=1e-2, abs=1e-2), (step, name)
        now = step_schedule(step, small_config(**changing))
        for loss, weight in (("independence", now.lambda_ind), ("consistency", now.lambda_avc)):
            if f"loss/{loss}" in got:
                weighted = weight * got[f"loss/{loss}"]
                assert got[f"weighted_loss/{loss}"] == pytest.approx(weighted, rel=1e-5), (step, loss)


@pytest.mark.parametrize("kind", ["being recorded", "repeated"])
def test_a_recorded_step_can_be_skipped(ranks: Ranks, kind: str) -> None:
    config = small_config(train={"cuda_graphs": True})
    experiment = Experiment(config, ranks)
    first = 2 * (experiment.first_steps - 1)  # of both kinds
    skipped = first if kind == "being recorded" else first + 4
    run_steps(experiment, range(skipped))
    before = clone(experiment.state_dict())
    broken = make_batch(config, skipped)
    broken.mix[0, 100] = math.nan
    experiment.step(broken.to(ranks.device))
    experiment.settle()
    assert experiment.skipped.count == 1
    after = dict(tensors(clone(experiment.state_dict())))
    for name, tensor in tensors(before):
        if "skipped" not in name:
            assert torch.equal(after[name], tensor), name


def test_graphs_in_bf16_stay_near_float32() -> None:
    eager = losses_of(small_config())
    graphs = losses_of(small_config(train={"cuda_graphs": True, "precision": "bf16"}))
    for name in ("loss/separation", "loss/critic"):
        assert graphs[0][name] == pytest.approx(eager[0][name], rel=0.05, abs=0.05)
