"""Starting a run with weights that exist: of a run, checkpoint or export of ours, or by the published names."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import nn

from ialcms.published import load_into, read_published, with_usual_prefixes
from ialcms.reading.weights import Weights
from ialcms.runs import checkpoint
from ialcms.runs.separators import find_checkpoint
from ialcms.training.step import Experiment

log = logging.getLogger("ialcms")


def init_from(experiment: Experiment, source: Path) -> str:
    """Fill the networks, not the optimizers, from `source`; returns what was filled and stripped, for the log.

    source: a run's folder (its best checkpoint), a checkpoint's folder, or a file: of 'ialcms export', a checkpoint's
    state.pt, or one with the published names in whatever wrapping (see ialcms/reading/weights.py). The separator must
    be whole; a missing critic starts afresh. ValueError when the weights do not fit.
    """
    separator = experiment.separator.module
    critic = None if experiment.critic is None else experiment.critic.module
    if source.is_dir():
        folder = find_checkpoint(source)
        return _fill_both(separator, critic, checkpoint.load_state(folder), folder)
    weights = read_published(source)
    if isinstance(weights.content, dict) and isinstance(weights.content.get("separator"), dict):
        return _fill_both(separator, critic, weights.content, source)
    own = separator.state_dict()
    for prefix in weights.prefixes_of(list(own))[:1]:
        part = weights.under(prefix)
        _fill(separator, {name: part.state.get(name, value) for name, value in own.items()}, source)
        return f"separator of {source}{_notes(part)}"
    weights = with_usual_prefixes(weights, separator, critic)
    account = load_into(weights.state, separator, critic)
    absent = [name for name in account.missing if name.startswith("separator.")]
    if absent or account.misshapen:
        raise ValueError(f"{source} does not fit this configuration's separator: {account}{_notes(weights)}")
    return f"{source}: {account}{_notes(weights)}"


def _notes(weights: Weights) -> str:
    return f" ({weights})" if weights.notes else ""


def _fill_both(separator: nn.Module, critic: nn.Module | None, state: dict[str, Any], source: Path) -> str:
    """From a state of ours, whose networks lie in a learner's state or by themselves, as in an export."""
    average = state.get(checkpoint.AVERAGE)
    _fill(separator, _network(average if isinstance(average, dict) else state["separator"]), source)
    if critic is not None and isinstance(state.get("critic"), dict):
        _fill(critic, _network(state["critic"]), source)
        return f"networks of {source}"
    return f"separator of {source}" if critic is not None else f"networks of {source}"


def _network(state: dict[str, Any]) -> dict[str, Any]:
    return state["module"] if isinstance(state.get("module"), dict) else state


def _fill(module: nn.Module, state: dict, source: Path) -> None:
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:  # the others of values that are no tensors
        lines = str(error).splitlines()
        raise ValueError(f"the networks of {source} do not fit this configuration: {lines[-1].strip()}") from error
