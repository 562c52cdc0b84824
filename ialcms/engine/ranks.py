"""The ranks of a job: who am I, and collectives that are plain no-ops on one rank.

Rank r owns the contiguous lanes [r*G/W, (r+1)*G/W) of the global batch, so what is gathered in rank order is in
lane order.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ialcms.engine.meeting import meet
from ialcms.engine.traffic import Kind, Traffic
from ialcms.engine.waiting import waiting
from ialcms.launched import launched, meeting_point
from ialcms.refusal import SharedRefusal

Value = TypeVar("Value")


_batchnorm_group: dist.ProcessGroup | None = None


def batchnorm_group() -> dist.ProcessGroup | None:
    """The group for BatchNorm's sums; None: that of everything else.

    On GPUs it is a separate one: messages of one group are sent one after the other, and these, which the next layer
    needs, would wait for the gradients, which are needed later.
    """
    return _batchnorm_group


def _set_batchnorm_group(group: dist.ProcessGroup | None) -> None:
    global _batchnorm_group
    _batchnorm_group = group


class Ranks:
    """The process group of a job, started from the launcher's environment; one rank without one.

    Use as a context manager: the group is torn down at the end.
    """

    def __init__(self, timeout_s: float = 1800.0) -> None:
        launch = launched()
        self.rank, self.world_size, self.distributed = launch.rank, launch.world_size, launch.is_launched
        self.traffic = Traffic(self.world_size)
        self._before_end: list[Callable[[], None]] = []
        if launch.local_world_size is not None:
            _check_gpus(launch.local_world_size, has_own_gpu=False)
        store = None
        self.local_rank, self.local_world_size = launch.local_rank or 0, launch.local_world_size or 1
        if self.world_size > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:  # no agent has brought them together
            meeting = meet(launch, *meeting_point(), device=_only_gpu())
            store = meeting.store
            self.local_rank, self.local_world_size = meeting.local_rank, meeting.local_world_size
            _check_gpus(self.local_world_size, has_own_gpu=meeting.has_own_device)
        elif self.distributed and "MASTER_ADDR" not in os.environ:
            store = dist.HashStore()
        self.device = torch.device("cpu")
        if torch.cuda.is_available():
            # where a cluster shows each process its own GPU only, that one is number 0
            self.device = torch.device("cuda", self.local_rank % torch.cuda.device_count())
            torch.cuda.set_device(self.device)
        if self.distributed:
            os.environ.setdefault("LOCAL_RANK", str(self.local_rank))  # DeepSpeed looks for it
            options: dict[str, Any] = {"timeout": datetime.timedelta(seconds=timeout_s)}
            if store is not None:
                options |= {"store": store, "rank": self.rank, "world_size": self.world_size}
            if self.device.type == "cuda":  # with its device NCCL connects now, and a barrier need not guess
                dist.init_process_group("nccl", device_id=self.device, **options)
                _set_batchnorm_group(dist.new_group(timeout=options["timeout"]))
            else:
                dist.init_process_group("gloo", **options)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def reads_late(self) -> bool:
        """Whether what the device says is looked at one step later, so that the program need not wait for it."""
        return self.device.type == "cuda"

    def __enter__(self) -> Ranks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._before_end:
            self._before_end.pop()()
        _set_batchnorm_group(None)
        if dist.is_initialized():
            dist.destroy_process_group()

    def before_end(self, action: Callable[[], None]) -> None:
        """Have something done before the group is torn down, also after an error."""
        self._before_end.append(action)

    def gather(self, x: Tensor, kind: Kind | None = None) -> Tensor:
        """Concatenate along the first axis over all ranks, without gradients: (n, ...) -> (W*n, ...).

        kind: what it is counted as in `traffic`, if at all.
        """
        if self.world_size == 1:
            return x
        if kind is not None:
            self.traffic.all_gather(kind, x.numel() * x.element_size())
        gathered = x.new_empty(self.world_size * len(x), *x.shape[1:])
        with waiting():
            dist.all_gather_into_tensor(gathered, x.detach().contiguous())
        return gathered

    def gather_objects(self, value: Any) -> list[Any]:
        """Plain Python values of all ranks, in rank order."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any, source: int = 0) -> Any:
        """A rank's value, on all ranks."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=source)
        return values[0]

    def from_first(self, action: Callable[[], Value]) -> Value:
        """What `action` returns on rank 0, on all ranks; also its ValueError, so that all stop alike."""
        result, refusal = None, None
        if self.is_first:
            try:
                result = action()
            except ValueError as error:
                refusal = error
        if self.world_size == 1:
            if refusal is not None:
                raise refusal
            return result  # type: ignore[return-value]
        result, reason = self.broadcast((result, None if refusal is None else str(refusal)))
        if reason is not None:
            raise SharedRefusal(reason) from refusal
        return result  # type: ignore[return-value]

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of rank 0."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the ranks of a tensor without gradients."""
        if self.world_size > 1:
            values = values.clone()
            with waiting():
                dist.all_reduce(values)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the ranks of a tensor without gradients."""
        return self.sum(values) / self.world_size

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return self.any_of(flag)[0]

    def any_of(self, *flags: bool) -> list[bool]:
        """`any` of several flags at the price of one."""
        if self.world_size == 1:
            return list(flags)
        values = torch.tensor(flags, dtype=torch.int32, device=self.device)
        return [bool(value) for value in self.largest(values).tolist()]

    def largest(self, values: Tensor) -> Tensor:
        """Maximum over the ranks, in launch."""
        if self.world_size > 1:
            with waiting():
                dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return values

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()


def _only_gpu() -> str:
    """The one GPU that this process sees, '' where there is none or a choice."""
    if not torch.cuda.is_available() or torch.cuda.device_count() != 1:
        return ""
    return str(torch.cuda.get_device_properties(0).uuid)


def _check_gpus(local_world_size: int, has_own_gpu: bool) -> None:
    """has_own_gpu: whether each rank of this machine sees a GPU that no other one sees."""
    if torch.cuda.is_available() and local_world_size > torch.cuda.device_count() and not has_own_gpu:
        raise ValueError(
            f"{local_world_size} ranks were started on a machine with {torch.cuda.device_count()} "
            f"GPU(s), and each needs one of its own; use --nproc_per_node={torch.cuda.device_count()}, or hide "
            "the GPUs with CUDA_VISIBLE_DEVICES= to compute on CPUs"
        )
