"""Starting a run with weights that exist: a run, a checkpoint, an export, or the published names."""

from __future__ import annotations

from pathlib import Path

from ialcms.runs import checkpoint
from ialcms.runs.separators import find_checkpoint
from ialcms.runs.weights_file import fill_from_state, fill_networks
from ialcms.training.step import Experiment


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
        return str(fill_from_state(checkpoint.load_state(folder), folder, separator, critic=critic))
    return str(fill_networks(source, separator, critic))
