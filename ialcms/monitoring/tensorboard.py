"""A run's TensorBoard: one writer, one curve over restarts, pages that open on what matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tensorboard.plugins.hparams import plugin_data_pb2
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from ialcms.config import Config, flatten, to_dict
from ialcms.monitoring.visuals import View
from ialcms.names import printable

BEST_SCORE = "best/SDR"

SCORE_GAP = "critic/score_gap"

# Pages and charts of the "Custom Scalars" tab: a name is a tag, a list holds regular expressions of tags. TensorBoard
# colours by run, so a chart of the first two pages has one curve of each run.
_LAYOUT: dict[str, dict[str, str | list[str]]] = {
    "Is it learning?": {
        "Validation SDR (dB)": "validation/SDR",
        "Validation: gain of SDR over the mix (dB)": "validation/SDRi",
        "Separation loss (negative SI-SNR, dB)": "loss/separation",
        "Critic: scores of independent less dependent pairs": SCORE_GAP,
        "Validation: gain of SIR over the mix (dB)": "validation/SIRi",
        "Validation SAR (dB)": "validation/SAR",
    },
    "Losses": {
        "Separator": ["loss/separator$"],
        "Critic": ["loss/critic$"],
        "Consistency": ["loss/consistency$"],
        "Consistency, weighted": ["weighted_loss/consistency$"],
        "Independence": ["loss/independence$"],
        "Independence, weighted": ["weighted_loss/independence$"],
    },
    "Health": {
        "Gradient norms": ["gradient_norm/.*"],
        "Learning rates": ["learning_rate/.*"],
        "Weights of the losses": ["lambda/.*"],
        "Mixes a second": ["speed/mixes_per_second$"],
        "Step time (s), and what slowest and fastest rank take of it": [
            "speed/((slowest|fastest)_rank_)?step_seconds$",
        ],
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


# What the HParams page shows first: it lists settings that differ between runs before the others, and cuts the list.
_FIRST_SETTINGS = frozenset({
    "optim.lr_audio", "optim.lr_visual", "optim.lr_critic", "loss.lambda_ind", "loss.lambda_avc", "train.global_batch",
    "train.steps",
})  # fmt: skip


class Curves:
    """Writes events; a resumed run purges what an earlier start wrote after its first step."""

    def __init__(self, folder: Path, config: Config, first_step: int) -> None:
        """first_step: finished steps at the start; points at that very step stay."""
        self._sample_rate = config.audio.sample_rate
        self._writer = SummaryWriter(str(folder), purge_step=first_step + 1)
        pages = {page: _charts(charts) for page, charts in _LAYOUT.items()}
        self._writer.add_custom_scalars(pages)
        text = yaml.safe_dump(to_dict(config), sort_keys=False)
        indented = "".join(f"    {line}\n" for line in text.splitlines())  # Markdown for "as it is"
        self._writer.add_text("configuration", indented, first_step)
        experiment, start, self._end = hparams(_settings(config), {BEST_SCORE: 0.0})
        _put_first(experiment)
        # SummaryWriter.add_hparams would open a second writer, in a run of its own.
        self._add_summaries(experiment, start)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars after `step` finished steps."""
        for name, value in values.items():
            self._writer.add_scalar(printable(name), value, step)

    def views(self, step: int, views: Sequence[View]) -> None:
        """Pictures and sounds; the sounds of a mix share one gain, so that their levels compare."""
        # here: matplotlib takes most of a second to import, on every rank and at every start; one rank draws, later
        from ialcms.monitoring.drawing import draw_view

        for number, view in enumerate(views, start=1):
            title = printable(f"{number}: {' + '.join(view.names)}")
            self._writer.add_image(f"mixes/{title}", draw_view(view), step, dataformats="HWC")
            peak = max(float(np.abs(wave).max()) for wave in view.waves.values())
            for name, wave in view.waves.items():
                tag = printable(f"{title}/{name}")
                self._writer.add_audio(tag, wave / max(peak, 1.0), step, sample_rate=self._sample_rate)

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


def _charts(charts: Mapping[str, str | list[str]]) -> dict[str, list[Any]]:
    """The charts of a page: of one tag, all of whose points are seen, or of all tags that match.

    The range of a chart leaves the largest and the smallest twentieth of the values out: of a few validations, mostly
    the last. A chart with a margin counts value, lower and upper end, here all the same, and so has every value thrice.
    TensorBoard (2.21) shows those in the reverse order.
    """
    margins = {title: ["Margin", [tag] * 3] for title, tag in reversed(list(charts.items())) if isinstance(tag, str)}
    lines = {title: ["Multiline", tags] for title, tags in charts.items() if not isinstance(tags, str)}
    return {**margins, **lines}


def _settings(config: Config) -> dict[str, Any]:
    """The configuration as TensorBoard takes it: flat, numbers or text."""
    flat = flatten(to_dict(config))
    return {name: value if isinstance(value, (int, float)) else printable(str(value)) for name, value in flat.items()}


def _put_first(experiment: Any) -> None:
    """Mark the first settings in a summary of the HParams page as those that differ."""
    data = experiment.value[0].metadata.plugin_data
    content = plugin_data_pb2.HParamsPluginData.FromString(data.content)
    for setting in content.experiment.hparam_infos:
        setting.differs = setting.name in _FIRST_SETTINGS
    data.content = content.SerializeToString()
