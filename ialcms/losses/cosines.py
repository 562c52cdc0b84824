"""Similarity of pictures and sounds: the largest cosine over the picture's cells, and its gradient.

Shapes: n pictures, N sounds, D channels and H x W cells of the visual feature.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


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
    num_cells = pictures.shape[2]
    if cells.numel() * num_cells <= _COSINES_A_BLOCK:
        found = _by_products(pictures, audio, cells, score_gradient)
    else:
        found = _by_best_cells(pictures, audio, cells, score_gradient)
    return EmbeddingGradients(found.visual.view(visual.shape), found.audio)


def _by_products(pictures: Tensor, audio: Tensor, cells: Tensor, score_gradient: Tensor) -> EmbeddingGradients:
    """With a table of all cells' gradients, which are zero but for the best cell's: fewer launches.

    pictures (n, D, H*W); otherwise as in `embedding_gradients`.
    """
    at_cells = score_gradient.new_zeros(*cells.shape, pictures.shape[2])
    at_cells = at_cells.scatter_(2, cells.long().unsqueeze(2), score_gradient.unsqueeze(2)).to(audio.dtype)
    d_pictures = _product(audio.T.expand(len(pictures), -1, -1), at_cells)
    return EmbeddingGradients(d_pictures, _product(at_cells, pictures.mT).sum(0))


def _by_best_cells(pictures: Tensor, audio: Tensor, cells: Tensor, score_gradient: Tensor) -> EmbeddingGradients:
    """As sums over the best cells alone: work and memory are those of the (n, N) pairs, not of their cells.

    pictures (n, D, H*W); otherwise as in `embedding_gradients`. Of bfloat16 embeddings each sum is rounded to bfloat16.
    """
    num_pictures, channels, num_cells = pictures.shape
    weights = score_gradient.to(audio.dtype)
    numbers = torch.arange(num_pictures * num_cells, dtype=torch.int32, device=cells.device)
    cell_of_pair = numbers[::num_cells].unsqueeze(1) + cells  # over all pictures
    table = pictures.mT.reshape(len(numbers), channels)
    d_audio = F.embedding_bag(cell_of_pair.T.contiguous(), table, per_sample_weights=weights.T.contiguous(), mode="sum")

    # By row is by cell over all pairs: a picture's cells follow those of the picture before it.
    runs, sounds = cell_of_pair.sort(dim=1, stable=True)
    weights = weights.gather(1, sounds)
    d_table = _sums_of_runs(audio, sounds.int().flatten(), weights.flatten(), runs=runs.flatten(), numbers=numbers)
    d_pictures = d_table.view(num_pictures, num_cells, channels).mT
    return EmbeddingGradients(d_pictures.to(score_gradient.dtype), d_audio.to(score_gradient.dtype))


def _sums_of_runs(table: Tensor, index: Tensor, weights: Tensor, *, runs: Tensor, numbers: Tensor) -> Tensor:
    """For each run (r, D) the sum of its weighted rows of the table, always in the same order.

    table: (N, D). index, weights: (p,) of rows. runs: (p,) ascending, the number of the run that each belongs to; a run
    may have all of them, or none. numbers: (r,) of the runs, from 0. A run is summed in pieces, so that no thread of a
    GPU has a long list of rows to add, whatever the runs.
    """
    starts = torch.searchsorted(runs, numbers, out_int32=True)
    cuts = torch.arange(0, len(index), _PIECE, dtype=torch.int32, device=index.device)
    pieces = torch.cat([starts, cuts]).sort().values
    sums = F.embedding_bag(index, table, pieces, per_sample_weights=weights, mode="sum")
    run_of_piece = runs[pieces.clamp(max=len(runs) - 1)]  # any, of an empty piece
    every = torch.arange(len(pieces), dtype=torch.int32, device=index.device)
    return F.embedding_bag(every, sums, torch.searchsorted(run_of_piece, numbers, out_int32=True), mode="sum")


_PICTURES_A_BLOCK = 32
_COSINES_A_BLOCK = 2**24
_PIECE = 256  # of a run


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
