"""Examples of a comparison: the same mix as every run separates it, sound beside sound."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ialcms.evaluation.compared_runs import ComparedRun, config_of, hear_mixes
from ialcms.evaluation.metrics import METRICS, mean_scores
from ialcms.evaluation.page import mix_title
from ialcms.evaluation.reopened import Heard
from ialcms.evaluation.results import MixResult, choose_extremes
from ialcms.report.content import REASONS, Example, Scores, Source
from ialcms.report.figures import instrument_label

_FEWEST = 3  # one of each kind


@dataclass(frozen=True)
class ComparedExamples:
    examples: tuple[Example, ...]
    sample_rate: int


@dataclass(frozen=True)
class _Chosen:
    """A mix to listen to."""

    why: str
    results: tuple[MixResult, ...]  # of each run
    gain: float


def gain_name(runs: Sequence[ComparedRun]) -> str:
    """By which examples are chosen."""
    return "gain of B over A in SDRi" if len(runs) == 2 else "mean gain of the others over A in SDRi"


def compared_examples(runs: Sequence[ComparedRun], overrides: Sequence[str] = ()) -> ComparedExamples:
    """Mixes by every run: those with the largest and the smallest gain over the first run, and random ones.

    They are `eval.examples` of all runs together, at least three mixes where it allows them, so that the page is as
    large as that of one run.

    runs: two or more. overrides: of the runs' configurations. ValueError where a run can no longer separate the mixes
    that it was evaluated on.
    """
    configs = [config_of(run, overrides) for run in runs]
    options = configs[0].eval
    count = min(options.examples, max(_FEWEST, options.examples // len(runs)))
    chosen = _choose(runs, count, options.seed)
    indices = [each.results[0].index for each in chosen]
    heard = [hear_mixes(run, config, indices) for run, config in zip(runs, configs)]
    examples = []
    for each in chosen:
        of_mix = [of_run[each.results[0].index] for of_run in heard]
        examples.append(_example(runs, each, of_mix))
    return ComparedExamples(tuple(examples), configs[0].audio.sample_rate)


def _choose(runs: Sequence[ComparedRun], count: int, seed: int) -> list[_Chosen]:
    """One of each kind after the other, so that a page that holds few of them has all kinds."""
    mixes = list(zip(*(run.figures.results for run in runs)))
    gains = [_gain(results) for results in mixes]
    of_kind: dict[str, list[_Chosen]] = {why: [] for why in REASONS}
    for why, index in choose_extremes(gains, count, seed):
        of_kind[why].append(_Chosen(why, mixes[index], gains[index]))
    rounds = itertools.zip_longest(*of_kind.values())
    return [chosen for chosen in itertools.chain.from_iterable(rounds) if chosen is not None]


def _gain(results: Sequence[MixResult]) -> float:
    """Mean SDRi of the other runs less that of the first, in dB."""
    first, *others = (mean_scores(result.scores.sources)["SDRi"] for result in results)
    return float(np.mean(others)) - first


def _example(runs: Sequence[ComparedRun], chosen: _Chosen, heard: Sequence[Heard]) -> Example:
    """heard: the mix as each run separates it."""
    item = heard[0].item
    sources = tuple(_source(runs, chosen, heard, index=index) for index in range(len(item.keys)))
    return Example(
        title=mix_title(item.instruments),
        why=chosen.why,
        mix=item.sources.sum(0),
        sources=sources,
        label=f"mix {item.mix.index}",
        gain=chosen.gain,
    )


def _source(runs: Sequence[ComparedRun], chosen: _Chosen, heard: Sequence[Heard], index: int) -> Source:
    """The source `index` of a mix as each run separates it, by the published protocol and by the best."""
    item = heard[0].item
    estimates, scores = {}, {}
    for run, result, of_run in zip(runs, chosen.results, heard):
        names = (run.label, f"{run.label}, best protocol")
        for name, separated, of_protocol in zip(names, of_run.separated, (result.scores.sources, result.scores.best)):
            estimates[name] = separated.estimates[index].numpy()
            if of_protocol:
                scores[name] = _in_order(of_protocol[index])
    maps = {run.label: of_run.separated[0].localisation[index].numpy() for run, of_run in zip(runs, heard)}
    return Source(
        instrument=instrument_label(item.instruments[index]),
        clip=item.keys[index],
        picture=item.pictures[index, 0].transpose(1, 2, 0),
        localisations=maps,
        reference=item.sources[index],
        estimates=estimates,
        estimate_scores=scores,
    )


def _in_order(scores: Mapping[str, float]) -> Scores:
    return {name: scores.get(name) for name in METRICS}
