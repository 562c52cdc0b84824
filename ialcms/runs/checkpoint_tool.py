"""`ialcms checkpoint show | diff | export`: what is inside, how two differ, weights by the published names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ialcms.files import check_writable
from ialcms.models import Critic, Separator
from ialcms.models.build import check_memory
from ialcms.overwriting import refuse_overwriting
from ialcms.published import to_published
from ialcms.runs import checkpoint
from ialcms.runs.run_folder import RunFolder
from ialcms.runs.separators import find_checkpoint

_SHOWN = 20  # lines of a longer list


def show(path: Path) -> str:
    """Progress, digests and sizes of a checkpoint, as text."""
    folder = find_checkpoint(path, "newest")
    meta, tensors = checkpoint.read_meta(folder), _tensors(checkpoint.load_state(folder))
    progress = checkpoint.Progress.of(meta)
    best = "none yet" if progress.best_score is None else f"{progress.best_score:.2f} dB at step {progress.best_step}"
    lines = [
        f"{folder}",
        f"finished steps   {progress.step}",
        f"best validation  {best}",
        f"written by       ialcms {meta['program']}, format {meta['version']}",
        f"configuration    {meta['config_digest']}",
        f"manifest         {meta['manifest_digest']}",
        f"state.pt         {meta['state_bytes'] / 1e6:.1f} MB, sha256 {meta['state_sha256'][:16]} (intact)",
        "",
        f"{'part':<24}{'tensors':>8}{'values':>14}{'MB':>10}",
    ]
    parts: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        parts.setdefault("/".join(name.split("/")[:2]), []).append(tensor)
    for name, members in parts.items():
        values, size = sum(t.numel() for t in members), sum(t.nbytes for t in members) / 1e6
        lines.append(f"{name:<24}{len(members):>8}{values:>14,}{size:>10.1f}")
    return "\n".join(lines)


def diff(first: Path, second: Path) -> str:
    """The difference of two checkpoints: configuration, progress, tensors by the size of their difference."""
    folders = find_checkpoint(first, "newest"), find_checkpoint(second, "newest")
    metas = [checkpoint.read_meta(folder) for folder in folders]
    states = [_tensors(checkpoint.load_state(folder)) for folder in folders]
    lines = [f"{folders[0]}  {folders[1]}"]
    for title, ours, theirs in (
        ("", metas[0]["progress"], metas[1]["progress"]),
        ("config ", metas[0]["config"], metas[1]["config"]),
        ("", {"manifest": metas[0]["manifest_digest"]}, {"manifest": metas[1]["manifest_digest"]}),
    ):
        lines += [
            f"{title}{name}: {ours.get(name)}  {theirs.get(name)}"
            for name in sorted(ours.keys() | theirs.keys())
            if ours.get(name) != theirs.get(name)
        ]
    for n, side in enumerate(("first", "second")):
        only = sorted(states[n].keys() - states[1 - n].keys())
        lines += [f"only in the {side}: {name}" for name in _shorten(only)]
    common = [name for name in states[0] if name in states[1]]
    differences = sorted(
        ((_distance(states[0][name], states[1][name]), name) for name in common), key=lambda pair: -pair[0]
    )
    unequal = [(distance, name) for distance, name in differences if distance > 0]
    lines += _shorten([f"{distance:.3e}  {name}" for distance, name in unequal])
    lines.append(f"{len(common) - len(unequal)} of {len(common)} common tensors are equal, bit by bit")
    return "\n".join(lines)


def export(path: Path, out: Path) -> str:
    """Write the weights of a checkpoint to a file by the published names, like an authors' one; says what it wrote."""
    folder = find_checkpoint(path, "newest")
    check_writable(out)
    refuse_overwriting([out], [*RunFolder(path).files(), *RunFolder(folder).files()], "name another file")
    meta = checkpoint.read_meta(folder)
    separator, critic = _networks(folder, meta)
    state = to_published(separator, critic, checkpoint=True)
    checkpoint.save_tensors({"state_dict": state, "global_step": meta["progress"]["step"]}, out)
    text = f"{len(state)} tensors of {folder} -> {out}"
    if checkpoint.config_of(meta).model.masks != "free":
        text += "\nThe authors' programs do not share a mix among its masks, as these weights have learned to."
    return text


def _networks(folder: Path, meta: dict[str, Any]) -> tuple[Separator, Critic | None]:
    config = checkpoint.config_of(meta)
    state = checkpoint.load_state(folder)
    check_memory(config)
    separator = Separator(config.model, config.audio)
    critic = Critic(config.model.critic) if "critic" in state else None
    with checkpoint.fitting(folder):
        separator.load_state_dict(checkpoint.separator_weights(state))
        if critic is not None:
            critic.load_state_dict(state["critic"]["module"])
    return separator, critic


def _tensors(tree: Any, name: str = "") -> dict[str, Tensor]:
    """All tensors of a nested state by their paths."""
    if isinstance(tree, Tensor):
        return {name: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    return {path: t for key, value in items for path, t in _tensors(value, f"{name}/{key}".lstrip("/")).items()}


def _distance(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the largest value; infinite for other shapes and where one is not finite."""
    if a.shape != b.shape:
        return float("inf")
    if torch.equal(a, b) or a.numel() == 0:
        return 0.0
    scale = max(float(a.double().abs().max()), 1e-30)
    distance = float((a.double() - b.double()).abs().max()) / scale
    return float("inf") if math.isnan(distance) else distance


def _shorten(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _SHOWN else [*lines[:_SHOWN], f"... and {len(lines) - _SHOWN} more"]
