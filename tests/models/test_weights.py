from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

from ialcms.models.resnet import Backbone
from ialcms.models.weights import load_backbone


def test_torchvision_weights_fit_and_give_its_features(tmp_path: Path) -> None:
    """Up to the last, dilated stage the backbone is torchvision's ResNet-18."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pt")
    backbone = Backbone(64).eval()
    load_backbone(backbone, str(tmp_path / "resnet18.pt"))
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
        low_level = theirs.layer2(theirs.layer1(x))
        ours, last = backbone(image)
    assert torch.allclose(ours, low_level, atol=1e-5)
    assert last.shape == (1, 512, 4, 4)
    assert torch.equal(backbone.layer4[1].bn2.weight, theirs.layer4[1].bn2.weight)


def test_none_leaves_the_backbone_alone() -> None:
    backbone = Backbone(4)
    before = backbone.conv1.weight.clone()
    load_backbone(backbone, "none")
    assert torch.equal(backbone.conv1.weight, before)


def test_wrong_files_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"do not exist; give a file by model\.visual\.weights=PATH"):
        load_backbone(Backbone(4), str(tmp_path / "absent.pt"))
    torch.save(Backbone(8).state_dict(), tmp_path / "wide.pt")
    with pytest.raises(
        ValueError, match=r"do not fit model.visual.width=4 in .* tensors \(conv1.weight: \(8, 3, 7, 7\)"
    ):
        load_backbone(Backbone(4), str(tmp_path / "wide.pt"))
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(ValueError, match="not a state_dict saved by torch"):
        load_backbone(Backbone(4), str(tmp_path / "text.pt"))


def test_absent_imagenet_weights_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", _no_network)
    with pytest.raises(ValueError, match=r"resnet18-\w+\.pth there") as error:
        load_backbone(Backbone(64), "imagenet")
    assert str(tmp_path) in str(error.value)
    assert "model.visual.weights=none" in str(error.value)


def _no_network(*args: object, **options: object) -> None:
    raise OSError("network is unreachable")
