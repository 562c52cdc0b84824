"""Recipes side by side: each is trained with several seeds on one data set and scored on the same test mixes.

    python -m benchmarks.recipes --work runs/recipes --data data/demo --seeds 0 1 2 --out table.md \\
        --recipe baseline demo \\
        --recipe average demo train.ema_decay=0.98 \\
        --recipe best demo_best

A recipe is a name, a configuration (a file, or the name of one of the program's own) and overrides. The first one is
the baseline: it also says which mixes are scored and how (its `eval` section). --data is a folder that `ialcms demo`
has filled (shards/ and backbone.pt). Runs lie in WORK/<name>/seed-<n>. What is finished is not done again, what was
interrupted is resumed; a recipe that has changed since its run is refused.

The tables go to --out and to standard output. The difference of a recipe from the baseline is that of their means over
seeds and mixes. Its 95 % interval is of 2,000 resamples of mixes (the same ones for both recipes) and of seeds (of each
recipe separately): with one seed it says nothing about seeds, with three it is rough. Mixes of the same videos depend
on each other, which the interval does not account for.

--small runs two recipes of tiny networks on a tiny data set, as a check of this program.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ialcms.config import Config, binding_fields, flatten, load_config, to_dict
from ialcms.demo.dataset import make_dataset
from ialcms.evaluation.metrics import Scores
from ialcms.evaluation.result_files import is_evaluation, read_results
from ialcms.evaluation.results import MixResult
from ialcms.files import write_whole
from ialcms.rng import keyed_generator
from ialcms.runs import checkpoint
from ialcms.runs.run_folder import RunFolder
from ialcms.runs.separators import find_checkpoint
from launch import local
from shards.datasets import load_dataset
from shards.encode import EncodeOptions
from shards.entries import read_index
from shards.pack import PackOptions, pack

METRICS = ("SDR", "SIR", "SAR")
PROTOCOLS = {"published": "as published", "best": "by the best protocol (`eval.protocol`)"}
RESAMPLES, LEVEL = 2_000, 0.95
SECONDS = "train_seconds.json"

SMALL = [
    "audio.num_samples=16383", "audio.log_bins=64", "data.image_resize=36", "data.image_crop=32",
    "model.visual.width=4", "model.visual.weights=none", "model.visual.aspp_channels=8",
    "model.visual.low_level_channels=4", "model.visual.channels=16", "model.unet.width=4", "model.critic.width=4",
    "loss.bank_size=24", "train.global_batch=4", "train.steps=2", "train.validate_every=2", "train.visualise_every=0",
    "eval.draws=1", "eval.seconds=3", "eval.hop=16383", "eval.examples=0", "eval.protocol.pictures=2",
]  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """A configuration with overrides, under a name for the table."""

    name: str
    config: str
    overrides: tuple[str, ...] = ()

    @classmethod
    def of(cls, words: Sequence[str]) -> Recipe:
        """NAME CONFIG [key=value ...]; ValueError for anything else."""
        if len(words) < 2 or "=" in words[1] or Path(words[0]).name != words[0]:
            raise ValueError(f"'{' '.join(words)}' is no recipe; give a name, a configuration and overrides")
        return cls(words[0], words[1], tuple(words[2:]))


@dataclass(frozen=True)
class Scored:
    """A recipe's scores of the mixes that all runs scored, by protocol and metric: (seeds, mixes), in dB."""

    recipe: Recipe
    scores: dict[str, dict[str, np.ndarray]]
    minutes: float  # of a training, mean over seeds


@dataclass(frozen=True)
class Difference:
    """Of two recipes, in dB: the mean and its 95% interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is not trained yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--data", type=Path, help="folder with shards/ and backbone.pt, as `ialcms demo` makes it")
    parser.add_argument("--recipe", nargs="+", action="append", default=[], metavar="NAME CONFIG [key=value]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ranks", type=int, default=1, help="of this machine, for training and evaluation")
    parser.add_argument("--out", type=Path, help="file of the tables, in Markdown")
    parser.add_argument("--small", action="store_true", help="a check: tiny networks and data, two recipes of its own")
    args = parser.parse_args(arguments)
    try:
        recipes = [Recipe.of(words) for words in args.recipe]
        common: list[str] = []
        if args.small:
            common = [f"data.shards={make_small_data(args.work / 'data')}", *SMALL]
            recipes = [Recipe("baseline", "demo"), Recipe("average", "demo", ("train.ema_decay=0.5",))]
        elif args.data is not None:
            common = [f"data.shards={args.data / 'shards'}", f"model.visual.weights={args.data / 'backbone.pt'}"]
        if not recipes or len({recipe.name for recipe in recipes}) < len(recipes):
            raise ValueError("give at least one --recipe NAME CONFIG, each by a name of its own")
        tables = run(recipes, args.seeds, args.work, common=common, ranks=args.ranks)
    except ValueError as error:
        print(f"recipes: error: {error}", file=sys.stderr)
        return 2
    if args.out is not None:
        write_whole(args.out, tables)
    print(tables, end="")
    return 0


def run(recipes: Sequence[Recipe], seeds: Sequence[int], work: Path, *, common: Sequence[str], ranks: int) -> str:
    """Train and evaluate what is missing, one after the other; returns the tables.

    recipes: the first is the baseline; work: folder of the runs; common: overrides of all recipes, before their own.
    ValueError for faults in the input, and where a training or an evaluation fails.
    """
    configs = {
        (recipe.name, seed): load_config(recipe.config, [*common, *recipe.overrides, f"seed={seed}"])
        for recipe in recipes
        for seed in seeds
    }
    scoring = flatten({"eval": to_dict(configs[recipes[0].name, seeds[0]])["eval"]})
    evaluation = [f"{name}={json.dumps(value)}" for name, value in scoring.items()]
    folders: dict[tuple[str, int], RunFolder] = {}
    for recipe in recipes:
        for seed in seeds:
            folder = RunFolder(work / recipe.name / f"seed-{seed}")
            folders[recipe.name, seed] = folder
            overrides = [*common, *recipe.overrides, f"seed={seed}", f"name={recipe.name}-{seed}"]
            _train(folder, configs[recipe.name, seed], [recipe.config, *overrides], ranks=ranks)
            _evaluate(folder, evaluation, ranks)
    results = {key: read_results(_results(folder, evaluation))[1] for key, folder in folders.items()}
    usable = _scored_everywhere(list(results.values()))
    scored = []
    for recipe in recipes:
        of_seeds = []
        for seed in seeds:
            of_seed = results[recipe.name, seed]
            of_seeds.append([of_seed[mix] for mix in usable])
        minutes = [_minutes(folders[recipe.name, seed]) for seed in seeds]
        scored.append(Scored(recipe, _arrays(of_seeds), float(np.mean(minutes))))
    num_mixes = len(next(iter(results.values())))
    return tables(scored, seeds, f"{len(usable)} of {num_mixes} mixes, {ranks} rank{'s' if ranks > 1 else ''}")


def _train(folder: RunFolder, config: Config, arguments: list[str], ranks: int) -> None:
    """Train or resume a run; nothing where it has finished.

    folder: of the run. config: that it must have. arguments: of `ialcms train`. ranks: number of processes.
    """
    if folder.config.is_file():
        found = folder.read_config()
        ours, theirs = (binding_fields(c) | {"train.steps": c.train.steps} for c in (config, found))
        changed = sorted(name for name in ours if ours[name] != theirs.get(name))
        if changed:
            raise ValueError(
                f"{folder.path} is of a recipe with another {changed[0]}; give the recipe another name, or give "
                "another --work"
            )
    if folder.finished.is_file():
        _say(f"{folder.path}: trained")
        return
    _say(f"{folder.path}: training")
    began = time.monotonic()
    if local.run(["train", *arguments, "--folder", str(folder.path)], ranks):
        raise ValueError(f"the training in {folder.path} failed; see above")
    if not folder.finished.is_file():
        raise ValueError(f"the training in {folder.path} was stopped; start again to resume it")
    write_whole(folder.path / SECONDS, json.dumps(time.monotonic() - began) + "\n")


def _evaluate(folder: RunFolder, evaluation: list[str], ranks: int) -> None:
    """Score a run's best checkpoint; nothing where that is done."""
    out, best = _results(folder, evaluation), find_checkpoint(folder.path)
    config = folder.read_config(evaluation)
    wanted = {
        "state_sha256": checkpoint.read_meta(best)["state_sha256"],
        "seconds": config.eval.seconds,
        "hop": config.eval.hop,
        "protocol": asdict(config.eval.protocol),
    }
    if is_evaluation(out):
        about, _ = read_results(out)
        if {name: about.get(name) for name in wanted} == wanted:
            _say(f"{folder.path}: scored")
            return
    _say(f"{folder.path}: scoring")
    if local.run(["evaluate", str(folder.path), *evaluation], ranks):
        raise ValueError(f"the evaluation of {folder.path} failed; see above")


def _results(folder: RunFolder, evaluation: Sequence[str]) -> Path:
    return folder.evaluation_of(folder.read_config(evaluation))


def _minutes(folder: RunFolder) -> float:
    """That the training took; NaN where nobody measured it. Of a resumed run, that of its last part."""
    path = folder.path / SECONDS
    return json.loads(path.read_text()) / 60 if path.is_file() else float("nan")


def _scored_everywhere(runs: Sequence[Sequence[MixResult]]) -> list[int]:
    """Indices of the mixes that all runs scored by both protocols. ValueError where their mixes differ."""

    def identity(results: Sequence[MixResult]) -> list[tuple[Any, ...]]:
        return [(mix.keys, mix.boxes, mix.starts) for mix in results]

    def is_scored(mixes: Sequence[MixResult]) -> bool:
        return all(mix.scores.best and not mix.scores.problem for mix in mixes)

    if any(identity(results) != identity(runs[0]) for results in runs[1:]):
        raise ValueError("the runs were scored on different mixes; give another --work")
    usable = [index for index, mixes in enumerate(zip(*runs)) if is_scored(mixes)]
    if not usable:
        raise ValueError("no mix could be scored in all runs")
    return usable


def _arrays(of_seeds: Sequence[Sequence[MixResult]]) -> dict[str, dict[str, np.ndarray]]:
    """By protocol and metric: (seeds, mixes), a mix being the mean over its sources."""

    def mean(sources: Sequence[Scores], metric: str) -> float:
        return float(np.mean([source[metric] for source in sources]))

    def means(attribute: str, metric: str) -> np.ndarray:
        rows = []
        for mixes in of_seeds:
            rows.append([mean(getattr(mix.scores, attribute), metric) for mix in mixes])
        return np.array(rows)

    arrays: dict[str, dict[str, np.ndarray]] = {}
    for protocol, attribute in (("published", "sources"), ("best", "best")):
        arrays[protocol] = {metric: means(attribute, metric) for metric in METRICS}
    return arrays


def difference(ours: np.ndarray, baseline: np.ndarray) -> Difference:
    """Mean of ours less that of the baseline, both (seeds, mixes), with the interval of the module's docstring."""
    rng = keyed_generator("recipes", ours.shape[0], baseline.shape[0], ours.shape[1])
    num_mixes = ours.shape[1]
    drawn = rng.integers(num_mixes, size=(RESAMPLES, num_mixes))
    means = []
    for scores in (ours, baseline):
        seeds = rng.integers(len(scores), size=(RESAMPLES, len(scores)))
        of_seeds = scores[:, drawn].mean(axis=2)  # (seeds, RESAMPLES)
        means.append(np.take_along_axis(of_seeds.T, seeds, axis=1).mean(axis=1))
    low, high = np.quantile(means[0] - means[1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(float(ours.mean() - baseline.mean()), float(low), float(high))


def tables(scored: Sequence[Scored], seeds: Sequence[int], about: str) -> str:
    """A table for each protocol, in Markdown."""
    lines = [f"Seeds {', '.join(map(str, seeds))}; {about}. In dB; differences with 95 % intervals.", ""]
    for protocol, title in PROTOCOLS.items():
        lines += [
            f"Scored {title}:",
            "",
            "| recipe | SDR | SIR | SAR | SDR of each seed | SDR less the baseline's | minutes of training |",
            "|---|---|---|---|---|---|---|",
        ]
        for one in scored:
            scores = one.scores[protocol]
            means = [f"{scores[metric].mean():.2f}" for metric in METRICS]
            of_seeds = ", ".join(f"{value:.2f}" for value in scores["SDR"].mean(axis=1))
            gain = "" if one is scored[0] else str(difference(scores["SDR"], scored[0].scores[protocol]["SDR"]))
            lines.append(f"| {' | '.join([one.recipe.name, *means, of_seeds, gain, f'{one.minutes:.1f}'])} |")
        lines.append("")
    lines += ["Recipes:", ""]
    for one in scored:
        lines.append(f"* {one.recipe.name}: `{' '.join([one.recipe.config, *one.recipe.overrides])}`")
    return "\n".join(lines) + "\n"


def make_small_data(folder: Path) -> Path:
    """Shards of five instruments with three videos each; made once."""
    shards = folder / "shards"
    if not (shards / "manifest.json").is_file():
        instruments = ("violin", "flute", "tuba", "xylophone", "accordion")
        make_dataset(folder / "tree", 3, 1, jobs=1, instruments=instruments, show_progress=False)
        pack(
            read_index(folder / "tree"), shards, PackOptions(EncodeOptions(dataset=load_dataset("demo")), 16.0), jobs=1
        )
    return shards


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
