"""Numbers of the device beside those of the CPU: outputs, losses, gradients and statistics of the golden case.

Every form is compared with float32 on the CPU, and, that of the CPU too, with float64, whose rounding is nothing here:
what a GPU is off by has to be of the size of what a CPU is off by.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.setting import Recorder, Setting
from benchmarks.gpu.sizes import sized_config
from ialcms.models import Critic, Separator
from ialcms.models.build import build_networks
from tests.golden.case import GOLDEN, golden_inputs, golden_networks, run
from tests.golden.deterministic import batch
from tests.golden.precision import double_precision

Networks = Callable[[], tuple[Separator, Critic]]


@dataclass(frozen=True)
class Form:
    """Where and in which precision the networks run."""

    name: str
    device: str
    dtype: torch.dtype = torch.float32
    tf32: bool = False
    bf16: bool = False


@dataclass(frozen=True)
class Numbers:
    """Of both modes; float64 on the CPU."""

    evaluation: dict[str, Tensor]
    training: dict[str, Tensor]
    gradients: dict[str, Tensor]  # of each network, all in one vector
    buffers: dict[str, Tensor]


def measure(setting: Setting, recorder: Recorder) -> None:
    """Record how far the forms lie from each other and from the published numbers."""
    if setting.small:
        arrays = batch(101, (2, 2, 2), num_samples=16_383, side=32)
        networks, inputs = _small_networks, {name: torch.from_numpy(array) for name, array in arrays.items()}
    else:
        networks, inputs = _golden_networks, golden_inputs()
    on_gpu = setting.device == "cuda"
    forms = [Form("cpu float32", "cpu")]
    if on_gpu:
        forms += [Form("gpu float32", "cuda"), Form("gpu TF32", "cuda", tf32=True)]
    forms.append(Form(f"{'gpu' if on_gpu else 'cpu'} bf16", setting.device, bf16=True))
    known: dict[str, Numbers] = {}
    for form in forms:
        try:
            known[form.name] = numbers_of(form, networks, inputs)
        except (RuntimeError, ValueError) as error:
            recorder.missing(form.name, error)
            continue
        if form.device == "cuda" and "cpu float32" in known:
            _record(
                recorder,
                form.name,
                known[form.name],
                reference=known["cpu float32"],
                name_of_reference="float32 on the CPU",
            )
        if not setting.small:
            worst = max(
                difference(value, torch.from_numpy(GOLDEN[f"train/{name}"]).double())
                for name, value in known[form.name].training.items()
                if f"train/{name}" in GOLDEN.files and name != "independence_loss"
            )
            recorder.add(f"{form.name}: published numbers", worst, note="largest relative difference; 1e-4 is allowed")
    reference = numbers_of(Form("float64", "cpu", torch.float64), networks, inputs)
    for name, numbers in known.items():
        _record(recorder, name, numbers, reference=reference, name_of_reference="float64 on the CPU")


def _golden_networks() -> tuple[Separator, Critic]:
    return golden_networks(sized_config(False))


def _small_networks() -> tuple[Separator, Critic]:
    # Parameters are drawn in float32: another dtype would draw others.
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    separator, critic = build_networks(sized_config(True), pretrained=False)
    torch.set_default_dtype(dtype)
    assert critic is not None
    return separator, critic


def numbers_of(form: Form, networks: Networks, inputs: dict[str, Tensor]) -> Numbers:
    """What the networks give in a form, both modes."""
    device = torch.device(form.device)
    placed = {name: tensor.to(device, form.dtype) for name, tensor in inputs.items()}
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = form.tf32
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=form.bf16)
    try:
        with double_precision() if form.dtype == torch.float64 else nullcontext():
            separator, critic = (network.to(device, form.dtype) for network in networks())
            with torch.inference_mode():
                evaluated = run(separator.eval(), critic.eval(), placed, autocast)
            trained = run(separator.train(), critic.train(), placed, autocast)
            gradients = {name: _gradient(network) for name, network in (("separator", separator), ("critic", critic))}
            buffers = {n: b.double().cpu() for n, b in trained.buffers.items() if n.rpartition(".")[2] == "running_var"}
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    return Numbers(_on_cpu(evaluated.values), _on_cpu(trained.values), gradients, buffers=buffers)


def difference(value: Tensor, reference: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((value - reference).abs().max() / reference.abs().max().clamp_min(1e-30))


def _record(recorder: Recorder, form: str, numbers: Numbers, reference: Numbers, name_of_reference: str) -> None:
    """Record how far `numbers` of a `form` are from `reference`, which the lines call `name_of_reference`."""
    beside = f"{form} beside {name_of_reference}"
    groups = {
        "outputs in evaluation mode": (numbers.evaluation, reference.evaluation),
        "outputs and losses in training mode": (numbers.training, reference.training),
        "running variances": (numbers.buffers, reference.buffers),
    }
    for title, (ours, theirs) in groups.items():
        # a difference of scores that are all but equal: nothing to relate it to
        found = {name: difference(value, theirs[name]) for name, value in ours.items() if name != "independence_loss"}
        worst = max(found, key=lambda name: found[name] if np.isfinite(found[name]) else np.inf)
        recorder.add(f"{beside}: {title}", found[worst], note=f"largest relative difference: {worst}")
    for network, ours in numbers.gradients.items():
        theirs = reference.gradients[network]
        distance = float((ours - theirs).norm() / theirs.norm())
        recorder.add(f"{beside}: gradient of the {network}", distance, note="distance, of its length")


def _gradient(network: torch.nn.Module) -> Tensor:
    return torch.cat([p.grad.double().cpu().flatten() for p in network.parameters() if p.grad is not None])


def _on_cpu(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().double().cpu() for name, value in values.items()}
