"""The profile of training steps: which module has which operations, forward and backward, and what is written."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from ialcms.cli import main
from ialcms.config import load_config
from ialcms.monitoring.profile import (
    ELSEWHERE,
    GRADIENTS,
    SKIPPED,
    ModuleCost,
    StepProfile,
    check_profile,
    costs_by_module,
    format_costs,
    name_modules,
)
from tests.support import write_small_config

CPU = torch.device("cpu")


class Square(torch.autograd.Function):
    """With a backward pass of its own."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)  # type: ignore[attr-defined]
        return x * x

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return 2 * (x @ torch.eye(len(x))) * gradients[0]


class Squares(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Square.apply(x)  # type: ignore[no-any-return]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.small, self.large, self.squares = nn.Linear(20, 20), nn.Linear(20, 40), Squares()

    def forward(self, x: Tensor) -> Tensor:
        return self.large(self.squares(self.small(x)))  # type: ignore[no-any-return]


def events_of(net: nn.Module) -> list[FunctionEvent]:
    x = torch.randn(20, 20)
    optimizer = torch.optim.Adam(net.parameters())
    net(x).sum().backward()
    handles = [*name_modules({"net": net})]
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as seen:
        net(x).sum().backward()
        optimizer.step()
    for handle in handles:
        handle.remove()
    return list(seen.events() or [])


def test_operations_belong_to_modules_in_both_passes() -> None:
    net = Net()
    events = events_of(net)
    costs = {cost.name: cost for cost in costs_by_module(events, on_device=False)}
    assert {"net", "net.small", "net.large", "net.squares", "(optimizer Adam)", GRADIENTS} <= set(costs)
    total = sum(event.self_cpu_time_total for event in events) / 1e3
    assert sum(cost.total_ms for cost in costs.values()) == pytest.approx(total, rel=1e-6)  # all of it, once


def test_time_of_kernels_is_counted_where_they_were_launched() -> None:
    """As on a GPU, where an operation's own time on the CPU says nothing."""
    events = events_of(Net())
    for event in events:
        event.use_device = "cuda"
        event.device_time_total_ = 0
    for name, module, kernel_us in (("aten::addmm", "net.large", 3_000), ("aten::addmm", "net.small", 100),
                                    ("aten::mul", "net.squares", 20)):  # fmt: skip
        next(e for e in events if e.name == name and _inside(e, f"module {module}")).append_kernel("k", 0, kernel_us)
    # the last layer is the first of the backward pass
    first, second = (e for e in events if e.name == "AddmmBackward0")
    first.cpu_children[-1].append_kernel("k", 0, 5_000)
    second.cpu_children[-1].append_kernel("k", 0, 700)
    next(e for e in events if e.name == "aten::mm" and _inside(e, "SquareBackward")).append_kernel("k", 0, 40)
    next(e for e in events if _inside(e, "torch::autograd::AccumulateGrad")).append_kernel("k", 0, 9)
    next(e for e in events if _inside(e, "Optimizer.step#Adam.step")).append_kernel("k", 0, 6)
    assert costs_by_module(events, on_device=True) == [
        ModuleCost("net.large", 3.0, 5.0),
        ModuleCost("net.small", 0.1, 0.7),
        ModuleCost("net.squares", 0.02, 0.04),
        ModuleCost(GRADIENTS, 0.009, 0.0),
        ModuleCost("(optimizer Adam)", 0.006, 0.0),
    ]


def _inside(event: FunctionEvent, name: str) -> bool:
    around = event.cpu_parent
    while around is not None and around.name != name:
        around = around.cpu_parent
    return around is not None


def test_hooks_leave_no_trace() -> None:
    net = Net()
    for handle in [*name_modules({"net": net})]:
        handle.remove()
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as seen:
        net(torch.randn(20, 20))
    assert not [event for event in seen.events() or [] if event.name.startswith("module ")]


def test_a_pass_that_fails_closes_its_ranges() -> None:
    net = Net()
    handles = [*name_modules({"net": net})]
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as seen:
        with pytest.raises(RuntimeError):
            net(torch.randn(3, 5))
        net(torch.randn(20, 20))
    for handle in handles:
        handle.remove()
    (second,) = [e for e in seen.events() or [] if e.name == "module net.large"]
    assert second.cpu_parent is not None
    assert second.cpu_parent.name == "module net"
    assert second.cpu_parent.cpu_parent is None


def test_the_table_has_ten_modules_and_the_rest() -> None:
    costs = [ModuleCost(f"net.{n}", 10.0 * (20 - n), 0.0) for n in range(12)] + [ModuleCost(ELSEWHERE, 6.0, 4.0)]
    lines = format_costs(costs, 2, "cuda").splitlines()
    assert lines[0].startswith("kernels on the GPU, ms a step (mean of 2)")
    assert [line.split()[0] for line in lines[1:11]] == [f"net.{n}" for n in range(10)]
    assert lines[1].split()[1:] == ["100.000", "11.4%", "100.000", "0.000"]  # 200 of 1,750 ms in 2 steps
    assert lines[11].startswith("(2 other modules)")
    assert lines[12].startswith("(outside of modules")
    assert lines[12].split()[-4:] == ["5.000", "0.6%", "3.000", "2.000"]
    assert len(lines) == 13
    assert format_costs(costs[-1:], 2, "cpu").splitlines()[-1].startswith("no modules are known")


def test_a_run_that_ends_before() -> None:
    check_profile(4, SKIPPED + 4)
    with pytest.raises(
        ValueError, match="--profile 4 needs 10 steps, 6 of them before it looks, and the run has 9 left"
    ):
        check_profile(4, SKIPPED + 3)


@pytest.mark.parametrize("steps", [0, 3, SKIPPED + 1, SKIPPED + 3])
def test_a_loop_that_stops_early(tmp_path: Path, steps: int, caplog: pytest.LogCaptureFixture) -> None:
    """What was seen until then is written; nothing, where that is nothing."""
    net = nn.Linear(3, 3)
    with caplog.at_level(logging.INFO), StepProfile(3, tmp_path / "profile", {"net": net}, device=CPU) as seen:
        for _ in range(steps):
            net(torch.randn(2, 3))
            seen.after_step()
    assert bool(list(tmp_path.glob("profile/*.pt.trace.json.gz"))) == (steps > SKIPPED)
    if steps > SKIPPED:
        assert f"profile of steps 7 to {steps}" in caplog.text
        assert "net " in (tmp_path / "profile" / "modules.txt").read_text()
    assert not net._forward_hooks
    assert not net._forward_pre_hooks


def test_a_disk_that_takes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "profile").write_text("a file where the folder should be")
    net = nn.Linear(3, 3)
    with StepProfile(1, tmp_path / "profile", {"net": net}, device=CPU) as seen:
        for _ in range(SKIPPED + 1):
            net(torch.randn(2, 3))
            seen.after_step()
    assert "the profile cannot be written" in caplog.text


@pytest.mark.slow
def test_train_writes_a_trace_and_the_costliest_modules(
    demo_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_small_config(tmp_path / "small.yaml", demo_shards, steps=12, validate_every=12, visualise_every=0)
    arguments = ["train", str(config), "--folder", str(tmp_path / "run")]
    assert main([*arguments, "--profile", "0"]) == 2
    assert "--profile is 0; give the number of steps to look at" in capsys.readouterr().err
    assert main([*arguments, "--profile", "7"]) == 2
    assert "--profile 7 needs 13 steps" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*arguments, "--profile", "2"]) == 0
    (path,) = (tmp_path / "run" / "profile").glob("*.pt.trace.json.gz")
    with gzip.open(path) as file:
        trace = json.load(file)
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {"ProfilerStep#6", "ProfilerStep#7"} <= names  # the seventh and the eighth step
    assert "ProfilerStep#5" not in names
    assert {"module separator", "module critic", "aten::convolution"} <= names
    log = (tmp_path / "run" / "train.log").read_text()
    assert "profile of steps 7 to 8" in log
    table = (tmp_path / "run" / "profile" / "modules.txt").read_text()
    assert table in log
    assert len([line for line in table.splitlines() if line.startswith(("separator", "critic"))]) == 10
    assert load_config(config).train.steps == 12
    assert (tmp_path / "run" / "finished").read_text() == "12\n"
