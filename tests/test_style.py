"""Rules of style that ruff does not check."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("ialcms", "shards", "launch", "benchmarks")
FILES = [path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py"))]
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
LONGEST_TUPLE = 2

# Functions that may return longer tuples, with the reason.
TUPLES = {
    "ialcms/models/instance_scaling.py: forward": "an autograd function returns its outputs as a tuple",
}


def nested_comprehensions(tree: ast.AST) -> Iterator[int]:
    """Line numbers of the comprehensions that contain another one."""
    for node in ast.walk(tree):
        if isinstance(node, COMPREHENSIONS):
            inner = [part for part in ast.walk(node) if isinstance(part, COMPREHENSIONS) and part is not node]
            if inner:
                yield node.lineno


def functions_with_tuples(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions whose annotated result is, or is made of, tuples of a fixed length above `LONGEST_TUPLE`."""
    for node in ast.walk(tree):
        is_annotated = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None
        if is_annotated and any(map(is_long_tuple, ast.walk(node.returns))):
            yield node


def is_long_tuple(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id == "tuple"
        and isinstance(node.slice, ast.Tuple)
        and len(node.slice.elts) > LONGEST_TUPLE
    )


def parsed(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_no_comprehension_contains_another_one() -> None:
    found = []
    for path in FILES:
        name = path.relative_to(REPOSITORY)
        found += [f"{name}:{line}" for line in nested_comprehensions(parsed(path))]
    assert not found, "name the inner value, or write a loop: " + ", ".join(found)


def test_no_function_returns_a_long_tuple() -> None:
    found = []
    for path in FILES:
        name = path.relative_to(REPOSITORY).as_posix()
        found += [f"{name}: {function.name}" for function in functions_with_tuples(parsed(path))]
    unexpected = sorted(set(found) - set(TUPLES))
    assert not unexpected, "return a frozen dataclass or a NamedTuple: " + ", ".join(unexpected)
    assert set(TUPLES) <= set(found), "TUPLES names functions that no longer return a long tuple"


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("[x for x in y]", 0),
        ("[[x for x in row] for row in y]", 1),
        ("{k: sum(v for v in w) for k, w in y}", 1),
        ("[x for x in (z for z in y)]", 1),
        ("[x for x in y if any(z for z in x)]", 1),
        ("[x for x in y] + [x for x in z]", 0),
    ],
)
def test_nested_comprehensions_are_found(source: str, count: int) -> None:
    assert len(list(nested_comprehensions(ast.parse(source)))) == count


@pytest.mark.parametrize(
    ("result", "count"),
    [
        ("tuple[int, int]", 0),
        ("tuple[int, ...]", 0),
        ("tuple[int, int, int]", 1),
        ("Iterator[tuple[int, int, int]]", 1),
        ("tuple[int, int, int] | None", 1),
    ],
)
def test_long_tuples_are_found(result: str, count: int) -> None:
    tree = ast.parse(f"def function() -> {result}: ...")
    assert len(list(functions_with_tuples(tree))) == count
