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


def rooms() -> set[str]:
    """Names of the modules and packages at the top of `ialcms`, a package with a slash behind it."""
    paths = [path for path in (ROOT / "ialcms").iterdir() if path.stem not in ("__init__", "__main__")]
    modules = {path.name for path in paths if path.suffix == ".py"}
    return modules | {f"{path.name}/" for path in paths if (path / "__init__.py").exists()}


def test_every_module_has_its_layer() -> None:
    """A new module at the top that the contract does not name would be free to import anything."""
    contract = (ROOT / "pyproject.toml").read_text()
    assert [name for name in rooms() if f"ialcms.{name.removesuffix('/').removesuffix('.py')}" not in contract] == []


def test_the_documented_tree_names_every_module() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    tree = text.partition("## The tree")[2].partition("\n\nNo package")[0].split()
    assert sorted(rooms() - set(tree)) == []


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
