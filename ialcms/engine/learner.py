"""A network that learns: the module, its optimizer, and the reduction of its gradients over the ranks.

Call a learner in the phase in which its network learns, and its `module` in the other phase, frozen or without
autograd: the module neither reduces gradients nor waits for other ranks.

    for part in micro_batches:                 # as many as `accumulation` says
        learner.backward(loss(learner(part)))
    norm = learner.step()                      # does nothing where the norm is not finite

Losses are means over the rank's equal share of a micro-batch of the whole job. The update is that of the mean over
micro-batches and ranks, and the reduction happens once, at the last micro-batch.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from ialcms.engine.batchnorm import average_running_statistics, synchronise
from ialcms.engine.moving_state import MovingState
from ialcms.engine.nonfinite import gradient_of
from ialcms.engine.ranks import Ranks
from ialcms.engine.traffic import size

Network = TypeVar("Network", bound=nn.Module)

# Of gradients that are sent together. A third of DDP's own choice: what is left to send at the end of a backward pass,
# which nothing hides, is smaller.
BUCKET_MIB = 8


class Learner(Generic[Network]):
    """On one rank."""

    def __init__(
        self, module: Network, optimizer: torch.optim.Optimizer, *, clip_norm: float = 0.0, accumulation: int = 1
    ) -> None:
        """module: the network. optimizer: of its parameters. clip_norm: longest gradient that is not shortened; 0: any.
        accumulation: micro-batches of a step.
        """
        self.module, self.optimizer = module, optimizer
        self.clip_norm, self.accumulation = clip_norm, accumulation
        self._trained = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        self._moving = MovingState(module)

    def __call__(self, *args: Any) -> Any:
        return self.module(*args)

    def prepare(self) -> None:
        """Be ready for a step, with the state that was loaded: also for a pass of the module itself, before any other.

        Passes differ in rounding before and after an engine has put the parameters in shards.
        """

    def backward(self, loss: Tensor, taint: Tensor | float = 0.0) -> None:
        """Add the gradient of a micro-batch's loss. taint: 0, or NaN for a step that is to be skipped."""
        loss.backward(gradient_of(loss, taint, 1 / self.accumulation))

    def step(self) -> Tensor:
        """One optimizer step; returns the norm of the gradient of the global batch, before clipping.

        Where that norm is not finite, which is so on all ranks alike, the network stays as it is.
        """
        norm = self._clip()
        if self._skip_unless_finite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _clip(self) -> Tensor:
        """Clip the gradients; returns their norm before."""
        parameters = [p for p in self._trained if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        return norm

    def _skip_unless_finite(self, norm: Tensor) -> bool:
        """Whether the optimizer is to be called. On a GPU always: its kernels look at the flag, the program does not.

        With the flag set, torch's fused kernels change neither parameters nor moments nor the count of steps, whatever
        the weight decay.
        """
        if not norm.is_cuda:
            return bool(norm.isfinite())
        flag = torch.empty_like(norm, dtype=torch.float32)
        self.optimizer.found_inf = torch.ne(norm * 0, 0, out=flag)  # type: ignore[attr-defined]
        return True

    def save_buffers(self) -> None:
        """Save running statistics and spectral-norm vectors for `restore_buffers`."""
        self._moving.save()

    def restore_buffers(self, where: Tensor | None = None) -> None:
        """Restore what was saved. where: a flag on the device that decides; None: always."""
        self._moving.restore(where)

    def average_running_statistics(self) -> None:
        """After a step, where each rank normalises by its local part: the same running statistics on all."""

    def replicas(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters and buffers that must be the same on all ranks, with their names."""
        yield from self.module.state_dict().items()

    def inference_module(self) -> Network:
        """The network for passes that a rank makes alone, any number of them; all ranks ask for it together."""
        return self.module

    def state_dict(self) -> dict[str, Any]:
        """Network and optimizer in torch's layout, whichever engine made them; all ranks ask for it together.

        Complete on rank 0; on the others the optimizer's part may be missing.
        """
        return {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state of any engine; before the first pass."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))


class DDPLearner(Learner[Network]):
    """On several ranks, each with the whole network: gradients are averaged while the backward pass runs."""

    def __init__(
        self,
        module: Network,
        optimizer: torch.optim.Optimizer,
        ranks: Ranks,
        *,
        sync_batchnorm: bool = True,
        compression: str = "none",
        **options: Any,
    ) -> None:
        """sync_batchnorm: normalise by the global batch. compression: of the gradients that are sent. module, optimizer
        and options: as in `Learner`.
        """
        super().__init__(module, optimizer, **options)
        self._ranks, self._sync_batchnorm = ranks, sync_batchnorm
        if sync_batchnorm and ranks.world_size > 1:
            synchronise(module, ranks)
        # Buffers are equal on all ranks from the start and stay so (global statistics): no broadcast in each pass. All
        # passes use all parameters: no search for unused ones.
        # No `device_ids` either: the module is on its device, and with them a pass without arguments fails.
        # Those of convolutions that compute channels last are copied there, which torch warns of.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        # Gradients live in the buckets that are sent: no copies there and back.
        self._wrapped = DistributedDataParallel(
            _Network(module), broadcast_buffers=False, gradient_as_bucket_view=True, bucket_cap_mb=BUCKET_MIB
        )
        self._gradient_bytes = size(p for p in module.parameters() if p.requires_grad)
        if compression == "bf16":
            self._wrapped.register_comm_hook(None, default_hooks.bf16_compress_hook)
            self._gradient_bytes //= 2
        else:  # divides a bucket by the number of ranks, not each gradient by itself
            self._wrapped._register_builtin_comm_hook(dist.BuiltinCommHookType.ALLREDUCE)
        # DDP times some of its passes, and waits for the device to do so.
        self._wrapped._set_ddp_runtime_logging_sample_rate(2**31 - 1)
        self._passes = 0
        self._settle_buckets()

    def __call__(self, *args: Any) -> Any:
        self._passes += 1
        if self._passes < self.accumulation:
            with self._wrapped.no_sync():  # decides at the forward pass whether the backward pass reduces
                return self._wrapped(*args)
        return self._wrapped(*args)

    def _settle_buckets(self) -> None:
        """Have DDP arrange its buckets now, in the order of the parameters.

        After its first backward pass DDP rearranges them by the order in which gradients came. A gradient's position
        decides in which order three or more ranks are summed. So the first step after a start would be rounded
        differently from the same step of an uninterrupted run, and the order could depend on which losses were used.
        """
        self._wrapped().backward()
        self.optimizer.zero_grad(set_to_none=True)

    def step(self) -> Tensor:
        self._passes = 0
        self._ranks.traffic.all_reduce("gradients", self._gradient_bytes)
        return super().step()

    def average_running_statistics(self) -> None:
        if not self._sync_batchnorm and self._ranks.world_size > 1:
            average_running_statistics(self.module, self._ranks)


class _Network(nn.Module):
    """A network as DDP calls it; without arguments, a sum over all that is trained."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *args: Any) -> Any:
        if args:
            return self.network(*args)
        return torch.stack([p.sum() for p in self.network.parameters() if p.requires_grad]).sum()
