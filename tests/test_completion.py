"""`ialcms completion`: what bash offers once it has read it."""

from __future__ import annotations

import subprocess

import pytest

from ialcms.cli import main


@pytest.mark.parametrize(
    ("words", "offered"),
    [("tr", ["train"]), ("train --pro", ["--profile"]), ("data pa", ["pack"]), ("checkpoint sh", ["show"])],
)
def test_bash_completes(words: str, offered: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    ask = f"""
COMP_WORDS=(ialcms {words})
COMP_CWORD={len(words.split())}
$(complete -p ialcms | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    script = capsys.readouterr().out + ask
    answer = subprocess.run(["bash", "--norc"], input=script, text=True, capture_output=True, check=True)
    assert answer.stdout.split() == offered, answer.stderr
