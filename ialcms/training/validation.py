"""Validation during training: a fixed list of mixes of held-out solos, one window each, over all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from ialcms.config import Config
from ialcms.data.evaluation_mixes import EvaluationItem, EvaluationMix, list_mixes, load_mix, share
from ialcms.data.manifest import Manifest
from ialcms.data.object_pictures import BadClip
from ialcms.engine import Ranks
from ialcms.evaluation.bss_eval import score_mix_fast
from ialcms.evaluation.metrics import MixScores, Scores, mean_scores
from ialcms.evaluation.windows import MixSeparator
from ialcms.models import Separator
from ialcms.monitoring.visuals import View, view_mix


@dataclass(frozen=True)
class ValidationResult:
    num_mixes: int
    means: Scores  # in dB over all scored sources; {} where none was
    per_instrument: dict[str, Scores]
    problems: tuple[str, ...]  # one line for each mix that could not be scored

    def scalars(self) -> dict[str, float]:
        """Figures by their names in the log: validation/SDR, validation_by_instrument/SDR/violin, ..."""
        values = {f"validation/{name}": value for name, value in self.means.items()}
        values["validation/unscored_mixes"] = float(len(self.problems))
        for instrument, scores in self.per_instrument.items():
            values |= {f"validation_by_instrument/{name}/{instrument}": value for name, value in scores.items()}
        return values

    def __str__(self) -> str:
        figures = "  ".join(f"{name} {value:.2f}" for name, value in self.means.items())
        unscored = f"; {len(self.problems)} could not be scored: " + "; ".join(self.problems) if self.problems else ""
        return f"{figures or 'nothing'} dB over {self.num_mixes - len(self.problems)} mixes{unscored}"


class Validation:
    """Every mix is scored exactly once, whatever the number of ranks."""

    def __init__(self, config: Config, manifest: Manifest, ranks: Ranks) -> None:
        self._config, self._manifest, self._ranks = config, manifest, ranks
        self._mixes = list_mixes(
            manifest,
            "val",
            config.eval.num_sources,
            config.eval.validation_draws,
            config.eval.seed,
            config.audio.num_samples / config.audio.sample_rate,
            config.data.instruments,
        )

    def run(self, separator: Separator) -> ValidationResult:
        """Score the list; on every rank the same result."""
        with _evaluating(separator):
            own = [
                (mix.index, *self._score(separator, mix))
                for mix in share(self._mixes, self._ranks.rank, self._ranks.world_size)
            ]
        every = sorted((r for part in self._ranks.gather_objects(own) for r in part), key=lambda result: result[0])
        by_instrument: dict[str, list[Scores]] = {}
        for _, instruments, _, scored in every:
            for name, scores in zip(instruments, scored.sources):
                by_instrument.setdefault(name, []).append(scores)
        means = {name: mean_scores(scores) for name, scores in sorted(by_instrument.items())}
        return ValidationResult(
            len(every),
            mean_scores(scores for _, _, _, scored in every for scores in scored.sources),
            {name: scores for name, scores in means.items() if scores},
            tuple(f"{' + '.join(keys)}: {scored.problem}" for _, _, keys, scored in every if scored.problem),
        )

    def views(self, separator: Separator, count: int = 2) -> list[View]:
        """Sounds, masks and localisation of some mixes of the list, always the same ones.

        In the place of a mix whose clips cannot be used stands the next one that can.
        """
        places = np.unique(np.linspace(0, len(self._mixes) - 1, count).round().astype(int)).tolist()
        with _evaluating(separator):
            return [
                view_mix(separator, item, self._config.audio.sample_rate, self._ranks.device)
                for place, end in zip(places, [*places[1:], len(self._mixes)])
                if (item := self._first_usable(self._mixes[place:end])) is not None
            ]

    def _first_usable(self, mixes: Iterable[EvaluationMix]) -> EvaluationItem | None:
        for mix in mixes:
            try:
                return self._load(mix)
            except BadClip:
                continue  # run() says which one and why
        return None

    def _load(self, mix: EvaluationMix) -> EvaluationItem:
        return load_mix(self._manifest, mix, self._config.data, self._config.audio.num_samples)

    def _score(self, separator: Separator, mix: EvaluationMix) -> tuple[tuple[str, ...], tuple[str, ...], MixScores]:
        device = self._ranks.device
        try:
            item = self._load(mix)
        except BadClip as error:
            clips = [self._manifest.clips[index] for index in mix.clips]
            unscored = MixScores(tuple({} for _ in clips), str(error))
            return tuple(clip.instrument for clip in clips), tuple(clip.key for clip in clips), unscored
        sources = torch.as_tensor(item.sources).to(device)
        pictures = torch.as_tensor(item.pictures).to(device)
        separate = MixSeparator(separator, self._config, hop=self._config.audio.num_samples)
        (separated,) = separate(sources.sum(0), pictures)
        return item.instruments, item.keys, score_mix_fast(sources, separated.estimates)


@contextmanager
def _evaluating(separator: Separator) -> Iterator[None]:
    training = separator.training
    separator.eval()
    try:
        yield
    finally:
        separator.train(training)
