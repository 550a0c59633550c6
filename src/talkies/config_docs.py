"""The docs of config.yaml and the pairs table, made from the settings' types: a page, a file, a JSON schema, a text."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Literal, get_args, get_origin

import msgspec
import yaml
from msgspec import NODEFAULT, UNSET, Struct

from . import settings
from .files import shipped, to_plain
from .media.crop import FORMS
from .settings import Row, Section, Settings, fields_of, is_section, options, words

EXAMPLE_TABLE = "run_folder/pairs.tsv"
"""In the workflow's folder: a pair, and a part of the same pair."""
TABLE = (
    "Tab separated, with a header line. An empty cell takes the run's setting. Rows of one pair need different "
    "variants."
)
ENTRY = "NAME"
"""In place of a name that the user gives, such as a file's."""
DIALECT = "https://json-schema.org/draft/2020-12/schema"
MADE = "Made by `talkies config --format {}` from src/talkies/settings.py: edit that, then `make docs`."
CUT = {"type": ["string", "array"], "title": FORMS}


@dataclass(frozen=True)
class Key:
    """A key: its dotted name, its type, its default as YAML (empty if it has none) and its meaning.

    keys: the keys below it. optional: they are not part of its default; a user may give them instead.
    """

    name: str
    kind: Any
    default: str
    meaning: str
    keys: tuple[Key, ...] = ()
    optional: bool = False

    @property
    def last(self) -> str:
        """The name in a file: without the sections above it."""
        return self.name.rpartition(".")[2]

    @property
    def text(self) -> str:
        """Its meaning, and which numbers or words it takes."""
        listed = any(option in (int, float) or get_origin(option) in (Literal, dict) for option in options(self.kind))
        return (
            f"{self.meaning} ({words(self.kind).removesuffix(' or null')})"
            if listed and not self.keys
            else self.meaning
        )

    def all(self) -> Iterator[Key]:
        """Yield this key and all below it, without sections that have no meaning of their own."""
        if not self.keys or self.meaning:
            yield self
        for key in self.keys:
            yield from key.all()


def config_keys() -> tuple[Key, ...]:
    """Return the keys of config.yaml, in their order."""
    return _keys(Settings)


def table_columns() -> tuple[Key, ...]:
    """Return the columns of the pairs table: those that are no key of a single file first."""
    return tuple(sorted(_keys(Row), key=lambda key: key.name not in Row.__annotations__))


def _keys(section: type[Struct], above: str = "") -> tuple[Key, ...]:
    found = []
    for field in msgspec.structs.fields(section):
        kind, name = fields_of(section)[field.name], f"{above}{field.name}"
        below: tuple[Key, ...] = ()
        for option in options(kind):
            inner, entry = (get_args(option)[1], f".{ENTRY}") if get_origin(option) is dict else (option, "")
            if is_section(inner):
                below = _keys(inner, f"{name}{entry}.")
        default = "" if field.default in (UNSET, NODEFAULT) else value_text(to_plain(field.default))
        optional = bool(below) and (field.name == "crop" or not isinstance(field.default, Section))
        if isinstance(field.default, Section):
            default = "null" if optional else "{}"
        elif field.default_factory is not NODEFAULT:
            default = value_text(field.default_factory())
        found.append(Key(name, kind, default, _meanings(section).get(field.name, ""), below, optional))
    return tuple(found)


@cache
def _meanings(section: type) -> dict[str, str]:
    """Return the text below each field of a class."""
    found = dict(_meanings(section.__base__)) if section.__base__ not in (None, Struct, object) else {}
    body = ast.parse(textwrap.dedent(inspect.getsource(section))).body[0].body  # type: ignore[attr-defined]
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return found


def value_text(value: Any) -> str:
    """Return a value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).strip().removesuffix("\n...").strip()


def as_text(width: int = 100) -> str:
    """Return the reference for a terminal. width: its columns."""
    lines = ["config.yaml: every key, its default, its meaning. A key that is not given has its default.", ""]
    for top in config_keys():
        for key in top.all():
            lines += [f"{key.name}: {key.default}".rstrip(), *_wrapped(key.text, width), ""]
    lines += [*_wrapped(f"The pairs table (pairs): {TABLE}", width, ""), ""]
    for column in table_columns():
        lines += [column.name, *_wrapped(column.text, width), ""]
    return "\n".join(lines)


def _wrapped(text: str, width: int, indent: str = "    ") -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def as_yaml(**given: Any) -> str:
    """Return a config.yaml with the meaning and default of every key. given: values of top keys to write instead."""
    intro = (
        "The settings of this folder's run. Every key is here with its default, and may be left out. "
        "`talkies config` prints the same on a terminal."
    )
    lines = [*_wrapped(intro, 100, "# "), ""]
    for key in config_keys():
        lines += [*_yaml(key, "", value_text(given[key.name]) if key.name in given else key.default), ""]
    return "\n".join(lines).rstrip() + "\n"


def _yaml(key: Key, indent: str, value: str) -> list[str]:
    comment = f"{indent}# "
    lines = _wrapped(key.text, 100, comment) if key.meaning else []
    if key.keys and not key.optional and value == "{}":
        return [
            *lines,
            f"{indent}{key.last}:",
            *(line for each in key.keys for line in _yaml(each, f"{indent}  ", each.default)),
        ]
    for number, each in enumerate(key.keys):
        above = [key.last, *each.name.removeprefix(f"{key.name}.").split(".")[:-1]]
        if not number:
            lines += [f"{comment}{'  ' * depth}{name}:" for depth, name in enumerate(above)]
        inner = f"{comment}{'  ' * len(above)}"
        lines += [*_wrapped(each.text, 100, f"{inner}# "), f"{inner}{each.last}: {each.default}".rstrip()]
    return [*lines, f"{indent}{key.last}: {value}"]


def as_markdown() -> str:
    """Return the page docs/configuration.md."""
    head = f"""\
# Configuration

<!-- {MADE.format("markdown")} -->

Settings are in `config.yaml` in the run folder. Every key has a default; an unknown key or a wrong value is
refused before anything runs. `talkies config` prints this page's texts on a terminal. For one run alone:

    snakemake --config first=3

| key | default | meaning |
|---|---|---|"""
    table = f"""
## The pairs table

The key `pairs` names it. {TABLE}

| column | meaning |
|---|---|"""
    example = (shipped("workflow") / EXAMPLE_TABLE).read_text().splitlines()
    keys = [key for top in config_keys() for key in top.all()]
    lines = [
        head,
        *(_row(f"`{key.name}`", f"`{key.default}`" if key.default else "", key.text) for key in keys),
        table,
        *(_row(f"`{column.name}`", column.text) for column in table_columns()),
        "\nFor example:\n",
        *(f"    {line.expandtabs(12)}" for line in example),
    ]
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;').replace('<', '&lt;') for cell in cells)} |"


def as_schema() -> str:
    """Return the file workflow/schemas/config.schema.yaml."""
    return f"# {MADE.format('schema')}\n" + yaml.safe_dump(schema(), sort_keys=False, allow_unicode=True, width=120)


def schema() -> dict[str, Any]:
    """Return the JSON schema of config.yaml, for editors."""
    whole = msgspec.json.schema(Settings, schema_hook=lambda kind: dict(CUT))
    for name, rule in whole["$defs"].items():
        rule.pop("required")  # a known engine has its command
        for key, text in _meanings(getattr(settings, name)).items():
            if key in rule["properties"]:
                rule["properties"][key]["description"] = text
    whole["$defs"]["Settings"]["properties"]["crop"]["anyOf"] = [CUT, {"type": "null"}, {"$ref": "#/$defs/Crops"}]
    whole["$defs"]["Settings"]["properties"]["crop"].pop("$ref", None)
    return {"$schema": DIALECT, **whole}
