"""Pretraining of the frozen backbone where ImageNet's weights do not fit: a narrow ResNet-18, a machine offline.

The backbone with a linear head learns to name the instrument of a detected object, as ImageNet's learned to name
things. It is given what the detector knows anyway, and no sound.
"""

from __future__ import annotations

import dataclasses
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ialcms.config import Config
from ialcms.data.evaluation_mixes import list_mixes, load_mix
from ialcms.data.manifest import Manifest
from ialcms.data.remote import open_manifest
from ialcms.data.train_batches import BadClips, Batch, train_batches
from ialcms.files import check_writable
from ialcms.models.arithmetic import set_arithmetic
from ialcms.models.resnet import Backbone
from ialcms.progress import Progress
from ialcms.runs.checkpoint import save_tensors


@dataclass(frozen=True)
class Pretrained:
    """What a pretraining has made."""

    accuracy: float  # share of held-out (validation) pictures whose instrument it names
    num_instruments: int

    def __str__(self) -> str:
        return f"names {self.accuracy:.0%} of the held-out pictures ({self.num_instruments} instruments)"


def pretrain(config: Config, out: Path, steps: int, batch_pictures: int, *, lr: float = 2e-3) -> Pretrained:
    """Train on the object pictures of the training videos and write a state_dict with torchvision's names to `out`.

    config: names the shards, the width and the seed. out: file for the weights. steps: batches of `batch_pictures`
    pictures. lr: highest learning rate of one cycle. ValueError for faults in the input, and where `out` cannot be
    written, before the training.
    """
    check_writable(out)
    manifest = open_manifest(config.data.shards)
    instruments = manifest.instruments("train")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    set_arithmetic(config, fixed_shapes=True)
    torch.manual_seed(config.seed)
    backbone = Backbone(config.model.visual.width)
    network = _Classifier(backbone, len(instruments)).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    label = {clip.key: instruments.index(clip.instrument) for clip in manifest.of_split("train")}

    mixes = max(1, batch_pictures // config.clips_per_mix)
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, global_batch=mixes),
        data=dataclasses.replace(config.data, pictures_per_object=1),
    )
    bad = BadClips(config, manifest)
    correct = 0.0
    with closing(train_batches(config, manifest)) as batches, Progress(steps, "pretrain", unit="step") as progress:
        for _ in range(steps):
            batch = next(batches)
            bad.add(batch.step, batch.bad)
            logits = network(batch.objects.to(device).flatten(0, 2))
            target = _targets(batch, label).to(device)
            loss = F.cross_entropy(logits, target, label_smoothing=0.1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            correct += 0.1 * (float((logits.argmax(1) == target).float().mean()) - correct)
            progress.advance(note=f"loss {loss.item():.3f}, {correct:.0%} right")
    accuracy = _held_out_accuracy(network, config, manifest, instruments=instruments, device=device)
    save_tensors({name: value.cpu() for name, value in backbone.state_dict().items()}, out)
    return Pretrained(accuracy, len(instruments))


class _Classifier(nn.Module):
    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.num_channels, num_classes)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.backbone(pictures)[1].mean(dim=(2, 3)))


def _targets(batch: Batch, label: dict[str, int]) -> Tensor:
    return torch.tensor([label[key] for keys in batch.keys for key in keys])


@torch.inference_mode()
def _held_out_accuracy(
    network: nn.Module, config: Config, manifest: Manifest, *, instruments: list[str], device: torch.device
) -> float:
    """Share of the validation solos whose picture is named right.

    instruments: names in the order of the classes. manifest, config: for the solos. device: of the network.
    """
    network.eval()
    mixes = list_mixes(
        manifest, "val", 1, draws=config.eval.draws, seed=config.eval.seed, seconds=1.0, instruments=instruments
    )
    right = 0
    for mix in mixes:
        item = load_mix(manifest, mix, config.data, num_samples=manifest.sample_rate)
        logits = network(torch.as_tensor(item.pictures[:, 0]).to(device))
        right += instruments[int(logits.argmax())] == item.instruments[0]
    return right / len(mixes)
