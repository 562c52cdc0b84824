"""Filling our networks from a file of weights in any form: an authors' checkpoint, an export of ours, a state.pt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ialcms.models import Critic, Separator
from ialcms.published import Account, load_into, read_published, with_usual_prefixes
from ialcms.runs.checkpoint import AVERAGE

PUBLISHED_NAMES, OUR_NAMES = "published names", "names of this program"
_STEP_KEYS = ("global_step", "step")  # of Lightning and our 'checkpoint export', of our 'export'


@dataclass(frozen=True)
class Filled:
    """What a file has filled."""

    source: Path
    names: str  # PUBLISHED_NAMES or OUR_NAMES
    account: Account
    notes: tuple[str, ...]  # which part of the file was taken and what was stripped from its names
    step: int | None  # at which the file says that it was saved

    def __str__(self) -> str:
        notes = _in_brackets(self.notes)
        if self.names == PUBLISHED_NAMES:
            return f"{self.source}: {self.account}{notes}"
        has_critic = not any(name.startswith("critic.") for name in self.account.missing)
        return f"{'networks' if has_critic else 'separator'} of {self.source}{notes}"


def fill_networks(source: Path, separator: Separator, critic: Critic | None) -> Filled:
    """Copy the weights in a file into our networks; a critic that the file does not have is left as it is.

    ValueError where the file cannot be read, and where a network is there in part or with other shapes.
    """
    weights = read_published(source)
    content = weights.content
    if isinstance(content, dict) and isinstance(content.get("separator"), dict):
        return fill_from_state(content, source, separator, critic=critic)
    own = separator.state_dict()
    for prefix in weights.prefixes_of(list(own))[:1]:
        part = weights.under(prefix)
        named = {f"separator.{name}": part.state.get(name, value) for name, value in own.items()}
        account = load_into(named, separator, critic, rename=str)
        return _checked(Filled(source, OUR_NAMES, account, notes=part.notes, step=_step(content)))
    weights = with_usual_prefixes(weights, separator, critic)
    account = load_into(weights.state, separator, critic)
    return _checked(Filled(source, PUBLISHED_NAMES, account, notes=weights.notes, step=_step(content)))


def fill_from_state(content: Mapping[str, Any], source: Path, separator: Separator, critic: Critic | None) -> Filled:
    """As `fill_networks`, from the content of a checkpoint or an export of ours.

    source: where it was read from, for messages. ValueError as there, and for tensors that our networks do not have.

    separator, critic: networks that get the weights; critic: None for the separator alone.
    """
    state: dict[str, Any] = {}
    for network in ("separator", "critic") if critic is not None else ("separator",):
        part = content.get(network)
        if network == "separator" and isinstance(content.get(AVERAGE), dict):  # what the run is validated and used with
            part = content[AVERAGE]
        if isinstance(part, dict):  # a checkpoint has it in a learner's state, beside its optimizer
            tensors = part["module"] if isinstance(part.get("module"), dict) else part
            state |= {f"{network}.{name}": value for name, value in tensors.items()}
    account = load_into(state, separator, critic, rename=str)
    if account.unexpected:
        raise _misfit(source, account, ())
    return _checked(Filled(source, OUR_NAMES, account, notes=(), step=_step(content)))


def _checked(filled: Filled) -> Filled:
    missing = filled.account.missing
    has_critic = any(ours.startswith("critic.") for ours in filled.account.matched.values())
    needed = ("separator.", "critic.") if has_critic else ("separator.",)
    if filled.account.misshapen or any(name.startswith(needed) for name in missing):
        raise _misfit(filled.source, filled.account, filled.notes)
    return filled


def _misfit(source: Path, account: Account, notes: tuple[str, ...]) -> ValueError:
    return ValueError(
        f"the weights in {source} do not fit this configuration: {account}{_in_brackets(notes)}; give the "
        "configuration that they were trained with"
    )


def _in_brackets(notes: tuple[str, ...]) -> str:
    return f" ({'; '.join(notes)})" if notes else ""


def _step(content: Any) -> int | None:
    if not isinstance(content, dict):
        return None
    found = (content.get(key) for key in _STEP_KEYS)
    return next((step for step in found if type(step) is int and 0 <= step < 1 << 53), None)
