"""Pretraining of the frozen backbone where ImageNet's weights do not fit: a narrow ResNet-18, a machine offline.

The backbone with a linear head learns to name the instrument of a detected object, as ImageNet's learned to name
things. What it is given is what the detector knows anyway; it never hears a sound.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ialcms.config import Config
from ialcms.data.evaluation_mixes import list_mixes, load_mix
from ialcms.data.manifest import Manifest
from ialcms.data.remote import open_manifest
from ialcms.data.train_batches import BadClips, Batch, train_batches
from ialcms.models.arithmetic import set_arithmetic
from ialcms.models.resnet import Backbone
from ialcms.runs.checkpoint import save_tensors


def pretrain(config: Config, out: Path, steps: int, batch_pictures: int, lr: float = 2e-3) -> float:
    """Train on the object pictures of the training videos and write a state_dict with torchvision's names to `out`.

    Returns the share of held-out (validation) pictures whose instrument it names. The learning rate follows one cycle.
    """
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
    batches, bad = train_batches(config, manifest), BadClips(config, manifest)
    correct = 0.0
    with tqdm(range(steps), unit="step", desc="pretrain") as bar:
        for _ in bar:
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
            bar.set_postfix_str(f"loss {loss.item():.3f} right {correct:.0%}", refresh=False)
    batches.close()
    accuracy = _held_out_accuracy(network, config, manifest, instruments, device)
    save_tensors({name: value.cpu() for name, value in backbone.state_dict().items()}, out)
    print(f"backbone: names {accuracy:.0%} of the held-out pictures ({len(instruments)} instruments) -> {out}")
    return accuracy


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
    network: nn.Module, config: Config, manifest: Manifest, instruments: list[str], device: torch.device
) -> float:
    """Share of the validation solos whose picture is named right."""
    network.eval()
    mixes = list_mixes(manifest, "val", 1, config.eval.draws, config.eval.seed, 1.0, instruments)
    right = 0
    for mix in mixes:
        item = load_mix(manifest, mix, config.data, manifest.sample_rate)
        logits = network(torch.as_tensor(item.pictures[:, 0]).to(device))
        right += instruments[int(logits.argmax())] == item.instruments[0]
    return right / len(mixes)
