"""Validation during training: a fixed list of mixes of held-out solos, one window each, over all workers."""

from __future__ import annotations

import torch

from ialcms.config import Config
from ialcms.data.evaluation_sets import list_mixes, load_mix, share
from ialcms.data.manifest import Manifest
from ialcms.engine import Workers
from ialcms.metrics import MixScores, mean_scores, score_mix
from ialcms.models import Separator
from ialcms.separation import separate_recording


class Validation:
    """Every mix is scored exactly once, whatever the number of workers."""

    def __init__(self, config: Config, manifest: Manifest, workers: Workers) -> None:
        self._config, self._manifest, self._workers = config, manifest, workers
        self._seconds = config.audio.num_samples / config.audio.sample_rate
        self._mixes = list_mixes(
            manifest,
            "val",
            config.eval.num_mix,
            config.eval.validation_draws,
            config.eval.seed,
            self._seconds,
            config.data.instruments,
        )

    def run(self, separator: Separator) -> dict[str, float]:
        """Mean SDR, SIR, SAR, SDRi, SIRi in dB over the sources that could be scored, and how many mixes could not."""
        training = separator.training
        separator.eval()
        own = [self._score(separator, mix) for mix in share(self._mixes, self._workers.rank, self._workers.world_size)]
        separator.train(training)
        every = [result for results in self._workers.gather_objects(own) for result in results]
        scores: dict[str, float] = dict(mean_scores([source for result in every for source in result.sources]))
        scores["unscored_mixes"] = float(sum(bool(result.problem) for result in every))
        return scores

    def describe(self, scores: dict[str, float]) -> str:
        figures = "  ".join(f"{name} {value:.2f}" for name, value in scores.items() if name != "unscored_mixes")
        unscored = int(scores["unscored_mixes"])
        return f"{figures or 'nothing'} dB over {len(self._mixes) - unscored} mixes" + (
            f", {unscored} could not be scored" if unscored else ""
        )

    def _score(self, separator: Separator, mix: object) -> MixScores:
        item = load_mix(self._manifest, mix, self._config.data, self._config.audio.num_samples)  # type: ignore[arg-type]
        device = self._workers.device
        sources = torch.as_tensor(item.sources)
        separated = separate_recording(
            separator,
            sources.sum(0).to(device),
            torch.as_tensor(item.pictures).to(device),
            self._config,
            self._config.audio.num_samples,
        )
        return score_mix(sources.numpy(), separated.estimates.cpu().numpy())
