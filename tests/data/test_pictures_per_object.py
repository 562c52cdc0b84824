"""Several pictures of an object in a training mix: from the detections that the lane decodes anyway."""

from __future__ import annotations

import itertools

import torch

from ialcms.config import Config
from ialcms.data.batch import Batch, objects_shape
from ialcms.data.manifest import Manifest
from ialcms.data.plan import Plan
from ialcms.data.train_batches import train_batches
from tests.support.data import make_manifest, small_config


def batches(config: Config, shards: Manifest, count: int = 3) -> list[Batch]:
    prepared = train_batches(config, shards)
    taken = list(itertools.islice(prepared, count))
    prepared.close()
    return taken


def test_all_but_the_pictures_stays_as_it_is(shards: Manifest) -> None:
    one, two = (batches(small_config(pictures_per_object=count), shards) for count in (1, 2))
    for plain, several in zip(one, two):
        assert several.objects.shape == (4, *objects_shape(small_config(pictures_per_object=2).data))
        assert torch.equal(several.objects[:, :, :, 0], plain.objects)
        assert (several.objects[:, :, :, 1] != plain.objects).flatten(3).any(-1).all()  # another detection each
        assert torch.equal(several.mix, plain.mix)
        assert several.keys == plain.keys


def test_loader_workers_change_nothing(shards: Manifest) -> None:
    for alone, prepared in zip(
        *(batches(small_config(pictures_per_object=2, loader_workers=n), shards) for n in (0, 2))
    ):
        assert torch.equal(alone.objects, prepared.objects)


def test_clips_with_too_few_detections_repeat_them() -> None:
    manifest = make_manifest([[8, 8, 8, 8, 8]])
    config = small_config(pictures_per_object=3)
    plan = Plan(manifest, config.data, config.audio, seed=1, num_lanes=1)
    seen = set()
    for draw in range(40):
        for clip in plan.mix(0, draw).clips:
            pictures = (clip.row, *clip.other_rows)
            assert len(pictures) == 3
            assert set(pictures) == set(clip.rows)  # of at most three detections, all
            seen.add(len(clip.rows))
    assert seen == {1, 2, 3}
