"""A run's settings: config.yaml and the pairs table, checked against their schemas, with defaults filled in."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from msgspec.structs import replace

from ..engines import FOMM
from ..errors import InputError, TalkiesError, printable
from ..files import open_regular, shipped, typed
from ..fomm.model.checkpoint_head import check_head
from ..fomm.model.presets import PRESETS
from ..fomm.model.published import check_unchanged, find_weights
from ..host.container import check_address
from ..media.crop import Request, parse
from . import programs
from .keys import Kind, Model, Settings
from .schema import config_schema

# yaml and jsonschema are imported only where settings are read: jobs take settings from the plan, and start faster.
if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

MOST_BYTES = 16 << 20
"""The largest config.yaml, in bytes: 100,000 entries of files take 5 MB."""
MOST_TABLE_BYTES = 1 << 30
DEEPEST, MOST_VALUES, LONGEST_LIST = 16, 500_000, 1000
"""The most values of config.yaml with its aliases expanded: a few lines of aliases may expand to billions."""
LARGEST_NUMBER = 10**15
LONGEST_PLAIN = 30
"""The most characters of a text that is read as a number."""
LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Linux's limits, in bytes."""
SHOWN = 80
"""The most characters of a value that a message quotes."""


def workflow_folder() -> Path:
    """Return the folder of the workflow, for a Snakefile that uses it as a module."""
    return shipped("workflow")


@cache
def schema(name: str) -> dict[str, Any]:
    """Return a schema by name: config, made from its keys' types, or pairs, of workflow/schemas."""
    if name == "config":
        return config_schema()
    import yaml

    made: dict[str, Any] = yaml.safe_load(
        (workflow_folder() / f"schemas/{name}.schema.yaml").read_text(encoding="utf-8")
    )
    return made


KINDS = {
    "boolean": "true or false",
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "null": "null",
    "object": "section of keys",
    "array": "list",
}
"""What the schema's types are called, in messages and in the reference."""


def complete(config: Mapping[str, Any]) -> Settings:
    """Return the settings with all defaults filled in; a published preset's checkpoint is the fetched file.

    Raises TalkiesError, one line that names the key, for an unknown key or a value of the wrong kind.
    """
    known = schema("config")["properties"]
    written: dict[str, Any] = _copied(config, (), [MOST_VALUES])
    # An empty section in YAML (`model:` and nothing below it) is null, and means its defaults.
    for key, value in list(written.items()):
        if value is None and known.get(key, {}).get("type") == "object":
            written[key] = {}
    _check(written)
    settings = _typed(written)
    programs.check_files(settings.programs)
    check_address(settings.container)
    if FOMM in settings.engines:
        settings = _with_weights(settings)
    for key, value in (("results", settings.results), ("model.checkpoint", settings.model.checkpoint)):
        if value is not None and re.search("[{}]", value):
            raise TalkiesError(
                f"config.yaml: {key}: {printable(value)} holds a brace, which Snakemake takes for a wildcard: "
                "rename it, or name another"
            )
    _check_results(Path(settings.results))
    return settings


def _typed(written: dict[str, Any]) -> Settings:
    """Return the settings of keys that the schema lets stand: engines found by their names, crops read."""
    engines = programs.choose(written.pop("engine", FOMM), written.get("engines"))
    crops = written.get("crop")
    by_kind = crops if isinstance(crops, dict) else {"images": crops, "driving": crops}
    program, model = next(iter(engines.values())), written.get("model", {})
    usual = PRESETS[model.get("preset", Model().preset)].crop if program is None else program.crop
    crop = {kind: _crop(by_kind.get(kind) or usual, "config.yaml: crop") for kind in get_args(Kind)}
    files = {
        name: {
            key: _crop(value, f"config.yaml: files.{printable(name)}") if key == "crop" else value
            for key, value in choices.items()
        }
        for name, choices in written.get("files", {}).items()
    }
    return typed({**written, "engines": engines, "crop": crop, "files": files}, Settings)


def _crop(spec: Any, where: str) -> Request:
    try:
        return parse(spec)
    except TalkiesError as error:
        raise TalkiesError(f"{where}: {error}") from None


def _with_weights(settings: Settings) -> Settings:
    """Return the settings with the path of the network's weights, which are looked at."""
    preset, checkpoint = settings.model.preset, settings.model.checkpoint
    if checkpoint is None and PRESETS[preset].checkpoint is not None:
        checkpoint = str(find_weights(preset))
    if checkpoint is None:
        return settings
    if not Path(checkpoint).exists():
        raise TalkiesError(f"config.yaml: model.checkpoint: there is no file {printable(checkpoint)}: give its path")
    check_head(checkpoint, preset)
    check_unchanged(Path(checkpoint))
    return replace(settings, model=replace(settings.model, checkpoint=checkpoint))


def _check(settings: dict[str, Any]) -> None:
    """Raise TalkiesError for a key or value that the schema refuses.

    A text in place of another type is first read as unquoted YAML: `--config audio=false` gives a text.
    """
    read_again: set[tuple[Any, ...]] = set()
    while fault := _fault(_validator("config"), settings):
        place = tuple(fault.absolute_path)
        value = _unquoted(fault.instance)
        if value == fault.instance or place in read_again or not place:
            raise TalkiesError(f"config.yaml: {_explain(fault)}")
        read_again.add(place)
        section: Any = settings
        for step in place[:-1]:
            section = section[step]
        section[place[-1]] = value


def _unquoted(text: Any) -> Any:
    """Return the true, false, null or number that a text, or each text of a list, means in YAML; else itself."""
    import yaml

    if isinstance(text, list):
        return [_unquoted(each) if isinstance(each, str) else each for each in text]
    if not isinstance(text, str) or not text.strip():
        return text
    with suppress(yaml.YAMLError, ValueError):
        value = yaml.load(text, _shallow_loader()) if len(text) < LONGEST_PLAIN else text
        if value is None or (isinstance(value, bool | int | float) and abs(value) <= LARGEST_NUMBER):
            return value
    return text


def _copied(value: Any, key: tuple[Any, ...], left: list[int]) -> Any:
    """Return a copy of sections, lists and plain values; refuse values that no key takes or that are too many.

    left: the number of values still allowed, counted down.
    """
    if isinstance(value, str | bool):
        return value
    if isinstance(value, int | float):
        # A comparison with `nan` is false, and Python refuses to print very long numbers.
        if not -LARGEST_NUMBER <= value <= LARGEST_NUMBER:
            shown = f"{value}" if isinstance(value, float) else "so large a number"
            raise TalkiesError(f"config.yaml: {_dotted(key)}: {shown} can't be used: give an ordinary number")
        return value
    if not isinstance(value, Mapping | list):
        return value
    if len(key) > DEEPEST or (isinstance(value, list) and len(value) > LONGEST_LIST):
        raise TalkiesError(f"config.yaml: {_dotted(key[:3])}: too long or too deeply nested: give a plain value")
    left[0] -= len(value)
    if left[0] < 0:
        raise TalkiesError(
            f"config.yaml: {_dotted(key[:3])}: expands to over {MOST_VALUES:,} values (aliases of aliases?): "
            "give a plain value"
        )
    if isinstance(value, list):
        return [_copied(item, (*key, number), left) for number, item in enumerate(value)]
    return {name: _copied(item, (*key, name), left) for name, item in value.items()}


def _check_results(folder: Path) -> None:
    """Refuse a results folder that can't be made because it, or a folder above it, is a file."""
    try:
        for place in (folder, *folder.parents):
            if place.is_dir():
                return
            if place.exists() or place.is_symlink():
                raise TalkiesError(
                    f"config.yaml: results: {printable(place)} is no folder: move it away, or name another folder"
                )
    except OSError as error:
        raise TalkiesError(
            f"config.yaml: results: can't use {printable(folder)} ({error.strerror}): name another folder"
        ) from None


def load(path: Path) -> Settings:
    """Read a config file and return its complete settings; TalkiesError names the file and what is wrong."""
    return complete(read(path))


def readable(path: str) -> str:
    """Return the path of a config file for Snakemake, which would print a traceback for a damaged one.

    Raises TalkiesError as `load` does, but checks no key: --config may add more.
    """
    if Path(path).exists():
        read(Path(path))
    return path


def read(path: Path) -> dict[str, Any]:
    """Return the contents of a config file; TalkiesError if it can't be read or has no keys."""
    import yaml

    try:
        content = yaml.load(read_text(path, MOST_BYTES), _shallow_loader())
    except OSError as error:
        raise TalkiesError(
            f"{printable(path)}: can't read it ({error.strerror}): give another path, or mend this one"
        ) from None
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        # Not only YAMLError: PyYAML's functions for dates, numbers and the like raise other errors too.
        said = printable(" ".join(str(error).split()))[:300]
        raise TalkiesError(f"{printable(path)}: not valid YAML, mend it: {said}") from None
    except RecursionError:
        raise TalkiesError(f"{printable(path)}: too deeply nested: write plain keys and values") from None
    if not isinstance(content or {}, dict):
        raise TalkiesError(
            f"{printable(path)}: holds a {type(content).__name__}, not keys and values: "
            "write lines like `images: FOLDER`"
        )
    return content or {}


def given(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the keys of a workflow's configuration that differ from the file: those of the command line.

    Without `first`, since a pilot is for one run.
    """
    try:
        stated = read(path)
        return {key: value for key, value in config.items() if key != "first" and stated.get(key, stated) != value}
    except (TalkiesError, RecursionError):  # the check of the settings reports what is wrong
        return {}


@cache
def _shallow_loader() -> Any:
    """Return PyYAML's safe loader, with a limit for nested lists, which would take it seconds."""
    import yaml

    class ShallowLoader(yaml.SafeLoader):
        def fetch_flow_collection_start(self, token: Any) -> None:
            if self.flow_level > DEEPEST:
                raise RecursionError
            super().fetch_flow_collection_start(token)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: dict[Any, int] = {}
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    line = key.start_mark.line + 1
                    if key.value in seen:
                        raise yaml.YAMLError(f"{key.value} is given twice, in lines {seen[key.value]} and {line}")
                    seen[key.value] = line
            return super().construct_mapping(node, deep)

    return ShallowLoader


def read_text(path: Path, most: int) -> str:
    """Return the text of a regular file of at most `most` bytes.

    Raises OSError for anything else (reading a pipe would wait, and a device never ends), and UnicodeDecodeError (a
    ValueError) if it is not UTF-8.
    """
    try:
        file = open_regular(path)
    except InputError as error:
        raise OSError(0, error.reason, str(path)) from None
    with file:
        if os.fstat(file.fileno()).st_size > most:
            raise OSError(0, f"larger than {most >> 20} MB", str(path))
        return file.read().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def read_pairs(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the pairs table's rows: the line number, and the cells by column, without empty ones.

    Raises TalkiesError, which names the file, the line and the column.
    """
    try:
        lines = iter(read_text(path, MOST_TABLE_BYTES).split("\n"))
    except OSError as error:
        raise TalkiesError(
            f"config.yaml: pairs: can't read {printable(path)} ({error.strerror}): mend the path"
        ) from None
    except UnicodeDecodeError:
        raise TalkiesError(f"{printable(path)}: the pairs table is not UTF-8 text: save it as that") from None
    header = [cell.strip() for cell in next(lines).split("\t")]
    columns = schema("pairs")["properties"]
    unknown = [name for name in header if name not in columns]
    if unknown or len(set(header)) < len(header) or not {"image", "driving"} <= set(header):
        what = f"unknown column {_short(repr(unknown[0]))}" if unknown else "a column is missing or named twice"
        raise TalkiesError(
            f"{printable(path)}: line 1: {what}: the header must name image, driving and, as needed, "
            f"{', '.join(name for name in columns if name not in ('image', 'driving'))}, separated by tabs"
        )
    empty = True
    # The schema is used only if a cell looks wrong, and once for equal cells: there may be a million rows, and
    # jsonschema takes a hundred times as long.
    known: list[tuple[str, dict[str, str], Callable[[str], bool]]]
    known = [(name, {}, _tester(columns[name])) for name in header]
    for number, line in enumerate(lines, start=2):
        cells = line.split("\t")
        row: dict[str, str] = {}
        sound = True
        for cell, (name, seen, fits) in zip(cells, known, strict=False):
            value = seen.get(cell)
            if value is None:
                value = cell.strip()
                if not value or fits(value):
                    seen[cell] = value
                else:
                    sound = False
            if value:
                row[name] = value
        if not row and not line.strip():
            continue
        if len(cells) > len(header):
            raise TalkiesError(
                f"{printable(path)}: line {number}: more cells than the header names: take some away, or name them"
            )
        if not (sound and "image" in row and "driving" in row) and (fault := _fault(_validator("pairs"), row)):
            raise TalkiesError(f"{printable(path)}: line {number}: {_explain(fault)}")
        empty = False
        yield number, row
    if empty:
        raise TalkiesError(
            f"{printable(path)}: the pairs table has no row: write one, or take all pairs by pairs: null"
        )


def _tester(rule: Mapping[str, Any]) -> Callable[[str], bool]:
    """Return a fast test of a column's (non-empty) cell: False if it is wrong, or the rule is not known."""
    if "enum" in rule:
        return frozenset(rule["enum"]).__contains__
    if not set(rule) <= {"type", "description", "examples", "minLength", "maxLength", "pattern"}:
        return lambda cell: False
    longest = rule.get("maxLength", math.inf)
    matches = re.compile(rule.get("pattern", "")).search
    return lambda cell: len(cell) <= longest and matches(cell) is not None


# --- schemas ---------------------------------------------------------------------------------------------


@cache
def _validator(name: str) -> Validator:
    """Return the validator of a schema: Python's numbers, and paths that Linux allows."""
    from jsonschema import Draft202012Validator, FormatChecker
    from jsonschema.validators import extend

    formats = FormatChecker(())
    formats.checks("path", raises=ValueError)(_is_path)
    whole = Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    made: Validator = extend(Draft202012Validator, type_checker=whole)(  # type: ignore[no-untyped-call]
        schema(name), format_checker=formats
    )
    return made


def _is_path(value: object) -> bool:
    """Raise ValueError with the reason if a text can't be a path."""
    if isinstance(value, str):
        try:
            raw = os.fsencode(value)
        except UnicodeEncodeError:
            raise ValueError("one of whole characters") from None
        if b"\0" in raw:
            raise ValueError("a path without a NUL character")
        if len(raw) > LONGEST_PATH or any(len(part) > LONGEST_NAME for part in raw.split(b"/")):
            raise ValueError(f"a shorter one (at most {LONGEST_NAME} bytes a name, {LONGEST_PATH} in all)")
    return True


def _fault(validator: Validator, value: Any) -> ValidationError | None:
    """Return the schema's most telling error; None if there is none."""
    from jsonschema.exceptions import best_match

    found: ValidationError | None = best_match(islice(validator.iter_errors(value), 100))
    return found


def _short(text: str) -> str:
    return printable(text[: SHOWN + 1])[:SHOWN]


def _dotted(key: tuple[Any, ...]) -> str:
    """Return a key with its sections, fit for a message."""
    return ".".join(_short(str(step)) for step in key)


def _explain(error: ValidationError) -> str:
    """Return in one line which key a schema error is about and which values it takes."""
    key = _dotted(tuple(error.absolute_path))
    rule: Any = error.schema
    allowed: Any = error.validator_value
    instance: Any = error.instance
    if error.validator == "additionalProperties":
        known = rule.get("properties", {})
        unknown = _short(min(str(name) for name in instance if name not in known))
        near = get_close_matches(unknown, known, n=1)
        instead = (
            f"write {near[0]}, or take it away" if near else f"take it away, or write one of {', '.join(sorted(known))}"
        )
        return f"{key}{'.' * bool(key)}{unknown}: unknown key: {instead}"
    if error.validator == "required":
        missing = next(name for name in allowed if name not in instance)
        return f"{missing}: is missing: fill it in"
    shown = _short(repr(instance))
    if error.validator == "enum":
        return f"{key}: {shown} is none of {', '.join(map(str, allowed))}: take one of these"
    if error.validator == "type":
        kinds = " or ".join(
            f"{'a ' * (kind not in ('boolean', 'null'))}{KINDS[kind]}"
            for kind in (allowed if isinstance(allowed, list) else [allowed])
        )
        example = rule.get("examples", [rule.get("default")])[0]
        shape = f", for example {key.rpartition('.')[2]}: {json.dumps(example)}" if example is not None else ""
        return f"{key}: {shown} is not {kinds}: write one{shape}"
    if error.validator == "format":
        return f"{key}: {shown} can't be used: give {error.cause or 'another'}"
    return f"{key}: {shown} does not fit, give another: {rule.get('description') or _short(error.message)}"
