"""Backbone weights in the forms that other programs save them in."""

from __future__ import annotations

import argparse
import os
import sys
import types
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ialcms.models.resnet import Backbone
from ialcms.models.weights import load_backbone

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """Torchvision's names with a classifier's head, as a narrow ResNet-18."""
    torch.manual_seed(3)
    values = {name: torch.rand_like(v) if v.is_floating_point() else v for name, v in Backbone(4).state_dict().items()}
    return {**values, "fc.weight": torch.rand(10, 32), "fc.bias": torch.rand(10)}


def prefixed(state: State, prefix: str) -> State:
    return OrderedDict((prefix + name, value) for name, value in state.items())


def lightning(state: State) -> dict[str, Any]:
    options = argparse.Namespace(
        lr=np.float64(1e-3), layers=np.int64(18), augment=np.bool_(True), sizes=np.arange(3), data=Path("/data/music")
    )
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": prefixed(state, "net.encoder.") | {"loss.scale": torch.ones(1)},
        "hyper_parameters": {"args": options, "counts": defaultdict(int, violin=3), "width": np.float32(4)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": np.float64(1e-3)}]}],
    }


def torchvision_reference(state: State) -> dict[str, Any]:
    return {
        "model": dict(state),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "lr_scheduler": {"last_epoch": 3},
        "epoch": 3,
        "args": argparse.Namespace(model="resnet18", device="cuda", lr=0.1),
        "model_ema": prefixed(state, "module.") | {"n_averaged": torch.tensor(3)},
    }


FORMS = {
    "plain": (lambda s: s, ""),
    "data parallel": (lambda s: prefixed(s, "module."), "stripped 'module.'"),
    "compiled": (lambda s: prefixed(s, "_orig_mod."), "stripped '_orig_mod.'"),
    "both": (lambda s: prefixed(s, "module._orig_mod."), "stripped '_orig_mod.' and 'module.'"),
    "a compiled part": (
        lambda s: prefixed(s, "backbone._orig_mod."),
        "stripped '_orig_mod.' from its names; took 'backbone.*'",
    ),
    "state_dict": (lambda s: {"state_dict": s, "epoch": 1}, "took 'state_dict'"),
    "net": (lambda s: {"net": prefixed(s, "module."), "acc": 93.1, "epoch": 7}, "took 'net'; stripped 'module.'"),
    "model_state_dict": (lambda s: {"model_state_dict": s, "loss": torch.tensor(1.0)}, "took 'model_state_dict'"),
    "nested twice": (lambda s: {"model": {"state_dict": s}}, "took 'model.state_dict'"),
    "torchvision's reference": (torchvision_reference, "took 'model'"),
    "Lightning": (lightning, "took 'state_dict'; took 'net.encoder.*' and left 1 other tensors"),
    "a detector": (lambda s: {**prefixed(s, "backbone.body."), "rpn.x": torch.ones(2)}, "took 'backbone.body.*'"),
    "half precision": (lambda s: {n: v.half() if v.is_floating_point() else v for n, v in s.items()}, ""),
    "before batches were counted": (lambda s: {n: v for n, v in s.items() if "num_batches" not in n}, ""),
    "parameters": (lambda s: {n: torch.nn.Parameter(v, v.is_floating_point() and False) for n, v in s.items()}, ""),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("as_zip", [True, False])
def test_a_form_is_taken_and_what_was_stripped_is_said(form: str, as_zip: bool, state: State, tmp_path: Path) -> None:
    make, note = FORMS[form]
    torch.save(make(state), tmp_path / "weights.pt", _use_new_zipfile_serialization=as_zip)
    backbone = Backbone(4)
    said = load_backbone(backbone, str(tmp_path / "weights.pt"))
    assert said.startswith(note)
    assert bool(said) == bool(note)
    for name, value in backbone.state_dict().items():
        assert torch.allclose(value.float(), state[name].float(), atol=1e-3), name


def test_classes_of_programs_that_are_not_here(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's callbacks and dictionaries, EasyDict: stand-ins are made, and the weights are taken."""
    names = {
        "easydict": "EasyDict",
        "pytorch_lightning.callbacks.model_checkpoint": "ModelCheckpoint",
        "pytorch_lightning.utilities.parsing": "AttributeDict",
    }
    made = {}
    with monkeypatch.context() as patch:
        for module, name in names.items():
            made[name] = type(name, (dict,), {"__module__": module, "__qualname__": name})
            for part in (module, module.partition(".")[0]):
                patch.setitem(sys.modules, part, types.ModuleType(part))
            setattr(sys.modules[module], name, made[name])
        options = made["EasyDict"](lr=0.1)
        options.lr = 0.1
        content = {"state_dict": state, "callbacks": {made["ModelCheckpoint"]: {"best": torch.tensor(1.0)}},
                   "hyper_parameters": made["AttributeDict"](width=4), "cfg": options}  # fmt: skip
        torch.save(content, tmp_path / "weights.pt")
    assert load_backbone(Backbone(4), str(tmp_path / "weights.pt")) == "took 'state_dict'"


class _Runs:
    def __reduce__(self) -> tuple:
        return os.system, ("touch /tmp/this-must-not-be-there",)


REFUSED = {
    "code beside the weights": (
        lambda s: {"state_dict": s, "x": _Runs()},
        "holds 'posix.system', which could run code",
    ),
    "a whole module": (lambda s: torch.nn.Linear(2, 2), "save the state_dict alone"),
    "an unknown class": (lambda s: {"state_dict": s, "x": _Runs}, "_Runs', which could run code"),
    "two of them": (lambda s: prefixed(s, "student.") | prefixed(s, "teacher."), "hold several ResNet-18"),
    "no tensors": (lambda s: {"state_dict": {"a": 1}}, "holds no state_dict of tensors"),
    "a list": (lambda s: [1, 2], "holds no state_dict of tensors"),
    "a tensor": (lambda s: torch.ones(3), "holds no state_dict of tensors"),
    "one tensor short": (lambda s: {n: v for n, v in s.items() if n != "bn1.bias"}, r"1 tensors \(bn1.bias: absent"),
    "NaN": (lambda s: {**s, "bn1.bias": torch.full((4,), float("nan"))}, "values that are not numbers"),
    "a sparse tensor": (lambda s: {**s, "bn1.bias": torch.ones(4).to_sparse()}, "no plain tensor as bn1.bias"),
    "ghosts": (lambda s: {**s, "bn1.bias": torch.zeros(1).expand(10**12)}, r"with fewer values than that"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_refused(form: str, state: State, tmp_path: Path) -> None:
    make, message = REFUSED[form]
    torch.save(make(state), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=message) as raised:
        load_backbone(Backbone(4), str(tmp_path / "weights.pt"))
    assert "\n" not in str(raised.value)
    assert not Path("/tmp/this-must-not-be-there").exists()


def test_safetensors_are_named(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ValueError, match=r"a safetensors file; convert it"):
        load_backbone(Backbone(4), str(tmp_path / "w.safetensors"))
