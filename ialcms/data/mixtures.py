"""From the plan of a mix to its arrays.

Shape letters: M mixtures per mix, O objects per mixture, L samples, S side of the object pictures in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ialcms.data.batch import objects_shape
from ialcms.data.clip_store import ClipStore
from ialcms.data.object_pictures import BadClip
from ialcms.data.plan import Plan, PlannedClip


@dataclass(frozen=True)
class MixArrays:
    """Where a training sample is written to."""

    mix: np.ndarray  # (L,) float32, sum of the mixtures
    mixtures: np.ndarray  # (M, L) float32, each the mean of its O solos
    objects: np.ndarray  # of `objects_shape`, uint8


@dataclass(frozen=True)
class MadeOf:
    """What a training sample was made of."""

    clips: tuple[PlannedClip, ...]  # M * O, as they were used: after replacements
    keys: tuple[str, ...]  # of the clips
    bad: dict[str, str]  # clips that had to be replaced: key -> one line with shard and reason


def empty_arrays(plan: Plan) -> MixArrays:
    """Fresh memory for one sample of the plan."""
    data = plan.data
    return MixArrays(
        np.empty(plan.audio.num_samples, dtype=np.float32),
        np.empty((data.num_mixtures, plan.audio.num_samples), dtype=np.float32),
        np.empty(objects_shape(data), dtype=np.uint8),
    )


def make_mix(plan: Plan, store: ClipStore, lane: int, draw: int, out: MixArrays) -> MadeOf:
    """Prepare one sample. A clip that cannot be used gives way to the plan's next choice.

    Raises ValueError when a shard cannot be read or no clip is left to choose.

    store: decoded clips of the lane. draw: number of the sample in its `lane`. out: arrays that it is written to.
    """
    store.move_window(lane, plan.window_clips(lane, draw).tolist())
    planned = list(plan.mix(lane, draw).clips)
    clips = plan.manifest.clips
    solos = np.empty((*out.objects.shape[:2], plan.audio.num_samples), dtype=np.float32)
    slots = list(np.ndindex(*out.objects.shape[:2]))  # (mixture, object)
    bad: dict[str, str] = {}
    for number, slot in enumerate(slots):
        try:
            _solo(plan, store, lane, planned=planned[number], wave=solos[slot], pictures=out.objects[slot])
        except BadClip as error:
            bad[clips[planned[number].clip].key] = str(error)
            taken = {clips[other.clip].instrument for other in planned[:number] + planned[number + 1 :]}
            for alternate in plan.alternates(lane, draw, number, taken=taken):
                try:
                    _solo(plan, store, lane, planned=alternate, wave=solos[slot], pictures=out.objects[slot])
                except BadClip as next_error:
                    bad[clips[alternate.clip].key] = str(next_error)
                    continue
                planned[number] = alternate
                break
            else:
                raise ValueError(
                    f"{error}; no clip that could replace it can be used either: run 'ialcms data verify --fix'"
                ) from error
    np.mean(solos, axis=1, dtype=np.float32, out=out.mixtures)
    np.sum(out.mixtures, axis=0, dtype=np.float32, out=out.mix)
    return MadeOf(tuple(planned), tuple(clips[clip.clip].key for clip in planned), bad)


def _solo(
    plan: Plan, store: ClipStore, lane: int, planned: PlannedClip, wave: np.ndarray, pictures: np.ndarray
) -> None:
    """Write window (L,) float32 with its gain, clipped to [-1, 1], and pictures ([P,] 3, S, S) uint8.

    plan, store, lane: as in `make_mix`. planned: clip, window, crop and gain. wave, pictures: arrays that get the
    result.
    """
    cached = store.get(lane, planned.clip, planned.rows)
    side = plan.data.image_crop
    for row, picture in zip((planned.row, *planned.other_rows), pictures.reshape(-1, 3, side, side)):
        crop = cached.picture(row)[:, planned.top : planned.top + side, planned.left : planned.left + side]
        picture[...] = crop[:, :, ::-1] if planned.flip else crop
    wave[:] = cached.clip.window(planned.start, plan.audio.num_samples)
    wave *= np.float32(planned.gain)
    np.clip(wave, -1.0, 1.0, out=wave)
