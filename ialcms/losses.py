"""Losses of the separator and the critic.

Shapes: B mixes, M mixtures a mix, O objects a mixture, L samples, N = B*M*O components of the global batch, n of them
local to the rank, D channels and H x W cells of the visual feature.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_EPS = 1e-8


def si_snr(estimate: Tensor, target: Tensor, cap_db: float = 30.0) -> Tensor:
    """Scale-invariant signal-to-noise ratio in dB over the last axis, softly capped.

    Both are made zero-mean. With p the energy of the projection on the target and e that of the rest, the result is
    10 log10(p / (e + p * 10^(-cap/10) + 1e-8) + 1e-8): a perfect estimate gives the cap, a silent one -80 dB.
    """
    return _SiSnr.apply(estimate, target, 10 ** (-cap_db / 10))  # type: ignore[no-any-return]


class _SiSnr(torch.autograd.Function):
    """With the gradient at the estimate in closed form, in half the launches. None for the target."""

    @staticmethod
    def forward(ctx: Any, estimate: Tensor, target: Tensor, floor: float) -> Tensor:
        """estimate, target: (..., L). floor: of the rest, as a share of the signal."""
        exact = torch.promote_types(estimate.dtype, torch.float32)
        ctx.dtype = estimate.dtype
        estimate, target = estimate.to(exact), target.to(exact)
        estimate = estimate - estimate.mean(dim=-1, keepdim=True)
        target = target - target.mean(dim=-1, keepdim=True)
        energy = target.square().sum(-1, keepdim=True) + _EPS
        scale = (estimate * target).sum(-1, keepdim=True) / energy
        projection = scale * target
        rest = estimate - projection
        signal, residual = projection.square().sum(-1, keepdim=True), rest.square().sum(-1, keepdim=True)
        whole = residual + signal * floor + _EPS
        ratio = signal / whole + _EPS
        ctx.save_for_backward(target, energy, scale, rest, signal, whole, ratio)
        ctx.floor = floor
        return 10 * torch.log10(ratio).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        target, energy, scale, rest, signal, whole, ratio = ctx.saved_tensors
        # With r = signal / whole: dr/d_residual = -r / whole, dr/d_signal = (1 - floor * r) / whole.
        at_ratio = gradients[0].unsqueeze(-1) * (20 / math.log(10)) / (ratio * whole)  # twice, for the squares
        at_residual = -at_ratio * signal / whole
        at_signal = torch.add(at_ratio, at_residual, alpha=ctx.floor)
        # The projection moves by target * (target . d) / energy, and target . rest is scale * _EPS.
        along = scale * (at_signal * (1 - _EPS / energy) - at_residual * (_EPS / energy))
        # Of zero mean, as target and rest are: the mean that is taken off the estimate has no part in it.
        return torch.addcmul(along * target, at_residual, rest).to(ctx.dtype), None, None


def separation_loss(mixture_waves: Tensor, mixtures: Tensor, cap_db: float = 30.0) -> Tensor:
    """- mean SI-SNR in dB between the summed components of each mixture and the mixture, both (B, M, L)."""
    return -si_snr(mixture_waves, mixtures, cap_db).mean()


def similarity(visual: Tensor, audio: Tensor) -> Tensor:
    """S_ij = max over the cells of picture i of its cosine with sound j.

    visual (n, D, H, W) and audio (N, D), both of unit length over D -> (n, N), in float32 or float64. Memory, for
    the backward pass too, is bounded but for (n, N) tables.
    """
    return _Similarity.apply(visual, audio)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class BestCells:
    """For each pair of picture and sound the cell with the largest cosine."""

    scores: Tensor  # (n, N) cosines, float32 or float64
    cells: Tensor  # (n, N) int32 indices of the H*W cells


@torch.no_grad()
def best_cells(visual: Tensor, audio: Tensor) -> BestCells:
    """visual (n, D, H, W), audio (N, D) of the same type. The cosines of bfloat16 embeddings are summed in float32."""
    pictures = visual.flatten(2)
    exact = torch.promote_types(visual.dtype, torch.float32)
    scores = torch.empty(len(visual), len(audio), dtype=exact, device=visual.device)
    cells = torch.empty_like(scores, dtype=torch.int32)
    for rows, columns in _blocks(pictures, audio):
        part = pictures[rows]
        best = _product(audio[columns].expand(len(part), -1, -1), part).max(dim=2)
        scores[rows, columns], cells[rows, columns] = best.values, best.indices.int()
    return BestCells(scores, cells)


@dataclass(frozen=True)
class EmbeddingGradients:
    """Gradients of the scores with respect to what they are computed from."""

    visual: Tensor  # (n, D, H, W)
    audio: Tensor  # (N, D)


@torch.no_grad()
def embedding_gradients(visual: Tensor, audio: Tensor, cells: Tensor, score_gradient: Tensor) -> EmbeddingGradients:
    """The backward pass of `best_cells`.

    visual (n, D, H, W), audio (N, D): the embeddings. cells (n, N): of `BestCells`. score_gradient (n, N): the gradient
    at its scores, whose type the result has.
    """
    pictures = visual.flatten(2)
    d_pictures, d_audio = score_gradient.new_zeros(pictures.shape), score_gradient.new_zeros(audio.shape)
    for rows, columns in _blocks(pictures, audio):
        part, sounds = pictures[rows], audio[columns]
        gradient = score_gradient[rows, columns].unsqueeze(2)
        at_cells = gradient.new_zeros(len(part), len(sounds), part.shape[2])
        at_cells.scatter_(2, cells[rows, columns].long().unsqueeze(2), gradient)
        at_cells = at_cells.to(audio.dtype)
        d_pictures[rows] += _product(sounds.T.expand(len(part), -1, -1), at_cells)
        d_audio[columns] += _product(at_cells, part.mT).sum(0)
    return EmbeddingGradients(d_pictures.view(visual.shape), d_audio)


_PICTURES_A_BLOCK = 32
_COSINES_A_BLOCK = 2**24


def _blocks(pictures: Tensor, audio: Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the (n, N) table, few enough at a time that (rows, columns, H*W) cosines fit in memory."""
    num_rows = min(_PICTURES_A_BLOCK, len(pictures))
    num_columns = max(1, _COSINES_A_BLOCK // (num_rows * pictures.shape[2]))
    for row in range(0, len(pictures), num_rows):
        for column in range(0, len(audio), num_columns):
            yield slice(row, row + num_rows), slice(column, column + num_columns)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Batched matrix product. Of bfloat16 factors, sums and result are float32."""
    with torch.autocast(a.device.type, enabled=False):
        if a.dtype != torch.bfloat16:
            return a @ b
        if a.is_cuda:
            return torch.bmm(a, b, out_dtype=torch.float32)
        return a.float() @ b.float()


class _Similarity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, visual: Tensor, audio: Tensor) -> Tensor:
        exact = torch.promote_types(torch.promote_types(visual.dtype, audio.dtype), torch.float32)
        ctx.types = visual.dtype, audio.dtype
        visual, audio = visual.to(exact), audio.to(exact)
        best = best_cells(visual, audio)
        ctx.save_for_backward(visual, audio, best.cells)
        return best.scores

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        visual, audio, cells = ctx.saved_tensors
        result = embedding_gradients(visual, audio, cells, score_gradient=gradients[0])
        return result.visual.to(ctx.types[0]), result.audio.to(ctx.types[1])


def consistency_loss(scores: Tensor, temperature: float = 0.3, excluded_negatives: int = 6) -> Tensor:
    """Audio-visual consistency from the similarities (N, N) of all objects: cross-entropy of the true pair against
    the others, over rows and over columns, half of each.

    The `excluded_negatives` largest negatives of a row are left out, as they are likely to be the same instrument.
    Where none is kept the term is 0, so N <= excluded_negatives + 1 gives 0.
    """
    return 0.5 * (
        _row_loss(scores, temperature, excluded_negatives) + _row_loss(scores.T, temperature, excluded_negatives)
    )


def _row_loss(scores: Tensor, temperature: float, excluded: int) -> Tensor:
    count = len(scores)
    pairs = torch.eye(count, dtype=torch.bool, device=scores.device)
    largest = scores.detach().masked_fill(pairs, -torch.inf).topk(min(excluded, count - 1), dim=1, sorted=False).indices
    logits = scores.scatter(1, largest, -torch.inf) / temperature  # no mask of data-dependent shape: no host waits
    return (logits.logsumexp(dim=1) - logits.diagonal()).mean()


def critic_loss(independent: Tensor, dependent: Tensor, weight_penalty: Tensor, c: float = 1.0) -> Tensor:
    """||w||^2 + C * (mean max(0, 1 - score) over independent + mean max(0, 1 + score) over dependent pairs).

    independent, dependent: scores of the pairs. weight_penalty: ||w||^2. c: C.
    """
    hinge = mean_score(torch.relu(1 - independent)) + mean_score(torch.relu(1 + dependent))
    return weight_penalty + c * hinge


def independence_loss(independent: Tensor, dependent: Tensor) -> Tensor:
    """The separator's side: its dependent pairs should score like independent ones."""
    return mean_score(independent) - mean_score(dependent)


def mean_score(scores: Tensor) -> Tensor:
    """Mean, and 0 where there is no pair: a lone mix has no independent ones before the memory bank has content."""
    return scores.mean() if len(scores) else scores.sum()
