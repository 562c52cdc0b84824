"""`ialcms configs`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ialcms.cli.common import add_config, add_verb


def add_configs(verbs: argparse._SubParsersAction) -> None:
    configs = add_verb(
        verbs,
        "configs",
        _configs_list,
        help="list the configurations by name; show, explain, copy them",
        examples=[
            "ialcms configs",
            "ialcms configs show duet",
            "ialcms configs fields",
            "ialcms configs copy my-project",
        ],
    )
    actions = configs.add_subparsers(dest="action", metavar="action")
    show = add_verb(
        actions,
        "show",
        _configs_show,
        help="print a configuration with every default",
        examples=["ialcms configs show duet", "ialcms configs show my.yaml data.num_mixtures=3"],
    )
    add_config(show)
    add_verb(
        actions,
        "fields",
        _configs_fields,
        help="print every field: default, range, meaning, whether a resumed run may change it",
        examples=["ialcms configs fields"],
    )
    copy = add_verb(
        actions,
        "copy",
        _configs_copy,
        help="copy configs/ and slurm/ (batch files) to a folder, to change them",
        examples=["ialcms configs copy my-project"],
    )
    copy.add_argument("folder", type=Path, help="gets the folders configs and slurm")


def _configs_list(args: argparse.Namespace) -> int:
    from ialcms.config_tool import list_configs

    print(list_configs())
    return 0


def _configs_show(args: argparse.Namespace) -> int:
    from ialcms.config_tool import show_config

    print(show_config(args.config, args.overrides))
    return 0


def _configs_fields(args: argparse.Namespace) -> int:
    from ialcms.config_tool import show_fields

    print(show_fields())
    return 0


def _configs_copy(args: argparse.Namespace) -> int:
    from ialcms.config_tool import copy_own

    print("\n".join(map(str, copy_own(args.folder))))
    return 0
