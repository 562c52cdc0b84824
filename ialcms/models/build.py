"""Networks and optimizers of a configuration, the same on every worker."""

from __future__ import annotations

import torch

from ialcms.config import Config
from ialcms.models.critic import Critic
from ialcms.models.separator import Separator
from ialcms.models.weights import load_backbone


def build_networks(config: Config, pretrained: bool = True) -> tuple[Separator, Critic | None]:
    """Separator and critic (None where no independence loss is asked for), initialised from the seed.

    pretrained: fill the frozen backbone as configured; a checkpoint that is about to be loaded brings its own.
    """
    torch.manual_seed(config.seed)
    separator = Separator(config.model, config.audio)
    if pretrained:
        load_backbone(separator.visual.backbone, config.model.visual.weights)
    critic = Critic(config.model.critic) if config.uses_critic else None
    return separator, critic


def separator_optimizer(separator: Separator, config: Config) -> torch.optim.Adam:
    """Adam with one learning rate for the audio networks and one for the trained part of the visual net."""
    visual = [p for p in separator.visual.parameters() if p.requires_grad]
    in_visual = {id(p) for p in separator.visual.parameters()}
    audio = [p for p in separator.parameters() if id(p) not in in_visual]
    groups = [
        {"params": audio, "lr": config.optim.lr_audio, "name": "audio"},
        {"params": visual, "lr": config.optim.lr_visual, "name": "visual"},
    ]
    return torch.optim.Adam(groups, betas=config.optim.betas)


def critic_optimizer(critic: Critic, config: Config) -> torch.optim.Adam:
    optim = config.optim
    return torch.optim.Adam(
        critic.parameters(), lr=optim.lr_critic, betas=optim.critic_betas, weight_decay=optim.critic_weight_decay
    )
