"""What a forward pass changes in a network: running statistics and spectral-norm vectors, end to end in one tensor.

So one copy saves them and one restores them where a step is skipped, instead of one for each of some 200 buffers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_ALIGNMENT_BYTES = 256  # as torch's own allocator aligns tensors; cuDNN relies on it


class MovingState:
    """The moving buffers of a module, which become views of one tensor for each type of number.

    Make it when the module is on its device, and before anything else holds its buffers.
    """

    def __init__(self, module: nn.Module) -> None:
        by_type: dict[torch.dtype, list[_Buffer]] = {}
        for buffer in _moving_buffers(module):
            by_type.setdefault(buffer.tensor.dtype, []).append(buffer)
        self._now = [_joined(buffers) for buffers in by_type.values()]
        self._saved = [torch.empty_like(tensor) for tensor in self._now]

    def save(self) -> None:
        """Save the present state for `restore`."""
        for saved, now in zip(self._saved, self._now):
            saved.copy_(now)

    def restore(self, where: Tensor | None = None) -> None:
        """Restore what was saved. where: a flag on the device that decides; None: always."""
        for saved, now in zip(self._saved, self._now):
            now.copy_(saved if where is None else torch.where(where, saved, now))


@dataclass(frozen=True)
class _Buffer:
    owner: nn.Module
    name: str  # in its owner
    tensor: Tensor


def _moving_buffers(module: nn.Module) -> Iterator[_Buffer]:
    for owner in module.modules():
        is_frozen = isinstance(owner, _BatchNorm) and not any(p.requires_grad for p in owner.parameters())
        for name, buffer in owner.named_buffers(recurse=False):
            is_constant = name in owner._non_persistent_buffers_set
            if not is_frozen and not is_constant:
                yield _Buffer(owner, name, buffer)


def _joined(buffers: list[_Buffer]) -> Tensor:
    """The buffers end to end, each beginning where the kernels of GPUs may read it in blocks."""
    first = buffers[0].tensor
    unit = _ALIGNMENT_BYTES // first.element_size()
    starts, end = [], 0
    for buffer in buffers:
        starts.append(end)
        end += -(-buffer.tensor.numel() // unit) * unit
    together = first.new_zeros(end)
    for start, buffer in zip(starts, buffers):
        part = together[start : start + buffer.tensor.numel()].view(buffer.tensor.shape)
        part.copy_(buffer.tensor)
        # `data` has a separate count of changes; with a shared one autograd would take a change of one for one of all
        buffer.owner._buffers[buffer.name] = part.data
    return together
