"""How far two runs of `program.alternate_steps` are apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.support.states import tensors

Run = dict[str, Any]

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", ".u", ".v")


def largest_difference(ours: Tensor, reference: Tensor) -> float:
    """Relative to the largest value; absolute below 0.01, where an offset without effect may have walked."""
    ours, reference = ours.double(), reference.double()
    return float((ours - reference).abs().max() / reference.abs().max().clamp(min=1e-2))


def largest_in_state(ours: Run, reference: Run) -> tuple[float, str]:
    """The largest difference of networks, optimizers and outputs, and where it is; not the 16 bits of the bank."""
    parts = [({part: run[part] for part in ("state", "functions")}) for run in (ours, reference)]
    compared, expected = (dict(tensors(part)) for part in parts)
    assert compared.keys() == expected.keys()
    return max((largest_difference(compared[n], expected[n]), n) for n in compared if n != "state.bank.slots")


def bank_difference(ours: Run, reference: Run) -> float:
    return largest_difference(ours["state"]["bank"]["slots"], reference["state"]["bank"]["slots"])


def loss_difference(ours: Run, reference: Run) -> float:
    """The largest of any step and term; the separation loss, in dB, is of the order of 1."""
    assert [losses.keys() for losses in ours["losses"]] == [losses.keys() for losses in reference["losses"]]
    pairs = zip(ours["losses"], reference["losses"])
    return max(abs(a[name] - b[name]) for a, b in pairs for name in a if not name.startswith("gradient_norm"))


def norm_difference(ours: Run, reference: Run) -> float:
    """The largest relative one of a gradient's norm."""
    pairs = zip(ours["losses"], reference["losses"])
    return max(abs(a[name] / b[name] - 1) for a, b in pairs for name in a if name.startswith("gradient_norm"))


def output_difference(ours: Run, reference: Run) -> float:
    return max(largest_difference(ours["functions"][name], reference["functions"][name]) for name in ours["functions"])


def way_difference(ours: Run, reference: Run, network: str) -> float:
    """Distance of the ends in units of the way from the start, of a network's parameters."""
    end, expected, start = (_parameters(state, network) for state in (ours["state"], reference["state"], ours["start"]))
    return _distance(end, expected) / _distance(expected, start)


def _parameters(state: Run, network: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors(state[network]["module"]) if not name.endswith(_BUFFERS)}


def _distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return float(torch.stack([(a[name] - b[name]).square().sum() for name in a]).sum().sqrt())
