"""From the plan of a mix to its arrays.

Shape letters: M mixtures per mix, O objects per mixture, L samples, S side of the object pictures in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .clips import BadClip, ClipStore
from .plan import Plan, PlannedClip


@dataclass(frozen=True)
class Mix:
    """One training sample."""

    mix: np.ndarray  # (L,) float32, sum of the mixtures
    mixtures: np.ndarray  # (M, L) float32, each the mean of its O solos
    objects: np.ndarray  # (M, O, 3, S, S) uint8
    clips: tuple[PlannedClip, ...]  # M * O, as they were used: a clip that took another's place is here
    keys: tuple[str, ...]  # of the clips
    bad: dict[str, str]  # clips that had to be replaced: key -> one line with shard and reason


def make_mix(plan: Plan, store: ClipStore, lane: int, draw: int) -> Mix:
    """Prepare one sample. A clip that cannot be used gives way to the plan's next choice.

    Raises ValueError when a shard cannot be read or no clip is left to choose.
    """
    data, audio = plan.data, plan.audio
    store.move_window(lane, plan.window_clips(lane, draw).tolist())
    planned = list(plan.mix(lane, draw).clips)
    clips = plan.manifest.clips
    solos = np.empty((len(planned), audio.num_samples), dtype=np.float32)
    objects = np.empty((len(planned), 3, data.image_crop, data.image_crop), dtype=np.uint8)
    bad: dict[str, str] = {}
    for place in range(len(planned)):
        try:
            solos[place], objects[place] = _solo(plan, store, planned[place])
        except BadClip as error:
            bad[clips[planned[place].clip].key] = str(error)
            taken = {clips[other.clip].instrument for other in planned[:place] + planned[place + 1 :]}
            for alternate in plan.alternates(lane, draw, place, taken):
                try:
                    solos[place], objects[place] = _solo(plan, store, alternate)
                except BadClip as next_error:
                    bad[clips[alternate.clip].key] = str(next_error)
                    continue
                planned[place] = alternate
                break
            else:
                raise ValueError(
                    f"{error}; none of the clips that could take its place can be used either: "
                    "run 'ialcms data verify --fix'"
                ) from error
    mixtures = solos.reshape(data.num_mix, data.num_objects, -1).mean(axis=1, dtype=np.float32)
    return Mix(
        mix=mixtures.sum(axis=0, dtype=np.float32),
        mixtures=mixtures,
        objects=objects.reshape(data.num_mix, data.num_objects, *objects.shape[1:]),
        clips=tuple(planned),
        keys=tuple(clips[clip.clip].key for clip in planned),
        bad=bad,
    )


def _solo(plan: Plan, store: ClipStore, planned: PlannedClip) -> tuple[np.ndarray, np.ndarray]:
    """Window (L,) float32 with its gain, clipped to [-1, 1], and picture (3, S, S) uint8."""
    clip = store.get(planned.clip)
    wave = clip.window(planned.start, plan.audio.num_samples)
    wave *= np.float32(planned.gain)
    data = plan.data
    picture = clip.picture(planned.row, data.image_resize, data.image_crop, planned.top, planned.left)
    if planned.flip:
        picture = picture[:, ::-1]
    return np.clip(wave, -1.0, 1.0, out=wave), picture.transpose(2, 0, 1)
