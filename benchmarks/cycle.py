"""A cycle of training at full size, ours beside the method written down straightforwardly (benchmarks/naive_method.py):
same weights, same batches, alternating in one run. A cycle is a step in which both networks learn and the steps in
which only the critic does.

    python -m benchmarks.cycle --device cuda --batch 8 32 --precision float32 tf32 bf16 --out DIR
    python -m benchmarks.cycle --device cpu --threads 1          # a few minutes; --small: seconds

First, in double precision, losses and gradients of a step in which both learn must agree to 1e-4 (in float32 rounding
changes the sign of some activations, which changes gradients by 1e-3). Then it prints the median time of a cycle, the
ratio, and what a cycle costs. It needs a plain checkout, PyTorch, torchvision, NumPy and PyYAML, no data and no
weights. --set section.key=value changes the configuration of our form.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.costs import PeakMemory, count, launches
from benchmarks.naive_method import NaiveExperiment
from ialcms.config import Config, load_config
from ialcms.data.batch import Batch
from ialcms.engine import Ranks
from ialcms.models import Separator, layout, upsampled_conv
from ialcms.models.arithmetic import keep_memory, set_arithmetic
from ialcms.training.memory_bank import MemoryBank
from ialcms.training.step import Experiment
from tests.golden.precision import double_precision

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-4
PRECISIONS = {
    "float32": ["train.precision=float32", "train.tf32=false"],
    "tf32": ["train.precision=float32", "train.tf32=true"],
    "bf16": ["train.precision=bf16", "train.tf32=true"],
}

Step = Callable[[Batch], dict[str, Tensor]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Check that the forms agree, then time them; 2 for a device that is not there."""
    options = _parser().parse_args(arguments)
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the engine takes a GPU where there is one
    elif not torch.cuda.is_available():
        print("--device cuda: this machine shows no GPU to PyTorch; use --device cpu", file=sys.stderr)
        return 2
    options.batch = options.batch or [8 if options.device == "cuda" else 2]
    prepare(options)
    _describe_machine(options.device)
    results: list[dict[str, Any]] = []
    if options.check:
        with double_precision():
            agreement = check_agreement(options)
        results.append({"agreement": agreement})
        _write(results, options.out)
        if max(agreement.values()) > TOLERANCE:
            print(f"the two forms differ by more than {TOLERANCE:g}: {agreement}", file=sys.stderr)
            return 1
    for precision, batch in itertools.product(options.precision, options.batch):
        results.append(run_case(options, precision, batch))
        _write(results, options.out)
    return 0


def prepare(options: argparse.Namespace) -> None:
    """This process, as the options say."""
    if options.threads:
        torch.set_num_threads(options.threads)
    upsampled_conv.FORM, layout.LAYOUT = options.upsampling, options.layout


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, nargs="+", help="mixes a step; default 8 on a GPU, 2 on a CPU")
    parser.add_argument("--precision", choices=list(PRECISIONS), nargs="+", default=["float32"])
    parser.add_argument("--repeats", type=int, default=5, help="cycles of each form that are timed (default 5)")
    parser.add_argument("--naive", action=argparse.BooleanOptionalAction, default=True, help="measure it beside ours")
    parser.add_argument("--check", action=argparse.BooleanOptionalAction, default=True, help="that the forms agree")
    parser.add_argument("--small", action="store_true", help="small networks, to see that it runs")
    parser.add_argument("--threads", type=int, help="of a CPU")
    parser.add_argument(
        "--upsampling", choices=upsampled_conv.FORMS, default="auto", help="form of the decoder's blocks"
    )
    parser.add_argument("--layout", choices=layout.LAYOUTS, default="auto", help="of pictures in memory")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of the configuration of our form")
    parser.add_argument("--costs", action=argparse.BooleanOptionalAction, default=True, help="count, not only time")
    parser.add_argument("--out", type=Path, help="folder for cycle.json, written after each part")
    return parser


def build_config(options: argparse.Namespace, precision: str, batch: int, *more: str) -> Config:
    """Networks of the published experiment, or of the demo; neither data nor weights are read."""
    overrides = [
        f"train.global_batch={batch}",
        "train.separator_every=3",
        "train.check_every=1000000000",
        "model.visual.weights=none",
        *PRECISIONS[precision],
        *options.set,
        *more,
    ]
    return load_config(ROOT / "configs" / ("demo.yaml" if options.small else "duet.yaml"), overrides)


def make_batch(config: Config, step: int, device: torch.device) -> Batch:
    """Noise, a function of the step."""
    generator = torch.Generator().manual_seed(step)
    data, count = config.data, config.train.global_batch
    waves = 0.1 * torch.randn(count, data.num_mixtures, config.audio.num_samples, generator=generator)
    shape = (count, data.num_mixtures, data.num_objects, 3, data.image_crop, data.image_crop)
    pictures = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    keys = [(f"lane {lane}",) for lane in range(count)]
    return Batch(step, waves.sum(1), waves, objects=pictures, keys=keys, bad={}).to(device)


def first_step(config: Config) -> int:
    """A step in which both learn, with all losses at their final weights."""
    every = math.lcm(config.train.critic_every, config.train.separator_every)
    last = max((*config.loss.lambda_ind_steps, *config.loss.lambda_avc_steps), default=0)
    return (last // every + 1) * every


def build(config: Config, with_naive: bool) -> tuple[Experiment, NaiveExperiment | None]:
    """Both forms with the same weights and a filled bank; the naive one if it is wanted."""
    set_arithmetic(config, fixed_shapes=torch.cuda.is_available())
    experiment = Experiment(config, Ranks())
    assert experiment.critic is not None
    assert experiment.bank is not None
    _let_masks_differ(experiment.separator.module)
    _fill(experiment.bank)
    if not with_naive:
        return experiment, None
    modules = (experiment.separator.module, experiment.critic.module)
    return experiment, NaiveExperiment(config, *modules, experiment.bank)


@torch.no_grad()
def _let_masks_differ(separator: Separator) -> None:
    """At the start of training all masks are alike: the critic's gradient would be a difference of equal terms."""
    separator.mask_scale.fill_(4.0)
    for block in separator.decoder.blocks:
        torch.nn.init.normal_(block.style.gain.weight)


def _fill(bank: MemoryBank) -> None:
    """Sounds in the bank that are unlike those of noise, for the same reason."""
    capacity, rows, frames = bank.rows.shape
    generator = torch.Generator().manual_seed(1)
    sounds = (
        10 * torch.rand(capacity, rows, 1, generator=generator) * torch.rand(capacity, 1, frames, generator=generator)
    )
    bank.load_state_dict({"slots": sounds, "filled": torch.tensor(capacity), "next_slot": torch.tensor(0)})


def check_agreement(options: argparse.Namespace) -> dict[str, float]:
    """Largest differences between the forms of a step in which both learn: losses, absolute or relative to their
    size; gradients of each network, relative to their norm. The critic's rate is 0, as Adam's first step makes full
    steps of rounding, which the separator would see."""
    config = build_config(options, "float32", min(options.batch), "optim.lr_critic=0")
    ours, naive = build(config, with_naive=True)
    assert naive is not None
    assert ours.critic is not None
    with torch.no_grad():  # where both hinges of the critic pull, all but equal pulls cancel and rounding is left
        for critic in (ours.critic.module, naive.critic):
            critic.b.fill_(-2.0)
    batch = make_batch(config, first_step(config), ours.ranks.device)
    batch = dataclasses.replace(batch, mix=batch.mix.double(), mixtures=batch.mixtures.double())
    optimizers = {
        "separator": (ours.separator.optimizer, naive.separator_optimizer),
        "critic": (ours.critic.optimizer, naive.critic_optimizer),
    }
    gradients = {network: list(map(_SeenGradients, pair)) for network, pair in optimizers.items()}
    losses, expected = ours.step(batch), naive.step(batch)
    differences = {
        name: abs(float(losses[name]) - float(value)) / max(1.0, abs(float(value))) for name, value in expected.items()
    }
    for network in optimizers:
        own, reference = (seen.tensors for seen in gradients[network])
        assert len(own) == len(reference)
        distance = math.sqrt(sum(float((a - b).double().square().sum()) for a, b in zip(own, reference)))
        norm = math.sqrt(sum(float(b.double().square().sum()) for b in reference))
        differences[f"gradients of the {network}"] = distance / norm
    width = max(map(len, differences))
    print("| difference between the forms, double precision | |")
    print("|---|---|")
    for name, value in differences.items():
        print(f"| {name:{width}s} | {value:.1e} |", flush=True)
    print()
    return differences


class _SeenGradients:
    """The gradients by which an optimizer made its last step."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.tensors: list[Tensor] = []
        optimizer.register_step_pre_hook(self._keep)

    def _keep(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
        self.tensors = [p.grad.clone() for p in parameters if p.grad is not None]


class Form:
    """One form of the method, ready to run cycles."""

    def __init__(self, options: argparse.Namespace, precision: str, batch: int, *, name: str) -> None:
        """name: "ours" or "naive"."""
        prepare(options)
        self._options, self._name = options, name
        only_ours = ["train.cuda_graphs=false", "train.compile=false"] if name == "naive" else []
        self._config = build_config(options, precision, batch, *only_ours)
        ours, naive = build(self._config, with_naive=name == "naive")
        self._step: Step = ours.step if naive is None else naive.step
        self._device = ours.ranks.device
        alone = self._device.type == "cpu" and torch.get_num_threads() == 1
        self._clock = time.process_time if alone else time.perf_counter

    def costs(self, number: int) -> dict[str, int]:
        """What cycle `number` and, on a GPU, the next one cost; in any case runs one, which compiles and tunes."""
        numbers = itertools.count(number)
        return _counts(lambda: self.seconds(next(numbers)), self._device, self._options.costs)

    def memory(self, number: int) -> int:
        """Bytes that cycle `number` needs at its peak."""
        with PeakMemory(self._device) as memory:
            self.seconds(number)
        return memory.num_bytes

    def begin(self) -> None:
        """Times are taken from now on. Training does this from its start; it would hide how much memory is needed."""
        if self._name == "ours" and self._device.type == "cpu":
            keep_memory()
            self.seconds(0)

    def seconds(self, number: int) -> float:
        """Of cycle `number`; its batches are on the device before. Of one CPU thread its own: others may use the
        machine."""
        first = first_step(self._config) + number * self._config.train.separator_every
        steps = range(first, first + self._config.train.separator_every)
        batches = [make_batch(self._config, step, self._device) for step in steps]
        _wait(self._device)
        start = self._clock()
        for each in batches:
            self._step(each)
        _wait(self._device)
        return self._clock() - start


class ElsewhereForm:
    """A `Form` in a process of its own: what one process keeps in memory is not there for the other to use."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, arguments, options), daemon=True)
        self._process.start()
        theirs.close()

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self._pipe.send((method, arguments))
            return self._pipe.recv()

        return call


def _serve(pipe: Connection, arguments: Sequence[Any], options: dict[str, Any]) -> None:
    form = Form(*arguments, **options)
    while True:
        try:
            method, given = pipe.recv()
        except EOFError:  # the other process has ended
            return
        pipe.send(getattr(form, method)(*given))


def run_case(options: argparse.Namespace, precision: str, batch: int) -> dict[str, Any]:
    """Times and costs of both forms at one precision and batch size; prints them."""
    make: Callable[..., Any] = ElsewhereForm if options.device == "cpu" else Form
    names = ["ours", "naive"] if options.naive else ["ours"]
    forms = {name: make(options, precision, batch, name=name) for name in names}
    numbers = itertools.count(step=2)
    number = next(numbers)
    costs = {name: form.costs(number) for name, form in forms.items()}
    number = next(numbers)
    for name, form in forms.items():
        costs[name]["memory_bytes"] = form.memory(number)
        form.begin()
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(options.repeats):
        number = next(numbers)
        for name, form in forms.items():
            seconds[name].append(form.seconds(number))
    result = {
        "precision": precision,
        "batch": batch,
        "upsampling": options.upsampling,
        "layout": options.layout,
        "set": options.set,
        "seconds": seconds,
        "costs": costs,
    }
    if "naive" in seconds:
        result["ratio"] = statistics.median(b / a for a, b in zip(seconds["ours"], seconds["naive"]))
    _print(result, build_config(options, precision, batch))
    return result


def _counts(run: Callable[[], object], device: torch.device, wanted: bool) -> dict[str, int]:
    """What a cycle costs; in any case runs one, which compiles, tunes and allocates."""
    if not wanted:
        run()
        return {}
    found = dataclasses.asdict(count(run))
    return found | dataclasses.asdict(launches(run)) if device.type == "cuda" else found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


_COSTS = {
    "multiply-adds, G": ("multiply_adds", 1e9, 0),
    "GB moved": ("num_bytes", 1e9, 1),
    "operators": ("operators", 1, 0),
    "memory, GB": ("memory_bytes", 1e9, 2),
    "kernels": ("kernels", 1, 0),
    "host waits": ("host_waits", 1, 0),
}


def _print(result: dict[str, Any], config: Config) -> None:
    heading = f"{result['precision']}, {result['batch']} mixes a step"
    columns = ["s a cycle (median, best)", "mixes a second", *_COSTS]
    print(f"| {' | '.join([heading, *columns])} |")
    print("|---" * (1 + len(columns)) + "|")
    for name, seconds in result["seconds"].items():
        median = statistics.median(seconds)
        rate = config.train.separator_every * result["batch"] / median
        row = [name, f"{median:.4g}, {min(seconds):.4g}", f"{rate:.3g}"]
        cost = result["costs"][name]
        for key, unit, digits in _COSTS.values():
            row.append(f"{cost[key] / unit:.{digits}f}" if key in cost else "-")
        print(f"| {' | '.join(row)} |")
    if "ratio" in result:
        print(f"\nmedian ratio of the cycles: {result['ratio']:.2f}")
    print(flush=True)


def _describe_machine(device: str) -> None:
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, PyTorch {torch.__version__}\n", flush=True)


def _write(results: list[dict[str, Any]], folder: Path | None) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cycle.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
