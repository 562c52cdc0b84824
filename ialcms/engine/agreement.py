"""Do all ranks have the same networks? Checked to the bit, by messages whose size does not grow with the ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ialcms.engine.ranks import Ranks

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check_same_fields(ranks: Ranks, fields: Mapping[str, Any]) -> None:
    """ValueError, on all ranks, when a field of the configuration is another on one of them. All ranks call it.

    Also fields that change no step must be equal: with another `train.validate_every` a rank waits for what the
    others do not send.
    """
    if bool(_equal(ranks, _digest(sorted(fields.items())))):
        return
    first, *others = ranks.gather_objects(dict(fields))
    for rank, other in enumerate(others, start=1):
        for name in sorted(first.keys() | other.keys()):
            if first.get(name) != other.get(name):
                raise ValueError(
                    f"{name} is {other.get(name)} on rank {rank} and {first.get(name)} on rank 0; "
                    "start all ranks with the same configuration"
                )


def check_agreement(ranks: Ranks, step: int, digest: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """ValueError, on all ranks, when step, configuration digest or a tensor differs between ranks.

    All ranks call it. tensors: names and values that must be the same everywhere.
    """
    if ranks.world_size == 1:
        return
    named = dict(tensors)
    head = (step, digest, sorted(named))
    if not bool(_equal(ranks, _digest(head))):
        _report_head(ranks.gather_objects(head))
    sums = torch.stack([_checksum(named[name]).to(ranks.device) for name in sorted(named)])
    if bool(_equal(ranks, sums).all()):
        return
    gathered = ranks.gather(sums.unsqueeze(0))
    differs = gathered != gathered[:1]
    rank, column = differs.nonzero()[0].tolist()
    count = int(differs.any(dim=0).sum())
    raise ValueError(
        f"before step {step}, {sorted(named)[column]} of rank {rank} differs from rank 0's, as do "
        f"{count - 1} other tensors; start again from the checkpoint, and if it comes back, look at that rank's "
        "memory and at what differs between the machines"
    )


def _report_head(heads: list[tuple[int, str, list[str]]]) -> None:
    """ValueError with the first difference of step, configuration and names; there is one."""
    first_step, first_digest, first_names = heads[0]
    for rank, (other_step, other_digest, names) in enumerate(heads):
        for what, first, other in (("step", first_step, other_step), ("configuration", first_digest, other_digest)):
            if first != other:
                raise ValueError(
                    f"rank {rank} is at {what} {other}, rank 0 at {first}; "
                    "start all ranks with the same configuration and the same checkpoints"
                )
        if names != first_names:
            odd = sorted(set(names) ^ set(first_names))[0]
            raise ValueError(f"rank {rank} and rank 0 do not both have {odd}; start all with the same program")


def _equal(ranks: Ranks, values: Tensor) -> Tensor:
    """For each of some int64 numbers, whether all ranks have the same."""
    # The complement is largest where the number is smallest.
    largest, complement = ranks.largest(torch.stack([values, ~values]).to(ranks.device))
    return largest == ~complement


def _digest(value: object) -> Tensor:
    digest = hashlib.blake2b(repr(value).encode(), digest_size=8).digest()
    return torch.tensor(int.from_bytes(digest, "little", signed=True))


def _checksum(tensor: Tensor) -> Tensor:
    """The sum of a tensor's bits, taken as whole numbers: exact, whatever the order of summation."""
    return tensor.detach().contiguous().view(_INTEGERS[tensor.element_size()]).sum(dtype=torch.int64)
