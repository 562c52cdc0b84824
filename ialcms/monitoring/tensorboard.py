"""A run's TensorBoard: one writer, one curve over restarts, pages that open on what matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from ialcms.config import Config, flatten, to_dict
from ialcms.monitoring.visuals import View, draw_view
from ialcms.names import printable

BEST_SCORE = "best/SDR"

# Pages and charts of the "Custom Scalars" tab; the tags are regular expressions.
_LAYOUT = {
    "Is it learning?": {
        "Validation SDR and its best (dB)": ["validation/SDR$", "best/SDR$"],
        "Validation: gain over the mix, SDR and SIR (dB)": ["validation/(SDRi|SIRi)$"],
        "Separation loss (negative SI-SNR, dB)": ["loss/separation$"],
        "Critic's scores of independent and dependent pairs": ["critic/(independent|dependent)_score$"],
        "Validation SIR (dB)": ["validation/SIR$"],
        "Validation SAR (dB)": ["validation/SAR$"],
    },
    "Losses": {
        "Separator": ["loss/separator$"],
        "Critic": ["loss/critic$"],
        "Consistency and independence": ["loss/(consistency|independence)$"],
        "The same, weighted": ["weighted_loss/.*"],
        "Weights": ["lambda/.*"],
    },
    "Health": {
        "Gradient norms": ["gradient_norm/.*"],
        "Learning rates": ["learning_rate/.*"],
        "Mixes a second": ["speed/mixes_per_second$"],
        "Step time (s), and what the slowest rank takes of it": ["speed/(step_seconds|slowest_rank_step_seconds)$"],
        "Rank of the slowest rank": ["speed/slowest_rank$"],
        "Share of time waiting for data, mean and longest": ["speed/(longest_)?share_waiting_for_data$"],
        "Share of time waiting for other ranks": ["speed/share_waiting_for_ranks$"],
        "Peak memory (GB)": ["memory/.*"],
        "Sent by each rank per step (MB)": ["sent_mb/.*"],
    },
    "Instruments": {
        "Validation SDR (dB)": ["validation_by_instrument/SDR/.*"],
        "Validation SDR gain (dB)": ["validation_by_instrument/SDRi/.*"],
        "Validation SIR (dB)": ["validation_by_instrument/SIR/.*"],
    },
}


class Curves:
    """Writes events; a run that goes on purges what an earlier start wrote behind its first step."""

    def __init__(self, folder: Path, config: Config, first_step: int) -> None:
        """first_step: finished steps at the start; points at that very step stay."""
        self._sample_rate = config.audio.sample_rate
        self._writer = SummaryWriter(str(folder), purge_step=first_step + 1)
        pages = {
            page: {title: ["Multiline", tags] for title, tags in charts.items()} for page, charts in _LAYOUT.items()
        }
        self._writer.add_custom_scalars(pages)
        text = yaml.safe_dump(to_dict(config), sort_keys=False)
        indented = "".join(f"    {line}\n" for line in text.splitlines())  # Markdown for "as it is"
        self._writer.add_text("configuration", indented, first_step)
        values = {name: value if isinstance(value, (int, float, bool)) else printable(str(value))
                  for name, value in flatten(to_dict(config)).items()}  # fmt: skip
        experiment, start, self._end = hparams(values, {BEST_SCORE: 0.0})
        # SummaryWriter.add_hparams would open a second writer, in a run of its own.
        self._add_summaries(experiment, start)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(printable(name), value, step)

    def views(self, step: int, views: Sequence[View]) -> None:
        """Pictures and sounds; the sounds of a mix share one gain, so that their levels compare."""
        for number, view in enumerate(views, start=1):
            title = printable(f"{number}: {' + '.join(view.names)}")
            self._writer.add_image(f"mixes/{title}", draw_view(view), step, dataformats="HWC")
            peak = max(float(np.abs(wave).max()) for wave in view.waves.values())
            for name, wave in view.waves.items():
                self._writer.add_audio(printable(f"{title}/{name}"), wave / max(peak, 1.0), step, self._sample_rate)

    def flush(self) -> None:
        self._writer.flush()

    def finish(self) -> None:
        """Mark the run as complete among others."""
        self._add_summaries(self._end)

    def _add_summaries(self, *summaries: Any) -> None:
        assert self._writer.file_writer is not None
        for summary in summaries:
            self._writer.file_writer.add_summary(summary)

    def close(self) -> None:
        self._writer.close()
