"""A run's settings: config.yaml and the pairs table, checked against their schemas, with defaults filled in."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .container import check_address
from .errors import TalkiesError, printable
from .files import open_regular

# yaml and jsonschema are imported where settings are read: jobs take them from the plan, and start sooner.
if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError


def shipped(name: str) -> Path:
    """Return a folder that comes with the package (workflow, profiles, examples): in the wheel, else in the clone."""
    here = Path(__file__).resolve()
    installed = here.with_name(name)
    return installed if installed.is_dir() else here.parents[2] / name


def workflow_folder() -> Path:
    """Return the folder of the workflow, for a Snakefile that uses it as a module."""
    return shipped("workflow")


@cache
def schema(name: str) -> dict[str, Any]:
    """Return a schema of workflow/schemas by name: config or pairs."""
    import yaml

    return yaml.safe_load((workflow_folder() / "schemas" / f"{name}.schema.yaml").read_text(encoding="utf-8"))


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with every default filled in.

    Raises TalkiesError, one line that names the key, for an unknown key or a value of the wrong kind.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    wanted = schema("config")
    settings = deepcopy(dict(config))
    # An empty section of a YAML file (`model:` and nothing below it) reads as null: it means its defaults.
    for key, value in list(settings.items()):
        if value is None and wanted["properties"].get(key, {}).get("type") == "object":
            settings[key] = {}
    error = best_match(Draft202012Validator(wanted).iter_errors(settings))
    if error is not None:
        raise TalkiesError(f"config.yaml: {_explain(error)}")
    _fill(settings, wanted)
    if settings["model"]["preset"] != "demo" and settings["model"]["checkpoint"] is None:
        raise TalkiesError(
            f"config.yaml: model.checkpoint: preset {settings['model']['preset']} needs its published weights: "
            "give their path (the README says where they are to be had)"
        )
    check_address(settings["container"])
    checkpoint = settings["model"]["checkpoint"]
    if checkpoint is not None and not Path(checkpoint).is_file():
        raise TalkiesError(f"config.yaml: model.checkpoint: there is no file {printable(checkpoint)}: give its path")
    return settings


def load(path: Path) -> dict[str, Any]:
    """Read a config file and return its complete settings; TalkiesError names the file and what is wrong."""
    return complete(read(path))


def read(path: Path) -> dict[str, Any]:
    """Return what stands in a config file; TalkiesError where it can't be read or holds no keys."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TalkiesError(f"{path}: can't read it ({error.strerror}): give another path, or mend this one") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TalkiesError(f"{path}: not valid YAML, mend it: {' '.join(str(error).split())}") from None
    if not isinstance(content or {}, dict):
        raise TalkiesError(
            f"{path}: holds a {type(content).__name__}, not keys and values: write lines like `images: FOLDER`"
        )
    return content or {}


def given(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the keys of a workflow's configuration that the file has otherwise: what the command line gave.

    Without `first`: a pilot is for once.
    """
    try:
        stated = read(path)
    except TalkiesError:
        return {}
    return {key: value for key, value in config.items() if key != "first" and stated.get(key, stated) != value}


def read_pairs(path: Path) -> list[dict[str, str]]:
    """Return the pairs table's rows, empty cells left out; TalkiesError names the file, the line and the column."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    try:
        with open_regular(path) as file:
            text = file.read().decode("utf-8-sig")
    except OSError as error:
        raise TalkiesError(
            f"config.yaml: pairs: can't read {printable(path)} ({error.strerror}): mend the path"
        ) from None
    except UnicodeDecodeError:
        raise TalkiesError(f"{printable(path)}: the pairs table is not UTF-8 text: save it as that") from None
    lines = csv.reader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    header = [cell.strip() for cell in next(lines, [])]
    columns = schema("pairs")["properties"]
    unknown = [name for name in header if name not in columns]
    if unknown or len(set(header)) < len(header) or not {"image", "driving"} <= set(header):
        what = f"unknown column {unknown[0]!r}" if unknown else "a column is missing or named twice"
        raise TalkiesError(
            f"{printable(path)}: line 1: {what}: the header must name image, driving and, as needed, "
            f"{', '.join(name for name in columns if name not in ('image', 'driving'))}, separated by tabs"
        )
    rows = []
    validator = Draft202012Validator(schema("pairs"))
    for number, cells in enumerate(lines, start=2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(header):
            raise TalkiesError(
                f"{printable(path)}: line {number}: more cells than the header names: take some away, or name them"
            )
        row = {name: cell.strip() for name, cell in zip(header, cells, strict=False) if cell.strip()}
        fault = best_match(validator.iter_errors(row))
        if fault is not None:
            raise TalkiesError(f"{printable(path)}: line {number}: {_explain(fault)}")
        rows.append(row | {"line": str(number)})
    if not rows:
        raise TalkiesError(
            f"{printable(path)}: the pairs table has no row: write one, or take all pairs by pairs: null"
        )
    return rows


def _fill(settings: dict[str, Any], wanted: Mapping[str, Any]) -> None:
    for key, rule in wanted["properties"].items():
        if "default" in rule:
            settings.setdefault(key, deepcopy(rule["default"]))
        if isinstance(settings.get(key), dict) and "properties" in rule:
            _fill(settings[key], rule)
        for choice in rule.get("anyOf", []):
            if isinstance(settings.get(key), dict) and "properties" in choice:
                _fill(settings[key], choice)


def _explain(error: ValidationError) -> str:
    """Say in one line which key a schema error is about and what may stand there."""
    key = ".".join(str(step) for step in error.absolute_path)
    rule: Any = error.schema
    allowed: Any = error.validator_value
    instance: Any = error.instance
    if error.validator == "additionalProperties":
        known = rule.get("properties", {})
        unknown = sorted(str(name) for name in instance if name not in known)
        where = f"{key}.{unknown[0]}" if key else unknown[0]
        return f"{printable(where)}: unknown key: take it away, or write one of {', '.join(sorted(known))}"
    if error.validator == "required":
        missing = next(name for name in allowed if name not in instance)
        return f"{missing}: is missing: fill it in"
    shown = printable(repr(instance))[:80]
    if error.validator == "enum":
        return f"{key}: {shown} is none of {', '.join(map(str, allowed))}: take one of these"
    if error.validator == "type":
        kinds = allowed if isinstance(allowed, list) else [allowed]
        return f"{key}: {shown} is not of type {' or '.join(kinds)}: give one that is"
    return f"{key}: {shown} does not fit, give another: {rule.get('description') or error.message}"
