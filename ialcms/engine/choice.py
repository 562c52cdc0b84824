"""Which engine a run uses, checked before anything starts.

`train.engine`: `single`, `ddp`, `deepspeed`, or `auto`, which is ddp under a launcher and single without one. The
trainer does not know which one runs: all are `Learner`s.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from ialcms.config import Config, check_world_size
from ialcms.engine.deepspeed_settings import read_settings
from ialcms.engine.learner import DDPLearner, Learner, Network
from ialcms.engine.ranks import Ranks
from ialcms.launched import launched


def check_engine(config: Config) -> None:
    """ValueError when this configuration cannot run on the ranks that were launched; imports no DeepSpeed."""
    launch = launched()
    world_size = launch.world_size
    check_world_size(config, world_size)
    engine = config.train.engine
    if engine == "single" and world_size > 1:
        raise ValueError(
            f"train.engine is 'single', but {world_size} ranks were started; use train.engine=auto, ddp or deepspeed"
        )
    if engine in ("ddp", "deepspeed") and not launch.is_launched:
        raise ValueError(
            f"train.engine is '{engine}', which needs a launcher; start the run with torchrun --standalone "
            "--nproc_per_node=N -m ialcms train ..., or use train.engine=auto"
        )
    if config.train.gradient_compression != "none" and engine in ("single", "deepspeed"):
        raise ValueError(
            f"train.gradient_compression is '{config.train.gradient_compression}', which only ddp can do; set it to "
            "none (DeepSpeed has communication_data_type in its JSON file)"
        )
    if engine == "deepspeed":
        read_settings(config, world_size)
        if importlib.util.find_spec("deepspeed") is None:
            raise ValueError(
                "train.engine is 'deepspeed', but DeepSpeed is not installed; install it with DS_BUILD_OPS=0 "
                "pip install --no-build-isolation 'deepspeed>=0.19', or use train.engine=ddp"
            )


def build_learner(module: Network, optimizer: torch.optim.Optimizer, ranks: Ranks, config: Config) -> Learner[Network]:
    """The learner of a network by the configured engine; all ranks call it.

    module: the network. optimizer: of its parameters.
    """
    train = config.train
    options: dict[str, Any] = {"clip_norm": config.optim.clip_norm, "accumulation": train.accumulation}
    if train.engine == "deepspeed":
        from ialcms.engine.deepspeed_learner import DeepSpeedLearner  # imports DeepSpeed, which takes seconds

        settings = read_settings(config, ranks.world_size)
        return DeepSpeedLearner(
            module, optimizer, ranks, settings=settings, sync_batchnorm=train.sync_batchnorm, **options
        )
    if train.engine == "ddp" or (train.engine == "auto" and ranks.distributed):
        return DDPLearner(
            module,
            optimizer,
            ranks,
            sync_batchnorm=train.sync_batchnorm,
            compression=train.gradient_compression,
            **options,
        )
    return Learner(module, optimizer, **options)
