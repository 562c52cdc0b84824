"""Weights of the frozen ResNet-18: ImageNet's from torchvision's cache, a file, or none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor

from ialcms.models.resnet import Backbone
from ialcms.reading import Unreadable, one_line
from ialcms.reading.weights import Weights, read_weights

_REMEDY = "give a file by model.visual.weights=PATH, or model.visual.weights=none for random weights"


def load_backbone(backbone: Backbone, source: str) -> str:
    """Fill the backbone: source is "none" (left as it is), "imagenet", or a file with torchvision's names.

    The file may be a training checkpoint of another program (see ialcms/reading/weights.py) in which the backbone is a
    part of a larger network; a classifier's head (`fc.*`) is ignored. Returns what was taken and stripped, for the log;
    ValueError when the weights can't be had or do not fit.
    """
    if source == "none":
        return ""
    expected = backbone.state_dict()
    weights = Weights(_imagenet()) if source == "imagenet" else _part(_read(Path(source)), expected, source)
    state = {name: value for name, value in weights.state.items() if not name.startswith("fc.")}
    uncounted = [name for name in expected if name.endswith("num_batches_tracked") and name not in state]
    state |= {name: expected[name] for name in uncounted}  # torch before 0.4.1 did not count, and nothing here reads it
    wrong = [
        f"{name}: {tuple(state[name].shape) if name in state else 'absent'}, needed {tuple(expected[name].shape)}"
        for name in expected
        if name not in state or state[name].shape != expected[name].shape
    ]
    wrong += [f"{name}: not known here" for name in state if name not in expected]
    if wrong:
        raise ValueError(
            f"backbone weights '{source}' do not fit model.visual.width={expected['conv1.weight'].shape[0]} in "
            f"{len(wrong)} tensors ({wrong[0]}); {_REMEDY}"
        )
    spoilt = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if spoilt:
        raise ValueError(f"backbone weights '{source}' have values that are not numbers ({spoilt[0]}); {_REMEDY}")
    backbone.load_state_dict(state)
    return str(weights)


def _part(weights: Weights, expected: Mapping[str, Tensor], source: str) -> Weights:
    """The backbone in a file that may hold more."""
    prefixes = weights.prefixes_of(list(expected))
    if len(prefixes) > 1:
        raise ValueError(
            f"backbone weights '{source}' hold several ResNet-18 ({', '.join(repr(p) for p in prefixes[:4])}); save "
            f"the one that is meant in a file of its own, {_REMEDY}"
        )
    return weights.under(prefixes[0]) if prefixes else weights


def _imagenet() -> dict[str, Tensor]:
    # here: with torch's compiler, which it loads, it takes as long to import as torch, and every command would wait
    from torchvision.models import ResNet18_Weights

    try:
        return dict(ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        name = os.path.basename(ResNet18_Weights.IMAGENET1K_V1.url)
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise ValueError(
            f"the ImageNet weights of ResNet-18 are not in {folder} and cannot be fetched ({error}); "
            f"copy {name} there, {_REMEDY}"
        ) from error


def _read(path: Path) -> Weights:
    if not path.is_file():
        raise ValueError(f"backbone weights {path} do not exist; {_REMEDY}")
    try:
        return read_weights(path)
    except (OSError, Unreadable) as error:
        raise ValueError(
            f"backbone weights {path} are not a state_dict saved by torch ({one_line(error)}); {_REMEDY}"
        ) from error
