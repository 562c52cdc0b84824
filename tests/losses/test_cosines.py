"""Similarity of pictures and sounds, and its gradient in each form."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F

from ialcms import losses
from ialcms.losses import cosines


def embeddings(pictures: int, sounds: int, channels: int = 4, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(pictures)
    visual = torch.randn(pictures, channels, 3, 5, generator=generator, dtype=dtype)
    audio = torch.randn(sounds, channels, generator=generator, dtype=dtype)
    return [F.normalize(x, dim=1).requires_grad_() for x in (visual, audio)]


@pytest.mark.parametrize("block", [1, 60, 2**24])
def test_similarity_and_its_gradient_in_blocks(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(cosines, "_COSINES_A_BLOCK", block)
    monkeypatch.setattr(cosines, "_PICTURES_A_BLOCK", 4)
    monkeypatch.setattr(cosines, "_PIECE", 3)
    visual, audio = embeddings(9, 7)
    scores = losses.similarity(visual, audio)
    direct = torch.einsum("idhw,jd->ijhw", visual, audio).flatten(2).amax(2)
    torch.testing.assert_close(scores, direct, rtol=0, atol=1e-14)
    weights = torch.randn(9, 7, dtype=torch.float64)
    expected = torch.autograd.grad((direct * weights).sum(), (visual, audio))
    for ours, theirs in zip(torch.autograd.grad((scores * weights).sum(), (visual, audio)), expected):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("block", [1, 2**24])
def test_similarity_of_bfloat16_embeddings(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings are rounded to 8 bits, and the gradient at the scores, and sums over best cells: cosines are not."""
    monkeypatch.setattr(cosines, "_COSINES_A_BLOCK", block)
    visual, audio = embeddings(40, 30, channels=64)
    exact = losses.best_cells(visual, audio)
    rough = losses.best_cells(visual.bfloat16(), audio.bfloat16())
    assert rough.scores.dtype == torch.float32
    assert 0 < (rough.scores - exact.scores).abs().max() < 2e-3
    gradient = torch.randn(40, 30)
    expected = losses.embedding_gradients(visual, audio, rough.cells, gradient.double())
    ours = losses.embedding_gradients(visual.bfloat16(), audio.bfloat16(), rough.cells, gradient)
    for a, b in ((ours.visual, expected.visual), (ours.audio, expected.audio)):
        assert a.dtype == torch.float32
        assert 0 < (a - b).abs().max() < 0.01 * b.abs().max()


@pytest.mark.parametrize("winners", [[0], [3, 7], range(15)])
def test_gradients_from_the_best_cells_are_those_from_all(
    winners: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the best cells lie; the same to the bit from one call to the next."""
    visual, audio = embeddings(5, 21)
    generator = torch.Generator().manual_seed(1)
    cells = torch.tensor(winners)[torch.randint(len(winners), (5, 21), generator=generator)].int()
    at_scores = torch.randn(5, 21, dtype=torch.float64, generator=generator)
    expected = losses.embedding_gradients(visual, audio, cells, at_scores)
    monkeypatch.setattr(cosines, "_COSINES_A_BLOCK", 1)
    monkeypatch.setattr(cosines, "_PIECE", 4)
    ours = losses.embedding_gradients(visual, audio, cells, at_scores)
    again = losses.embedding_gradients(visual, audio, cells, at_scores)
    for a, b, c in zip(_both(ours), _both(expected), _both(again)):
        assert b.abs().max() > 0.1
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)
        assert torch.equal(a, c)


def _both(gradients: losses.EmbeddingGradients) -> tuple[torch.Tensor, torch.Tensor]:
    return gradients.visual, gradients.audio


def test_similarity_keeps_no_product_for_the_backward_pass() -> None:
    """What autograd keeps grows with the inputs and N*N, not with N*N*H*W."""
    visual = F.normalize(torch.randn(40, 8, 14, 14), dim=1).requires_grad_()
    audio = F.normalize(torch.randn(40, 8), dim=1)
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses.similarity(visual, audio)
    table = 40 * 40 * 4
    assert sum(kept.values()) <= visual.nbytes + audio.nbytes + table
