from __future__ import annotations

import pytest
import torch

from ialcms.config import CriticConfig
from ialcms.models.critic import Critic, SpectralNorm


def test_spectral_norm_converges_to_the_largest_singular_value() -> None:
    weight = torch.randn(12, 5, 3, 3)
    norm = SpectralNorm(weight, warm_up=0).train()
    for _ in range(300):
        normalised = norm(weight)
    assert float(torch.linalg.matrix_norm(normalised.flatten(1), 2)) == pytest.approx(1.0, abs=1e-4)
    sigma = float((weight / normalised).mean())
    assert sigma == pytest.approx(float(torch.linalg.svdvals(weight.flatten(1))[0]), rel=1e-4)


def test_one_power_iteration_a_training_pass_none_in_evaluation() -> None:
    torch.manual_seed(0)
    critic = Critic(CriticConfig(width=2))
    magnitudes, pairs = torch.rand(3, 64, 64), torch.tensor([[0, 1], [1, 2]])
    vectors = [buffer for name, buffer in critic.named_buffers() if name.endswith(".u")]
    before = [vector.clone() for vector in vectors]
    critic.eval()(magnitudes, pairs)
    assert all(torch.equal(a, b) for a, b in zip(before, vectors))
    critic.train()(magnitudes, pairs)
    assert len(vectors) == 8
    for layer in (critic.g[2], critic.h[0]):
        norm = layer.parametrizations.weight[0]
        assert float(norm.u.norm()) == pytest.approx(1.0, abs=1e-5)
    assert not all(torch.equal(a, b) for a, b in zip(before, vectors))


def test_weights_have_unit_spectral_norm_but_for_the_last_layer() -> None:
    critic = Critic(CriticConfig(width=2)).eval()
    for layer in (*critic.g[::2], *critic.h[::2]):
        # 15 iterations at the start: near, from above
        assert 0.99 < float(torch.linalg.matrix_norm(layer.weight.flatten(1), 2)) < 1.3
    assert not hasattr(critic.w, "parametrizations")


def test_each_component_passes_g_once_whatever_its_pairs() -> None:
    critic = Critic(CriticConfig(width=2)).eval()
    magnitudes = torch.rand(4, 64, 64)
    seen = []
    critic.g[1].register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    pairs = torch.tensor([[0, 1], [2, 3], [0, 3], [1, 0]])
    together = critic(magnitudes, pairs)
    assert seen == [4]
    for score, (a, b) in zip(together, pairs.tolist()):
        alone = critic(magnitudes[[a, b]], torch.tensor([[0, 1]]))
        assert float(alone) == pytest.approx(float(score), abs=1e-6)
    assert together.shape == (4,)
    assert float(together[0]) != pytest.approx(float(together[3]), abs=1e-9)  # the order of a pair counts


def test_partners_that_are_waited_for_change_nothing() -> None:
    """Scores and gradients as of partners that are there, in double precision; five layers come first."""
    torch.manual_seed(0)
    critic = Critic(CriticConfig(width=2)).double().train()
    magnitudes, partners = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    pairs = torch.tensor([[0, 3], [1, 4], [2, 5], [0, 1]])
    vectors = {name: buffer.clone() for name, buffer in critic.named_buffers()}
    seen: list[int] = []
    for activation in list(critic.g)[1::2]:
        activation.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))

    def wait() -> torch.Tensor:
        assert seen == [3] * 5
        return partners

    results = []
    for given in (partners, wait):
        critic.load_state_dict(vectors, strict=False)
        critic.zero_grad()
        seen.clear()
        scores = critic(magnitudes, pairs, partners=given)
        scores.square().sum().backward()
        results.append([scores.detach().double(), *(p.grad.clone() for p in critic.parameters() if p.grad is not None)])
    assert seen == [3] * 10 + [6]
    seen.clear()
    frozen = critic.eval().requires_grad_(False)
    torch.testing.assert_close(
        frozen(magnitudes, pairs, partners=lambda: partners), frozen(magnitudes, pairs, partners=partners)
    )
    assert len(results[0]) == 1 + len(list(critic.parameters()))
    for there, waited_for in zip(*results):
        torch.testing.assert_close(waited_for, there, rtol=1e-6, atol=1e-14)


def test_g_is_positively_homogeneous() -> None:
    critic = Critic(CriticConfig(width=2)).eval()
    x = torch.rand(1, 1, 64, 64)
    assert torch.allclose(critic.g(3 * x), 3 * critic.g(x), rtol=1e-4, atol=1e-6)


def test_two_passes_then_backward() -> None:
    """The second pass moves the power iteration's vectors; the first pass's gradient must not notice."""
    critic = Critic(CriticConfig(width=2)).train()
    magnitudes, pairs = torch.rand(2, 64, 64), torch.tensor([[0, 1]])
    first = critic(magnitudes, pairs).sum()
    second = critic(magnitudes, pairs).sum()
    (first + second).backward()
    assert all(torch.isfinite(p.grad).all() for p in critic.parameters() if p.grad is not None)


def test_gradient_of_a_normalised_weight() -> None:
    """In double precision against autograd through weight / (u . W v), while training and not."""
    torch.manual_seed(0)
    for training in (True, False):
        norm = SpectralNorm(torch.randn(6, 3, 2, 2), warm_up=2).double().train(training)
        weight = torch.randn(6, 3, 2, 2, dtype=torch.float64, requires_grad=True)
        normalised = norm(weight)  # u and v are now those of this pass
        sigma = torch.dot(norm.u, weight.flatten(1) @ norm.v)
        torch.testing.assert_close(normalised, weight / sigma)
        direction = torch.randn_like(weight)
        ours, expected = (torch.autograd.grad((y * direction).sum(), weight)[0] for y in (normalised, weight / sigma))
        torch.testing.assert_close(ours, expected)


def pairs_of(count: int) -> torch.Tensor:
    index = torch.arange(count)
    return torch.cat([torch.stack([index, count + index], 1), torch.stack([index, index.roll(1)], 1)])


@pytest.mark.parametrize("frozen", [True, False])
def test_partners_beside_the_components(frozen: bool) -> None:
    """The scores and all gradients are those of one pass of everything; a frozen critic keeps no graph of them."""
    torch.manual_seed(0)
    critic = Critic(CriticConfig(width=2)).double().eval().requires_grad_(not frozen)
    own = torch.rand(4, 64, 64, dtype=torch.float64, requires_grad=True)
    partners = torch.rand(4, 64, 64, dtype=torch.float64)
    weights = torch.randn(8, dtype=torch.float64)
    inputs = [own, *(p for p in critic.parameters() if p.requires_grad)]
    gradients = []
    for scores in (critic(own, pairs_of(4), False, partners), critic(torch.cat([own, partners]), pairs_of(4))):
        gradients.append(torch.autograd.grad((scores * weights.to(scores.dtype)).sum(), inputs, allow_unused=True))
    assert len(gradients[0]) == (1 if frozen else 13)
    for a, b in zip(*gradients):
        if a is None or b is None:
            assert a is b
        else:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)  # scores are float32


def test_a_frozen_critic_computes_no_gradient_of_its_weights_nor_of_partners() -> None:
    critic = Critic(CriticConfig(width=2)).eval().requires_grad_(False)
    own, partners = torch.rand(3, 64, 64, requires_grad=True), torch.rand(5, 64, 64)
    saved = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.shape)
        return tensor

    index = torch.arange(3)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        critic(own, torch.stack([index, 3 + index], 1), False, partners)
    pictures = [shape for shape in saved if len(shape) == 4 and shape[-1] > 4]
    assert pictures
    assert all(shape[0] == 3 for shape in pictures)
