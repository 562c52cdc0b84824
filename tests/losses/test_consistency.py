"""The consistency loss of a whole table against its definition."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from ialcms import losses


def direct_consistency(visual: torch.Tensor, audio: torch.Tensor, temperature: float, excluded: int) -> float:
    """The definition as a double loop over float64 values."""
    visual, audio = visual.double(), audio.double()
    count = len(audio)
    score = [
        [
            max(float(visual[i, :, y, x] @ audio[j]) for y in range(visual.shape[2]) for x in range(visual.shape[3]))
            for j in range(count)
        ]
        for i in range(count)
    ]

    def term(positive: float, negatives: list[float]) -> float:
        kept = sorted(negatives)[: max(0, len(negatives) - excluded)]
        top = math.exp(positive / temperature)
        return -math.log(top / (top + sum(math.exp(n / temperature) for n in kept)))

    rows = [term(score[i][i], [score[i][j] for j in range(count) if j != i]) for i in range(count)]
    columns = [term(score[j][j], [score[i][j] for i in range(count) if i != j]) for j in range(count)]
    return 0.5 * (sum(rows) / count + sum(columns) / count)


@pytest.mark.parametrize("count", [1, 2, 6, 7, 8, 12])
def test_consistency_against_the_definition(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    visual = F.normalize(torch.randn(count, 5, 3, 4, generator=generator), dim=1)
    audio = F.normalize(torch.randn(count, 5, generator=generator), dim=1)
    ours = float(losses.consistency_loss(losses.similarity(visual, audio)))
    assert ours == pytest.approx(direct_consistency(visual, audio, 0.3, 6), abs=1e-5)
    assert (ours == pytest.approx(0.0, abs=1e-7)) == (count <= 7)


@pytest.mark.parametrize("count", [1, 3, 7, 8, 20])
@pytest.mark.parametrize("excluded", [0, 6])
def test_consistency_and_its_gradient_with_sorted_negatives(count: int, excluded: int) -> None:
    """In double precision against rows that are sorted and cut; where no negative is kept, nothing pulls."""
    torch.manual_seed(count)
    scores = torch.randn(count, count, dtype=torch.float64, requires_grad=True)
    others = ~torch.eye(count, dtype=torch.bool)
    expected = torch.zeros((), dtype=torch.float64)
    for table in (scores, scores.T):
        kept = table[others].view(count, count - 1).sort(dim=1).values[:, : max(0, count - 1 - excluded)]
        logits = torch.cat([table.diagonal().unsqueeze(1), kept], dim=1) / 0.3
        expected = expected + 0.5 * F.cross_entropy(logits, torch.zeros(count, dtype=torch.long))
    ours = losses.consistency_loss(scores, 0.3, excluded)
    torch.testing.assert_close(ours, expected)
    gradients = [torch.autograd.grad(loss, scores)[0] for loss in (ours, expected)]
    torch.testing.assert_close(*gradients)
    assert bool(gradients[0].any()) == (count - 1 > excluded)


def test_consistency_is_one_graph_for_the_compiler() -> None:
    scores = torch.randn(9, 9)
    compiled = torch.compile(losses.consistency_loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(scores), losses.consistency_loss(scores))
