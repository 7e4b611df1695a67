"""What the code of a stage imports and which parameters it reads, found without running it."""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]

PLUMBING = frozenset(
    {
        "stages/params.py",
        "stages/sections.py",
        "stages/data_sections.py",
        "stages/segmenter/sections.py",
        "stages/paths.py",
        "stages/command.py",
        "pipeline/errors.py",
        "pipeline/compute/progress.py",
    }
)
"""What every stage uses and no result depends on: values passed on (DVC watches them itself), faults, progress."""

LOADERS = ("load_params", "load_data_params", "load_segmenter_params")
SECTIONS = ("Params", "DataParams", "SegmenterParams")
"""What gives the parameters, and their types."""

READING_METHODS = {"reader": "sources", "list_file": "lists"}
"""Methods of sections, and the key that each reads."""

READING_PROPERTIES = {"annotate.options": "annotate.${annotate.method}"}
"""Properties of sections, and the key that each reads, as dvc.yaml writes it."""

LATE_IMPORT = re.compile(r"(pipeline(?:\.\w+)+):\w+")
"""A registry's entry, imported when asked for."""


def imported_files(path: str) -> set[str]:
    """All files of the library that a file imports, itself included, directly or not.

    Args:
        path: File below the repository's root, with ``/``.

    Returns:
        Paths of the same form. Empty ``__init__.py`` files are left out: they do nothing.
    """
    seen: set[str] = set()
    waiting = [path]
    while waiting:
        one = waiting.pop()
        if one in seen or one in PLUMBING:
            continue
        seen.add(one)
        waiting += _direct_imports(one)
    return {one for one in seen if (ROOT / one).stat().st_size > 0}


@cache
def _direct_imports(path: str) -> tuple[str, ...]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in _walk_run_time(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = LATE_IMPORT.fullmatch(node.value)
            names |= {found[1]} if found else set()
    return tuple(sorted(file for name in names for file in _files_of(name)))


def _walk_run_time(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree, but not what only a type checker sees."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from _walk_run_time(child)


def _files_of(module: str) -> list[str]:
    """The module's file, and the ``__init__.py`` of every package on the way to it."""
    parts = module.split(".")
    if parts[0] not in ("pipeline", "stages"):
        return []
    packages = ["/".join([*parts[:end], "__init__.py"]) for end in range(1, len(parts) + 1)]
    return [one for one in ["/".join(parts) + ".py", *packages] if (ROOT / one).is_file()]


def read_params(path: str) -> set[str]:
    """Key paths of the parameters that a stage reads: attribute chains on what :data:`LOADERS` give.

    A chain ends where it is passed on, called or indexed; a section that is passed on is read whole. All of the
    parameters may be passed only to what stages share, which is read the same way, by its arguments of types
    :data:`SECTIONS`.

    Args:
        path: The stage's file, below the repository's root.

    Raises:
        AssertionError: If all of the parameters are passed elsewhere in one go, so that nothing can be said.
    """
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    parent = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in LOADERS:
            chain, top = _chain(node, parent)
            holder = parent[top]
            if isinstance(holder, ast.Assign) and isinstance(holder.targets[0], ast.Name):
                found |= _reads_of_name(holder.targets[0].id, chain, tree, parent)
            else:
                found.add(".".join(chain))
        elif isinstance(node, ast.arg) and node.annotation and ast.unparse(node.annotation) in SECTIONS:
            found |= _reads_of_name(node.arg, [], tree, parent)
    shared = [one for one in _direct_imports(path) if one.startswith("stages/") and one not in PLUMBING]
    below = set().union(*(read_params(one) for one in shared if one != path))
    assert "" not in found or below, f"{path} passes all parameters on; pass sections"
    return {READING_PROPERTIES.get(read, read) for read in (found | below) - {""}}


def _reads_of_name(name: str, prefix: list[str], tree: ast.AST, parent: dict[ast.AST, ast.AST]) -> set[str]:
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == name]
    loads = [node for node in uses if isinstance(node.ctx, ast.Load)]
    return {".".join([*prefix, *_chain(node, parent)[0]]) for node in loads}


def _chain(node: ast.AST, parent: dict[ast.AST, ast.AST]) -> tuple[list[str], ast.AST]:
    """Attributes that follow a node, a method at the end left out; and the last node of the chain."""
    names: list[str] = []
    while isinstance(parent[node], ast.Attribute):
        above = parent[node]
        assert isinstance(above, ast.Attribute)
        call = parent[above]
        if isinstance(call, ast.Call) and call.func is above:
            return [*names, *([READING_METHODS[above.attr]] if above.attr in READING_METHODS else [])], above
        names.append(above.attr)
        node = above
    return names, node


if __name__ == "__main__":
    # What the deps of a stage in dvc.yaml should name: python -m tests.code_reading warmup
    print(*(f"      - {file}" for file in sorted(imported_files(f"stages/{sys.argv[1]}.py"))), sep="\n")  # noqa: T201
