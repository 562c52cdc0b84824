"""Weights by the published research code's parameter names, to and from our networks.

    import numpy, torch
    from ialcms.config import load_config
    from ialcms.published import load_published

    config = load_config("configs/duet.yaml")
    separator, critic = load_published(weights, config)      # {published name: array}, or a checkpoint's path
    separator.eval(), critic.eval()                          # they come in training mode, the backbone frozen
    out = separator(mix, objects)                            # (B, L), (B, M, O, 3, 224, 224) tensors
    waves = separator.component_waves(out, mix.shape[-1])    # (B, M, O, L)
    out.mask, out.magnitude                                  # (B, M, O, F, T)
    out.visual, out.cosine_map, out.localisation, out.audio_embedding, out.attended_visual
    scores = critic(out.magnitude.flatten(0, 2), pairs)      # pairs (P, 2) of component indices -> (P,)

    ialcms.losses: separation_loss(waves.sum(2), mixtures), critic_loss, independence_loss and
    consistency_loss(similarity(out.visual.flatten(0, 2), out.audio_embedding.flatten(0, 2)))

Pictures are uint8, which the visual net normalises, or float32 and already normalised as ImageNet's:
`ialcms.data.train_batches.normalise_objects`.

Checkpoints of the authors hold a `state_dict` whose names carry the prefixes `net_wrapper.av_separator.` and
`net_wrapper.critics.`. Files are read with `weights_only=True`: nothing in them is executed. `ialcms import` makes a
run's folder of such a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ialcms.config import Config
from ialcms.models import Critic, Separator
from ialcms.reading import Unreadable, one_line
from ialcms.reading.weights import Weights, read_weights

_SEPARATOR_PREFIX = "net_wrapper.av_separator."
_CRITIC_PREFIX = "net_wrapper.critics."

# Published name -> ours, as whole-prefix rewrites; tried in order, longest paths first. The published U-Net nests
# its levels: `submodule` n times is level n.


def _rules() -> list[tuple[str, str]]:
    level = ["separator_w_v.unet_block" + ".submodule" * depth for depth in range(6)]
    visual = "visualNet.basenet."
    rules = [
        (visual + "backbone.layer1.0.", "visual.backbone.conv1."),
        (visual + "backbone.layer1.1.", "visual.backbone.bn1."),
        (visual + "backbone.layer2.1.", "visual.backbone.layer1."),
        *((f"{visual}backbone.layer{n + 1}.", f"visual.backbone.layer{n}.") for n in (2, 3, 4)),
        *((f"{visual}aspp.aspp{n + 1}.model.", f"visual.aspp.branches.{n}.") for n in range(4)),
        (visual + "aspp.global_avg_pool.", "visual.aspp.pooling."),
        (visual + "aspp.conv1.", "visual.aspp.fusion.0."),
        (visual + "aspp.bn1.", "visual.aspp.fusion.1."),
        (visual + "reduce_block.", "visual.reduce."),
        (visual + "decoder.", "visual.decoder."),
        ("visualNet.common_space_mlp.", "visual.common_space."),
        ("separator_w_v.scale", "mask_scale"),
        ("separator_w_v.bias", "mask_bias"),
        ("separator_w_v.bn0.", "input_norm."),
        (level[5] + ".avmodule.sep_mlp.", "audio_visual.fusion."),
        (level[5] + ".avmodule.a_common_mlp.", "audio_visual.common_space."),
        (level[5] + ".avmodule.weight_mlp.", "audio_visual.channel_attention."),
        (level[5] + ".avmodule.sigmoid.w", "audio_visual.localisation_gain"),
        (level[5] + ".avmodule.sigmoid.b", "audio_visual.localisation_bias"),
        (level[0] + ".down.", "encoder.stem."),
        (level[0] + ".up.1.", "decoder.score."),
    ]
    for depth in (1, 2, 3, 4):
        block = f"decoder.blocks.{4 - depth}"
        rules += [
            (level[depth] + ".down.", f"encoder.stages.{depth - 1}."),
            (level[depth] + ".up.1.", f"{block}.conv."),
            (level[depth] + ".up.3.", f"{block}.norm."),
            (level[depth] + ".style_mlp_w.0.", f"{block}.style.gain."),
            (level[depth] + ".style_mlp_b.0.", f"{block}.style.offset."),
        ]
    return rules


_SEPARATOR_RULES = _rules()
_CRITIC_G = ("initial:1-64", "pyramid1:64-128", "pyramid2:128-256", "pyramid3:256-512", "pyramid4:512-1024",
             "pyramid5:1024-1024")  # fmt: skip
_CRITIC_RULES = [
    ("critics_model.b", "b"),
    ("critics_model.w.", "w."),
    ("critics_model.h.", "h."),
    *((f"critics_model.g.{name}:conv.", f"g.{2 * n}.") for n, name in enumerate(_CRITIC_G)),
]
# torch's hook form of spectral normalisation -> the parametrized form
_SPECTRAL = {
    "weight_orig": "parametrizations.weight.original",
    "weight_u": "parametrizations.weight.0.u",
    "weight_v": "parametrizations.weight.0.v",
}


@dataclass(frozen=True)
class Account:
    """Which tensors of a file fill which of our networks: each name of the file is in exactly one of the lists."""

    matched: dict[str, str]  # name in the file -> ours
    unexpected: list[str]  # names in the file that our networks do not have
    missing: list[str]  # our names that the file does not fill
    misshapen: list[str]  # "name in the file: its shape, our shape"

    @property
    def complete(self) -> bool:
        return not (self.unexpected or self.missing or self.misshapen)

    def __str__(self) -> str:
        lines = [f"{len(self.matched)} tensors matched"]
        for title in ("unexpected", "missing", "misshapen"):
            names = getattr(self, title)
            if names:
                lines.append(f"{len(names)} {title}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}")
        return "; ".join(lines)


def our_name(published: str) -> str | None:
    """Our name of a published parameter or buffer, 'separator.' or 'critic.' first; None for a foreign name."""
    name = published.removeprefix(_SEPARATOR_PREFIX).removeprefix(_CRITIC_PREFIX)
    for network, rules in (("separator", _SEPARATOR_RULES), ("critic", _CRITIC_RULES)):
        for theirs, ours in rules:
            if name.startswith(theirs) and not (theirs[-1] != "." and name != theirs):
                rest = name[len(theirs) :]
                return f"{network}.{ours}{_to_parametrized(rest)}"
    return None


def published_name(ours: str) -> str:
    """The inverse of `our_name`, without the checkpoint's prefixes."""
    network, _, name = ours.partition(".")
    rules = _SEPARATOR_RULES if network == "separator" else _CRITIC_RULES
    for theirs, prefix in rules:
        if name.startswith(prefix):
            return theirs + _to_hooked(name[len(prefix) :])
    raise AssertionError(f"no published name for {ours}")


def _to_parametrized(name: str) -> str:
    for hooked, parametrized in _SPECTRAL.items():
        name = re.sub(rf"(^|\.){hooked}$", rf"\1{parametrized}", name)
    return name


def _to_hooked(name: str) -> str:
    for hooked, parametrized in _SPECTRAL.items():
        name = name.replace(parametrized, hooked)
    return name


def import_remedy(path: str | Path) -> str:
    """What to say where a file of weights is given instead of a run's folder."""
    command = f"ialcms import {path} --config duet --out {Path('runs') / Path(path).stem}"
    return f"{path} is a file of weights, not a run's folder; make one of it: {command}"


def read_published(path: str | Path) -> Weights:
    """The tensors of an authors' checkpoint, or of any file that holds a (nested) `state_dict`, by their names.

    Raises ValueError when the file is missing, is no torch file, or would need code to be run.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"checkpoint {path} does not exist")
    try:
        return read_weights(path)
    except (OSError, Unreadable) as error:
        raise ValueError(
            f"checkpoint {path} cannot be read without running code from it: {one_line(error)}; give an authors' "
            "checkpoint, or any file of torch.save with a state_dict"
        ) from error


def with_usual_prefixes(weights: Weights, separator: Separator, critic: Critic | None) -> Weights:
    """Published names under any prefix, as in a larger network that holds ours, renamed as in authors' checkpoints."""
    state, notes = dict(weights.state), list(weights.notes)
    for network, usual, module in (("separator", _SEPARATOR_PREFIX, separator), ("critic", _CRITIC_PREFIX, critic)):
        names = [] if module is None else [published_name(f"{network}.{name}") for name in module.state_dict()]
        found = weights.prefixes_of(names) if names else []
        if len(found) == 1 and found[0] not in ("", usual):
            notes.append(f"stripped '{found[0]}' from the {network}'s names")
            for name in names:
                state[usual + name] = state.pop(found[0] + name)
    return Weights(state, tuple(notes))


def load_into(
    weights: Mapping[str, Any],
    separator: Separator,
    critic: Critic | None,
    rename: Callable[[str], str | None] = our_name,
) -> Account:
    """Copy published arrays into our networks; those that do not fit are left out and listed in the account.

    weights may hold one network only: the other's names are then listed as missing. rename: a name of `weights` -> our
    name, 'separator.' or 'critic.' first, or None for a tensor that we do not have.
    """
    targets = {f"separator.{name}": value for name, value in separator.state_dict().items()}
    if critic is not None:
        targets |= {f"critic.{name}": value for name, value in critic.state_dict().items()}
    matched: dict[str, str] = {}
    unexpected, misshapen = [], []
    for name, array in weights.items():
        ours = rename(name)
        if ours is None or ours not in targets:
            unexpected.append(name)
            continue
        value, wanted = _tensor(array), tuple(targets[ours].shape)
        if value is None or value.shape != wanted:
            misshapen.append(f"{name}: {'no tensor' if value is None else tuple(value.shape)}, ours {wanted}")
            continue
        targets[ours].copy_(value)  # state_dict shares its tensors with the module
        matched[name] = ours
    filled = set(matched.values())
    missing = [name for name in targets if name not in filled]
    return Account(matched, unexpected, missing, misshapen=misshapen)


def _tensor(array: Any) -> Tensor | None:
    try:
        return torch.as_tensor(array)
    except (TypeError, ValueError, RuntimeError):
        return None


def load_published(weights: Mapping[str, Any] | str | Path, config: Config) -> tuple[Separator, Critic]:
    """Our separator and critic of `config`, filled from {published name: array} or an authors' checkpoint file.

    Every tensor of ours must be filled and every published one used; otherwise ValueError with the account. See
    `load_into` to fill what fits.
    """
    separator, critic = Separator(config.model, config.audio), Critic(config.model.critic)
    if isinstance(weights, (str, Path)):
        weights = with_usual_prefixes(read_published(weights), separator, critic).state
    account = load_into(weights, separator, critic)
    if not account.complete:
        raise ValueError(f"the published weights do not fit this configuration: {account}")
    return separator, critic


def to_published(separator: Separator, critic: Critic | None, checkpoint: bool = False) -> dict[str, Tensor]:
    """Our weights by their published names; with `checkpoint` under an authors' checkpoint's prefixes."""
    state = {f"separator.{name}": value for name, value in separator.state_dict().items()}
    if critic is not None:
        state |= {f"critic.{name}": value for name, value in critic.state_dict().items()}
    prefix = {"separator": _SEPARATOR_PREFIX, "critic": _CRITIC_PREFIX} if checkpoint else {}
    return {prefix.get(name.partition(".")[0], "") + published_name(name): value for name, value in state.items()}
