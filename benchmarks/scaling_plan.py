"""What the model of scaling takes from the program itself: buckets of gradients, and partners from the memory bank."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.scaling_model import Bucket, Cluster, Partners
from ialcms.config import Config
from ialcms.engine.learner import BUCKET_MIB, _Network
from ialcms.models.build import build_networks
from ialcms.rng import uniforms
from ialcms.training.pair_plan import BankLayout, plan_exchange, plan_pairs

_BUCKET = BUCKET_MIB * 2**20  # bytes; of the first one too: DDP has a smaller first one with its own size only


# ---- gradients


def buckets(config: Config, *, waits_late: bool) -> dict[str, list[Bucket]]:
    """DDP's buckets of each network in the order in which they are sent, from passes without numbers.

    waits_late: whether the critic does not wait for partners at first, as on more ranks than a node has.
    """
    data, audio = config.data, config.audio
    with FakeTensorMode(allow_non_fake_inputs=True):
        separator, critic = build_networks(config, pretrained=False)
        assert critic is not None
        magnitudes = torch.zeros(config.clips_per_mix, audio.log_bins, audio.num_frames)
        pairs = torch.zeros(2 * config.clips_per_mix, 2, dtype=torch.long)
        mix = torch.zeros(1, audio.num_samples)
        pictures = (1, data.num_mixtures, data.num_objects, 3, data.image_crop, data.image_crop)
        objects = torch.zeros(pictures, dtype=torch.uint8)

        def critic_loss() -> Tensor:
            partners = torch.zeros_like(magnitudes)
            scores, penalty = critic(magnitudes, pairs, True, (lambda: partners) if waits_late else partners)
            return scores.sum() + penalty  # type: ignore[no-any-return]

        def separator_loss() -> Tensor:
            output = separator(mix, objects)
            waves = separator.mixture_waves(output, audio.num_samples)
            return waves.sum() + output.visual_for_loss.sum() + output.audio_embedding.sum()

        return {
            "critic": _buckets(critic.train(), critic_loss),
            "separator": _buckets(separator.train(), separator_loss),
        }


def _buckets(network: nn.Module, loss: Callable[[], Tensor]) -> list[Bucket]:
    """DDP keeps the order in which gradients came in its first backward pass: see `DDPLearner._settle_buckets`."""
    arrived: list[Tensor] = []
    hooks = [p.register_post_accumulate_grad_hook(arrived.append) for p in network.parameters() if p.requires_grad]
    _Network(network)().backward()
    order, shares = list(arrived), {}
    arrived.clear()
    counter = FlopCounterMode(display=False)
    with counter:
        value = loss()
        forward = counter.get_total_flops()
        hooks += [
            p.register_post_accumulate_grad_hook(lambda p: shares.update({id(p): counter.get_total_flops()}))
            for p in network.parameters()
            if p.requires_grad
        ]
        value.backward()
        backward = counter.get_total_flops() - forward
    for hook in hooks:
        hook.remove()
    parts, _ = dist._compute_bucket_assignment_by_size([p.detach() for p in order], [_BUCKET])
    result = []
    for part in parts:
        members = [order[index] for index in part]
        ready = max(shares[id(member)] for member in members) - forward
        result.append(Bucket(sum(p.numel() * p.element_size() for p in members), ready / backward))
    return result


# ---- partners


def partners(config: Config, mixes: int, world_size: int, *, cluster: Cluster, steps: Sequence[int]) -> Partners:
    """What the exchange sends, with a full memory bank.

    mixes: of a rank in a step. world_size, cluster: the ranks. steps: whose draws are averaged.
    """
    row_bytes = 2 * config.audio.log_bins * config.audio.num_frames
    layout = BankLayout(config.loss.bank_size, mixes * world_size * config.clips_per_mix, world_size)
    node = np.arange(world_size) // cluster.gpus_a_node
    found = []
    for step in steps:
        rows = _rows_between_ranks(config, layout, step, filled=layout.capacity)
        np.fill_diagonal(rows, 0)
        between = rows * (node[:, None] != node[None, :])
        nodes = [np.bincount(node, between.sum(axis=axis)).max() for axis in (0, 1)]
        sent = rows.sum(axis=1)
        found.append([sent.mean(), max(sent.max(), rows.sum(axis=0).max()), max(nodes)])
    mean, largest, node_rows = np.mean(found, axis=0)
    return Partners(row_bytes * mean, row_bytes * largest, row_bytes * node_rows)


def rank_0_sends(config: Config, mixes: int, world_size: int, *, entered: int, step: int) -> int:
    """Bytes of the memory bank's exchange of rank 0 at a step.

    mixes: of a rank in a step. world_size: the ranks. entered: batches that are in the bank, or have gone through it.
    """
    row_bytes = 2 * config.audio.log_bins * config.audio.num_frames
    layout = BankLayout(config.loss.bank_size, mixes * world_size * config.clips_per_mix, world_size)
    components = entered * layout.num_components
    next_slot, filled = components % layout.capacity, min(layout.capacity, components)
    draws = uniforms(2 * layout.num_components, config.seed, "pairs", step).reshape(2, -1)
    plan = plan_pairs(draws, config.clips_per_mix, filled, next_slot=next_slot, capacity=layout.capacity)
    num_sent = plan_exchange(plan, layout, next_slot, rank=0).num_sent
    return row_bytes * int(num_sent[1:].sum())


def _rows_between_ranks(config: Config, layout: BankLayout, step: int, filled: int) -> np.ndarray:
    """(W, W): how many rows each rank sends to each. `plan_exchange` says the same of one rank."""
    world_size = layout.world_size
    draws = uniforms(2 * layout.num_components, config.seed, "pairs", step).reshape(2, -1)
    next_slot = step * layout.num_components % layout.capacity
    plan = plan_pairs(draws, config.clips_per_mix, filled, next_slot=next_slot, capacity=layout.capacity)
    source = np.where(plan.slot >= 0, layout.owner(plan.slot, next_slot), plan.member // layout.per_rank)
    target = np.arange(layout.num_components) // layout.per_rank
    rows = np.bincount(source * world_size + target, minlength=world_size**2)
    return rows.reshape(world_size, world_size)
