"""The golden case: networks, a batch, and what one pass in a mode gives; on any device and in any precision."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ialcms import losses
from ialcms.config import Config
from ialcms.models import Critic, Separator
from ialcms.published import load_published
from tests.golden.deterministic import HERE, batch, weights

GOLDEN = np.load(HERE / "duet.npz", allow_pickle=False)


@dataclass
class Case:
    """Everything that one pass in a mode gives, named as in the golden file."""

    values: dict[str, Tensor]
    critic_gradients: dict[str, float]
    separator_gradients: dict[str, float]
    buffers: dict[str, Tensor]


def golden_inputs() -> dict[str, Tensor]:
    arrays = batch(int(GOLDEN["batch_seed"]), tuple(GOLDEN["shape"]))
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def golden_networks(config: Config) -> tuple[Separator, Critic]:
    """config: of the full-size networks."""
    return load_published(_golden_weights(), config)


@functools.cache
def _golden_weights() -> dict[str, np.ndarray]:
    seed = int(GOLDEN["weight_seed"])
    return weights("separator", seed) | weights("critic", seed)


def stand_in_pairs(shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """'Independent' (i, i + 1 mod N) and 'dependent' (i, next component of the same mix, cyclic), each (N, 2)."""
    count, per_mix = int(np.prod(shape)), shape[1] * shape[2]
    index = torch.arange(count)
    sibling = index // per_mix * per_mix + (index % per_mix + 1) % per_mix
    return torch.stack([index, (index + 1) % count], 1), torch.stack([index, sibling], 1)


def run(
    separator: Separator,
    critic: Critic,
    inputs: dict[str, Tensor],
    autocast: AbstractContextManager = nullcontext(),  # noqa: B008 (it has no state)
) -> Case:
    """One pass in the mode that the networks are in; gradients of both networks where that is training.

    autocast: around the passes of the networks, as in a training step.
    """
    mix, mixtures, objects = inputs["mix"], inputs["mixtures"], inputs["objects"]
    with autocast:
        output = separator(mix, objects)
    waves = separator.component_waves(output, mix.shape[-1])
    magnitudes = output.magnitude.flatten(0, 2)
    pairs = torch.cat(stand_in_pairs(objects.shape[:3])).to(mix.device)
    with autocast:
        independent, dependent = critic(magnitudes.detach(), pairs).chunk(2)
    separation = losses.separation_loss(waves.sum(2), mixtures)
    scores = losses.similarity(output.visual_for_loss.flatten(0, 2), output.audio_embedding.flatten(0, 2))
    consistency = losses.consistency_loss(scores)
    values = {
        "components": waves[..., ::37],
        "mask": output.mask[..., ::17, ::13],
        "magnitude": output.magnitude[..., ::17, ::13],
        "visual": output.visual[:, :, :, ::31, ::5, ::5],
        "cosine_map": output.cosine_map,
        "localisation": output.localisation,
        "audio_embedding": output.audio_embedding,
        "attended_visual": output.attended_visual,
        "separation_loss": separation,
        "consistency_loss": consistency,
        "independent_score": independent,
        "dependent_score": dependent,
    }
    if not separator.training:
        return Case(values, {}, {}, {})
    loss = losses.critic_loss(independent, dependent, critic.weight_penalty())
    loss.backward()
    critic_gradients = _norms("critic", critic)
    critic.eval().requires_grad_(False)
    with autocast:
        frozen_scores = critic(magnitudes, pairs)
    independence = losses.independence_loss(*frozen_scores.chunk(2))
    total = separation + 0.05 * consistency + 0.01 * independence
    total.backward()
    values |= {"critic_loss": loss, "independence_loss": independence, "total_loss": total}
    buffers = {f"separator.{name}": buffer for name, buffer in separator.named_buffers()}
    return Case(values, critic_gradients, _norms("separator", separator), buffers)


def _norms(network: str, module: nn.Module) -> dict[str, float]:
    return {f"{network}.{n}": float(p.grad.norm()) for n, p in module.named_parameters() if p.grad is not None}
