"""Mixes that the loader brings to the device in a second, beside those that a step would take."""

from __future__ import annotations

import dataclasses
import time
from contextlib import closing

from benchmarks.gpu.parts.environment import synchronise
from benchmarks.gpu.setting import Recorder, Setting
from benchmarks.gpu.sizes import sized_config
from ialcms.config import Config
from ialcms.data.manifest import Manifest
from ialcms.data.remote import open_manifest
from ialcms.data.train_batches import loader_workers, train_batches
from ialcms.processes import cores_of_a_rank


def measure(setting: Setting, recorder: Recorder) -> None:
    """Record the rate of the loader, for several numbers of loader workers."""
    manifest = open_manifest(setting.shards)
    base = sized_config(setting.small, 4 if setting.small else 8)
    auto = loader_workers(base, base.train.global_batch)
    recorder.add("data.loader_workers: auto", auto, note=f"{cores_of_a_rank()} cores, batch {base.train.global_batch}")
    counts = [auto] if setting.small else sorted({1, 4, auto}, reverse=True)
    rates = {}
    for index, count in enumerate(counts):
        data = dataclasses.replace(base.data, shards=setting.shards, loader_workers=count)
        config = dataclasses.replace(base, data=data)
        label = f"{count} loader worker{'' if count == 1 else 's'}"
        seconds = 5.0 if setting.small else recorder.seconds_left / (len(counts) - index)
        try:
            rate, first_s = rate_of(config, manifest, setting, seconds=seconds)
        except (RuntimeError, ValueError) as error:
            recorder.missing(label, error)
            continue
        rates[count] = rate
        recorder.add(f"{label}: rate", rate, "mixes/s", note=f"the first batch after {first_s:.1f} s")
    for kind in ("steps eager", "steps graphs", "steps compiled"):
        for row in setting.earlier.get(kind, []):
            name = row["name"].removesuffix(": rate")
            if name != row["name"] and name.endswith("batch 8") and rates.get(auto) and row["value"]:
                recorder.add(f"loader's rate / rate of steps ({name})", rates[auto] / row["value"])


def rate_of(config: Config, manifest: Manifest, setting: Setting, seconds: float) -> tuple[float, float]:
    """Mixes per second after the first batches, and how long the first one took.

    The loader's windows fill in the meantime: later, a clip is decoded once for `data.reuse` uses.

    seconds: that this may take. setting: of the part, for the device and the size.
    """
    began = time.perf_counter()
    device = setting.torch_device
    with closing(train_batches(config, manifest, 0, rank=0, world_size=1, device=device)) as batches:
        next(batches)
        first_s = time.perf_counter() - began
        counted = 0
        since = time.perf_counter()
        warm_until, end = began + 0.5 * seconds, began + 0.9 * seconds
        while time.perf_counter() < end or not counted:
            batch = next(batches)
            if time.perf_counter() < warm_until:
                since = time.perf_counter()
                continue
            counted += len(batch.keys)
        synchronise(device)
        return counted / (time.perf_counter() - since), first_s
