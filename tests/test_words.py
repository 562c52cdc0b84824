"""The glossary of CONTRIBUTING.md is kept: words that it replaces are not found in code, messages or documentation."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT

# Not every use of a common word is a wrong one; these are the wrong ones that can be told by their neighbours.
REPLACED = {
    "rank 0": r"\bfirst worker\b",
    "rank": r"\b[Ww]orkers? (of|in|on) (the|this|a|each|all) (job|run|step|node)s?\b|\bworker \d",
    "loader worker": r"\b[Ll]oader process(es)?\b",
    "resume": r"\bgo(es)? on (from|where|with a run)\b|\bgoing on from\b",
    "restore": r"\bmend(s|ed|_\w+)?\b",
    "rejected": r"\bfallen\b",
    "prefetch": r"\b(batches|shards|clips) ahead\b|_ahead\b",
    "step schedule": r"\bTurn\(|\bturn_of\b",
    "logged": r"\btold_\w+|_told\b|\b(is|are|was) told\b|\b(log|folder|file) tells\b",
    "synthetic": r"\bmade[- ]up\b",
    "separated": r"\btaken apart\b",
    "segment": r"\bstretches\b",
    "index": r"\bplace, \w+ in enumerate\b",
}
ENDINGS = {".py", ".md", ".yaml", ".sbatch", ".sh", ".html", ".js", ".toml"}
EXCEPT = {"CONTRIBUTING.md", "tests/test_words.py"}


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    names = [name for name in listed.stdout.splitlines() if Path(name).suffix in ENDINGS and name not in EXCEPT]
    if not names:
        pytest.skip("not a git checkout")
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in names}


@pytest.mark.parametrize("word", REPLACED)
def test_the_word_that_is_replaced_is_gone(texts: dict[str, str], word: str) -> None:
    found = []
    for name, text in texts.items():
        for match in re.finditer(REPLACED[word], text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"{name}:{line}: {match.group()}")
    assert not found, f"say {word}: {found}"
