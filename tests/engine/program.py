"""What the ranks of the multi-process tests run: `torchrun tests/engine/program.py FOLDER case ...`.

On GPUs where there are any, by NCCL, else on CPU by gloo. Each rank writes FOLDER/<rank>.pt, a dictionary of case
-> result; the tests compare them. A case is the name of a function below, `name:key=value,...` passes it arguments.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.profiler import ProfilerActivity, profile

from ialcms.config import Config, shared_fields
from ialcms.data.batch import Batch
from ialcms.engine import Ranks, check_same_fields, state_from_first
from ialcms.engine.batchnorm import synchronise
from ialcms.launched import end_process
from ialcms.training import step as training_step
from ialcms.training.memory_bank import MemoryBank
from ialcms.training.step import Experiment
from tests.golden.precision import double_precision
from tests.support import make_batch, small_config

STEPS = 20


def equality_config(**train: Any) -> Config:
    """20 steps with both ramps inside; the critic learns at each, the separator at every second; the bank of 24
    components goes round every other step; the gradients of both networks are clipped."""
    return small_config(train={"global_batch": 4, **train}, optim={"clip_norm": 0.5})


def local_lanes(config: Config, ranks: Ranks) -> slice:
    share = config.train.global_batch // ranks.world_size
    return slice(ranks.rank * share, (ranks.rank + 1) * share)


def alternate_steps(ranks: Ranks, dtype: str = "float32", eps: float = 1e-8, **train: Any) -> dict[str, Any]:
    """Losses of every step, the state before and after, and what the trained networks make of a fixed batch.

    eps: Adam's.
    """
    config = equality_config(**train)
    with precision(dtype):
        return _alternate_steps(ranks, config, eps)


def alternate_steps_with_options(
    ranks: Ranks, dtype: str = "float32", eps: float = 1e-8, **train: Any
) -> dict[str, Any]:
    """The same with all options of the training that are off by default (docs/quality.md)."""
    config = small_config(
        train={"global_batch": 4, "ema_decay": 0.9, **train},
        optim={"clip_norm": 0.5, "warmup_steps": 4, "cosine_steps": 18, "lr_floor": 0.1},
        loss={"spectral_weight": 0.1, "spectral_windows": [256, 512]},
        data={"pictures_per_object": 2},
    )
    with precision(dtype):
        return _alternate_steps(ranks, config, eps)


def alternate_steps_of_many(ranks: Ranks, **options: Any) -> dict[str, Any]:
    """`alternate_steps` as more ranks than one node has would make them."""
    whole, training_step.RANKS_OF_A_NODE = training_step.RANKS_OF_A_NODE, 0
    try:
        return alternate_steps(ranks, **options)
    finally:
        training_step.RANKS_OF_A_NODE = whole


def alternate_steps_without_batchnorm(ranks: Ranks, accumulation: int = 1) -> dict[str, Any]:
    """The same in double precision, BatchNorm by its running statistics: they depend on the size of a pass."""
    config = equality_config(accumulation=accumulation)
    with double_precision(), batchnorm_in_evaluation_mode():
        return _alternate_steps(ranks, config)


def _alternate_steps(ranks: Ranks, config: Config, eps: float = 1e-8, num_steps: int = STEPS) -> dict[str, Any]:
    experiment = Experiment(config, ranks)
    for learner in (experiment.separator, experiment.critic):
        assert learner is not None
        for group in learner.optimizer.param_groups:
            group["eps"] = eps
    start = clone(experiment.state_dict())
    losses = []
    for step in range(num_steps):
        scalars = experiment.step(batch_of(config, step, local_lanes(config, ranks)).to(ranks.device))
        losses.append({name: float(ranks.mean(value)) for name, value in scalars.items()})
    return {
        "losses": losses,
        "start": start,
        "state": clone(experiment.state_dict()),
        "functions": functions(experiment, config),
        "checksum": checksum(networks(experiment)),
    }


def few_steps(ranks: Ranks) -> dict[str, Any]:
    """Like `alternate_steps` in double precision, for many ranks: tiny networks, 32 mixes of 2 components, 3 steps."""
    config = tiny_config(ranks, global_batch=32, separator_every=2)
    config = replace(config, data=replace(config.data, num_objects=1), loss=replace(config.loss, bank_size=100))
    with double_precision():
        return _alternate_steps(ranks, config, num_steps=3)


def networks(experiment: Experiment) -> dict[str, Any]:
    """What all ranks have whole, by any engine: parameters and buffers, and how full the memory bank is."""
    state = experiment.state_dict()
    modules = {"separator": state["separator"]["module"], "critic": state["critic"]["module"]}
    bank = {name: value for name, value in state["bank"].items() if name != "slots"}
    return {**{name: dict(module) for name, module in modules.items()}, "bank": bank}


@torch.no_grad()
def functions(experiment: Experiment, config: Config) -> dict[str, Tensor]:
    """Outputs of the networks in evaluation mode on a batch that is the same for all."""
    batch = batch_of(config, 10_000).to(experiment.ranks.device)
    separator = experiment.separator.inference_module().eval()
    output = separator(batch.mix, batch.objects)
    result = {name: getattr(output, name) for name in ("mask", "cosine_map", "audio_embedding", "attended_visual")}
    result["waves"] = separator.component_waves(output, batch.mix.shape[-1])
    if experiment.critic is not None:
        magnitudes = output.magnitude.flatten(0, 2)
        index = torch.arange(len(magnitudes), device=magnitudes.device)
        pairs = torch.stack([index, index.roll(1)], dim=1)
        result["scores"] = experiment.critic.inference_module().eval()(magnitudes, pairs)
    return clone(result)  # type: ignore[no-any-return]


def tiny_config(ranks: Ranks, **train: Any) -> Config:
    """Cheap steps: one mix per rank, the separator learns at every third step."""
    return small_config(
        data={"image_resize": 32, "image_crop": 16},
        model={
            "visual": {"width": 2, "weights": "none", "aspp_channels": 4, "low_level_channels": 2, "channels": 8},
            "unet": {"width": 2},
            "critic": {"width": 2},
        },
        train={"global_batch": ranks.world_size, "separator_every": 3, **train},
        optim={"clip_norm": 0.5},
    )


def run_steps(experiment: Experiment, steps: range) -> None:
    lanes = local_lanes(experiment.config, experiment.ranks)
    for step in steps:
        experiment.step(make_batch(experiment.config, step, lanes).to(experiment.ranks.device))


def long_run(ranks: Ranks) -> list[dict[str, str]]:
    """Checksums of each parameter and buffer after every 20 of 200 steps of tiny networks."""
    experiment = Experiment(tiny_config(ranks), ranks)
    checksums = []
    for first in range(0, 200, 20):
        run_steps(experiment, range(first, first + 20))
        checksums.append({name: checksum({name: tensor}) for name, tensor in tensors(networks(experiment))})
    return checksums


ENGINES = {
    "ddp": {"engine": "ddp"},
    **{
        f"zero{stage}": {"engine": "deepspeed", "deepspeed_config": f"configs/deepspeed/zero{stage}.json"}
        for stage in range(4)
    },
}


def resume(ranks: Ranks) -> dict[str, Any]:
    """Per engine, the state after 7 steps at once, after 4 and 3, and after 3 with ddp that resume from its 4."""
    results: dict[str, Any] = {}
    for name, engine in ENGINES.items():
        config = tiny_config(ranks, ema_decay=0.9, **engine)
        at_once = Experiment(config, ranks)
        run_steps(at_once, range(4))
        middle = through_file(ranks, at_once.state_dict())
        run_steps(at_once, range(4, 7))
        resumed = Experiment(config, ranks)
        resumed.load_state_dict(middle)
        run_steps(resumed, range(4, 7))
        changed = Experiment(tiny_config(ranks, ema_decay=0.9), ranks)
        changed.load_state_dict(middle)
        run_steps(changed, range(4, 7))
        experiments = {"middle": None, "at once": at_once, "resumed": resumed, "resumed with ddp": changed}
        results[name] = {case: clone(e.state_dict()) if e is not None else middle for case, e in experiments.items()}
    return results


def shared_state(ranks: Ranks) -> dict[str, Any]:
    """What the ranks get of a state of rank 0, in blocks so small that tensors are cut; and of one that it refuses."""
    states = {size: state_from_first(ranks, lambda: made_on(ranks, unusual_state), size) for size in (7, 4096)}
    refusals = []
    for refused in (_refuse, lambda: {"rows": torch.eye(3).to_sparse()}):
        try:
            state_from_first(ranks, lambda action=refused: made_on(ranks, action))  # type: ignore[misc]
        except ValueError as error:
            refusals.append(str(error))
    first = states[7]
    assert first["names"]._metadata == {"version": 2}
    assert first["twice"] is first["names"]["weight"]
    strides = {name: first[name].stride() for name in ("pictures", "columns")}
    return {"small blocks": first, "large blocks": states[4096], "strides": strides, "refusals": refusals}


def made_on(ranks: Ranks, action: Callable[[], Any]) -> Any:
    """What `action` makes; only rank 0 may ask."""
    assert ranks.is_first
    return action()


def unusual_state() -> dict[str, Any]:
    """Types, shapes and strides that a checkpoint may have."""
    generator = torch.Generator().manual_seed(5)
    names = OrderedDict(weight=torch.randn(3, 5, generator=generator, dtype=torch.float64))
    names._metadata = {"version": 2}  # type: ignore[attr-defined]
    pictures = torch.randn(2, 3, 4, 5, generator=generator)
    return {
        "names": names,
        "twice": names["weight"],
        "pictures": pictures.to(memory_format=torch.channels_last),
        "columns": pictures.half()[..., 1:3],
        "expanded": torch.tensor(2.5).expand(3, 2),
        "nan": torch.tensor([math.nan, -0.0, math.inf]).bfloat16(),
        "flags": [torch.tensor([True, False]), (torch.tensor(7), "text", None, 1.5)],
        "empty": torch.empty(0, 4),
        "many": torch.arange(3_000, dtype=torch.int16),
    }


def _refuse() -> Any:
    raise ValueError("no such checkpoint; give another one")


def bf16_passes(ranks: Ranks) -> dict[str, list[str]]:
    """Per engine, the types that a convolution of the separator and a layer of the critic give in all passes of steps
    in which both learn, in mixed precision. With CUDA's autocast flag on too, as it is on a GPU: it is the one that
    DeepSpeed looks at."""
    results = {}
    for name, engine in ENGINES.items():
        experiment = Experiment(tiny_config(ranks, precision="bf16", separator_every=1, **engine), ranks)
        assert experiment.critic is not None
        types: set[str] = set()
        for layer in (experiment.separator.module.encoder.stem[0], experiment.critic.module.w):
            layer.register_forward_hook(lambda layer, args, output, types=types: types.add(str(output.dtype)))
        torch.set_autocast_enabled("cuda", True)
        try:
            run_steps(experiment, range(2))
        finally:
            torch.set_autocast_enabled("cuda", False)
        results[name] = sorted(types)
    return results


def through_file(ranks: Ranks, state: Any) -> Any:
    """What all ranks read of a state that the first one writes, like a checkpoint."""
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(ranks.broadcast(file.getvalue())), weights_only=True)


def not_finite(ranks: Ranks) -> dict[str, Any]:
    """Per engine: rank 1 sees NaN at step 3, at which both networks learn, and gets an infinite gradient at step 6.

    One step is skipped, the second is too many.
    """
    results: dict[str, Any] = {}
    for name, engine in ENGINES.items():
        config = tiny_config(ranks, max_skipped_steps=1, **engine)
        experiment = Experiment(config, ranks)
        run_steps(experiment, range(3))
        before = clone(experiment.state_dict())
        batch = make_batch(config, 3, local_lanes(config, ranks))
        if ranks.rank == 1:
            batch.mix[0, 100] = math.nan
        with capture_log() as lines:
            scalars = experiment.step(batch.to(ranks.device))
            experiment.settle()
        after = clone(experiment.state_dict())
        run_steps(experiment, range(4, 6))
        learned = clone(experiment.state_dict())
        parameter = experiment.separator.module.mask_bias
        handle = parameter.register_hook(lambda gradient: gradient * math.inf) if ranks.rank == 1 else None
        try:
            run_steps(experiment, range(6, 7))
            experiment.settle()
            error = "none"
        except ValueError as fault:
            error = str(fault)
        if handle is not None:
            handle.remove()
        results[name] = {
            "log": lines, "scalars": clone(scalars), "before": before, "after": after, "learned": learned,
            "end": clone(experiment.state_dict()), "error": error,
        }  # fmt: skip
    return results


@contextmanager
def capture_log() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("ialcms")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def disagreement(ranks: Ranks) -> dict[str, str]:
    """What is said when a rank has another last bit of a weight, another step, configuration or free field."""
    messages = {}
    for what in ("nothing", "weight", "step", "configuration"):
        other = ranks.rank == 1
        config = tiny_config(ranks, check_every=2)
        if what == "configuration" and other:
            config = replace(config, seed=1)
        experiment = Experiment(replace(config, seed=0) if what != "configuration" else config, ranks)
        try:
            run_steps(experiment, range(2))
            if what == "weight" and other:
                weight = experiment.separator.module.get_parameter("encoder.stem.0.weight").data.view(-1)
                weight[3] = torch.nextafter(weight[3], torch.tensor(2.0))
            run_steps(experiment, range(4, 5) if what == "step" and other else range(2, 3))
            messages[what] = "no fault found"
        except ValueError as error:
            messages[what] = str(error)
    config = tiny_config(ranks, validate_every=9 + ranks.rank, deepspeed_config=f"rank{ranks.rank}.json")
    try:
        check_same_fields(ranks, shared_fields(config))
        messages["field"] = "no fault found"
    except ValueError as error:
        messages["field"] = str(error)
    return messages


TRAFFIC = {
    "ddp": {},
    "ddp in 16 bits": {"gradient_compression": "bf16"},
    "ddp accumulated": {"accumulation": 2, "global_batch": 4},
    "ddp with local statistics": {"sync_batchnorm": False},
    **{f"zero{stage}": ENGINES[f"zero{stage}"] for stage in range(4)},
    "zero2 accumulated": {"accumulation": 2, "global_batch": 4, **ENGINES["zero2"]},
}


def traffic(ranks: Ranks) -> dict[str, Any]:
    """Per engine, what a step in which both networks learn sends: as computed, and as torch's profiler sees it."""
    results: dict[str, Any] = {}
    for name, train in TRAFFIC.items():
        experiment = Experiment(tiny_config(ranks, **train), ranks)
        run_steps(experiment, range(3))
        results[name] = {
            **profiled_step(experiment, ranks),
            "batchnorm channels": trained_batchnorm(experiment.separator.module),
        }
    return results


def profiled_step(experiment: Experiment, ranks: Ranks) -> dict[str, Any]:
    """What a step sends, as computed and as profiled.

    A profile from which a collective is missing, on any rank, is taken again at the next step of the same kind.
    """
    for step in range(3, 33, 3):
        ranks.traffic.take()
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            run_steps(experiment, range(step, step + 1))
        computed, profiled = ranks.traffic.take(), collectives(profiler, ranks)
        if not ranks.any(profiled is None):
            return {"computed": computed, "collectives": profiled}
    raise AssertionError("ten profiles in a row lack a collective")


def trained_batchnorm(module: nn.Module) -> list[int]:
    """Channels of each BatchNorm layer that learns."""
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    return [layer.num_features for layer in layers if layer.weight.requires_grad]


def collectives(profiler: profile, ranks: Ranks) -> list[tuple[str, list[int], str]] | None:
    """Name, shape and type of what this rank has handed to gloo; None if some of that is missing.

    Of an all-to-all, the shape of what goes to other ranks.

    gloo's threads end an event a moment after whoever waits for the collective. An event that has not ended when the
    profiler stops has no arguments, or is left out. Torch's own events of the same collectives, "c10d::...", end in the
    thread that starts them: they tell how many there must be.
    """
    with tempfile.TemporaryDirectory() as folder:
        profiler.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
    started = [event for event in events if event.get("name", "").startswith("c10d::")]
    ended = [event for event in events if event.get("name", "").startswith("gloo:") and "Input Dims" in event["args"]]
    assert len(ended) <= len(started)
    if len(ended) < len(started):
        return None
    handed = [
        (event["name"], event["args"]["Input Dims"][0], event["args"]["Input type"][0])
        for event in ended
        if event["name"] != "gloo:all_to_all"
    ]
    return handed + [_sent_to_others(event["args"], ranks) for event in started if "alltoall" in event["name"]]


def _sent_to_others(arguments: dict[str, Any], ranks: Ranks) -> tuple[str, list[int], str]:
    """Of an all-to-all; its arguments begin with output, input, group, and rows from and to each rank."""
    rows, *shape = arguments["Input Dims"][1]
    num_sent = json.loads(arguments["Concrete Inputs"][4]) or [rows // ranks.world_size] * ranks.world_size
    assert sum(num_sent) == rows
    return "all_to_all", [rows - num_sent[ranks.rank], *shape], arguments["Input type"][1]


# Memory banks by name: slots, components a mix; of 12 mixes a batch.
BANKS = {"goes round": (60, 2), "smaller than a batch": (10, 2), "smaller than a rank's share": (3, 1)}


def bank_of_ranks(ranks: Ranks) -> dict[str, Any]:
    return {name: bank_steps(ranks, name) for name in BANKS}


def bank_steps(ranks: Ranks, name: str) -> dict[str, Any]:
    """This rank's pairs of 8 steps, the fifth of which is skipped; before the fourth a new bank takes over the state.

    The state is in the layout of one rank, whatever the number of ranks.
    """
    capacity, per_mix = BANKS[name]
    settings: dict[str, Any] = {"num_mixes": 12, "per_mix": per_mix, "seed": 5, "ranks": ranks}
    bank = MemoryBank(capacity, (2, 2), **settings)
    count = 12 * per_mix // ranks.world_size
    ranks.traffic.take()
    steps = []
    for step in range(8):
        if step == 3:
            middle = through_file(ranks, bank.state_dict())
            bank = MemoryBank(capacity, (2, 2), **settings)
            bank.load_state_dict(middle)
        first = 100 * step + ranks.rank * count
        components = torch.arange(first, first + count, dtype=torch.float32, device=ranks.device)
        check = torch.tensor(math.nan if step == 4 else 0.0, device=ranks.device)
        pairs = bank.pair(bank.compact(components.view(-1, 1, 1).expand(-1, 2, 2)), step, check)
        dependent = pairs.dependent + ranks.rank * count
        steps.append(clone({"partners": pairs.partners, "dependent": dependent}))
    if not ranks.is_first:
        middle.pop("slots")
    sent = ranks.traffic.take().get("bank", 0.0)
    return {"steps": steps, "middle": middle, "end": clone(bank.state_dict()), "sent": sent}


def batchnorm(ranks: Ranks) -> dict[str, Tensor]:
    """GlobalBatchNorm on this rank's rows of `joined_batch`: output, gradients of a loss over all, statistics.

    The ranks' parts have different means and variances.
    """
    layer = nn.BatchNorm2d(5).double()
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 1.5, 5))
        layer.bias.copy_(torch.linspace(-1, 1, 5))
    network = synchronise(nn.Sequential(layer), ranks)
    network.to(ranks.device)
    x = joined_batch(ranks.world_size)[ranks.rank].to(ranks.device).requires_grad_()
    output = network(x)
    (output**3).sum().backward()
    sums = [ranks.sum(p.grad) for p in network.parameters() if p.grad is not None]
    again = network(x.detach() + 1)  # a second pass, for the running statistics
    assert x.grad is not None
    result = {"output": output, "again": again, "input_gradient": x.grad}
    result |= {"weight_gradient": sums[0], "bias_gradient": sums[1]}
    single = synchronise(nn.Sequential(nn.BatchNorm2d(5)), ranks).to(ranks.device)
    result["single precision"] = single(x.detach().float())
    return clone({**result, **{name.removeprefix("0."): buffer for name, buffer in network.named_buffers()}})  # type: ignore[no-any-return]


def joined_batch(world_size: int) -> list[Tensor]:
    """Per rank (2, 5, 3, 4) in double precision, with an offset that would cancel in E[x^2] - E[x]^2."""
    generator = torch.Generator().manual_seed(3)
    draw = [torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64) for _ in range(world_size)]
    return [1e4 + 3 * r + (1 + r) * x for r, x in enumerate(draw)]


def gather(ranks: Ranks) -> Tensor:
    """The rows of all ranks, gathered from each one's two."""
    local = gather_rows(ranks.world_size)[2 * ranks.rank : 2 * ranks.rank + 2]
    return ranks.gather(local.to(ranks.device)).cpu()


def gather_rows(world_size: int) -> Tensor:
    """Two rows a rank."""
    return torch.randn(2 * world_size, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def precision(dtype: str) -> AbstractContextManager[None]:
    return double_precision() if dtype == "float64" else nullcontext()


def batch_of(config: Config, step: int, lanes: slice = slice(None)) -> Batch:
    batch, dtype = make_batch(config, step, lanes), torch.get_default_dtype()
    return replace(batch, mix=batch.mix.to(dtype), mixtures=batch.mixtures.to(dtype))


@contextmanager
def batchnorm_in_evaluation_mode() -> Iterator[None]:
    train = _BatchNorm.train
    _BatchNorm.train = lambda layer, mode=True: train(layer, False)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        _BatchNorm.train = train  # type: ignore[method-assign]


def clone(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: clone(value) for key, value in state.items()}
    return state.detach().to("cpu", copy=True) if isinstance(state, Tensor) else state


def tensors(state: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a nested state with its dotted name, in order."""
    if isinstance(state, dict):
        for key, value in state.items():
            yield from tensors(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(state, Tensor):
        yield prefix, state


def checksum(state: Any) -> str:
    """Of every bit of every tensor of a state."""
    digest = hashlib.sha256()
    for name, tensor in tensors(state):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


CASES = {
    case.__name__: case
    for case in (
        alternate_steps, alternate_steps_of_many, alternate_steps_with_options, alternate_steps_without_batchnorm,
        long_run, batchnorm, gather, resume, bf16_passes,
        not_finite, disagreement, traffic, bank_of_ranks, shared_state,
    )
}  # fmt: skip


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False
    results: dict[str, Any] = {}
    with Ranks(timeout_s=120) as ranks:
        for case in names:
            name, _, arguments = case.partition(":")
            options = dict(option.split("=") for option in arguments.split(",") if option)
            values = {key: _value(text) for key, text in options.items()}
            results[case] = CASES[name](ranks, **values)
        torch.save(results, folder / f"{ranks.rank}.pt")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


if __name__ == "__main__":
    main()
    end_process(0)
