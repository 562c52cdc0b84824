"""What a configuration amounts to, without training: shapes, parameters, steps, batch arithmetic, shards, the plan."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode  # the only way in that torch has

from ialcms.config import Config, check_world_size
from ialcms.data.clip_store import ClipStore
from ialcms.data.evaluation_mixes import mixes_to_evaluate
from ialcms.data.manifest import FILE_NAME, Manifest
from ialcms.data.mixtures import empty_arrays, make_mix
from ialcms.data.plan import Plan, PlannedClip, PlannedMix
from ialcms.data.remote import open_manifest
from ialcms.models import Separator
from ialcms.models.build import build_networks
from ialcms.training.schedule import ramp, steps_per_epoch


def describe(config: Config, ranks: int = 1) -> str:
    """The text that `ialcms info` prints. ValueError where the configuration can't be trained on `ranks` ranks."""
    check_world_size(config, ranks)
    with FakeTensorMode(allow_non_fake_inputs=True):  # shapes without contents: full-size networks take no memory
        separator, critic = build_networks(config, pretrained=False)
        lines = [f"{config.name}", "", *_parameters(separator, critic), "", *_shapes(config, separator), ""]
    lines += [*_batch(config, ranks), "", *_schedule(config), ""]
    try:
        manifest = open_manifest(config.data.shards)
    except ValueError as error:
        return "\n".join([*lines, f"shards: none yet ({error})"])
    return "\n".join([*lines, *_coverage(config, manifest)])


def describe_plan(config: Config, step: int, ranks: int = 1, read_clips: bool = False) -> str:
    """The text that `ialcms info --plan STEP` prints: what every mix of global step `step` (0-based) is made of.

    read_clips: read the step's clips and show what replaced clips that cannot be used. ValueError where
    the configuration can't be trained on `ranks` ranks, or shards cannot be read.
    """
    if step < 0:
        raise ValueError(f"--plan is {step}; steps are counted from 0")
    check_world_size(config, ranks)
    manifest, batch = open_manifest(config.data.shards), config.train.global_batch
    plan = Plan(manifest, config.data, config.audio, seed=config.seed, num_lanes=batch)
    data, seconds = config.data, config.audio.num_samples / config.audio.sample_rate
    lines = [
        f"step {step}, after {step} finished ones: {batch} mixes of {data.num_mixtures} x {data.num_objects} clips "
        f"of {plan.num_clips} in {manifest.folder} ({manifest.digest}), seed {config.seed}",
        f"windows of {seconds:.2f} s; crops (left, top) of {data.image_crop} pixels out of {data.image_resize}",
    ]
    rows = [["lane", "rank", "mixture", "instrument", "clip", "shard", "window (s)", "gain", "box", "crop", "flip"]]
    replaced: list[str] = []
    for lane in range(batch):
        mix = plan.mix(lane, step)
        if read_clips:
            made = make_mix(
                plan, ClipStore(manifest, len(mix.clips), data.image_resize), lane, draw=step, out=empty_arrays(plan)
            )
            mix = PlannedMix(lane, step, made.clips)
            replaced += [f"replaced in lane {lane}: {reason}" for reason in made.bad.values()]
        rank = str(lane * ranks // batch)
        rows += [[str(lane), rank, *cells] for cells in _plan_of_mix(config, manifest, mix)]
    if not read_clips:
        replaced = ["clips were not read: one that cannot be used is replaced (see --read-clips)"]
    return "\n".join([*lines, "", *_aligned(rows), "", *replaced]).rstrip()


def _plan_of_mix(config: Config, manifest: Manifest, mix: PlannedMix) -> Iterator[list[str]]:
    for slot, planned in enumerate(mix.clips):
        clip = manifest.clips[planned.clip]
        yield [
            str(slot // config.data.num_objects + 1),
            clip.instrument,
            clip.key,
            manifest.shards[clip.shard].name,
            _window(config, planned, clip.num_samples),
            f"{planned.gain:.3f}",
            f"{planned.row + 1}/{clip.num_boxes}",
            f"{planned.left},{planned.top}",
            "yes" if planned.flip else "no",
        ]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths)]
        lines.append("  ".join(cells).rstrip())
    return lines


def _window(config: Config, planned: PlannedClip, num_samples: int) -> str:
    """Seconds of the clip that are heard; a shorter clip ends before the window does."""
    rate, end = config.audio.sample_rate, planned.start + config.audio.num_samples
    return f"{planned.start / rate:.3f}-{min(end, num_samples) / rate:.3f}"


def _parameters(separator: Separator, critic: nn.Module | None) -> list[str]:
    rows = [(f"  {name}", *_count(part)) for name, part in separator.named_children() if _count(part)[0]]
    total, trained = _count(separator)
    rows = [("separator", total, trained), *rows]
    if critic is not None:
        rows.append(("critic", *_count(critic)))
    return [f"{'parameters':<16}{'all':>12}{'trained':>12}"] + [f"{n:<16}{a:>12,}{t:>12,}" for n, a, t in rows]


def _count(module: nn.Module) -> tuple[int, int]:
    counts = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return sum(n for n, _ in counts), sum(n for n, trained in counts if trained)


def _shapes(config: Config, separator: Separator) -> list[str]:
    """Shapes as one mix has them, from a pass with empty tensors."""
    data, audio = config.data, config.audio
    mix = torch.zeros(1, audio.num_samples)
    pictures = torch.zeros(
        1, data.num_mixtures, data.num_objects, 3, data.image_crop, data.image_crop, dtype=torch.uint8
    )
    with torch.inference_mode():
        output = separator.eval()(mix, pictures)
    shapes = {
        "mix (B, L)": mix,
        "spectrogram (B, Fq, T)": output.mix_spectrum,
        "objects (B, M, O, 3, S, S)": pictures,
        "masks (B, M, O, F, T)": output.mask,
        "visual feature (B, M, O, D, H, W)": output.visual,
        "localisation (B, M, O, H, W)": output.localisation,
        "audio embedding (B, M, O, D)": output.audio_embedding,
    }
    seconds = audio.num_samples / audio.sample_rate
    return [f"shapes of one mix ({seconds:.2f} s at {audio.sample_rate} Hz)"] + [
        f"  {name:<36}{' x '.join(map(str, tensor.shape))}" for name, tensor in shapes.items()
    ]


def _batch(config: Config, ranks: int) -> list[str]:
    data, batch = config.data, config.train.global_batch
    objects = config.clips_per_mix
    kind = "duets, unsupervised" if data.num_objects == 2 else "solos, supervised"
    return [
        f"a mix: {data.num_mixtures} mixtures of {data.num_objects} = {objects} clips of different instruments "
        f"({kind})",
        f"a step: {batch} mixes, {batch * objects} components; {batch // ranks} mixes on each of {ranks} "
        f"rank{'s' if ranks > 1 else ''}",
    ]


def _schedule(config: Config) -> list[str]:
    train, loss = config.train, config.loss
    lines = ["no critic: the separator learns at every step"]
    if config.uses_critic:
        lines = [
            f"critic learns every {_nth(train.critic_every)}step, separator every {_nth(train.separator_every)}step"
        ]
    for name, final, steps in (
        ("lambda_ind", loss.lambda_ind, loss.lambda_ind_steps),
        ("lambda_avc", loss.lambda_avc, loss.lambda_avc_steps),
    ):
        if final:
            changes = [0, *(step + 1 for step in steps)]
            points = [f"{ramp(step, final, steps):g} from step {step}" for step in changes]
            lines.append(f"{name}: {', '.join(points)}")
    return lines


def _nth(interval: int) -> str:
    return "" if interval == 1 else f"{interval}. "


def _coverage(config: Config, manifest: Manifest) -> list[str]:
    Plan(
        manifest, config.data, config.audio, seed=config.seed, num_lanes=config.train.global_batch
    )  # checks the instruments
    names = config.data.instruments or tuple(manifest.instruments())
    splits = ("train", "val", "test")
    size = sum(shard.num_bytes for shard in manifest.shards) / 1e6
    lines = [f"shards: {len(manifest.shards)} in {manifest.folder} ({size:.0f} MB), {FILE_NAME} {manifest.digest}"]
    lines.append(f"  {'clips (videos)':<18}" + "".join(f"{split:>12}" for split in splits))
    table = manifest.table
    of_split = {split: table.is_any("split", [split]) for split in splits}
    for name in (*names, "all"):
        of_instrument = table.is_any("instrument", names if name == "all" else [name])
        cells = []
        for is_split in of_split.values():
            is_here = is_split & of_instrument
            num_videos = len(np.unique(table.codes["video"][is_here]))
            cells.append(f"{np.count_nonzero(is_here)} ({num_videos})")
        lines.append(f"  {name:<18}" + "".join(f"{cell:>12}" for cell in cells))
    epoch = steps_per_epoch(config, manifest)
    lines.append(
        f"an epoch: {epoch} steps ({config.data.epoch_passes:g} mixes per training clip); "
        f"the run: {config.train.steps} steps = {config.train.steps / epoch:.1f} epochs"
    )
    options = config.eval
    mixes = mixes_to_evaluate(manifest, config)
    lines.append(f"evaluation: {len(mixes)} {options.num_sources}-mixes of the split '{options.split}'")
    return lines
