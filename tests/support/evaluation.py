"""A small evaluation: shards of long coloured noises at 1 kHz, a network that fits them, a run's folder with it."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image
from scipy.signal import sosfilt

from ialcms.config import Config, from_dict
from ialcms.data.manifest import Clip, Manifest, Shard, read_manifest, write_manifest
from ialcms.models import Separator
from ialcms.runs import checkpoint
from ialcms.runs.checkpoint import Progress
from ialcms.runs.run_folder import RunFolder
from tests.support.configuration import SMALL

RATE = 1_000
INSTRUMENTS = ("bell", "drum", "flute", "harp")
SECONDS = 1.3  # of the clips


def evaluation_config(shards: Path | str = "", **sections: dict) -> Config:
    """Windows of 310 samples at 1 kHz, pictures of 16 pixels; mixes of 1.2 s."""
    values: dict[str, dict] = {
        "audio": {"sample_rate": RATE, "num_samples": 310, "n_fft": 62, "hop": 10, "log_bins": 32},
        "data": {
            "shards": str(shards), "image_resize": 20, "image_crop": 16, "window": 16, "reuse": 4, "loader_workers": 0,
        },
        **{name: SMALL[name] for name in ("model", "loss", "train")},
        "eval": {"draws": 2, "seconds": 1.2, "hop": 100, "batch_windows": 4, "validation_draws": 1, "examples": 3},
    }  # fmt: skip
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return from_dict({"name": "small", **values})


def colour(code: int, number: int) -> np.ndarray:
    """Noise with a resonance of its instrument: (1300,) within [-1, 1]."""
    noise = np.random.default_rng((code, number)).standard_normal(round(SECONDS * RATE))
    angle, radius = 2 * np.pi * (60 + 90 * code) / RATE, 0.95
    wave = sosfilt([[1, 0, 0, 1, -2 * radius * np.cos(angle), radius**2]], noise)
    return 0.4 * wave / np.abs(wave).max()


def write_evaluation_shards(folder: Path, silent: Collection[str] = (), damaged: Collection[str] = ()) -> Manifest:
    """Four instruments; three clips each for training, two for validation, two for test.

    silent: keys of clips whose sound is digital silence; damaged: keys of clips whose checksum does not fit.
    """
    folder.mkdir(parents=True)
    content = io.BytesIO()
    clips = []
    with tarfile.open(fileobj=content, mode="w") as archive:
        for code, instrument in enumerate(INSTRUMENTS):
            for number, split in enumerate(("train", "train", "train", "val", "val", "test", "test")):
                key = f"{instrument}_{number}"
                wave = np.zeros(round(SECONDS * RATE)) if key in silent else colour(code, number)
                offset = archive.offset
                for name, data in _members(key, wave, code, number).items():
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
                raw = content.getvalue()[offset : archive.offset]
                crc32 = zlib.crc32(raw) ^ (key in damaged)
                clips.append(Clip(key, instrument, f"v{code}{number}", split, 0, offset, len(raw), len(wave), 2, crc32))
    raw = content.getvalue()
    (folder / "clips.tar").write_bytes(raw)
    shard = Shard("clips.tar", len(raw), hashlib.sha256(raw).hexdigest(), len(clips))
    write_manifest(Manifest(folder, RATE, (shard,), tuple(clips), {}))
    return read_manifest(folder)


def _members(key: str, wave: np.ndarray, code: int, number: int) -> dict[str, bytes]:
    sound, picture, table = io.BytesIO(), io.BytesIO(), io.BytesIO()
    soundfile.write(sound, wave, RATE, format="FLAC", subtype="PCM_16")
    pixels = np.full((30, 40, 3), (60 * code + 20, 20 * number, 90), dtype=np.uint8)
    pixels[5:25, 8:32] += np.random.default_rng((code, number, 1)).integers(0, 50, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(picture, "JPEG", quality=95)
    np.save(table, np.array([[1, 1, 0.95, 4, 3, 34, 28], [1, 1, 0.97, 0, 0, 40, 30]], dtype=np.float32))
    return {
        f"{key}.flac": sound.getvalue(),
        f"{key}.000001.jpg": picture.getvalue(),
        f"{key}.npy": table.getvalue(),
        f"{key}.json": b"{}",
    }


def make_separator(config: Config, seed: int = 0) -> Separator:
    """A network as it is before training, but with masks that differ between objects."""
    torch.manual_seed(seed)
    separator = Separator(config.model, config.audio)
    with torch.no_grad():
        separator.mask_scale.fill_(4.0)
        for block in separator.decoder.blocks:
            torch.nn.init.normal_(block.style.gain.weight, 0, 1.0)
    return separator.eval()


def make_small_run(folder: Path, **sections: dict) -> RunFolder:
    """The folder `run` below a folder, of a run on the shards beside it. sections: of `evaluation_config`."""
    shards = write_evaluation_shards(folder / "shards")
    return make_run(folder / "run", evaluation_config(shards.folder, **sections), shards)


def make_run(folder: Path, config: Config, manifest: Manifest, seed: int = 0, step: int = 7) -> RunFolder:
    """A run's folder with a best checkpoint of `make_separator`."""
    run = RunFolder(folder)
    run.create(config, world_size=1)
    state = {"separator": {"module": make_separator(config, seed).state_dict()}}
    checkpoint.keep_as_best(checkpoint.save(run.checkpoints, config, manifest.digest, state, Progress(step=step)))
    return run
