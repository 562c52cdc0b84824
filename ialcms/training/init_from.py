"""Starting a run with weights that exist: of a run or checkpoint of ours, or by the published names."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from ialcms.published import load_into, read_published
from ialcms.runs import checkpoint
from ialcms.runs.run_folder import RunFolder
from ialcms.training.step import Experiment

log = logging.getLogger("ialcms")


def init_from(experiment: Experiment, source: Path) -> str:
    """Fill the networks, not the optimizers, from `source`; returns what was filled, for the log.

    source: a run's folder (its best checkpoint), a checkpoint's folder, or a file with the published names. The
    separator must be whole; a missing critic starts afresh. ValueError when the weights do not fit.
    """
    critic = None if experiment.critic is None else experiment.critic.module
    if source.is_dir():
        folder = source if checkpoint.is_complete(source) else RunFolder(source).best_checkpoint()
        state = checkpoint.load_state(folder)
        _fill(experiment.separator.module, state["separator"]["module"], folder)
        if critic is not None and "critic" in state:
            _fill(critic, state["critic"]["module"], folder)
        return f"networks of {folder}"
    account = load_into(read_published(source), experiment.separator.module, critic)
    absent = [name for name in account.missing if name.startswith("separator.")]
    if absent or account.misshapen:
        raise ValueError(f"{source} does not fit this configuration's separator: {account}")
    return f"{source}: {account}"


def _fill(module: nn.Module, state: dict, source: Path) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise ValueError(f"the networks of {source} do not fit this configuration: {lines[-1].strip()}") from error
