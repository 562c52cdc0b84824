"""Training steps whose results are the same on any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ialcms.config import Config
from ialcms.data.batch import Batch
from ialcms.engine import Ranks
from ialcms.training import step as training_step
from ialcms.training.step import Experiment
from tests.golden.precision import double_precision
from tests.support import make_batch, small_config
from tests.support.states import checksum, clone, tensors

STEPS = 20


ENGINES = {
    "ddp": {"engine": "ddp"},
    **{
        f"zero{stage}": {"engine": "deepspeed", "deepspeed_config": f"configs/deepspeed/zero{stage}.json"}
        for stage in range(4)
    },
}


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
