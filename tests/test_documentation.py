"""The documentation fits the program: examples run as they stand, commands, options and paths exist."""

from __future__ import annotations

import argparse
import doctest
import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ialcms.cli import _parser
from ialcms.config import Config, flatten, to_dict
from tests.support import ROOT
from tests.support.evaluation import evaluation_config, make_run, write_evaluation_shards

TOP = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")
PAGES = [*TOP, *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
RUNNERS = {"torchrun", "deepspeed", "python", "apptainer", "docker", "srun"}
VERBS_OF_SCRIPTS = {"train": ["train"], "sweep": ["train"], "evaluate": ["evaluate"], "pack": ["data", "pack"]}
OWN_PATH = re.compile(r"\b(?:ialcms|shards|launch|slurm|configs|tests|docs|benchmarks|containers)/[\w./-]*\w")
MADE = re.compile(r"^shards/(train|test|val)-")  # by `ialcms data pack`


@dataclass(frozen=True)
class Command:
    page: str
    line: str
    words: list[str]  # verb and arguments of ialcms


def code_lines(page: str) -> Iterator[str]:
    """Lines of indented and fenced blocks; continued lines are one."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    for block in re.findall(r"^ *```(?:sh|bash)?\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE):
        yield from block.splitlines()
    for line in re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE).splitlines():
        if line.startswith("    "):
            yield line.strip()


def commands() -> Iterator[Command]:
    for page in PAGES:
        for line in code_lines(page):
            try:
                words = shlex.split(line, comments=True)
            except ValueError:  # the beginning of a quotation, as in awk's programs
                continue
            if arguments := arguments_of(words):
                yield Command(page, line, arguments)


def arguments_of(words: list[str]) -> list[str]:
    """Verb and arguments of ialcms that a command line ends with; [] for other programs."""
    words = list(itertools.takewhile(lambda word: word not in ("|", ">", "&", "&&"), words))
    if "..." in words:
        return []
    if "ialcms" in words:
        at = len(words) - words[::-1].index("ialcms")
        return words[at:] if at == 1 or words[0] in RUNNERS or "=" in words[0] else []
    script = next((word for word in words if word.endswith(".sbatch")), None)
    if script is not None:
        rest = words[words.index(script) + 1 :]
        rest = rest[2:] if rest[:1] == ["--list"] else rest
        return [*VERBS_OF_SCRIPTS[Path(script).stem], *rest] if rest else []
    if "launch.local" in words or "launch.slurm" in words:
        verb = next((number for number, word in enumerate(words) if word in VERBS_OF_SCRIPTS), None)
        return [*VERBS_OF_SCRIPTS[words[verb]], *words[verb + 1 :]] if verb is not None else []
    return []


COMMANDS = list(commands())


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    return _parser()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.page}: {command.line.strip()[:60]}")
def test_a_command_is_one_of_the_program(parser: argparse.ArgumentParser, command: Command) -> None:
    try:
        args, more = parser.parse_known_args(command.words)
    except SystemExit as end:
        if end.code == 0:  # --help
            return
        raise
    overrides = [*getattr(args, "overrides", []), *more]
    assert not [word for word in more if "=" not in word or word.startswith("-")], command.line
    fields = flatten(to_dict(Config()))
    unknown = [word for word in overrides if "=" in word and word.partition("=")[0] not in fields]
    assert not unknown, command.line


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 70


@pytest.mark.parametrize("page", PAGES)
def test_paths_and_links_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    missing = [path for path in OWN_PATH.findall(re.sub(r"\S*://\S+|\S*/ialcms/\S*|[/.\w]*data/\S*", "", text))
               if not MADE.match(path) and not (ROOT / path).exists()]  # fmt: skip
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            missing.append(target)
    assert not missing


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_examples_of_the_api_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_evaluation_shards(tmp_path / "data" / "shards")
    make_run(tmp_path / "runs" / "duet", evaluation_config(tmp_path / "data" / "shards"), manifest)
    monkeypatch.chdir(tmp_path)
    failures, examples = doctest.testfile(str(ROOT / "docs" / "api.md"), module_relative=False, encoding="utf-8")
    assert examples > 25
    assert failures == 0
