"""How far a run's separation lies below what its spectrograms allow, on the mixes of its evaluation.

    python -m benchmarks.ceiling runs/demo
    python -m benchmarks.ceiling runs/demo --draws 2 --out benchmarks/results/ceiling.txt
    python -m benchmarks.ceiling runs/demo --small      # six mixes at most: does it work?

Ideal masks know the sources; they are laid over the mix's spectrogram, of the network's resolution:
the ratio mask |s_k| / sum_j |s_j|, and the Wiener filter |s_k|^2 / sum_j |s_j|^2 (Wang and Chen 2018, "Supervised
speech separation based on deep learning"). `mixture` is the mix itself as every estimate. Scores are BSS Eval v3.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ialcms.config import Config
from ialcms.data.clip_reader import BadClip
from ialcms.data.evaluation_mixes import EvaluationMix, list_mixes
from ialcms.data.manifest import Manifest
from ialcms.data.remote import open_manifest
from ialcms.evaluation.bootstrap import mean_intervals
from ialcms.evaluation.bss_eval import score_mix_fast
from ialcms.evaluation.masking import wiener_masks
from ialcms.evaluation.metrics import METRICS, Scores, mean_scores
from ialcms.evaluation.scoring import SeparatedMixes, protocols_of
from ialcms.models.spectrogram import Spectrogram
from ialcms.runs.run_folder import RunFolder
from ialcms.runs.separators import load_separator

_SMALL_MIXES = 6
_Groups = dict[str, list[Sequence[Scores]]]  # by method, of each mix the scores of its sources


@dataclass(frozen=True)
class Ceiling:
    """Scores of a run and of ideal masks on the same mixes."""

    num_mixes: int
    scores: Mapping[str, Sequence[Sequence[Scores]]]  # by method, of each mix the scores of its sources

    def __str__(self) -> str:
        lines = [f"{'dB':<28}" + "".join(f"{name:>8}" for name in METRICS) + "   SDR, 95% interval"]
        for method, groups in self.scores.items():
            means = mean_scores(source for group in groups for source in group)
            intervals = mean_intervals(groups, "ceiling", method)
            limits = "{:.2f} to {:.2f}".format(*intervals["SDR"]) if intervals else "-"
            lines.append(f"{method:<28}" + "".join(f"{means[name]:8.2f}" for name in METRICS) + f"   {limits}")
        return "\n".join(lines)


def measure(run: RunFolder, config: Config, mixes: Sequence[EvaluationMix], manifest: Manifest) -> Ceiling:
    """Score the mixes by every method; those that one of them cannot score count for none.

    run: whose separator is measured, with its config. manifest: of the shards that have the mixes.
    """
    loaded = load_separator(run.path, torch.device("cpu"), config)
    separated = SeparatedMixes(loaded.separator, manifest, config)
    front = loaded.separator.spectrogram
    names = ["the model, published", "the model, eval.protocol"][: len(protocols_of(config))]
    scores: _Groups = {}
    for mix in tqdm(mixes, unit="mix", desc="ceiling"):
        try:
            item = separated.load(mix)
        except BadClip:
            continue
        sources = torch.as_tensor(item.sources)
        estimates = dict(_without_a_model(sources, front))
        estimates |= zip(names, (one.estimates for one in separated.separate(item)))
        scored = {name: score_mix_fast(sources, estimate) for name, estimate in estimates.items()}
        if any(one.problem for one in scored.values()):
            continue
        for name, one in scored.items():
            scores.setdefault(name, []).append(one.sources)
    if not scores:
        raise ValueError("none of the mixes can be scored; look at the evaluation's list of what was not scored")
    return Ceiling(len(next(iter(scores.values()))), scores)


def ideal_ratio_masks(magnitudes: Tensor) -> Tensor:
    """(M, Fq, T) -> the same shape: each source's share of the sum of all magnitudes."""
    return wiener_masks(magnitudes, 1.0)


def ideal_wiener_masks(magnitudes: Tensor) -> Tensor:
    """(M, Fq, T) -> the same shape: each source's share of the sum of all powers."""
    return wiener_masks(magnitudes, 2.0)


def _without_a_model(sources: Tensor, front: Spectrogram) -> Iterator[tuple[str, Tensor]]:
    """Estimates (M, S) of sources (M, S) by what knows them, or knows nothing."""
    mix = sources.sum(0)
    yield "mixture", mix.expand_as(sources)
    methods: dict[str, Callable[[Tensor], Tensor]] = {
        "ideal ratio mask": ideal_ratio_masks,
        "ideal Wiener filter": ideal_wiener_masks,
    }
    magnitudes, spectrum = front.stft(sources).abs(), front.stft(mix)
    for name, masks in methods.items():
        yield name, front.istft(masks(magnitudes) * spectrum, len(mix))


def main(arguments: Sequence[str] | None = None) -> int:
    """Score a run and the ideal masks, and print the table."""
    parser = argparse.ArgumentParser(description="A run's separation beside ideal masks.")
    parser.add_argument("run", type=Path, help="folder of a run, whose best checkpoint is taken")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="like eval.num_sources=3")
    parser.add_argument("--draws", type=int, help="mixes of each combination of instruments (default: eval.draws)")
    parser.add_argument("--small", action="store_true", help=f"{_SMALL_MIXES} mixes at most")
    parser.add_argument("--out", type=Path, help="file for the table")
    args = parser.parse_args(arguments)
    run = RunFolder(args.run)
    config = run.read_config(args.overrides)
    manifest, options = open_manifest(config.data.shards), config.eval
    mixes = list_mixes(
        manifest,
        options.split,
        options.num_sources,
        draws=args.draws or options.draws,
        seed=options.seed,
        seconds=options.seconds,
        instruments=config.data.instruments,
    )
    ceiling = measure(run, config, mixes[:_SMALL_MIXES] if args.small else mixes, manifest=manifest)
    what = f"{ceiling.num_mixes} mixes of {options.num_sources} sources, split {options.split}, {options.seconds:g} s"
    text = f"{what}\n{ceiling}"
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
