"""Our full-size networks and losses against the numbers of the published code: outputs, gradients, statistics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ialcms import losses
from ialcms.config import load_config
from ialcms.models import Critic, Separator
from ialcms.published import load_published, our_name
from tests.golden.deterministic import HERE, batch, weights

pytestmark = pytest.mark.slow

GOLDEN = np.load(HERE / "duet.npz", allow_pickle=False)
CONFIG = Path(__file__).parents[2] / "configs" / "duet.yaml"


@dataclass
class Case:
    """Everything that one pass in a mode gives, named as in the golden file."""

    values: dict[str, Tensor]
    critic_gradients: dict[str, float]
    separator_gradients: dict[str, float]
    buffers: dict[str, Tensor]


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    arrays = batch(int(GOLDEN["batch_seed"]), tuple(GOLDEN["shape"]))
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def networks() -> tuple[Separator, Critic]:
    seed = int(GOLDEN["weight_seed"])
    return load_published(weights("separator", seed) | weights("critic", seed), load_config(CONFIG))


def stand_in_pairs(shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """'Independent' (i, i + 1 mod N) and 'dependent' (i, next component of the same mix, cyclic), each (N, 2)."""
    count, per_mix = int(np.prod(shape)), shape[1] * shape[2]
    index = torch.arange(count)
    sibling = index // per_mix * per_mix + (index % per_mix + 1) % per_mix
    return torch.stack([index, (index + 1) % count], 1), torch.stack([index, sibling], 1)


@pytest.fixture(scope="module")
def evaluated(inputs: dict[str, Tensor]) -> Case:
    separator, critic = networks()
    with torch.inference_mode():
        return run(separator.eval(), critic.eval(), inputs)


@pytest.fixture(scope="module")
def trained(inputs: dict[str, Tensor]) -> Case:
    separator, critic = networks()
    return run(separator.train(), critic.train(), inputs)


def run(separator: Separator, critic: Critic, inputs: dict[str, Tensor]) -> Case:
    mix, mixtures, objects = inputs["mix"], inputs["mixtures"], inputs["objects"]
    output = separator(mix, objects)
    waves = separator.component_waves(output, mix.shape[-1])
    magnitudes = output.magnitude.flatten(0, 2)
    pairs = torch.cat(stand_in_pairs(objects.shape[:3]))
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
    independence = losses.independence_loss(*critic(magnitudes, pairs).chunk(2))
    total = separation + 0.05 * consistency + 0.01 * independence
    total.backward()
    values |= {"critic_loss": loss, "independence_loss": independence, "total_loss": total}
    buffers = {f"separator.{name}": buffer for name, buffer in separator.named_buffers()}
    return Case(values, critic_gradients, _norms("separator", separator), buffers)


def _norms(network: str, module: torch.nn.Module) -> dict[str, float]:
    return {f"{network}.{n}": float(p.grad.norm()) for n, p in module.named_parameters() if p.grad is not None}


OUTPUTS = [name.removeprefix("eval/") for name in GOLDEN.files if name.startswith("eval/")]


@pytest.mark.parametrize("name", OUTPUTS)
def test_evaluation_mode(evaluated: Case, name: str) -> None:
    _agree(evaluated.values[name], GOLDEN[f"eval/{name}"])


@pytest.mark.parametrize("name", [*OUTPUTS, "critic_loss", "total_loss"])
def test_training_mode(trained: Case, name: str) -> None:
    _agree(trained.values[name], GOLDEN[f"train/{name}"])


def test_independence_loss(trained: Case) -> None:
    # a difference of scores of about 0.18 each: compared on their scale
    assert float(trained.values["independence_loss"]) == pytest.approx(
        float(GOLDEN["train/independence_loss"]), abs=1e-6
    )


def _agree(ours: Tensor, published: np.ndarray) -> None:
    """Within 1e-4 of the largest value; the published STFT differs from torch's by 3e-5."""
    difference = np.abs(ours.detach().numpy() - published).max()
    assert ours.shape == published.shape
    assert difference <= 1e-4 * np.abs(published).max()


@pytest.mark.parametrize("network", ["critic", "separator"])
def test_gradients(trained: Case, network: str) -> None:
    names = [our_name(str(name)) for name in GOLDEN[f"train/{network}_grad_names"]]
    ours = trained.critic_gradients if network == "critic" else trained.separator_gradients
    assert set(ours) == set(names)  # the same parameters have gradients
    for name, published in zip(names, GOLDEN[f"train/{network}_grad_norms"]):
        # abs: an offset in front of a normalisation has no effect, its gradient is rounding
        assert ours[name] == pytest.approx(published, rel=0.01, abs=1e-6), name


def test_batchnorm_statistics(trained: Case) -> None:
    checked = 0
    for name, total in zip(GOLDEN["train/running_names"], GOLDEN["train/running_sums"]):
        if str(name).startswith("visualNet.common_space_mlp.2"):
            continue  # the published code passes this layer twice, once for its dropout branch
        assert float(trained.buffers[our_name(str(name))].double().sum()) == pytest.approx(total, rel=1e-4, abs=1e-4)
        checked += 1
    assert checked == len(GOLDEN["train/running_names"]) - 2


def test_parameter_counts() -> None:
    separator, critic = networks()
    assert sum(p.numel() for p in separator.parameters()) == 41_567_895
    assert sum(p.numel() for p in separator.parameters() if p.requires_grad) == 30_391_383
    assert sum(p.numel() for p in critic.parameters()) == 31_068_161
