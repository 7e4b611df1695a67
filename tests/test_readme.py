"""Every command that the README and docs/ show exists: make targets, modules with their options, DVC's commands."""

import importlib
import re
import shlex
from functools import cache
from pathlib import Path

import click
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
def command_of(module: str) -> click.Command:
    return typer.main.get_command(importlib.import_module(module).app)


def look_at_stage(module: str, words: list[str]) -> None:
    """Check a ``python -m stages.x [command] --option …`` line against the command's own definition."""
    commands = [command_of(module)]
    if isinstance(commands[0], click.Group) and words and not words[0].startswith("-"):
        names = words[0].split("|")  # `fetch|verify|list` shows three commands at once
        known = commands[0].commands
        assert set(names) <= set(known), f"{module} has {', '.join(known)}"
        commands = [known[name] for name in names]
    for command in commands:
        options = {option for one in command.params for option in one.opts} | {"--help"}
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= options


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
    top = command_of(module)
    for command in [top, *(top.commands.values() if isinstance(top, click.Group) else [])]:
        assert command.help, f"{module} {command.name}"
        unexplained = [one.name for one in command.params if isinstance(one, click.Option) and not one.help]
        assert unexplained == []
