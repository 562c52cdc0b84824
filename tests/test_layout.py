"""The house's order: no package imports upward (the contracts are in pyproject.toml), one home of torch.distributed."""

from __future__ import annotations

import ast
import subprocess
import sys

from tests.support import ROOT


def test_no_package_imports_upward() -> None:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert "2 kept, 0 broken" in result.stdout


def test_every_module_has_its_layer() -> None:
    """A new module at the top that the contract does not name would be free to import anything."""
    contract = (ROOT / "pyproject.toml").read_text()
    free = {"__init__", "__main__"}
    names = {
        path.stem for path in (ROOT / "ialcms").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert {name for name in names - free if f"ialcms.{name}" not in contract} == set()


def test_ranks_communicate_in_the_engine_alone() -> None:
    offenders = []
    for path in (ROOT / "ialcms").rglob("*.py"):
        if path.is_relative_to(ROOT / "ialcms/engine"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.startswith(("torch.distributed", "deepspeed")) for name in names):
                offenders.append(str(path))
    assert offenders == []
