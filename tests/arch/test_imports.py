"""The floors: imports point down, torch stays out of what must start quickly, optional packages have one door."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator

import pytest

# Packages that a run may lack, by import name. Each is imported in one file, inside the function that needs it.
OPTIONAL = {
    "accelerate", "bitsandbytes", "datasets", "duckdb", "lightning", "mlflow", "onnx", "onnxruntime", "onnxscript",
    "optuna", "plotly", "polars", "pyarrow", "pynvml", "regex", "sacrebleu", "safetensors", "sqlalchemy", "talib",
    "tokenizers", "torchao", "transformers", "wandb",
}  # fmt: skip
# Core packages that are slow to import: one door as well, and never at the top of a module that starting imports.
SLOW_ONE_DOOR = {"tensorboard", "torch.utils.tensorboard"}
# Where a distribution brings modules of other names than its own.
MODULES = {
    "PyYAML": {"yaml"},
    "SQLAlchemy": {"sqlalchemy"},
    "TA-Lib": {"talib"},
    "pydantic": {"pydantic", "pydantic_core"},
}
FOR_US = {"bench", "test"}  # extras that the package itself does not use
CAPTURE = {"capture_output": True, "text": True, "timeout": 120}


def imports(tree: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """Every imported dotted name, and whether the import stands inside a function."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, inside
        yield from imports(node, inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def top(name: str) -> str:
    return name.partition(".")[0]


def starts_without_torch(module: str) -> bool:
    """Whether `module` is one of those that the quick commands import."""
    quick = ("hotloop.errors", "hotloop.disk", "hotloop.config", "hotloop.runs", "hotloop.cli")
    inside = any(module == name or module.startswith(name + ".") for name in quick)
    option_pages = module == "hotloop.tasks" or (module.startswith("hotloop.tasks.") and module.endswith(".options"))
    return module == "hotloop" or inside or option_pages


def test_the_floors_hold(repository):
    pytest.importorskip("importlinter", reason="import-linter is not installed")
    line = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    done = subprocess.run([sys.executable, "-c", line], cwd=repository, **CAPTURE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_starts_quickly_imports_no_torch(package):
    modules = [file.module for file in package if starts_without_torch(file.module)]
    assert len(modules) > 5
    line = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'matplotlib', 'tensorboard'} & set(sys.modules)\n"
        "    assert not heavy, f'{name} imports {heavy}'\n"
    )
    done = subprocess.run([sys.executable, "-c", line, *modules], **CAPTURE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_optional_package_has_one_door_inside_a_function(package):
    doors: dict[str, set[str]] = defaultdict(set)
    outside = []
    for file in package:
        for name, inside in imports(file.tree):
            known = top(name) if top(name) in OPTIONAL else name if name in SLOW_ONE_DOOR else ""
            if known:
                doors[known].add(file.name)
                outside += [] if inside else [f"{file.name}: {name}"]
    assert not {name: sorted(files) for name, files in doors.items() if len(files) > 1}
    assert not outside, f"imported at the top of a module: {outside}"


def test_nothing_is_imported_that_no_requirement_names(package, repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: packages for name, packages in project["optional-dependencies"].items() if name not in FOR_US}
    listed = [*project["dependencies"], *(package for packages in extras.values() for package in packages)]
    names = [line.partition(">=")[0] for line in listed]
    known = {"hotloop", *sys.stdlib_module_names}.union(*(MODULES.get(name, {name}) for name in names))
    # The optional ones that no extra offers yet must not be imported either, so only what is listed is known.
    unlisted = {f"{f.name}: {name}" for f in package for name, _ in imports(f.tree) if top(name) not in known}
    assert not unlisted, sorted(unlisted)


SHARED_BY_TASKS = ("layers", "classification", "characters", "byte_pairs")


def test_a_task_knows_no_other_task(package):
    crossing = []
    for file in package:
        parts = file.module.split(".")
        if parts[:2] == ["hotloop", "tasks"] and len(parts) > 2 and parts[2] not in SHARED_BY_TASKS:
            own = {f"hotloop.tasks.{name}" for name in (parts[2], *SHARED_BY_TASKS)}
            for name, _ in imports(file.tree):
                crossing += [f"{file.name}: {name}"] if is_foreign_task(name, own) else []
    assert not crossing, crossing


def is_foreign_task(name: str, own: set[str]) -> bool:
    return name.startswith("hotloop.tasks.") and not any(name == o or name.startswith(o + ".") for o in own)


def test_imports_are_found_at_every_depth():
    tree = ast.parse("import a.b\nif x:\n    from c import d\ndef f():\n    import e\n")
    assert set(imports(tree)) == {("a.b", False), ("c", False), ("e", True)}
