from __future__ import annotations

import dataclasses

import pytest
import torch

from ialcms.config import from_dict
from ialcms.models import Critic, Separator
from ialcms.models.build import build_networks, critic_optimizer, separator_optimizer
from ialcms.training.schedule import step_schedule
from tests.support import make_batch, small_config


def build(**sections: dict) -> tuple[Separator, torch.Tensor, torch.Tensor]:
    config = small_config(**sections)
    separator, _ = build_networks(config)
    batch = make_batch(config, 0)
    return separator, batch.mix, batch.objects


@pytest.mark.parametrize(
    ("batch", "num_mixtures", "num_objects"), [(1, 1, 1), (1, 2, 1), (1, 2, 2), (2, 3, 2), (3, 1, 2)]
)
def test_shapes_of_any_batch(batch: int, num_mixtures: int, num_objects: int) -> None:
    separator, mix, objects = build(
        train={"global_batch": batch},
        data={"num_mixtures": num_mixtures, "num_objects": num_objects},
        loss={"lambda_ind": 0 if num_mixtures * num_objects == 1 else 0.01},
    )
    shape = (batch, num_mixtures, num_objects)
    separator.train()
    output = separator(mix, objects)
    assert output.mask.shape == (*shape, 64, 64)
    assert output.magnitude.shape == (*shape, 64, 64)
    assert output.visual.shape == (*shape, 16, 4, 4)
    assert output.localisation.shape == output.cosine_map.shape == (*shape, 4, 4)
    assert output.audio_embedding.shape == output.attended_visual.shape == (*shape, 16)
    assert separator.component_waves(output, mix.shape[-1]).shape == (*shape, mix.shape[-1])
    assert separator.mixture_waves(output, mix.shape[-1]).shape == (*shape[:2], mix.shape[-1])
    assert (output.mask >= 0).all()
    output.mask.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in separator.parameters() if p.requires_grad)


def test_pictures_are_normalised_inside() -> None:
    separator, mix, objects = build()
    assert objects.dtype == torch.uint8
    assert not any("normalise" in name for name in separator.state_dict())  # earlier checkpoints load
    separator.eval()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (objects.double() / 255 - mean.view(3, 1, 1).double()) / std.view(3, 1, 1).double()
    with torch.inference_mode():
        from_integers, from_floats = separator(mix, objects), separator(mix, normalised.float())
        unlike = separator(mix, objects.float())  # floats are taken as they are
    torch.testing.assert_close(from_integers, from_floats)
    assert not torch.allclose(from_integers.visual, unlike.visual, atol=1e-2)


def test_sum_of_masks_first_is_the_sum_of_the_waves() -> None:
    separator, mix, objects = build()
    output = separator(mix, objects)
    samples = mix.shape[-1]
    waves = separator.component_waves(output, samples).sum(2)
    assert torch.allclose(separator.mixture_waves(output, samples), waves, atol=1e-6)


def test_shares_are_the_masks_less_what_the_others_claim() -> None:
    free, mix, objects = build()
    shares, _ = build_networks(small_config(model={"masks": "shares"}))
    shares.load_state_dict(free.state_dict())
    with torch.no_grad():
        masks, output = free(mix, objects).mask, shares(mix, objects)
    total = masks.sum(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(output.mask, masks / (total + 0.1))
    assert (output.mask.sum(dim=(1, 2)) < 1).all()
    mix_magnitude = shares.spectrogram.to_log(output.mix_spectrum.abs())
    torch.testing.assert_close(output.magnitude, output.mask * mix_magnitude[:, None, None])
    flat = masks.flatten(1, 2)  # without a training: of all objects of a mix, in one dimension
    torch.testing.assert_close(shares.final_masks(flat), output.mask.flatten(1, 2))
    assert torch.equal(free.final_masks(flat), flat)


def test_objects_of_a_mix_keep_their_positions() -> None:
    """Swapping two mixtures' pictures swaps their outputs, and only theirs."""
    separator, mix, objects = build()
    separator.eval()
    for module in separator.modules():  # the pictures hardly show in the small weights of the start
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Conv1d, torch.nn.Linear)):
            torch.nn.init.kaiming_normal_(module.weight)
    swapped = objects.clone()
    swapped[0] = objects[0].flip(0)
    with torch.inference_mode():
        first, second = separator(mix, objects), separator(mix, swapped)
    assert torch.allclose(first.mask[0].flip(0), second.mask[0], atol=1e-5)
    assert torch.allclose(first.mask[1:], second.mask[1:], atol=1e-5)
    assert not torch.allclose(first.mask[0], second.mask[0], atol=1e-3)


def test_frozen_backbone_does_not_move() -> None:
    separator, mix, objects = build()
    before = {name: value.clone() for name, value in separator.visual.backbone.state_dict().items()}
    optimizer = separator_optimizer(separator, small_config())
    separator.train()
    separator(mix, objects).mask.square().mean().backward()
    optimizer.step()
    for name, value in separator.visual.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not separator.visual.backbone.training
    assert separator.visual.aspp.training


def test_dropout_makes_the_loss_branch_another_tensor_only_while_training() -> None:
    config = small_config(model={"visual": {**small_model_visual(), "dropout": 0.5}})
    separator, _ = build_networks(config)
    objects = make_batch(config, 0).objects
    separator.train()
    visual, for_loss = separator.visual(objects.flatten(0, 2))
    assert not torch.equal(visual, for_loss)
    separator.eval()
    visual, for_loss = separator.visual(objects.flatten(0, 2))
    assert visual is for_loss


def small_model_visual() -> dict:
    return dataclasses.asdict(small_config().model.visual)


def test_every_trained_parameter_is_in_one_group_of_its_rate() -> None:
    config = small_config(optim={"lr_audio": 1e-4, "lr_visual": 1e-3})
    separator, critic = build_networks(config)
    groups = separator_optimizer(separator, config).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(rates)
    frozen = set()
    for name, parameter in separator.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == (1e-3 if name.startswith("visual.") else 1e-4), name
        elif not name.startswith("visual.backbone."):
            frozen.add(name)
            assert id(parameter) in rates, name  # so that older states of the optimizer fit
        else:
            assert id(parameter) not in rates
    assert frozen == {f"decoder.blocks.{n}.norm.bias" for n in range(4)}
    assert isinstance(critic, Critic)
    assert critic_optimizer(critic, config).defaults["betas"] == (0.0, 0.9)


def test_bf16_agrees_with_float32_to_its_accuracy() -> None:
    """bf16 has 8 bits of mantissa; some twenty layers make a few per cent of it."""
    separator, mix, objects = build()
    separator.eval()
    with torch.inference_mode():
        exact = separator(mix, objects)
        with torch.autocast("cpu", torch.bfloat16):
            rough = separator(mix, objects)
    for name in ("mask", "magnitude", "cosine_map", "audio_embedding", "attended_visual"):
        a, b = getattr(exact, name), getattr(rough, name)
        assert b.dtype == torch.float32, name
        assert (a - b).abs().max() < 0.05 * a.abs().max(), name
        assert not torch.equal(a, b), name


def test_channel_attention_stays_in_float32_under_autocast() -> None:
    separator, mix, objects = build()
    seen = []
    separator.audio_visual.channel_attention[2].register_forward_pre_hook(lambda _, x: seen.append(x[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        separator(mix, objects)
    assert seen == [torch.float32]


def test_same_seed_same_networks() -> None:
    config = small_config()
    (first, first_critic), (second, second_critic) = build_networks(config), build_networks(config)
    for a, b in ((first, second), (first_critic, second_critic)):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    other, _ = build_networks(from_dict({**dataclasses.asdict(config), "seed": 1}))
    assert not torch.equal(other.encoder.stem[0].weight, first.encoder.stem[0].weight)


def test_without_independence_loss_there_is_no_critic() -> None:
    config = small_config(loss={"lambda_ind": 0})
    assert build_networks(config)[1] is None
    assert step_schedule(0, config).train_critic is False
