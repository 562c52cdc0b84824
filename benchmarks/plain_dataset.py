"""What people write first: a Dataset over the prepared tree that opens a sound file and a frame for every use."""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import transforms

from ialcms.config import Config
from ialcms.data.clip_reader import read_clip
from ialcms.data.manifest import Manifest
from ialcms.models.picture_normalisation import IMAGENET_MEAN, IMAGENET_STD


class PlainMix(NamedTuple):
    """A mix; `DataLoader` stacks the tensors of a batch by name."""

    mix: torch.Tensor  # (L,)
    mixtures: torch.Tensor  # (M, L)
    objects: torch.Tensor  # (M, O, 3, crop, crop)


class PlainDataset(Dataset[PlainMix]):
    """Samples (mix (L,), mixtures (M, L), objects (M, O, 3, S, S) float32) of the training clips of a prepared tree.

    manifest: of the shards that were packed from the tree; says which clips there are and which boxes were kept, so
    that both ways draw from the same data. Boxes are in memory from the start, everything else is read when it is used.
    """

    def __init__(self, tree: Path, manifest: Manifest, config: Config) -> None:
        """tree: the prepared data. manifest: for the detections of its clips."""
        self.tree, self.config = tree, config
        self.clips: dict[str, list[tuple[str, np.ndarray]]] = {}
        for index, clip in enumerate(manifest.clips):
            if clip.split == "train":
                boxes = read_clip(manifest, index, rows=(), samples=(0, 0)).detections
                self.clips.setdefault(clip.instrument, []).append((clip.key, boxes))
        self.transform = transforms.Compose(
            [
                transforms.Resize((config.data.image_resize, config.data.image_resize)),
                transforms.RandomCrop(config.data.image_crop),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    def __len__(self) -> int:
        return 1_000_000  # more than any measurement takes

    def __getitem__(self, index: int) -> PlainMix:
        data = self.config.data
        chosen = random.sample(sorted(self.clips), self.config.clips_per_mix)
        solos, objects = zip(*(self._solo(instrument) for instrument in chosen))
        mixtures = torch.stack(solos).view(data.num_mixtures, data.num_objects, -1).mean(dim=1)
        pictures = torch.stack(objects).view(data.num_mixtures, data.num_objects, 3, data.image_crop, data.image_crop)
        return PlainMix(mixtures.sum(dim=0), mixtures, pictures)

    def _solo(self, instrument: str) -> tuple[torch.Tensor, torch.Tensor]:
        key, boxes = random.choice(self.clips[instrument])
        length = self.config.audio.num_samples
        wave, _ = soundfile.read(self.tree / "solo_audio_resample" / instrument / f"{key}.wav", dtype="float32")
        start = random.randint(0, max(len(wave) - length, 0))
        wave = wave[start : start + length]
        wave = np.pad(wave, (0, length - len(wave))) * np.float32(random.uniform(*self.config.data.gain))
        frame, _, _, *box = random.choice(boxes)
        path = self.tree / "solo_extract" / instrument / key / f"{int(frame):06d}.png"
        picture = Image.open(path, formats=("PNG",)).convert("RGB")
        return torch.from_numpy(np.clip(wave, -1, 1)), self.transform(picture.crop([int(edge) for edge in box]))
