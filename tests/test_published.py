"""Names of the published code: both ways, with an exact account. The numbers are in tests/golden."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ialcms.config import CriticConfig, load_config
from ialcms.models import Critic, Separator
from ialcms.published import (
    load_into,
    load_published,
    our_name,
    published_name,
    read_published,
    to_published,
)
from tests.golden.deterministic import published_shapes
from tests.support import ROOT

FULL = load_config(ROOT / "configs" / "duet.yaml")


@pytest.fixture(scope="module")
def full() -> tuple[Separator, Critic]:
    torch.manual_seed(0)
    return Separator(FULL.model, FULL.audio), Critic(CriticConfig())


def test_names_map_one_to_one_and_back() -> None:
    for network in ("separator", "critic"):
        names = list(published_shapes(network))
        ours = [our_name(name) for name in names]
        assert None not in ours
        assert len(set(ours)) == len(names)
        assert [published_name(name) for name in ours if name] == names


def test_shapes_agree_with_the_published_list(full: tuple[Separator, Critic]) -> None:
    for network, module in zip(("separator", "critic"), full):
        published = {our_name(name): shape for name, shape in published_shapes(network).items()}
        assert {f"{network}.{name}": tuple(t.shape) for name, t in module.state_dict().items()} == published


def test_prefixes_of_an_authors_checkpoint() -> None:
    assert our_name("net_wrapper.av_separator.separator_w_v.scale") == "separator.mask_scale"
    assert our_name("net_wrapper.critics.critics_model.h.0.weight_u") == "critic.h.0.parametrizations.weight.0.u"
    assert our_name("net_wrapper.something.else") is None


def test_checkpoint_round_trip_and_account(tmp_path: Path, full: tuple[Separator, Critic]) -> None:
    """Our weights as an authors' checkpoint, read back into networks of another start."""
    separator, critic = full
    state = to_published(separator, critic, checkpoint=True)
    assert all(name.startswith(("net_wrapper.av_separator.", "net_wrapper.critics.")) for name in state)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "authors.ckpt")
    loaded, loaded_critic = load_published(tmp_path / "authors.ckpt", FULL)
    for ours, theirs in ((separator, loaded), (critic, loaded_critic)):
        for name, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name

    weights = dict(state)
    del weights["net_wrapper.critics.critics_model.b"]
    weights["net_wrapper.av_separator.separator_w_v.scale"] = torch.zeros(2)
    weights["net_wrapper.hp_loss.weight"] = torch.zeros(2)
    account = load_into(weights, loaded, loaded_critic)
    assert account.unexpected == ["net_wrapper.hp_loss.weight"]
    assert account.missing == ["separator.mask_scale", "critic.b"]
    assert account.misshapen == ["net_wrapper.av_separator.separator_w_v.scale: (2,), ours (1,)"]
    assert len(account.matched) == len(state) - 2
    with pytest.raises(ValueError, match="do not fit this configuration: 414 tensors matched; 1 unexpected"):
        load_published(weights, FULL)


class Malicious:
    def __reduce__(self) -> tuple:
        return (print, ("executed",))


def test_nothing_in_a_file_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {"x": torch.zeros(1)}, "hyper_parameters": Malicious()}, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match="cannot be read without running code from it"):
        read_published(tmp_path / "bad.ckpt")
    assert "executed" not in capsys.readouterr().out


def test_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read_published(tmp_path / "none.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match="holds no state_dict"):
        read_published(tmp_path / "list.ckpt")
