"""What a configuration amounts to, without training: shapes, parameters, steps, batch arithmetic, shards."""

from __future__ import annotations

import torch
from torch import nn

from ialcms.config import Config, check_world_size
from ialcms.data.batches import normalise_objects
from ialcms.data.evaluation_sets import list_mixes
from ialcms.data.manifest import FILE_NAME, Manifest, read_manifest
from ialcms.data.plan import Plan
from ialcms.models import Separator
from ialcms.models.build import build_networks
from ialcms.schedule import ramp
from ialcms.trainer import steps_per_epoch


def describe(config: Config, workers: int = 1) -> str:
    """The text that `ialcms info` prints. ValueError where the configuration can't be trained on `workers` workers."""
    check_world_size(config, workers)
    separator, critic = build_networks(config, pretrained=False)
    lines = [f"{config.name}", "", *_parameters(separator, critic), "", *_shapes(config, separator), ""]
    lines += [*_batch(config, workers), "", *_schedule(config), ""]
    try:
        manifest = read_manifest(config.data.shards)
    except ValueError as error:
        return "\n".join([*lines, f"shards: none yet ({error})"])
    return "\n".join([*lines, *_coverage(config, manifest)])


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
    pictures = torch.zeros(1, data.num_mix, data.num_objects, 3, data.image_crop, data.image_crop, dtype=torch.uint8)
    with torch.inference_mode():
        output = separator.eval()(mix, normalise_objects(pictures))
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


def _batch(config: Config, workers: int) -> list[str]:
    data, batch = config.data, config.train.global_batch
    objects = config.clips_per_mix
    kind = "duets, unsupervised" if data.num_objects == 2 else "solos, supervised"
    return [
        f"a mix: {data.num_mix} mixtures of {data.num_objects} = {objects} clips of different instruments ({kind})",
        f"a step: {batch} mixes, {batch * objects} components; {batch // workers} mixes on each of {workers} "
        f"worker{'s' if workers > 1 else ''}",
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
            points = [f"{ramp(step, final, steps):g} from step {step}" for step in (0, *(s + 1 for s in steps))]
            lines.append(f"{name}: {', '.join(points)}")
    return lines


def _nth(interval: int) -> str:
    return "" if interval == 1 else f"{interval}. "


def _coverage(config: Config, manifest: Manifest) -> list[str]:
    Plan(manifest, config.data, config.audio, config.seed, config.train.global_batch)  # checks the instruments
    names = config.data.instruments or tuple(manifest.instruments())
    splits = ("train", "val", "test")
    size = sum(shard.num_bytes for shard in manifest.shards) / 1e6
    lines = [f"shards: {len(manifest.shards)} in {manifest.folder} ({size:.0f} MB), {FILE_NAME} {manifest.digest}"]
    lines.append(f"  {'clips (videos)':<18}" + "".join(f"{split:>12}" for split in splits))
    for name in (*names, "all"):
        cells = []
        for split in splits:
            clips = [
                c for c in manifest.of_split(split) if c.instrument == name or (name == "all" and c.instrument in names)
            ]
            cells.append(f"{len(clips)} ({len({c.video for c in clips})})")
        lines.append(f"  {name:<18}" + "".join(f"{cell:>12}" for cell in cells))
    epoch = steps_per_epoch(config, manifest)
    lines.append(f"an epoch: {epoch} steps ({config.data.epoch_passes:g} mixes per training clip); "
                 f"the run: {config.train.steps} steps = {config.train.steps / epoch:.1f} epochs")  # fmt: skip
    options = config.eval
    mixes = list_mixes(manifest, options.split, options.num_mix, options.draws, options.seed, options.seconds,
                       config.data.instruments)  # fmt: skip
    lines.append(f"evaluation: {len(mixes)} {options.num_mix}-mixes of the split '{options.split}'")
    return lines
