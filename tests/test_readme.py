"""Every command that the README and docs/ show exists: make targets, modules with their options, DVC's commands."""

import importlib
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(?:bash|sh|shell|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:make|dvc|python -m) [^`\n]+)`")
FOREIGN = {"cd", "git", "source", ".", "ln", "mkdir", "cp", "export", "ls", "open", "xdg-open", "python3", "ray"}
"""Commands that need no look: they are not ours."""


def shown_commands() -> list[tuple[str, str]]:
    """(page, command) of every fenced shell line and every inline command, each once."""
    found: dict[tuple[str, str], None] = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = [line for block in FENCE.findall(text) for line in block.replace("\\\n", " ").splitlines()]
        for line in [*lines, *INLINE.findall(FENCE.sub("", text))]:
            for command in re.split(r"&&|;", re.sub(r"(^|\s)#.*", "", line).removeprefix("$ ")):
                if command.strip():
                    found[(str(page.relative_to(ROOT)), command.strip())] = None
    return list(found)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@cache
def commands_of(module: str) -> dict[str, Any]:
    """Name → command of a module's app; the name of a single command is empty."""
    top = typer.main.get_command(importlib.import_module(module).app)
    return dict(getattr(top, "commands", {"": top}))


def option_names(command: Any) -> set[str]:
    return {name for one in command.params for name in one.opts if name.startswith("--")} | {"--help"}


def look_at_stage(module: str, words: list[str]) -> None:
    """Check a ``python -m stages.x [command] --option …`` line against the command's own definition."""
    known = commands_of(module)
    # `fetch|verify|list` shows three commands at once
    names = [""] if "" in known else words[0].split("|") if words and not words[0].startswith("-") else []
    assert set(names) <= set(known), f"{module} has {', '.join(known)}"
    for name in names:
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= option_names(known[name])


def look_at_dvc(words: list[str]) -> None:
    """Let DVC's own parser read the command; it refuses what it does not know."""
    from dvc.cli import parse_args

    parse_args(words)


def test_the_readme_shows_the_two_commands() -> None:
    commands = {command for page, command in shown_commands() if page == "README.md"}
    assert {"make demo", "make test"} <= commands


@pytest.mark.parametrize(("page", "command"), shown_commands())
def test_a_shown_command_exists(page: str, command: str) -> None:
    words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=.*", word)]
    name = Path(words[0]).name
    if name == "make":
        assert {word for word in words[1:] if "=" not in word} <= make_targets()
    elif name == "python" and words[1] == "-m" and words[2].startswith("stages."):
        look_at_stage(words[2], words[3:])
    elif name == "python" and words[1] == "-m":
        assert importlib.util.find_spec(words[2]), f"no module {words[2]}"
    elif name == "dvc":
        look_at_dvc(words[1:])
    elif name in ("pip", "pytest", "ruff", "mypy", "lint-imports", "pre-commit"):
        assert all((ROOT / word).exists() for word in words[1:] if word.endswith((".txt", ".py", ".toml")))
    else:
        assert name in FOREIGN or (ROOT / words[0]).exists(), f"{page}: what is '{command}'?"


@pytest.mark.parametrize("module", sorted(
    f"stages.{path.stem}" for path in (ROOT / "stages").glob("*.py")
    if "stage_app(" in path.read_text(encoding="utf-8") and path.stem != "command"
))  # fmt: skip
def test_help_explains_every_option(module: str) -> None:
    for name, command in commands_of(module).items():
        assert command.help, f"{module} {name}"
        options = [one for one in command.params if one.param_type_name == "option" and one.name != "help"]
        assert [one.name for one in options if not one.help] == []
