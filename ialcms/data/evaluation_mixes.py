"""Fixed lists of mixes for validation and test: every combination of instruments, drawn once and for all.

Shape letters: M sources per mix, S samples.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ialcms.config import Config, DataConfig
from ialcms.data.clip_reader import read_clip
from ialcms.data.manifest import Manifest
from ialcms.data.selection import require_instruments, select_clips
from ialcms.rng import permutation, uniforms

T = TypeVar("T")


@dataclass(frozen=True)
class EvaluationMix:
    """One mix of a fixed list: M clips of different instruments, one object each."""

    index: int  # in the whole list
    clips: tuple[int, ...]  # M indices into manifest.clips
    rows: tuple[int, ...]  # detection of each
    starts: tuple[int, ...]  # first sample of each; 0 for a clip that is not longer than the mix


@dataclass(frozen=True)
class EvaluationItem:
    """A mix with its sounds and pictures decoded."""

    mix: EvaluationMix
    keys: tuple[str, ...]
    instruments: tuple[str, ...]
    sources: np.ndarray  # (M, S) float32; the mix is their sum
    pictures: np.ndarray  # (M, P, 3, crop, crop) uint8, centre crops, not mirrored; the mix's own detection first


def mixes_to_evaluate(manifest: Manifest, config: Config) -> list[EvaluationMix]:
    """The list of `eval`'s split, number of sources, draws, seed and length."""
    options = config.eval
    return list_mixes(
        manifest,
        options.split,
        options.num_sources,
        draws=options.draws,
        seed=options.seed,
        seconds=options.seconds,
        instruments=config.data.instruments,
    )


def list_mixes(  # noqa: PLR0913 - options of a public function
    manifest: Manifest,
    split: str,
    num_sources: int,
    draws: int,
    seed: int,
    seconds: float,
    instruments: Sequence[str] = (),
) -> list[EvaluationMix]:
    """`draws` mixes for every combination of `num_sources` instruments of the split, in the order of their names.

    seconds: length of the mixes; the window of a longer clip starts at random. A combination uses every clip of an
    instrument once before it uses one again. The list depends on nothing but the arguments. Raises ValueError when the
    split has fewer instruments than a mix needs.

    manifest: of the clips. seed: of clips, detections and windows.
    """
    table = manifest.table
    selected = select_clips(manifest, split, instruments)
    names_of_split = table.distinct("instrument", selected)
    require_instruments(
        manifest, split, names_of_split, needed=num_sources, fields="eval.num_sources or data.num_mixtures"
    )
    by_instrument = {name: selected[table.is_any("instrument", [name])[selected]] for name in names_of_split}
    num_samples = round(seconds * manifest.sample_rate)
    mixes: list[EvaluationMix] = []
    for names in itertools.combinations(names_of_split, num_sources):
        key = (seed, "evaluation", split, names)
        orders = [permutation(len(by_instrument[name]), *key, name) for name in names]
        for draw in range(draws):
            clips = [int(by_instrument[name][order[draw % len(order)]]) for name, order in zip(names, orders)]
            numbers = uniforms(2 * num_sources, *key, draw).reshape(2, num_sources)
            rows = [int(u * int(table.numbers["num_boxes"][clip])) for u, clip in zip(numbers[0], clips)]
            starts = [
                int(u * max(int(table.numbers["num_samples"][clip]) - num_samples + 1, 1))
                for u, clip in zip(numbers[1], clips)
            ]
            mixes.append(EvaluationMix(len(mixes), tuple(clips), tuple(rows), starts=tuple(starts)))
    return mixes


def load_mix(
    manifest: Manifest, mix: EvaluationMix, data: DataConfig, num_samples: int, num_pictures: int = 1
) -> EvaluationItem:
    """Read and decode one mix. Raises ValueError for a clip that cannot be used: it is not replaced here.

    num_pictures: P, of each object: the detection of the mix, and others spread evenly over the clip's detections. A
    clip that has fewer gives some of them more than once.

    mix: of the `manifest`. data: for the size of pictures. num_samples: length of the mix.
    """
    offset = (data.image_resize - data.image_crop) // 2
    centre = slice(offset, offset + data.image_crop)
    sources, pictures = [], []
    for index, row, start in zip(mix.clips, mix.rows, mix.starts):
        rows = picture_rows(manifest.clips[index].num_boxes, row, num_pictures)
        clip = read_clip(manifest, index, sorted(set(rows)), samples=(start, num_samples))
        sources.append(clip.window(0, num_samples))
        pictures.append(np.stack([clip.picture(row, data.image_resize)[:, centre, centre] for row in rows]))
    return EvaluationItem(
        mix,
        tuple(manifest.clips[index].key for index in mix.clips),
        tuple(manifest.clips[index].instrument for index in mix.clips),
        sources=np.stack(sources),
        pictures=np.stack(pictures),
    )


def picture_rows(num_boxes: int, row: int, count: int) -> list[int]:
    """`row`, then count - 1 rows spread evenly over a clip's detections, which are in the order of its frames."""
    spread = (np.arange(1, count) - 0.5) / max(count - 1, 1) * num_boxes
    return [row, *spread.astype(int).tolist()]


def share(items: Sequence[T], rank: int, world_size: int) -> list[T]:
    """The items of rank `rank`: together the ranks have every item exactly once, in numbers that differ by one."""
    return list(items[rank::world_size])
