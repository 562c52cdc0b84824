"""Typed configuration: the dataclasses are the schema, YAML files carry the values.

    config = load_config("configs/demo.yaml", ["train.steps=100", "data.num_mixtures=3"])

Everything is checked here, before any rank starts. Errors are `ValueError`s that name field, value and remedy.

    schema.py        the sections and their fields, each with its meaning, range and choices
    fields.py        how a field states them
    loading.py       YAML and overrides -> a checked `Config`
    checks.py        ranges, choices, and fields that must fit each other
    flat.py          plain values; the fields that a resumed run, or all ranks, must share
    large_batch.py   numbers of steps and learning rates of a recipe at another batch size
    former_names.py  fields that have been renamed
"""

from ialcms.config.checks import check_world_size
from ialcms.config.fields import Field, fields_of
from ialcms.config.flat import binding_fields, digest, flatten, shared_fields, to_dict, unflatten
from ialcms.config.former_names import FORMER_NAMES
from ialcms.config.loading import from_dict, load_config
from ialcms.config.schema import (
    PUBLISHED,
    AudioConfig,
    Config,
    CriticConfig,
    DataConfig,
    EvalConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    ProtocolConfig,
    TrainConfig,
    UNetConfig,
    VisualConfig,
)

__all__ = [
    "FORMER_NAMES",
    "PUBLISHED",
    "AudioConfig",
    "Config",
    "CriticConfig",
    "DataConfig",
    "EvalConfig",
    "Field",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "ProtocolConfig",
    "TrainConfig",
    "UNetConfig",
    "VisualConfig",
    "binding_fields",
    "check_world_size",
    "digest",
    "fields_of",
    "flatten",
    "from_dict",
    "load_config",
    "shared_fields",
    "to_dict",
    "unflatten",
]
