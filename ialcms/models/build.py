"""Networks and optimizers of a configuration, the same on every rank."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import torch

from ialcms.config import Config
from ialcms.models.critic import Critic
from ialcms.models.separator import Separator
from ialcms.models.unet import UpBlock
from ialcms.models.weights import load_backbone


def check_memory(config: Config) -> None:
    """Raises ValueError for networks that this machine cannot hold, before memory is asked for."""
    audio = config.audio
    with torch.device("meta"):
        separator = Separator(config.model, audio)
    needed = sum(tensor.nbytes for tensor in (*separator.parameters(), *separator.buffers()))
    if config.train.ema_decay:
        needed *= 2
    if config.uses_critic:  # which cannot be made without memory: its spectral norm computes at once
        needed += 4 * 31_000_000 * config.model.critic.width**2 // 64**2
    bank = 2 * config.loss.bank_size * audio.log_bins * audio.num_frames if config.uses_critic else 0
    available = machine_memory()
    if needed + bank > available:
        raise ValueError(
            f"the networks need {needed / 1e9:,.1f} GB and the memory bank {bank / 1e9:,.1f} GB, this machine has "
            f"{available / 1e9:,.1f} GB; lower the widths in 'model', or loss.bank_size"
        )


def machine_memory() -> int:
    """Bytes of main memory that this process can have at most: the machine's, or what a container may use."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        with contextlib.suppress(OSError, ValueError):  # none there, or "max"
            memory = min(memory, int(limit.read_text()))
    return memory


def build_networks(config: Config, pretrained: bool = True) -> tuple[Separator, Critic | None]:
    """Separator and critic (None where no independence loss is asked for), initialised from the seed.

    pretrained: fill the frozen backbone as configured; a checkpoint that is about to be loaded brings its own.
    """
    check_memory(config)
    torch.manual_seed(config.seed)
    separator = Separator(config.model, config.audio)
    _freeze_what_has_no_effect(separator)
    if pretrained:
        backbone = separator.visual.backbone
        backbone.origin = load_backbone(backbone, config.model.visual.weights)
    critic = Critic(config.model.critic) if config.uses_critic else None
    return separator, critic


def _freeze_what_has_no_effect(separator: Separator) -> None:
    """The offsets that an instance normalisation takes out again.

    Their gradient is zero, in the published code rounding, of which Adam makes full steps. They stay in checkpoints and
    in the optimizer's groups, so that both are as they always were.
    """
    for block in separator.decoder.blocks:
        assert isinstance(block, UpBlock)
        block.norm.bias.requires_grad_(False)


def separator_optimizer(separator: Separator, config: Config) -> torch.optim.Adam:
    """Adam with one learning rate for the audio networks and one for the trained part of the visual net."""
    visual = [p for p in separator.visual.parameters() if p.requires_grad]
    in_visual = {id(p) for p in separator.visual.parameters()}
    audio = [p for p in separator.parameters() if id(p) not in in_visual]
    groups = [
        {"params": audio, "lr": config.optim.lr_audio, "name": "audio"},
        {"params": visual, "lr": config.optim.lr_visual, "name": "visual"},
    ]
    return _adam(groups, betas=config.optim.betas)


def critic_optimizer(critic: Critic, config: Config) -> torch.optim.Adam:
    optim = config.optim
    parameters = [{"params": list(critic.parameters())}]
    return _adam(parameters, lr=optim.lr_critic, betas=optim.critic_betas, weight_decay=optim.critic_weight_decay)


def _adam(groups: list[dict[str, Any]], **options: Any) -> torch.optim.Adam:
    """One kernel for all parameters of a group, on CPU and GPU alike."""
    optimizer = torch.optim.Adam(groups, fused=True, **options)
    optimizer.register_load_state_dict_pre_hook(_fit)
    return optimizer


def _fit(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """A saved state as this optimizer would have left it: by the same kernels, without moments of what is frozen."""
    groups, frozen = [], set()
    for own, group in zip(optimizer.param_groups, saved["param_groups"]):
        groups.append({**group, "fused": own["fused"], "foreach": own["foreach"]})
        frozen |= {number for number, p in zip(group["params"], own["params"]) if not p.requires_grad}
    state = {number: values for number, values in saved["state"].items() if number not in frozen}
    return {**saved, "state": state, "param_groups": [*groups, *saved["param_groups"][len(groups) :]]}
