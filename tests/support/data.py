"""Small shards made with tarfile, in the format of ialcms.data.manifest."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from ialcms.config import AudioConfig, Config, DataConfig, TrainConfig
from ialcms.data.manifest import Clip, Manifest, Shard, read_manifest, write_manifest

RATE = 1_000
INSTRUMENTS = ("bell", "drum", "flute", "harp", "tuba")


def small_config(**data: object) -> Config:
    """Windows of 310 samples at 1 kHz, pictures of 16 pixels, a global batch of 4 mixes of 2 x 2 clips."""
    values: dict[str, object] = {"image_resize": 20, "image_crop": 16, "window": 16, "reuse": 4.0, "loader_workers": 0}
    return Config(
        seed=7,
        audio=AudioConfig(sample_rate=RATE, num_samples=310, n_fft=62, hop=10, log_bins=32),
        data=DataConfig(**(values | data)),  # type: ignore[arg-type]
        train=TrainConfig(global_batch=4),
    )


def make_manifest(counts: Sequence[Sequence[int]], split: str = "train", folder: Path = Path("nowhere")) -> Manifest:
    """A manifest without files: counts[shard][instrument] clips, in a mixed order within each shard."""
    clips = []
    for shard, numbers in enumerate(counts):
        order = [code for code, number in enumerate(numbers) for _ in range(number)]
        for number, code in enumerate(np.random.default_rng(shard).permutation(order).tolist()):
            name = f"i{code:02d}"
            samples = 200 + 37 * ((number * 7 + shard) % 11)
            clips.append(
                Clip(f"s{shard}c{number}", name, f"v{number % 5}", split, shard, 0, 0, samples, 1 + number % 4, 0)
            )
    return Manifest(
        folder, RATE, tuple(Shard(f"{s}.tar", 0, "", len(n)) for s, n in enumerate(counts)), tuple(clips), {}
    )


def clip_members(key: str, code: int, number: int, suffix: str = "flac") -> dict[str, bytes]:
    """Contents of a small clip: a tone of its instrument, two frames in a colour of their own, three boxes."""
    rng = np.random.default_rng((code, number))
    num_samples = 260 + 20 * (number % 8)
    wave = 0.5 * np.sin(2 * np.pi * (40 + 30 * code) * np.arange(num_samples) / RATE + number)
    sound = io.BytesIO()
    soundfile.write(sound, wave, RATE, format=suffix.upper(), subtype="PCM_16")
    members = {f"{key}.{suffix}": sound.getvalue()}
    for frame in (3, 17):
        picture = io.BytesIO()
        pixels = np.full((40, 60, 3), (40 * code + 20, 5 * frame, 10 * (number % 20)), dtype=np.uint8)
        pixels[5:20, 10:30] += rng.integers(0, 40, (15, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(picture, "JPEG", quality=95)
        members[f"{key}.{frame:06d}.jpg"] = picture.getvalue()
    table = io.BytesIO()
    boxes = [[3, 1, 0.95, 5, 4, 35, 30], [17, 1, 0.97, 0, 0, 60, 40], [17, 1, 0.91, 20, 10, 44.5, 39.5]]
    np.save(table, np.array(boxes, dtype=np.float32))
    members[f"{key}.npy"] = table.getvalue()
    members[f"{key}.json"] = b"{}"
    return members


def write_shards(
    folder: Path,
    sizes: Sequence[int],
    splits: Sequence[str] = ("train",),
    replace: dict[str, dict[str, bytes | None]] | None = None,
) -> Manifest:
    """Shards of `sizes` clips that go through the instruments and then the splits in turn.

    replace: {key: {suffix: content, or None to leave the member out}}, with checksums that fit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[Shard] = []
    clips: list[Clip] = []
    for index, size in enumerate(sizes):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            for number in range(len(clips), len(clips) + size):
                code, turn = number % len(INSTRUMENTS), number // len(INSTRUMENTS)
                key = f"{INSTRUMENTS[code]}_{number:03d}"
                members = clip_members(key, code, number, "wav" if number % 3 == 0 else "flac")
                for suffix, replacement in (replace or {}).get(key, {}).items():
                    members.pop(f"{key}.{suffix}", None)
                    if replacement is not None:
                        members[f"{key}.{suffix}"] = replacement
                offset = archive.offset
                for name, data in members.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
                raw = content.getvalue()[offset:]
                clips.append(
                    Clip(
                        key=key,
                        instrument=INSTRUMENTS[code],
                        video=f"video{number // 2}",
                        split=splits[turn % len(splits)],
                        shard=index,
                        offset=offset,
                        size=len(raw),
                        num_samples=260 + 20 * (number % 8),
                        num_boxes=3,
                        crc32=zlib.crc32(raw),
                    )
                )
        whole = content.getvalue()
        shards.append(Shard(f"clips-{index:03d}.tar", len(whole), hashlib.sha256(whole).hexdigest(), size))
        (folder / shards[-1].name).write_bytes(whole)
    write_manifest(Manifest(folder, RATE, tuple(shards), tuple(clips), {"made_by": "test"}))
    return read_manifest(folder)
