"""`ialcms export`: the separator alone, for use: its weights with their configuration, or a torch.export program.

(`ialcms checkpoint export` is another thing: both networks by the published code's names, for the authors' programs.)
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from ialcms import __version__
from ialcms.config import Config, ProtocolConfig, to_dict
from ialcms.evaluation.masking import stem_gains, stem_masks
from ialcms.files import check_writable, replacing
from ialcms.inference.model import Model, load_model
from ialcms.inference.stems import BEST
from ialcms.models import Separator
from ialcms.overwriting import refuse_overwriting
from ialcms.runs import checkpoint
from ialcms.runs.run_folder import RunFolder
from ialcms.runs.separators import FORMAT, VERSION

_PROGRAM_SUFFIX = ".pt2"


class WindowProgram(nn.Module):
    """One window of a mix and its pictures in, stems out; everything in one graph, for torch.export.

    Levels are measured in this window alone. What the stems leave of the mix is the remainder.
    """

    def __init__(self, separator: Separator, protocol: ProtocolConfig = BEST) -> None:
        super().__init__()
        self.separator, self.protocol = separator, protocol

    def forward(self, mix: Tensor, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """mix (L,) float32 at the network's rate, pictures (K, 3, S, S) uint8 -> stems (K, L), heat maps (K, h, w)."""
        output = self.separator(mix[None], pictures[None, :, None])
        plain = self.separator.component_waves(output, mix.shape[0])[0, :, 0]
        gains = stem_gains(plain @ plain.T, plain @ mix, self.protocol).float()
        front = self.separator.spectrogram
        masks = stem_masks(front.to_linear(output.mask[0, :, 0]), gains, self.protocol)
        return front.istft(masks * output.mix_spectrum, mix.shape[0]), output.localisation[0, :, 0]


def export_weights(source: Path | str, out: Path | str) -> str:
    """Write the separator of a run or checkpoint to one file for `ialcms.inference.load_model`; says what it wrote.

    The file holds tensors and plain values, and no paths. ValueError with a remedy.
    """
    out = _target(out, source)
    if out.suffix.lower() == _PROGRAM_SUFFIX:
        raise ValueError(
            f"{out}: {_PROGRAM_SUFFIX} is for programs of torch.export; add --torch-export, or name it .pt"
        )
    model = load_model(source, "cpu")
    content = {
        "format": FORMAT,
        "version": VERSION,
        "program": __version__,
        "step": model.step,
        "config": _inference_config(model.config),
        "separator": dict(model.separator.state_dict()),
    }
    checkpoint.save_tensors(content, out)
    return f"{_describe(model)} -> {out} ({out.stat().st_size / 1e6:.1f} MB)"


def export_program(
    source: Path | str, out: Path | str, num_objects: int = 2, *, protocol: ProtocolConfig = BEST
) -> str:
    """Write the separator as a torch.export program (see `WindowProgram`) of fixed shapes; says what it wrote.

    source: a run's folder, a checkpoint's, or a file of `ialcms export`. out: a .pt2 file. num_objects: pictures that
    come with a mix. protocol: how masks become stems; its `pictures` and `join` have no meaning here. The program runs
    where torch is, without this project: torch.export.load(out).module()(mix, pictures).
    """
    out = _target(out, source)
    if out.suffix.lower() != _PROGRAM_SUFFIX:
        raise ValueError(f"{out}: a program of torch.export is a {_PROGRAM_SUFFIX} file; name it so")
    if num_objects < 1:
        raise ValueError(f"--objects is {num_objects}; a program separates at least one object")
    model = load_model(source, "cpu")
    samples, side = model.config.audio.num_samples, model.picture_side
    example = torch.zeros(samples), torch.zeros(num_objects, 3, side, side, dtype=torch.uint8)
    with replacing(out, suffix=_PROGRAM_SUFFIX) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own packing
        program = torch.export.export(WindowProgram(model.separator, protocol).eval(), example)
        with open(temporary, "wb") as file:  # torch's own opening of names asks for UTF-8
            torch.export.save(program, file)
    return (
        f"{_describe(model)} -> {out} ({out.stat().st_size / 1e6:.1f} MB)\n"
        f"inputs   mix ({samples},) float32 at {model.config.audio.sample_rate} Hz, "
        f"pictures ({num_objects}, 3, {side}, {side}) uint8\n"
        f"outputs  stems ({num_objects}, {samples}) float32, "
        f"heat maps ({num_objects}, {side // 8}, {side // 8}) from 0 to 1"
    )


def _target(out: Path | str, source: Path | str) -> Path:
    out, source = Path(out), Path(source)
    check_writable(out)
    read = RunFolder(source).files() if source.is_dir() else [source]
    refuse_overwriting([out], read, "name another file")
    return out


def _describe(model: Model) -> str:
    count = sum(parameter.numel() for parameter in model.separator.parameters())
    return f"separator of step {model.step}, {count / 1e6:.2f} M parameters"


def _inference_config(config: Config) -> dict:
    """What inference needs of a configuration; `from_dict` fills the rest with defaults."""
    values = to_dict(config)
    model = {name: values["model"][name] for name in ("visual", "unet", "masks")}
    model["visual"].pop("weights")  # a path; the backbone is in the file
    return {
        "name": values["name"],
        "audio": values["audio"],
        "data": {name: values["data"][name] for name in ("image_resize", "image_crop")},
        "model": model,
    }
