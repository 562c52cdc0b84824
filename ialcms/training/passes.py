"""What a training step calls, as the configuration and the machine allow: the networks' passes as they are or compiled
(`train.compile`), the step as it is or recorded (`train.cuda_graphs`), which all compute the same up to rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ialcms.config import Config
from ialcms.engine import Learner, Ranks
from ialcms.models import Critic, Separator
from ialcms.training.recording import CudaGraphs, StepRecordings

log = logging.getLogger(__name__)

Call = Callable[..., Any]
BACKEND = "inductor"


@dataclass(frozen=True)
class Forms:
    """Which of the faster forms are used here."""

    compiles: bool
    records: bool


def choose_forms(config: Config, ranks: Ranks) -> Forms:
    """Those that are asked for, where they are possible; a warning for each that is not."""
    train = config.train
    wanted = {"train.compile": train.compile, "train.cuda_graphs": train.cuda_graphs}
    reasons = {"train.compile": _reason_not_to_compile(config, ranks)}
    reasons["train.cuda_graphs"] = _reason_not_to_record(config, ranks)
    for name, reason in reasons.items():
        if wanted[name] and reason is not None and ranks.is_first:
            log.warning("%s is left out: %s", name, reason)
    compiles, records = (wanted[name] and reasons[name] is None for name in reasons)
    return Forms(compiles, records)


def _reason_not_to_compile(config: Config, ranks: Ranks) -> str | None:
    alone = not ranks.distributed and config.train.engine in ("auto", "single")
    return None if alone else "it needs a single rank without a launcher"


def _reason_not_to_record(config: Config, ranks: Ranks) -> str | None:
    train = config.train
    if train.engine == "deepspeed":
        return "they need train.engine=ddp or a single rank"  # its optimizers look at what is on the device
    if ranks.device.type != "cuda":
        return "they need a GPU"
    if train.accumulation > 1:
        return "they need train.accumulation=1"
    if train.gradient_compression != "none":
        return "they need train.gradient_compression=none"
    return None


def recordings(forms: Forms, ranks: Ranks) -> StepRecordings | None:
    """Make it before the networks; None where steps run as they are."""
    if not forms.records:
        return None
    graphs = CudaGraphs(ranks.device)
    ranks.before_end(graphs.close)
    return StepRecordings(graphs, ranks)


class Passes:
    """Of the networks: each takes what the network's `forward` takes."""

    def __init__(self, separator: Learner[Separator], critic: Learner[Critic] | None, forms: Forms) -> None:
        """separator, critic: learners; critic: None where there is none."""
        # Where it does not learn, the plain module runs: no graph, and no gradient reduction waits for a backward.
        self.separate: Call = separator.module
        self.separate_to_learn: Call = separator
        self.score: Call | None = critic.module if critic is not None else None
        self.score_to_learn: Call | None = critic
        if forms.compiles:
            self.separate = self.separate_to_learn = _Compiled(separator)
            if critic is not None:
                self.score = self.score_to_learn = _Compiled(critic)


class _Compiled:
    """A network's passes in training; validation, with other shapes, passes the module itself."""

    def __init__(self, learner: Learner[Any]) -> None:
        self._learner = learner
        self._call: Call | None = None

    def __call__(self, *args: Any) -> Any:
        if self._call is None:
            self._build_constants(args)
            self._call = torch.compile(self._learner.module, fullgraph=True, dynamic=False, backend=BACKEND)
        return self._call(*args)

    def _build_constants(self, args: tuple[Any, ...]) -> None:
        """By a plain pass that leaves no trace: see `models/constants.py`."""
        device = next(self._learner.module.parameters()).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            self._learner.module(*args)
        self._learner.restore_buffers()  # they were saved when the step began, and this is their first pass
