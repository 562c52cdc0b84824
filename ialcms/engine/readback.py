"""Numbers that are read from the device without making the program wait.

On a GPU they are copied into page-locked memory in the background and read later, mostly one step later. On a CPU they
can be read at once.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Readback:
    """A copy of a small tensor's present values on its way to the host."""

    def __init__(self, values: Tensor) -> None:
        values = values.detach()
        self._event: torch.cuda.Event | None = None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._values = values.clone()

    def tolist(self) -> list[float]:
        """The values of a vector; waits for the copy if it is not there yet."""
        if self._event is not None and not self._event.query():
            self._event.synchronize()
        self._event = None
        return self._values.tolist()  # type: ignore[no-any-return]


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device; a GPU copies it in the background."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
