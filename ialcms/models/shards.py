"""Parameters that an engine keeps in shards: they are whole only while their own layer runs."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def in_shards(parameters: Iterable[Tensor]) -> bool:
    """Whether one of them is managed by DeepSpeed's ZeRO 3, which marks it. Small ones it may keep whole."""
    return any(hasattr(parameter, "ds_status") for parameter in parameters)
