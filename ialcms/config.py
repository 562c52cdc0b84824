"""Typed configuration: the dataclasses are the schema, YAML files carry the values.

    config = load_config("configs/demo.yaml", ["train.steps=100", "data.num_mixtures=3"])

Everything is checked here, before any rank starts. Errors are `ValueError`s that name field, value and remedy.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import logging
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ialcms.own_files import find_own, own_names
from ialcms.reading import Unreadable, bare, shown
from ialcms.reading.text import parse_yaml

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AudioConfig:
    """Waves and spectrograms: STFT, log-frequency warp."""

    sample_rate: int = 11_025  # Hz
    num_samples: int = 65_535  # L, the window that the networks see
    n_fft: int = 1_022  # samples in a frame of the STFT
    hop: int = 256  # samples between two frames
    log_bins: int = 256  # F, log-spaced rows; the linear spectrogram has n_fft // 2 + 1

    @property
    def num_frames(self) -> int:
        """T, the number of STFT frames of a window."""
        return self.num_samples // self.hop + 1


@dataclass(frozen=True)
class DataConfig:
    shards: str = ""  # folder with manifest.json and the tar shards
    instruments: tuple[str, ...] = ()  # restrict to these; empty: all that the manifest has
    num_mixtures: int = 2  # M, mixtures per mix
    num_objects: int = 2  # O, objects per mixture: 2 = unsupervised duets, 1 = supervised solos
    gain: tuple[float, float] = (0.5, 1.5)  # training gain, drawn uniformly per clip
    image_resize: int = 256  # the object crop is resized to a square of this side ...
    image_crop: int = 224  # ... and a square of this side is cut out of it
    balance: str = "clips"  # instruments drawn as often as the data has them ("clips") or evenly ("instruments")
    window: int = 128  # clips that a lane can draw from at a time
    reuse: float = 10.0  # average number of draws that use a clip while it is in a lane's window
    pictures_per_clip: int = 3  # detections of a clip that a lane takes pictures of while it is in its window
    epoch_passes: float = 10.0  # samples in an epoch, in multiples of the number of training clips
    # decoding processes per rank; auto: one per core that the rank has, but one; 0: decode in the training process
    loader_workers: int | typing.Literal["auto"] = "auto"
    prefetch: int = 4  # batches that each decoding process prepares ahead
    max_bad_fraction: float = 0.01  # undecodable clips tolerated before the run stops


@dataclass(frozen=True)
class VisualConfig:
    width: int = 64  # channels of the ResNet-18's first stage (64 in the ImageNet weights)
    weights: str = "imagenet"  # frozen backbone: a file, "imagenet" (torchvision's cache) or "none" (random)
    aspp_channels: int = 256  # of each branch of the atrous pyramid
    low_level_channels: int = 48  # that the backbone's finer features are reduced to
    channels: int = 512  # of the common audio-visual space
    dropout: float = 0.0  # before the common-space MLP, in the pass that feeds the consistency loss


@dataclass(frozen=True)
class UNetConfig:
    width: int = 64  # channels of the first encoder stage; the bottom has 8 times as many


@dataclass(frozen=True)
class CriticConfig:
    width: int = 64  # channels of the first layer; the embedding has 16 times as many


@dataclass(frozen=True)
class ModelConfig:
    visual: VisualConfig = field(default_factory=VisualConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)


@dataclass(frozen=True)
class LossConfig:
    lambda_ind: float = 0.01  # final weight of the independence loss; 0: no critic
    lambda_ind_steps: tuple[int, ...] = (8_000, 16_000, 24_000)  # global steps after which it grows tenfold
    lambda_avc: float = 0.05  # final weight of the audio-visual consistency loss
    lambda_avc_steps: tuple[int, ...] = (4_000, 8_000, 12_000)  # global steps after which that grows tenfold
    si_snr_cap_db: float = 30.0  # what a perfect estimate is credited with
    temperature: float = 0.3  # of the consistency loss
    excluded_negatives: int = 6  # largest negatives of a row that are left out as likely false
    critic_c: float = 1.0  # weight of the hinge terms against |w|^2
    bank_size: int = 1_000  # past components that serve as independent partners


@dataclass(frozen=True)
class OptimConfig:
    lr_audio: float = 1e-4  # audio U-Net and audio-visual module
    lr_visual: float = 1e-3  # visual net, but for its frozen backbone
    lr_critic: float = 1e-4  # critic
    betas: tuple[float, float] = (0.9, 0.999)  # of Adam, for the separator
    critic_betas: tuple[float, float] = (0.0, 0.9)  # of Adam, for the critic
    critic_weight_decay: float = 1e-3  # of Adam, added to the gradient
    clip_norm: float = 0.0  # largest gradient norm of each network; 0: no clipping


@dataclass(frozen=True)
class TrainConfig:
    steps: int = 100_000  # global steps: one is a batch of the whole job, whatever the number of ranks
    global_batch: int = 8  # G, mixes in a global batch
    critic_every: int = 1  # the critic learns at every n-th step
    separator_every: int = 3  # the separator too; without a critic it learns at every step
    accumulation: int = 1  # micro-batches in which a rank goes through its share of the global batch
    engine: str = "auto"  # auto: ddp under a launcher, else single; or deepspeed
    deepspeed_config: str = "configs/deepspeed/zero2.json"  # how DeepSpeed shards: ZeRO 0 to 3
    gradient_compression: str = "none"  # or bf16: ddp sends gradients in 16 bits
    max_skipped_steps: int = 10  # steps with NaN or infinity that a run may skip
    timeout_s: float = 1_800.0  # longest time for a step, a validation or a checkpoint before the run is ended
    check_every: int = 500  # steps after which all ranks compare their networks
    precision: str = "float32"  # or bf16: autocast of the networks; STFT, losses, spectral norm stay in float32
    compile: bool = False  # torch.compile of both networks' training passes, on one rank
    cuda_graphs: bool = False  # training passes as CUDA graphs, on one rank with a GPU
    cudnn_benchmark: bool = (
        False  # cuDNN tries its algorithms at the start; a resumed run may choose, and round, others
    )
    tf32: bool = False  # TensorFloat-32 in float32 matrix products and convolutions on GPUs that have it
    sync_batchnorm: bool = True  # BatchNorm statistics over the global batch
    validate_every: int = 0  # steps; 0: once an epoch
    checkpoint_every: int = 1_000  # steps
    checkpoint_minutes: float = 30.0  # and at the latest after so many minutes; 0: by steps only
    keep_checkpoints: int = 2  # newest ones; the best is kept besides
    log_every: int = 10  # steps
    visualise_every: int = 800  # steps


@dataclass(frozen=True)
class ProtocolConfig:
    """How a trained separator is used on a mix; the best that is known by default. See ialcms/evaluation/masking.py."""

    masks: str = "wiener"  # share each cell out by masks**exponent; or plain: mask times mix, as published
    exponent: float = 2.0  # of wiener
    consistency: bool = True  # of plain: what the sources leave of the mix is added back evenly
    pictures: int = 7  # of each object, spread over its clip, whose masks are averaged; 1 as published
    join: str = "hann"  # overlapping windows fade into each other; or mean: they count evenly, as published


PUBLISHED = ProtocolConfig(masks="plain", consistency=False, pictures=1, join="mean")


@dataclass(frozen=True)
class EvalConfig:
    split: str = "test"  # or train, val
    num_sources: int = 2  # solos per mix
    draws: int = 10  # mixes per combination of instruments
    seconds: float = 10.0  # length of a mix
    hop: int = 2_205  # samples between the windows of a mix
    seed: int = 0  # of the mixes
    batch_windows: int = 16  # windows that pass the network together
    validation_draws: int = 2  # mixes per combination in the validation during training: one window each
    # mir_eval: the reference; fast: the same to 1e-6 dB, on the rank's own device; auto: fast where that is a GPU
    metrics: str = "auto"
    examples: int = 12  # mixes shown in the report
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)  # shown beside the published one


@dataclass(frozen=True)
class Config:
    name: str = "run"  # the run's folder is runs/<name>
    seed: int = 0  # of everything that training draws
    audio: AudioConfig = field(default_factory=AudioConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    @property
    def uses_critic(self) -> bool:
        return self.loss.lambda_ind > 0

    @property
    def clips_per_mix(self) -> int:
        """M * O: clips of pairwise different instruments in a training mix."""
        return self.data.num_mixtures * self.data.num_objects


# Fields that may differ between the run that wrote a checkpoint and the run that goes on from it: they do not
# change what a step computes, only where data lies, how far the run goes and what it writes on its way.
FREE_FIELDS = frozenset(
    {"name", "data.shards", "data.loader_workers", "data.prefetch", "data.max_bad_fraction", "train.steps",
     "train.engine", "train.validate_every", "train.checkpoint_every", "train.checkpoint_minutes",
     "train.keep_checkpoints", "train.log_every", "train.visualise_every", "train.deepspeed_config",
     "train.max_skipped_steps", "train.timeout_s", "train.check_every", "train.cudnn_benchmark", "train.compile",
     "train.cuda_graphs", "model.visual.weights"}
)  # fmt: skip

# Where things lie and how they are read may differ from machine to machine.
LOCAL_FIELDS = frozenset(
    {"data.shards", "data.loader_workers", "data.prefetch", "model.visual.weights", "train.deepspeed_config"}
)


def load_config(path: str | Path, overrides: typing.Sequence[str] = ()) -> Config:
    """Read a YAML file, apply `section.key=value` overrides (values in YAML syntax) and check the result.

    path: a file, or the name of one of the program's own, like `duet`.
    Raises ValueError with one line that names the file or field and the remedy.
    """
    path = find_own(path, "configs", ".yaml")
    if not path.is_file():
        known = ", ".join(own_names("configs", ".yaml"))
        raise ValueError(f"configuration {path} does not exist; give a YAML file or one of the names {known}")
    try:
        values = parse_yaml(path.read_bytes()) or {}
    except OSError as error:
        raise ValueError(f"configuration {path} cannot be read ({error.strerror}); make it readable") from error
    except Unreadable as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a mapping of sections, like configs/demo.yaml")
    for section, fields in values.items():
        values[section] = _with_current_names(f"{section}.", fields) if isinstance(fields, dict) else fields
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"'{override}' is not an override; write it as section.key=value, like train.steps=100")
        target = values
        *sections, key = _current_name(name.strip()).split(".")
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ValueError(f"'{name}': {section} is a value, not a section")
        target[key] = _parse_override(name.strip(), text)
    return from_dict(values, source=str(path))


def from_dict(values: dict[str, Any], source: str = "configuration") -> Config:
    """Build and check a Config from nested plain values, as YAML and JSON give them."""
    config: Config = _build(Config, values, "", source)
    check(config)
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain values (tuples as lists), the inverse of `from_dict`."""
    return json.loads(json.dumps(dataclasses.asdict(config)))  # type: ignore[no-any-return]


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"steps": 1}} -> {"train.steps": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`. Raises ValueError where a name is both a value and a section."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *sections, key = name.split(".")
        target = nested
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ValueError(f"'{name}': {section} is a value, not a section")
        target[key] = value
    return nested


def binding_fields(config: Config) -> dict[str, Any]:
    """The flat fields that determine what a training step computes."""
    return {key: value for key, value in flatten(to_dict(config)).items()
            if key not in FREE_FIELDS and not key.startswith("eval.")}  # fmt: skip


def shared_fields(config: Config) -> dict[str, Any]:
    """The flat fields that are the same on all ranks of a job."""
    return {key: value for key, value in flatten(to_dict(config)).items() if key not in LOCAL_FIELDS}


def digest(config: Config) -> str:
    """Short hash of the binding fields: equal digests compute equal steps."""
    return hashlib.sha256(json.dumps(binding_fields(config), sort_keys=True).encode()).hexdigest()[:16]


def check(config: Config) -> None:
    """Cross-field checks that need neither data nor ranks."""
    audio, data, train = config.audio, config.data, config.train
    _positive(config)
    if audio.num_frames % 32 or audio.log_bins % 32:
        raise ValueError(
            f"audio: {audio.log_bins} log bins x {audio.num_frames} frames, but the U-Net halves both five times; "
            "choose audio.log_bins and audio.num_samples // audio.hop + 1 divisible by 32"
        )
    if data.num_objects not in (1, 2):
        raise ValueError(f"data.num_objects is {data.num_objects}; 2 trains on duets, 1 on supervised solos")
    if not 0 <= data.gain[0] <= data.gain[1]:
        raise ValueError(f"data.gain is {list(data.gain)}; give [lowest, highest] with 0 <= lowest <= highest")
    if data.image_crop > data.image_resize:
        raise ValueError(
            f"data.image_crop {data.image_crop} is larger than data.image_resize {data.image_resize}; "
            "make the crop at most as large as the resized picture"
        )
    if data.image_crop % 16:
        raise ValueError(f"data.image_crop is {data.image_crop}; the visual net needs a multiple of 16")
    _choice("data.balance", data.balance, ("clips", "instruments"))
    _choice("train.engine", train.engine, ("auto", "single", "ddp", "deepspeed"))
    _choice("train.gradient_compression", train.gradient_compression, ("none", "bf16"))
    _choice("train.precision", train.precision, ("float32", "bf16"))
    _choice("eval.metrics", config.eval.metrics, ("auto", "mir_eval", "fast"))
    _choice("eval.protocol.masks", config.eval.protocol.masks, ("wiener", "plain"))
    _choice("eval.protocol.join", config.eval.protocol.join, ("hann", "mean"))
    _choice("eval.split", config.eval.split, ("train", "val", "test"))
    if config.uses_critic and config.clips_per_mix < 2:
        raise ValueError(
            "loss.lambda_ind > 0 needs at least two components per mix for the dependent pairs; "
            "raise data.num_mixtures or set loss.lambda_ind=0"
        )
    for name in ("lambda_ind_steps", "lambda_avc_steps"):
        steps = getattr(config.loss, name)
        if list(steps) != sorted(set(steps)):
            raise ValueError(f"loss.{name} is {shown(list(steps))}; give increasing global steps")


def check_world_size(config: Config, world_size: int) -> None:
    """Every rank owns the same number of the global batch's mixes, in micro-batches of the same size."""
    batch, accumulation = config.train.global_batch, config.train.accumulation
    if batch % (world_size * accumulation) and accumulation > 1:
        raise ValueError(
            f"train.global_batch is {batch}, which {world_size} ranks cannot take in {accumulation} equal "
            f"micro-batches each (train.accumulation); choose a multiple of {world_size * accumulation}"
        )
    if batch % world_size:
        divisors = ", ".join(str(n) for n in range(1, batch + 1) if batch % n == 0)
        raise ValueError(
            f"train.global_batch is {batch}, which {world_size} ranks cannot share evenly; "
            f"use {divisors} ranks or another train.global_batch"
        )


_MAY_BE_ZERO = frozenset(
    {"seed", "data.loader_workers", "data.max_bad_fraction", "data.gain", "data.epoch_passes", "loss.lambda_ind",
     "loss.lambda_avc", "loss.excluded_negatives", "model.visual.dropout", "optim.clip_norm", "optim.betas",
     "optim.critic_betas", "optim.critic_weight_decay", "train.validate_every", "train.visualise_every",
     "train.checkpoint_minutes", "train.max_skipped_steps", "eval.seed", "eval.examples",
     "optim.lr_visual", "optim.lr_audio", "optim.lr_critic", "loss.critic_c"}
)  # fmt: skip


_LARGEST_OF_ALL = 2**53  # beyond that, floats and whole numbers are no longer the same
# What memory is asked for by these before anything else could find them out of the way.
_LARGEST = {
    "seed": 2**63 - 1, "eval.seed": 2**63 - 1, "audio.sample_rate": 10**7, "audio.num_samples": 10**8,
    "audio.n_fft": 2**20, "audio.hop": 2**20, "audio.log_bins": 2**14, "data.num_mixtures": 1_000,
    "data.image_resize": 2**13, "data.image_crop": 2**13, "data.window": 10**7, "data.pictures_per_clip": 10**5,
    "data.loader_workers": 1_024, "data.prefetch": 10**5, "model.visual.width": 2**14,
    "model.visual.aspp_channels": 2**17, "model.visual.low_level_channels": 2**17, "model.visual.channels": 2**17,
    "model.unet.width": 2**14, "model.critic.width": 2**14, "loss.bank_size": 10**7, "train.global_batch": 10**6,
    "train.accumulation": 10**6, "eval.num_sources": 1_000, "eval.draws": 10**7, "eval.validation_draws": 10**7,
    "eval.batch_windows": 10**6, "eval.seconds": 10**6, "eval.hop": 10**9, "train.timeout_s": 10**9,
    "train.checkpoint_minutes": 10**9, "model.visual.dropout": 1, "optim.betas": 1, "optim.critic_betas": 1,
}  # fmt: skip


def limits(name: str) -> tuple[bool, int]:
    """Whether the numbers of a field may be zero, and the largest that makes sense; none is negative."""
    return name in _MAY_BE_ZERO, _LARGEST.get(name, _LARGEST_OF_ALL)


def _positive(config: Config) -> None:
    for name, value in flatten(to_dict(config)).items():
        zero, largest = limits(name)
        for number in value if isinstance(value, list) else [value]:
            is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
            if is_number and (number < 0 or (number == 0 and not zero)):
                raise ValueError(f"{name} is {shown(number)}; it must be {'0 or ' if zero else ''}positive")
            if is_number and number > largest:
                raise ValueError(f"{name} is {shown(number)}; the largest value that makes sense is {largest}")


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is '{bare(value)}'; choose {', '.join(choices)}{_nearest(value, choices)}")


def _nearest(name: str, choices: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _parse_override(name: str, text: str) -> Any:
    """A value in YAML, but for texts, which are taken as they stand: '12:30' and 'Bach: Duo' are names of folders."""
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if _kind_of(name) is str and not is_quoted:
        return text
    try:
        return parse_yaml(text)
    except Unreadable:
        return text


def _kind_of(name: str) -> Any:
    """The type of a field like 'data.shards'; None where there is none."""
    kind: Any = Config
    for key in name.split("."):
        kind = typing.get_type_hints(kind).get(key) if dataclasses.is_dataclass(kind) else None
    return kind


def _build(kind: Any, values: Any, prefix: str, source: str) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{source}: '{prefix.rstrip('.')}' must be a section of key: value pairs, not {shown(values)}")
    hints = typing.get_type_hints(kind)
    built = {}
    for key, value in _with_current_names(prefix, values).items():
        if not isinstance(key, str) or key not in hints:
            where = f"in section '{prefix.rstrip('.')}'" if prefix else "at the top level"
            hint = _nearest(bare(key), hints) or f"; known: {', '.join(hints)}"
            raise ValueError(f"{source}: unknown key '{prefix}{bare(key)}' {where}{hint}")
        hinted = hints[key]
        name = prefix + key
        built[key] = (
            _build(hinted, value, f"{name}.", source)
            if dataclasses.is_dataclass(hinted)
            else _convert(hinted, value, name, source)
        )
    return kind(**built)


# Fields of version 0.1.0 by their names of today; the old ones are read everywhere, with one warning each.
FORMER_NAMES = {"data.num_mix": "data.num_mixtures", "eval.num_mix": "eval.num_sources"}
_warned: set[str] = set()


def _current_name(name: str) -> str:
    """section.key by its name of today."""
    current = FORMER_NAMES.get(name, name)
    if current != name and name not in _warned:
        _warned.add(name)
        log.warning("%s is called %s now", name, current)
    return current


def _with_current_names(prefix: str, values: dict[Any, Any]) -> dict[Any, Any]:
    """A section with its fields by their names of today. ValueError where one is given by both names."""
    renamed: dict[Any, Any] = {}
    for key, value in values.items():
        current = _current_name(f"{prefix}{key}").removeprefix(prefix) if isinstance(key, str) else key
        if current != key and current in values:
            raise ValueError(f"{prefix}{key} and {prefix}{current} are two names of one field; leave out the first")
        renamed[current] = value
    return renamed


def _convert(kind: Any, value: Any, name: str, source: str) -> Any:
    """Check a YAML value against a field's type; ints pass as floats, YAML's '1e-4' (a string there) too."""
    origin = typing.get_origin(kind)
    if origin is tuple:
        kinds = typing.get_args(kind)
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{source}: {name} is {shown(value)}; it must be a list like [a, b]")
        if kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        if len(kinds) != len(value):
            raise ValueError(f"{source}: {name} has {len(value)} values; it needs {len(kinds)}")
        return tuple(_convert(k, v, name, source) for k, v in zip(kinds, value))
    if origin in (types.UnionType, typing.Union):
        return _convert_union(kind, value, name, source)
    if isinstance(value, int) and value.bit_length() > 63:
        raise ValueError(f"{source}: {name} is {shown(value)}; give a number that 64 bits can hold")
    if kind is float and not isinstance(value, bool):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    elif kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise ValueError(f"{source}: {name} is {shown(value)}; it must be {_TYPE_NAMES.get(kind, kind)}")


def _convert_union(kind: Any, value: Any, name: str, source: str) -> Any:
    """Of a type and words that may stand in its place, like `int | Literal["auto"]`."""
    first, *others = typing.get_args(kind)
    words = [word for other in others for word in typing.get_args(other)]
    if value in words:
        return value
    try:
        return _convert(first, value, name, source)
    except ValueError as error:
        hint = _nearest(value, words) if isinstance(value, str) else ""
        raise ValueError(f"{error} or {' or '.join(words)}{hint}") from None


_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
