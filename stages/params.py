"""Read params.yaml into typed sections; refuse unknown keys and wrong types, and report every fault at once.

This module is light: it is imported by every command, also for ``--help``. The sections stand in
:mod:`stages.sections`, which imports the pieces that own the options, and is loaded when a file is read.
"""

import dataclasses
import difflib
import functools
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from pipeline.errors import PipelineError, raise_all

if TYPE_CHECKING:
    from pydantic import BaseModel

    from pipeline.datasets.base import DatasetReader
    from stages.data_sections import DataParams
    from stages.sections import Params
    from stages.segmenter.sections import SegmenterParams

Loc = tuple[int | str, ...]

EXPECTED = {
    "bool_type": "true or false",
    "dataclass_type": "a mapping (keys below it)",
    "dict_type": "a mapping (keys below it)",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "mapping_type": "a mapping (keys below it)",
    "path_type": "a path, as text",
    "string_type": "text",
    "tuple_type": "a list",
}
"""What pydantic's error types mean, in the words of someone who edits YAML."""

UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")


SYSTEMS = {
    "crowd": "stages.sections:Params",
    "segmenter": "stages.segmenter.sections:SegmenterParams",
}
"""What ``system`` in a parameter file says → ``module:class`` of its sections."""


def load_params(path: Path) -> "Params":
    """Read and check a parameter file of the system ``crowd``. Keys that it lacks take their defaults.

    Raises:
        PipelineError: If the file is missing or no YAML, or with every unknown key, wrong type and refused value in it.
    """
    params: Params = load_system(path, "crowd")
    return params


def load_segmenter_params(path: Path) -> "SegmenterParams":
    """Read and check a parameter file of the system ``segmenter``, a recipe's.

    Raises:
        PipelineError: As :func:`load_params`.
    """
    params: SegmenterParams = load_system(path, "segmenter")
    return params


def load_data_params(path: Path) -> "DataParams":
    """Read and check a parameter file of any system, for the stages that all share.

    Raises:
        PipelineError: As :func:`load_params`.
    """
    params: DataParams = load_system(path, None)
    return params


def load_system(path: Path, system: str | None) -> Any:
    """Read and check a parameter file.

    Args:
        path: The file.
        system: The system that it must be for; any when None.

    Raises:
        PipelineError: As :func:`load_params`, or if it is for another system.
    """
    raw = _read_yaml(path)
    named = raw.get("system", "crowd") if isinstance(raw, Mapping) else "crowd"
    if named not in SYSTEMS:
        raise PipelineError(f"{path}: system: expected one of {', '.join(SYSTEMS)}, got {_show(named)}")
    if system is not None and named != system:
        package = "stages.segmenter" if named == "segmenter" else "stages"
        raise PipelineError(
            f"{path}: is for the system {named}; expected one for {system}: run python -m {package}.<stage> instead"
        )
    module_name, class_name = SYSTEMS[named].split(":")
    kind = getattr(importlib.import_module(module_name), class_name)  # late: it imports the networks
    params, faults = check(kind, raw, at=())
    prepare = raw.get("prepare") if isinstance(raw, Mapping) else None
    faults += _source_faults(prepare.get("sources") if isinstance(prepare, Mapping) else None)
    if params is not None:
        faults += params.disagreements()
    raise_all(faults, f"{path}: mend these values; params.yaml of the repository explains every key")
    assert isinstance(params, kind)
    return params


def check(kind: type[Any], value: Any, *, at: Loc) -> tuple[Any, list[str]]:
    """Validate plain data as an instance of a dataclass. Keys that any section lacks take its place's defaults.

    Args:
        kind: A dataclass, whose fields may be dataclasses again.
        value: What YAML gave.
        at: Key path of ``value`` in the file.

    Returns:
        The instance, or ``None`` and one line per fault.
    """
    from pydantic import ValidationError

    envelope = _envelope(kind)  # type: ignore[arg-type,unused-ignore]
    try:
        # JSON is the strict mode that knows mappings, lists and numbers, and nothing else.
        checked = envelope.model_validate_json(json.dumps({"content": _completed(kind, value)}, default=str))
    except ValidationError as error:
        found = [dict(item) for item in error.errors(include_url=False)]
        return None, [_fault(kind, item, at) for item in _one_for_each_place(kind, found)]
    return getattr(checked, "content"), []  # noqa: B009 — the model is made at run time


def _completed(kind: Any, given: Any, default: Any = None) -> Any:
    """Lay what YAML gave over the default of its place, as plain data.

    A field may hold other values than its section's class starts with: ``refiner.train`` is Adam, while its class is
    SGD. Whoever writes one key of it must still get Adam. Lists and free-form mappings are taken whole; unknown keys
    and wrong types stay for :func:`check` to name; a field of several classes is left to the validation.

    Args:
        kind: The type of the place.
        given: What YAML gave there.
        default: What stands there where nothing is given; ``None`` if the class's own defaults do.
    """
    sections = [one for one in (get_args(kind) or (kind,)) if dataclasses.is_dataclass(one)]
    if len(sections) != 1 or get_origin(kind) not in (None, UnionType, Union) or not isinstance(given, Mapping):
        return given
    from pydantic_core import to_jsonable_python

    types, whole = get_type_hints(sections[0]), dict(given)
    for one in dataclasses.fields(sections[0]):
        if default is not None:
            below = getattr(default, one.name)
            whole.setdefault(one.name, to_jsonable_python(below))
        elif one.default_factory is not dataclasses.MISSING:
            below = one.default_factory()
        else:
            below = None if one.default is dataclasses.MISSING else one.default
        if one.name in given:
            whole[one.name] = _completed(types[one.name], given[one.name], below)
    return whole


@functools.cache
def _envelope(kind: type[Any]) -> "type[BaseModel]":
    """Build the model that hands its strictness down to the plain dataclasses below it."""
    from pydantic import ConfigDict, create_model

    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return create_model("Envelope", __config__=config, content=(kind, ...))


def _read_yaml(path: Path) -> Any:
    """Read YAML 1.2 as DVC does, so that 1e-5 is a number to both."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PipelineError(
            f"{path}: no such file; run the command in the folder that holds params.yaml, or name a file with --params"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path}: cannot be read as text ({error}); name a YAML file with --params") from error
    try:
        content = YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        problem = " ".join(str(error.problem).split())
        raise PipelineError(f"{place}: not valid YAML: {problem}; mend this line or the one before it") from error
    except YAMLError as error:
        raise PipelineError(f"{path}: not valid YAML: {error}") from error
    return {} if content is None else content


def _one_for_each_place(kind: type[Any], errors: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Join the errors that pydantic has of one value, one of each type that it might be, under that type's name."""
    found: list[Mapping[str, Any]] = []
    several: dict[Loc, list[Mapping[str, Any]]] = {}
    for error in errors:
        loc: Loc = error["loc"]
        end = next((n for n in range(1, len(loc)) if _has_several_types(_type_at(kind, loc[1:n]))), None)
        if end is None:
            found.append(error)
        else:
            several.setdefault(loc[:end], []).append({**error, "loc": (*loc[:end], *loc[end + 1 :])})
    for loc, each in several.items():
        inside = [
            error for error in each if len(error["loc"]) > len(loc)
        ]  # the type fits, and something in it does not
        expected = " or ".join(EXPECTED.get(error["type"], str(error["msg"])) for error in each)
        found += inside or [{**each[0], "expected": expected}]
    return found


def _has_several_types(kind: Any) -> bool:
    return get_origin(kind) in (UnionType, Union) and len(set(get_args(kind)) - {type(None)}) > 1


def _fault(kind: type[Any], error: Mapping[str, Any], at: Loc) -> str:
    """Word one of pydantic's errors: where, what was expected, what came, what to do."""
    loc: Loc = tuple(part for part in error["loc"][1:] if part != "[key]")
    where = ".".join(map(str, (*at, *loc))) or "the file"
    if error["type"] in UNKNOWN_KEY:
        return f"{where}: unknown key; {_suggestion(str(loc[-1]), _known_keys(kind, loc[:-1]))}"
    if error["type"] == "missing":
        return f"{where}: missing; write this key with its value"
    if error["type"] == "value_error":
        return f"{where}: {error['ctx']['error']}"
    got = error["input"]
    if error["type"] == "literal_error":
        allowed = [str(one) for one in get_args(_type_at(kind, loc))]
        near = difflib.get_close_matches(str(got), allowed, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"{where}: expected one of {', '.join(allowed)}, got {_show(got)}{hint}"
    expected = error.get("expected", EXPECTED.get(error["type"], str(error["msg"])))
    return f"{where}: expected {expected}, got {_show(got)}{_hint(error['type'], got)}"


def _hint(error_type: str, got: object) -> str:
    """Say how to mend the commonest slips."""
    if isinstance(got, str) and error_type in ("int_type", "float_type", "bool_type"):
        return "; write it without quotes" if _is_plain_scalar(got) else ""
    if got is None:
        return "; give a value, or remove the key to take its default"
    if error_type in ("list_type", "tuple_type"):
        return f"; write [{json.dumps(got, default=str)}]"
    return "; quote it" if error_type == "string_type" else ""


def _is_plain_scalar(text: str) -> bool:
    """Whether text would be a number or a truth value without its quotes."""
    try:
        float(text)
    except ValueError:
        return text in ("true", "false")
    return True


def _show(value: object) -> str:
    """Show a value as it stands in YAML, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _suggestion(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known here: {', '.join(known)}" if known else "no keys are known here; remove it"


def _known_keys(kind: type[Any], loc: Loc) -> list[str]:
    found = _type_at(kind, loc)
    return [field.name for field in dataclasses.fields(found)] if dataclasses.is_dataclass(found) else []


def _type_at(kind: Any, loc: Loc) -> Any:
    """Follow a key path through dataclasses, mappings and lists."""
    for part in loc:
        if dataclasses.is_dataclass(kind):
            kind = get_type_hints(kind).get(str(part), Any)
        elif get_origin(kind) is not None:
            kind = get_args(kind)[0 if isinstance(part, int) else -1]
    return kind


def source_reader(dataset: str, source: Any) -> "tuple[DatasetReader | None, list[str]]":
    """Build the reader that one entry of ``prepare.sources`` describes.

    Args:
        dataset: Key of the entry.
        source: ``{reader: name, …}`` with that reader's options.

    Returns:
        The reader, or ``None`` and one line per fault.
    """
    from pipeline.datasets.base import READERS

    where = f"prepare.sources.{dataset}"
    if not isinstance(source, Mapping) or not isinstance(source.get("reader"), str):
        return None, [f"{where}: expected a mapping such as {{reader: folder}}, got {_show(source)}"]
    name = source["reader"]
    if name not in READERS:
        return None, [f"{where}.reader: unknown reader {_show(name)}; {_suggestion(name, sorted(READERS))}"]
    module_name, class_name = READERS[name].split(":")
    reader_class = getattr(importlib.import_module(module_name), class_name)
    options = {key: value for key, value in source.items() if key != "reader"}
    return check(reader_class, options, at=("prepare", "sources", dataset))


def _source_faults(sources: Any) -> list[str]:
    """Check every entry of ``prepare.sources`` against the options of its reader."""
    if not isinstance(sources, Mapping):
        return []
    return [fault for dataset, source in sources.items() for fault in source_reader(str(dataset), source)[1]]
