"""Weights of the frozen ResNet-18: ImageNet's from torchvision's cache, a file, or none."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor
from torchvision.models import ResNet18_Weights

from ialcms.models.resnet import Backbone

_REMEDY = "give a file by model.visual.weights=PATH, or model.visual.weights=none for random weights"


def load_backbone(backbone: Backbone, source: str) -> None:
    """Fill the backbone: source is "none" (left as it is), "imagenet", or a file with torchvision's names.

    A classifier's head (`fc.*`) in the file is ignored. ValueError when the weights can't be had or do not fit.
    """
    if source == "none":
        return
    state = _imagenet() if source == "imagenet" else _read(Path(source))
    state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    own = backbone.state_dict()
    wrong = [
        f"{name}: {tuple(state[name].shape) if name in state else 'absent'}, needed {tuple(own[name].shape)}"
        for name in own
        if name not in state or state[name].shape != own[name].shape
    ]
    wrong += [f"{name}: not known here" for name in state if name not in own]
    if wrong:
        raise ValueError(
            f"backbone weights '{source}' do not fit model.visual.width={own['conv1.weight'].shape[0]} in "
            f"{len(wrong)} tensors ({wrong[0]}); {_REMEDY}"
        )
    backbone.load_state_dict(state)


def _imagenet() -> dict[str, Tensor]:
    try:
        return dict(ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        name = os.path.basename(ResNet18_Weights.IMAGENET1K_V1.url)
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise ValueError(
            f"the ImageNet weights of ResNet-18 are not in {folder} and cannot be fetched ({error}); "
            f"copy {name} there, {_REMEDY}"
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"backbone weights {path} do not exist; {_REMEDY}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, zip, Runtime and EOF errors alike for a foreign file
        raise ValueError(f"backbone weights {path} are not a state_dict saved by torch; {_REMEDY}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"backbone weights {path} are not a flat state_dict of tensors; {_REMEDY}")
    return state
