"""A moving average of the separator's weights, with which it is validated, evaluated, exported and used.

After every update of the separator the average e of a weight w becomes e + (1 - d) (w - e). The decay is
d = min(`train.ema_decay`, (1 + n) / (10 + n)) after n earlier updates: a young average forgets the random start soon.

The running statistics of BatchNorm are averaged by the same rule. Those of the live network belong to its weights of
the last updates; averaged over the same updates they belong to the averaged weights, up to what is not linear.
Computing them anew would take passes over training data before every validation. Counts of batches are copied, and
the frozen backbone has nothing to average.

Every rank keeps the whole average and computes it from weights that are the same on all ranks, so it is the same there
too and nothing is sent. With ZeRO 3, whose weights are in shards, they are gathered for it after every update.

Sources: Polyak and Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging"; the growing decay is that of
TensorFlow's ExponentialMovingAverage (`num_updates`); averaged statistics as in torchvision's reference training.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ialcms.models import Separator


def decay_at(updates: int, final: float) -> float:
    """The decay of the average after `updates` earlier updates: `final` in the end, less at first."""
    return min(final, (1 + updates) / (10 + updates))


class AveragedSeparator:
    """The average, as a separator of its own."""

    def __init__(self, live: Separator) -> None:
        """live: the separator whose weights are averaged, on its device, before any engine has changed its form."""
        self.module: Separator = copy.deepcopy(live).requires_grad_(False).eval()
        self._averaged, self._copied = _split(self.module.state_dict())

    @torch.no_grad()
    def update(self, live: Separator, decay: float, skipped: Tensor) -> None:
        """Move towards the weights after an update of the separator.

        live: with whole parameters, which ZeRO 3 has to gather. decay: of this update. skipped: a flag on the device;
        the average stays as it is where it is set, because the step was skipped.
        """
        averaged, copied = _split(live.state_dict())
        names = list(self._averaged)
        ours = [self._averaged[name] for name in names]
        # DeepSpeed gives weights without dimensions one
        difference = torch._foreach_sub([averaged[name].reshape(self._averaged[name].shape) for name in names], ours)
        torch._foreach_mul_(difference, (1 - decay) * skipped.logical_not().to(ours[0].dtype))
        torch._foreach_add_(ours, difference)
        for name, tensor in self._copied.items():
            tensor.copy_(copied[name])

    def state_dict(self) -> dict[str, Any]:
        """As a network's part of a checkpoint."""
        return {"module": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])


def _split(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of a separator's state, what is averaged, and what is copied: whole numbers, which count batches."""
    moving = {name: tensor for name, tensor in state.items() if not name.startswith("visual.backbone.")}
    averaged = {name: tensor for name, tensor in moving.items() if tensor.is_floating_point()}
    copied = {name: tensor for name, tensor in moving.items() if not tensor.is_floating_point()}
    return averaged, copied
