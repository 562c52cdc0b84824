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
        self._averaged = _Tensors(self.module)
        self._live: Separator | None = None

    @torch.no_grad()
    def update(self, live: Separator, decay: float, skipped: Tensor) -> None:
        """Move towards the weights after an update of the separator.

        live: with whole parameters, which ZeRO 3 has to gather. decay: of this update. skipped: a flag on the device;
        the average stays as it is where it is set, because the step was skipped.
        """
        if live is not self._live:  # collecting them takes longer than averaging them
            self._live, self._source = live, _Tensors(live)
        ours = self._averaged.real
        theirs = [tensor.reshape(own.shape) for tensor, own in zip(self._source.real, ours)]  # see `_Tensors`
        difference = torch._foreach_sub(theirs, ours)
        torch._foreach_mul_(difference, (1 - decay) * skipped.logical_not().to(ours[0].dtype))
        torch._foreach_add_(ours, difference)
        torch._foreach_copy_(self._averaged.whole, self._source.whole)

    def state_dict(self) -> dict[str, Any]:
        """As a network's part of a checkpoint."""
        return {"module": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])


class _Tensors:
    """What training changes of a separator: real numbers, and whole ones, which count batches; in a fixed order.

    The weights without dimensions may have one: DeepSpeed gives it to them.
    """

    def __init__(self, module: Separator) -> None:
        named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        names = [name for name in module.state_dict() if not name.startswith("visual.backbone.")]
        tensors = [named[name] for name in names]
        self.real = [tensor for tensor in tensors if tensor.is_floating_point()]
        self.whole = [tensor for tensor in tensors if not tensor.is_floating_point()]
