"""Validation during training: a fixed list of mixes of held-out solos, one window each, over all ranks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from ialcms.config import PUBLISHED, Config
from ialcms.data.evaluation_mixes import EvaluationItem, EvaluationMix, list_mixes, share
from ialcms.data.manifest import Manifest
from ialcms.data.object_pictures import BadClip
from ialcms.engine import Ranks
from ialcms.evaluation.bss_eval import score_mix_fast
from ialcms.evaluation.metrics import MixScores, Scores, mean_scores
from ialcms.evaluation.scoring import SeparatedMixes
from ialcms.models import Separator
from ialcms.monitoring.visuals import View, view_mix
from ialcms.training.schedule import validation_interval

# Without a number in the configuration a validation has at most a tenth of the mixes that were trained since the last
# one, but always this many: then it takes a small part of the time, whatever the machine and the data.
_SHARE, _LEAST_MIXES = 0.1, 50


@dataclass(frozen=True)
class ScoredMix:
    """The scores of one mix of the list."""

    index: int  # in the whole list
    instruments: tuple[str, ...]
    keys: tuple[str, ...]  # of the clips
    scores: MixScores


@dataclass(frozen=True)
class ValidationResult:
    """The scores of a validation, the same on all ranks."""

    num_mixes: int
    means: Scores  # in dB over all scored sources; {} where none was
    per_instrument: dict[str, Scores]
    problems: tuple[str, ...]  # one line for each mix that could not be scored

    @classmethod
    def of(cls, mixes: Sequence[ScoredMix]) -> ValidationResult:
        """Means over scored mixes, which are sorted by index."""
        by_instrument: dict[str, list[Scores]] = {}
        for mix in mixes:
            for name, scores in zip(mix.instruments, mix.scores.sources):
                by_instrument.setdefault(name, []).append(scores)
        means = {name: mean_scores(scores) for name, scores in sorted(by_instrument.items())}
        sources = itertools.chain.from_iterable(mix.scores.sources for mix in mixes)
        return cls(
            num_mixes=len(mixes),
            means=mean_scores(sources),
            per_instrument={name: scores for name, scores in means.items() if scores},
            problems=tuple(f"{' + '.join(mix.keys)}: {mix.scores.problem}" for mix in mixes if mix.scores.problem),
        )

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


def _never() -> bool:
    return False


def _unseen(done: int, total: int) -> None:
    pass


class Validation:
    """Every mix is scored exactly once, whatever the number of ranks."""

    def __init__(self, config: Config, manifest: Manifest, ranks: Ranks) -> None:
        """ValueError where the validation split has too few instruments for a mix."""
        self._config, self._manifest, self._ranks = config, manifest, ranks
        mixes = list_mixes(
            manifest,
            "val",
            num_sources=config.eval.num_sources,
            draws=config.eval.validation_draws,
            seed=config.eval.seed,
            seconds=config.audio.num_samples / config.audio.sample_rate,
            instruments=config.data.instruments,
        )
        self._mixes = _spread(mixes, most_mixes(config, manifest))

    @property
    def num_mixes(self) -> int:
        return len(self._mixes)

    def run(
        self,
        separator: Separator,
        is_stopped: Callable[[], bool] = _never,
        show: Callable[[int, int], None] = _unseen,
    ) -> ValidationResult | None:
        """Score the list; on every rank the same result, or None where it was broken off.

        All ranks call `is_stopped` together, before each mix, and it answers the same on all of them.
        show: is called with the number of mixes that are scored, of all ranks, and their total.
        """
        local_mixes = share(self._mixes, self._ranks.rank, self._ranks.world_size)
        rounds = -(-len(self._mixes) // self._ranks.world_size)  # rank 0 has a mix in each of them
        local: list[ScoredMix] = []
        with _evaluating(separator):
            separated = self._separated(separator)
            for number in range(rounds):
                show(number * self._ranks.world_size, len(self._mixes))
                if is_stopped():
                    return None
                local += [self._score(separated, mix) for mix in local_mixes[number : number + 1]]
        gathered = itertools.chain.from_iterable(self._ranks.gather_objects(local))
        return ValidationResult.of(sorted(gathered, key=lambda scored: scored.index))

    def views(self, separator: Separator, count: int = 2) -> list[View]:
        """Sounds, masks and localisation of some mixes of the list, always the same ones.

        A mix whose clips cannot be used is replaced by the next one that can.
        """
        starts = np.unique(np.linspace(0, len(self._mixes) - 1, count).round().astype(int)).tolist()
        with _evaluating(separator):
            mixes = self._separated(separator)
            slices = [self._mixes[start:end] for start, end in itertools.pairwise([*starts, None])]
            items = [_first_usable(mixes, some) for some in slices]
            return [
                view_mix(separator, item, self._config.audio.sample_rate, device=self._ranks.device)
                for item in items
                if item is not None
            ]

    def _separated(self, separator: Separator) -> SeparatedMixes:
        """One window a mix, by the published protocol: scores compare between runs, whatever `eval.protocol` is."""
        seconds = self._config.audio.num_samples / self._config.audio.sample_rate
        return SeparatedMixes(
            separator,
            self._manifest,
            self._config,
            seconds=seconds,
            hop=self._config.audio.num_samples,
            protocols=(PUBLISHED,),
        )

    def _score(self, separated: SeparatedMixes, mix: EvaluationMix) -> ScoredMix:
        try:
            item = separated.load(mix)
        except BadClip as error:
            clips = [self._manifest.clips[index] for index in mix.clips]
            return ScoredMix(
                mix.index,
                tuple(clip.instrument for clip in clips),
                tuple(clip.key for clip in clips),
                scores=MixScores(tuple({} for _ in clips), str(error)),
            )
        (by_published,) = separated.separate(item)
        scores = score_mix_fast(torch.as_tensor(item.sources).to(separated.device), by_published.estimates)
        return ScoredMix(mix.index, item.instruments, item.keys, scores=scores)


def most_mixes(config: Config, manifest: Manifest) -> int:
    """The largest number of mixes in a validation: `eval.validation_mixes`, or by what is trained between two."""
    trained = validation_interval(config, manifest) * config.train.global_batch
    return config.eval.validation_mixes or max(_LEAST_MIXES, round(_SHARE * trained))


def _first_usable(separated: SeparatedMixes, mixes: Iterable[EvaluationMix]) -> EvaluationItem | None:
    for mix in mixes:
        try:
            return separated.load(mix)
        except BadClip:
            continue  # Validation.run says which one and why
    return None


def _spread(mixes: list[EvaluationMix], most: int) -> list[EvaluationMix]:
    """At most so many of a list, evenly spread over it."""
    if len(mixes) <= most:
        return mixes
    return [mixes[index * len(mixes) // most] for index in range(most)]


@contextmanager
def _evaluating(separator: Separator) -> Iterator[None]:
    training = separator.training
    separator.eval()
    try:
        yield
    finally:
        separator.train(training)
