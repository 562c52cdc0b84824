"""What a run shows of itself. `measurements` measures, `console` prints, `records` writes; rank 0 speaks and writes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from torch import Tensor

from ialcms.config import Config
from ialcms.engine import Ranks
from ialcms.monitoring.console import StepLine, set_up_logging
from ialcms.monitoring.measurements import Measurements
from ialcms.monitoring.records import Records, drop_records_after, last_value
from ialcms.monitoring.tensorboard import BEST_SCORE, SCORE_GAP
from ialcms.monitoring.visuals import View
from ialcms.runs.run_folder import RunFolder

log = logging.getLogger(__name__)

SCORE = "validation/SDR"
# Losses on the bar and in the log's lines: name there -> scalar.
_SHOWN = {"sep": "loss/separation", "avc": "loss/consistency", "ind": "loss/independence", "critic": "loss/critic"}


class Monitor:
    """All ranks have one and call it at the same steps."""

    def __init__(
        self, folder: RunFolder, config: Config, ranks: Ranks, first_step: int, *, validates_again: bool = False
    ) -> None:
        """Open log and curves.

        folder: of the run, made already. config, ranks: of the run. first_step: finished steps at the start.
        validates_again: the run was stopped in the validation after that step, which is done again.
        """
        self._ranks, self._log_every = ranks, config.train.log_every
        self._measurements = Measurements(config.train.global_batch, ranks)
        self._records: Records | None = None
        self._score: float | None = None
        self._best: float | None = None
        self._num_steps = 0  # since the last record
        set_up_logging(folder.log, ranks)
        if ranks.is_first:
            rows = drop_records_after(folder.metrics, first_step, validates_again)
            self._score, self._best = last_value(rows, SCORE), last_value(rows, BEST_SCORE)
            self._records = Records(folder, config, first_step)
        self._line = StepLine(config.train.steps, first_step, ranks.is_first)

    def records(self, step: int) -> bool:
        """Whether scalars are recorded after step `step` (0-based)."""
        return (step + 1) % self._log_every == 0

    def step(self, step: int, scalars: Mapping[str, Tensor], values: Mapping[str, float], waited_s: float) -> None:
        """Count a finished step (0-based); every `log_every` steps record the means of all scalars since the last time.

        scalars stay on the device until then, and ranks agree on their means in one exchange. values are the same on
        all ranks and recorded as they are. waited_s: how long this rank waited for its batch.
        """
        self._measurements.count(scalars, waited_s)
        self._num_steps += 1
        self._line.advance(step + 1)
        if not self.records(step):
            return
        measured = self._measurements.take()
        sent = self._ranks.traffic.take()
        sent_mb = {f"sent_mb/{kind}": num_bytes / 1e6 / self._num_steps for kind, num_bytes in sent.items()}
        self._num_steps = 0
        self.record(step + 1, {**measured.means, **_score_gap(measured.means), **values, **measured.speed, **sent_mb})
        losses = [f"{name} {measured.means[tag]:.3f}" for name, tag in _SHOWN.items() if tag in measured.means]
        rate = [f"{measured.speed['speed/mixes_per_second']:.1f} mixes/s"] if measured.speed else []
        self._line.show(step + 1, "  ".join([*rate, *self._scores(), *losses]))

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars after `step` finished steps, to TensorBoard and metrics.jsonl."""
        if self._records is not None:
            self._records.scalars(step, values)

    def show_validation(self, step: int, done: int, total: int) -> None:
        """How far the validation after `step` finished steps is: `done` of `total` mixes."""
        self._line.show_validation(step, done, total)

    def record_validation(self, step: int, scalars: Mapping[str, float], text: str) -> None:
        """Figures of a validation after `step` finished steps; the time that it took is not training."""
        self.record(step, scalars)
        self._score = scalars.get(SCORE)
        log.info("validation after step %d: %s", step, text)
        self.pause()

    def record_best(self, step: int, score: float) -> None:
        """The best validation SDR so far, in dB."""
        self._best = score
        self.record(step, {BEST_SCORE: score})

    def show(self, step: int, views: Sequence[View]) -> None:
        """Pictures and sounds after `step` finished steps."""
        if self._records is not None:
            self._records.views(step, views)
        self.pause()

    def pause(self) -> None:
        """Forget the time since the last record: validation and checkpoints are not training."""
        self._measurements.pause()

    def flush(self, step: int) -> None:
        """Bring all events to the disk: before a checkpoint, so that a run that resumes from it has no gap.

        step: finished steps.
        """
        if self._records is not None:
            self._records.flush(step)

    def finish(self) -> None:
        """Mark the run as complete, where runs are compared."""
        if self._records is not None:
            self._records.finish()

    def close(self) -> None:
        self._line.close()
        if self._records is not None:
            self._records.close()

    def _scores(self) -> list[str]:
        if self._score is None:
            return []
        best = "" if self._best is None or self._best <= self._score else f" (best {self._best:.2f})"
        return [f"SDR {self._score:.2f}{best}"]


def _score_gap(means: Mapping[str, float]) -> dict[str, float]:
    """How far the critic's scores of independent pairs lie above those of dependent ones, where it learned."""
    independent, dependent = means.get("critic/independent_score"), means.get("critic/dependent_score")
    return {} if independent is None or dependent is None else {SCORE_GAP: independent - dependent}
