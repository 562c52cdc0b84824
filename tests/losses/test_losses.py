from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F

from ialcms import losses
from ialcms.losses import cosines


def tone(cycles: float, samples: int = 4_000, phase: float = 0.0) -> torch.Tensor:
    return torch.sin(2 * math.pi * cycles * torch.arange(samples) / samples + phase)


class TestSiSnr:
    def test_perfect_estimate_gives_the_cap(self) -> None:
        assert float(losses.si_snr(3 * tone(5), tone(5))) == pytest.approx(30.0, abs=1e-3)
        assert float(losses.si_snr(tone(5), tone(5), cap_db=20.0)) == pytest.approx(20.0, abs=1e-3)

    def test_scale_and_offset_do_not_matter(self) -> None:
        estimate, target = tone(5) + 0.3 * tone(11), tone(5)
        value = float(losses.si_snr(estimate, target))
        assert float(losses.si_snr(7 * estimate + 2, target)) == pytest.approx(value, abs=1e-3)
        assert float(losses.si_snr(estimate, 0.2 * target - 1)) == pytest.approx(value, abs=1e-3)

    def test_closed_form(self) -> None:
        # an orthogonal rest of a tenth of the energy: p / (0.1 p + 0.001 p)
        value = losses.si_snr(tone(5) + math.sqrt(0.1) * tone(11), tone(5))
        assert float(value) == pytest.approx(10 * math.log10(1 / 0.101), abs=1e-3)

    def test_silent_and_orthogonal_estimates_are_finite(self) -> None:
        assert float(losses.si_snr(torch.zeros(4_000), tone(5))) == pytest.approx(-80.0, abs=1e-3)
        assert float(losses.si_snr(tone(11), tone(5))) < -60
        assert float(losses.si_snr(tone(11), torch.zeros(4_000))) == pytest.approx(-80.0, abs=1e-3)

    def test_gradient_of_a_silent_estimate_is_finite(self) -> None:
        estimate = torch.zeros(4_000, requires_grad=True)
        losses.si_snr(estimate, tone(5)).backward()
        assert torch.isfinite(estimate.grad).all()


def test_separation_loss_is_the_negative_mean() -> None:
    target = torch.stack([tone(5), tone(9)]).unsqueeze(0)
    estimate = target + 0.1 * torch.stack([tone(20), tone(30)])
    expected = -(losses.si_snr(estimate[0, 0], target[0, 0]) + losses.si_snr(estimate[0, 1], target[0, 1])) / 2
    assert float(losses.separation_loss(estimate, target)) == pytest.approx(float(expected))


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


def test_critic_loss_and_its_hinge() -> None:
    independent = torch.tensor([2.0, 0.5], requires_grad=True)
    dependent = torch.tensor([-3.0, -0.5], requires_grad=True)
    loss = losses.critic_loss(independent, dependent, torch.tensor(0.25), c=2.0)
    assert float(loss) == pytest.approx(0.25 + 2 * (0.5 / 2 + 0.5 / 2))
    loss.backward()
    # beyond the margin there is no pull
    assert independent.grad.tolist() == [0.0, -1.0]
    assert dependent.grad.tolist() == [0.0, 1.0]


def test_no_independent_pairs_leave_the_dependent_ones() -> None:
    none, dependent = torch.zeros(0), torch.tensor([0.5, -2.0])
    assert float(losses.critic_loss(none, dependent, torch.tensor(0.0))) == pytest.approx(0.75)
    assert float(losses.independence_loss(none, dependent)) == pytest.approx(0.75)


def test_independence_loss_pulls_dependent_scores_up() -> None:
    independent = torch.tensor([0.3, 0.1], requires_grad=True)
    dependent = torch.tensor([-0.2, 0.0], requires_grad=True)
    loss = losses.independence_loss(independent, dependent)
    assert float(loss) == pytest.approx(0.3)
    loss.backward()
    assert dependent.grad.tolist() == [-0.5, -0.5]


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
