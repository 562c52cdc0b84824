"""A network that learns: the module, its optimizer, and the reduction of its gradients over the workers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ialcms.engine.batchnorm import synchronise
from ialcms.engine.workers import Workers


class Learner:
    """One update for the whole job, however many workers share the global batch.

    Call the learner in the phase in which its network learns, and its `module` in the other phase: the module
    neither reduces gradients nor waits for other workers. Losses are means over the worker's equal share of the
    global batch; gradients are averaged over the workers.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        workers: Workers,
        *,
        sync_batchnorm: bool = True,
        clip_norm: float = 0.0,
    ) -> None:
        self.module, self.optimizer, self.clip_norm = module, optimizer, clip_norm
        self._call: Any = module
        if workers.distributed:
            if sync_batchnorm and workers.world_size > 1:
                synchronise(module, workers.device)
            # Buffers are equal on all workers from the start (same seed) and stay so (global statistics), so they
            # need no broadcast at every pass.
            self._call = DistributedDataParallel(
                module,
                device_ids=[workers.device.index] if workers.device.type == "cuda" else None,
                broadcast_buffers=not sync_batchnorm,
            )

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def update(self, loss: Tensor) -> Tensor:
        """One optimizer step down `loss`; returns the norm of the gradient of the global batch, before clipping."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        self.optimizer.step()
        return norm

    def state_dict(self) -> dict[str, Any]:
        return {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
