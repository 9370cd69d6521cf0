"""Files of at most 300 lines, functions of at most 40 with a small median: what a reader can hold at once."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from statistics import median

FILE_LINES = 300
FUNCTION_LINES = 40
MEDIAN_LINES = 15

# name -> (limit, why it may be longer). A file: "src/hotloop/x.py"; a function: "src/hotloop/x.py:Class.name".
EXCEPTIONS: dict[str, tuple[int, str]] = {}


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Every function with its qualified name and its number of lines, docstring and decorators left in."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield prefix + node.name, node.end_lineno - node.lineno + 1
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        yield from functions(node, f"{prefix}{node.name}." if named else prefix)


def measured(code) -> dict[str, tuple[int, int]]:
    """Every file and function -> (lines, ordinary limit)."""
    sizes = {}
    for file in code:
        sizes[file.name] = (len(file.text.splitlines()), FILE_LINES)
        sizes.update({f"{file.name}:{name}": (lines, FUNCTION_LINES) for name, lines in functions(file.tree)})
    return sizes


def test_nothing_is_longer_than_its_limit(code):
    too_long = []
    for name, (lines, limit) in measured(code).items():
        limit = EXCEPTIONS.get(name, (limit, ""))[0]
        if lines > limit:
            too_long.append(f"{name}: {lines} lines, at most {limit}")
    assert not too_long, "\n".join(too_long)


def test_every_exception_is_still_needed_and_reasoned(code):
    sizes = measured(code)
    stale = [name for name in EXCEPTIONS if name not in sizes or sizes[name][0] <= sizes[name][1]]
    assert not stale, f"no longer exceptions: {stale}"
    assert all(len(reason) > 20 for _, reason in EXCEPTIONS.values()), "an exception needs its reason"


def test_the_median_function_of_the_package_is_short(package):
    lengths = [lines for file in package for _, lines in functions(file.tree)]
    assert median(lengths) <= MEDIAN_LINES


def test_no_line_is_longer_than_the_page(code):
    wide = [f"{f.name}:{n}" for f in code for n, line in enumerate(f.text.splitlines(), 1) if len(line) > 120]
    assert not wide, wide


def test_lengths_are_counted_as_the_editor_shows_them():
    tree = ast.parse("class A:\n    def f(self):\n        def g():\n            pass\n        return g\n")
    assert dict(functions(tree)) == {"A.f": 4, "A.f.g": 2}
