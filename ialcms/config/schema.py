"""The schema of a configuration: a frozen dataclass a section, each field with its facts (see `option`) beside it."""

from __future__ import annotations

import typing
from dataclasses import dataclass

from ialcms.config.fields import option, section


@dataclass(frozen=True)
class AudioConfig:
    """Waves and spectrograms: STFT, log-frequency warp."""

    sample_rate: int = option(11_025, "sampling rate of the networks' waves, in Hz", largest=10**7)
    num_samples: int = option(65_535, "L, the window that the networks see, in samples", largest=10**8)
    n_fft: int = option(1_022, "samples in a frame of the STFT", largest=2**20)
    hop: int = option(256, "samples between two frames", largest=2**20)
    log_bins: int = option(256, "F, log-spaced rows; the linear spectrogram has n_fft // 2 + 1", largest=2**14)

    @property
    def num_frames(self) -> int:
        """T, the number of STFT frames of a window."""
        return self.num_samples // self.hop + 1


@dataclass(frozen=True)
class DataConfig:
    """Shards, what is drawn from them, and who decodes it."""

    shards: str = option("", "folder with manifest.json and the tar shards", may_differ=True)
    instruments: tuple[str, ...] = option((), "instruments to train and evaluate with; empty: all in the manifest")
    num_mixtures: int = option(2, "M, mixtures per mix", largest=1_000)
    num_objects: int = option(2, "O, objects per mixture: 2 = unsupervised duets, 1 = supervised solos")
    gain: tuple[float, float] = option(
        (0.5, 1.5), "lowest and highest gain of a clip in training, drawn uniformly", may_be_zero=True
    )
    image_resize: int = option(256, "an object picture is resized to a square of this side, in pixels", largest=2**13)
    image_crop: int = option(224, "and a square of this side, in pixels, is cut out of it", largest=2**13)
    balance: str = option(
        "clips",
        "clips: instruments are drawn as often as the data has them; instruments: evenly",
        choices=("clips", "instruments"),
    )
    window: int = option(128, "clips that a lane can draw from at a time", largest=10**7)
    reuse: float = option(10.0, "average number of draws that use a clip while it is in a lane's window")
    pictures_per_clip: int = option(
        3, "detections that a lane takes pictures of while a clip is in its window", largest=10**5
    )
    pictures_per_object: int = option(
        1, "of these, how many the separator sees of an object at a time in training", largest=64
    )
    epoch_passes: float = option(
        10.0, "samples in an epoch, in multiples of the number of training clips", may_be_zero=True
    )
    loader_workers: int | typing.Literal["auto"] = option(
        "auto",
        "loader workers per rank, which decode; auto: one per core of the rank but one; 0: the rank decodes itself",
        may_be_zero=True,
        largest=1_024,
        may_differ=True,
    )
    prefetch: int = option(
        4, "batches that each loader worker prepares before they are asked for", largest=10**5, may_differ=True
    )
    max_bad_fraction: float = option(
        0.01,
        "share of the training clips that may be undecodable before the run stops",
        may_be_zero=True,
        may_change=True,
    )


@dataclass(frozen=True)
class VisualConfig:
    """The visual net: a frozen ResNet-18, the pyramid, the decoder."""

    width: int = option(64, "channels of the ResNet-18's first stage (64 in the ImageNet weights)", largest=2**14)
    weights: str = option(
        "imagenet", "of the frozen backbone: a file, imagenet (torchvision's cache) or none (random)", may_differ=True
    )
    aspp_channels: int = option(256, "channels of each branch of the atrous pyramid", largest=2**17)
    low_level_channels: int = option(48, "channels that the backbone's finer features are reduced to", largest=2**17)
    channels: int = option(512, "D, channels of the common audio-visual space", largest=2**17)
    dropout: float = option(
        0.0,
        "probability before the common-space MLP, in the pass that feeds the consistency loss",
        may_be_zero=True,
        largest=1,
    )


@dataclass(frozen=True)
class UNetConfig:
    """The audio U-Net."""

    width: int = option(64, "channels of the first encoder stage; the bottom has 8 times as many", largest=2**14)


@dataclass(frozen=True)
class CriticConfig:
    """The critic of independence."""

    width: int = option(64, "channels of the first layer; the embedding has 16 times as many", largest=2**14)


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the networks."""

    visual: VisualConfig = section(VisualConfig)
    unet: UNetConfig = section(UNetConfig)
    critic: CriticConfig = section(CriticConfig)
    masks: str = option(
        "free",
        "free: each object's mask by itself (as published); shares: divided by the sum over the mix's objects",
        choices=("free", "shares"),
    )


@dataclass(frozen=True)
class LossConfig:
    """The losses, their weights and the ramps of those."""

    lambda_ind: float = option(0.01, "final weight of the independence loss; 0: no critic", may_be_zero=True)
    lambda_ind_steps: tuple[int, ...] = option(
        (8_000, 16_000, 24_000), "global steps after which it grows tenfold", counts_steps=True
    )
    lambda_avc: float = option(0.05, "final weight of the audio-visual consistency loss", may_be_zero=True)
    lambda_avc_steps: tuple[int, ...] = option(
        (4_000, 8_000, 12_000), "global steps after which it grows tenfold", counts_steps=True
    )
    si_snr_cap_db: float = option(30.0, "SI-SNR that a perfect estimate is credited with, in dB")
    spectral_weight: float = option(
        0.0, "weight of the multi-resolution STFT loss beside SI-SNR; 0: without it", may_be_zero=True
    )
    spectral_windows: tuple[int, ...] = option(
        (512, 1_024, 2_048), "window lengths of the multi-resolution STFT loss, in samples; its hop is a quarter"
    )
    temperature: float = option(0.3, "of the consistency loss")
    excluded_negatives: int = option(
        6, "largest negatives of a row that are left out as likely false", may_be_zero=True
    )
    critic_c: float = option(1.0, "weight of the hinge terms against |w|^2", may_be_zero=True)
    bank_size: int = option(1_000, "past components that serve as independent partners", largest=10**7)


@dataclass(frozen=True)
class OptimConfig:
    """Adam, for the separator and for the critic."""

    lr_audio: float = option(1e-4, "learning rate of the audio U-Net and the audio-visual module", may_be_zero=True)
    lr_visual: float = option(1e-3, "learning rate of the visual net without its frozen backbone", may_be_zero=True)
    lr_critic: float = option(1e-4, "learning rate of the critic", may_be_zero=True)
    betas: tuple[float, float] = option((0.9, 0.999), "Adam's, for the separator", may_be_zero=True, largest=1)
    critic_betas: tuple[float, float] = option((0.0, 0.9), "Adam's, for the critic", may_be_zero=True, largest=1)
    critic_weight_decay: float = option(1e-3, "Adam's, added to the gradient of the critic", may_be_zero=True)
    clip_norm: float = option(0.0, "largest gradient norm of each network; 0: no clipping", may_be_zero=True)
    warmup_steps: int = option(
        0, "global steps over which the learning rates rise linearly", may_be_zero=True, counts_steps=True
    )
    cosine_steps: int = option(
        0,
        "global step at which a cosine decay of the learning rates ends; 0: constant rates",
        may_be_zero=True,
        counts_steps=True,
    )
    lr_floor: float = option(
        0.0, "share of the learning rates at which the cosine decay ends", may_be_zero=True, largest=1
    )
    lr_scaling: str = option(
        "none",
        "how the separator's learning rates grow with train.global_batch / train.reference_batch",
        choices=("none", "square_root", "linear"),
    )
    critic_lr_scaling: str = option(
        "none", "the same for the critic's learning rate", choices=("none", "square_root", "linear")
    )


@dataclass(frozen=True)
class TrainConfig:
    """Length, batch, engine, precision, and what a run writes."""

    steps: int = option(
        100_000,
        "global steps: one is a batch of the whole job, whatever the number of ranks",
        may_change=True,
        counts_steps=True,
    )
    global_batch: int = option(8, "G, mixes in a global batch", largest=10**6)
    reference_batch: int = option(
        0,
        "mixes in the batch for which the numbers of steps are written (docs/quality.md); 0: train.global_batch",
        may_be_zero=True,
        largest=10**6,
    )
    critic_every: int = option(1, "the critic learns at every n-th step")
    separator_every: int = option(3, "the separator learns at every n-th step; without a critic at every step")
    ema_decay: float = option(
        0.0,
        "decay of the moving average of the separator's weights that is used outside training; 0: none",
        may_be_zero=True,
        largest=1,
    )
    accumulation: int = option(
        1, "micro-batches in which a rank goes through its share of the global batch", largest=10**6
    )
    engine: str = option(
        "auto",
        "auto: ddp under a launcher, else single",
        choices=("auto", "single", "ddp", "deepspeed"),
        may_change=True,
    )
    deepspeed_config: str = option(
        "configs/deepspeed/zero2.json",
        "DeepSpeed's settings, like ZeRO stages: a file, or the name of one of the program's own",
        may_differ=True,
    )
    gradient_compression: str = option("none", "bf16: ddp sends gradients in 16 bits", choices=("none", "bf16"))
    max_skipped_steps: int = option(
        10, "steps with NaN or infinity that a run may skip", may_be_zero=True, may_change=True
    )
    timeout_s: float = option(
        1_800.0,
        "seconds that a step, a mix of a validation or a checkpoint may take before the run is ended",
        largest=10**9,
        may_change=True,
    )
    check_every: int = option(500, "steps after which all ranks compare their networks", may_change=True)
    precision: str = option(
        "float32",
        "bf16: autocast of the networks; STFT, losses and spectral norm stay in float32",
        choices=("float32", "bf16"),
    )
    compile: bool = option(False, "torch.compile of both networks' training passes, on one rank", may_change=True)
    cuda_graphs: bool = option(False, "training steps as CUDA graphs, on GPUs", may_change=True)
    cudnn_benchmark: bool = option(
        False,
        "cuDNN tries its algorithms at the start; a resumed run may choose others, which round differently",
        may_change=True,
    )
    tf32: bool = option(False, "TensorFloat-32 in float32 matrix products and convolutions on GPUs that have it")
    sync_batchnorm: bool = option(True, "BatchNorm statistics over the global batch")
    validate_every: int = option(
        0, "steps between validations; 0: once an epoch", may_be_zero=True, may_change=True, counts_steps=True
    )
    checkpoint_every: int = option(1_000, "steps between checkpoints", may_change=True, counts_steps=True)
    checkpoint_minutes: float = option(
        30.0,
        "minutes after which a checkpoint is due at the latest; 0: by steps only",
        may_be_zero=True,
        largest=10**9,
        may_change=True,
    )
    keep_checkpoints: int = option(2, "newest checkpoints that are kept; the best is kept besides", may_change=True)
    log_every: int = option(10, "steps between records of the curves", may_change=True, counts_steps=True)
    visualise_every: int = option(
        800,
        "steps between pictures and sounds in TensorBoard; 0: none",
        may_be_zero=True,
        may_change=True,
        counts_steps=True,
    )


@dataclass(frozen=True)
class ProtocolConfig:
    """How a trained separator is used on a mix; the best that is known by default. See ialcms/evaluation/masking.py."""

    masks: str = option(
        "wiener",
        "wiener: a cell is shared out by masks**exponent; plain: mask times mix, as published",
        choices=("wiener", "plain"),
    )
    exponent: float = option(2.0, "of the masks, for wiener")
    consistency: bool = option(True, "for plain: what the sources leave of the mix is added back evenly")
    pictures: int = option(7, "pictures of each object, spread over its clip, whose masks are averaged; 1 as published")
    join: str = option(
        "hann",
        "hann: overlapping windows fade into each other; mean: they count evenly, as published",
        choices=("hann", "mean"),
    )


PUBLISHED = ProtocolConfig(masks="plain", consistency=False, pictures=1, join="mean")


@dataclass(frozen=True)
class EvalConfig:
    """Which mixes are scored and how. Nothing here changes what a training step computes."""

    split: str = option("test", "split whose clips are mixed", choices=("train", "val", "test"))
    num_sources: int = option(2, "solos per mix", largest=1_000)
    draws: int = option(10, "mixes per combination of instruments", largest=10**7)
    seconds: float = option(10.0, "length of a mix, in seconds", largest=10**6)
    hop: int = option(2_205, "samples between the windows of a mix", largest=10**9)
    seed: int = option(0, "seed of the mixes", may_be_zero=True, largest=2**63 - 1)
    batch_windows: int = option(16, "windows that pass the network together", largest=10**6)
    validation_draws: int = option(
        2, "mixes per combination of instruments in a validation during training, one window each", largest=10**7
    )
    validation_mixes: int = option(
        0,
        "most mixes in a validation; 0: a tenth of those trained since the last one, but at least 50",
        may_be_zero=True,
        largest=10**7,
    )
    metrics: str = option(
        "auto",
        "mir_eval: the reference; fast: the same to 1e-6 dB, on the rank's device; auto: fast on a GPU",
        choices=("auto", "mir_eval", "fast"),
    )
    examples: int = option(12, "mixes shown in the report", may_be_zero=True)
    protocol: ProtocolConfig = section(ProtocolConfig)


@dataclass(frozen=True)
class Config:
    """All of it, as YAML gives it."""

    name: str = option("run", "the run's folder is runs/<name>", may_change=True)
    seed: int = option(0, "seed of everything that training draws", may_be_zero=True, largest=2**63 - 1)
    audio: AudioConfig = section(AudioConfig)
    data: DataConfig = section(DataConfig)
    model: ModelConfig = section(ModelConfig)
    loss: LossConfig = section(LossConfig)
    optim: OptimConfig = section(OptimConfig)
    train: TrainConfig = section(TrainConfig)
    eval: EvalConfig = section(EvalConfig, may_change=True)

    @property
    def uses_critic(self) -> bool:
        return self.loss.lambda_ind > 0

    @property
    def clips_per_mix(self) -> int:
        """M * O: clips of pairwise different instruments in a training mix."""
        return self.data.num_mixtures * self.data.num_objects
