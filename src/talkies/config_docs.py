"""The docs of config.yaml and the pairs table, made from the settings' types: a commented file, a schema."""

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
from .files import to_plain
from .media.crop import FORMS
from .settings import Row, Section, Settings, fields_of, is_section, options, words

TABLE = (
    "The key pairs names it: tab separated, with a header line. An empty cell takes the run's setting. Rows of one "
    "pair need different variants."
)
ENTRY = "NAME"
"""In place of a name that the user gives, such as a file's."""
MADE = "Made by `talkies config --schema` from src/talkies/settings.py: edit that, then `make docs`."
CUT = {"type": ["string", "array"], "title": FORMS}
COMMAND = {"type": "string", "title": "a command with placeholders", "pattern": r"[\s{]"}


@dataclass(frozen=True)
class Key:
    """A key: its dotted name, its default as YAML (empty if it has none) and its meaning.

    keys: the keys below it. optional: they are not part of its default; a user may give them instead.
    """

    name: str
    default: str
    meaning: str
    keys: tuple[Key, ...] = ()
    optional: bool = False

    def all(self) -> Iterator[Key]:
        """Yield this key and all below it, without sections that have no meaning of their own."""
        if not self.keys or self.meaning:
            yield self
        for key in self.keys:
            yield from key.all()


def keys_of(section: type[Struct], above: str = "") -> list[Key]:
    """Return the keys of a section in their order: of `Settings` config.yaml's, of `Row` the pairs table's columns."""
    found = []
    for field in msgspec.structs.fields(section):
        kind, name = fields_of(section)[field.name], f"{above}{field.name}"
        below: list[Key] = []
        for option in options(kind):
            inner, entry = (get_args(option)[1], f".{ENTRY}") if get_origin(option) is dict else (option, "")
            if is_section(inner):
                below = keys_of(inner, f"{name}{entry}.")
        default = field.default_factory() if field.default is NODEFAULT and not field.required else field.default
        optional = bool(below) and (field.name == "crop" or not isinstance(default, Section))
        if isinstance(default, Section):
            default = None if optional else {}
        meaning = _meanings(section).get(field.name, "")
        if not below and any(get_origin(each) is Literal for each in options(kind)):
            meaning += f" ({words(kind).removesuffix(' or null')})"
        shown = "" if default in (UNSET, NODEFAULT) else value_text(to_plain(default))
        found.append(Key(name, shown, meaning, tuple(below), optional))
    own = {f"{above}{name}": number for number, name in enumerate(section.__annotations__)}
    return sorted(found, key=lambda key: own.get(key.name, len(own)))


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


def as_yaml(**given: Any) -> str:
    """Return a config.yaml with the meaning and default of every key. given: values of top keys to write instead."""
    lines = _comment("The settings of this folder's run. Every key is here with its default, and may be left out.")
    for key in keys_of(Settings):
        lines += ["", *_yaml(key, value_text(given[key.name]) if key.name in given else key.default)]
    lines += ["", *_comment(f"The pairs table. {TABLE}")]
    for column in keys_of(Row):
        lines += [f"#   {column.name}:", *_comment(column.meaning, "#     ")]
    return "\n".join(lines) + "\n"


def _comment(text: str, start: str = "# ") -> list[str]:
    return textwrap.wrap(
        text, 100, initial_indent=start, subsequent_indent=start, break_long_words=False, break_on_hyphens=False
    )


def _yaml(key: Key, value: str, start: str = "") -> list[str]:
    """Return the lines of a key and those below it. start: of each line."""
    lines, last = _comment(key.meaning, f"{start}# "), key.name.rpartition(".")[2]
    if not key.keys:
        return [*lines, f"{start}{last}: {value}".rstrip()]
    inner = f"{start}# " if key.optional else start
    lines += [f"{inner}{last}:"]
    if key.keys[0].name.startswith(f"{key.name}.{ENTRY}."):
        lines, inner = [*lines, f"{inner}  {ENTRY}:"], f"{inner}  "
    for each in key.keys:
        lines += _yaml(each, each.default, f"{inner}  ")
    return [*lines, *([f"{start}{last}: {value}"] if key.optional else [])]


def as_schema() -> str:
    """Return the file workflow/schemas/config.schema.yaml."""
    return f"# {MADE}\n" + yaml.safe_dump(schema(), sort_keys=False, allow_unicode=True, width=120)


def schema() -> dict[str, Any]:
    """Return the JSON schema of config.yaml, for editors."""
    whole = msgspec.json.schema(Settings, schema_hook=lambda kind: dict(CUT))
    for name, rule in whole["$defs"].items():
        rule.pop("required")  # a known engine has its command
        for key, text in _meanings(getattr(settings, name)).items():
            if key in rule["properties"]:
                rule["properties"][key]["description"] = text
    crop = whole["$defs"]["Settings"]["properties"]["crop"]
    crop["anyOf"] = [CUT, {"type": "null"}, {"$ref": crop.pop("$ref")}]
    whole["$defs"]["Settings"]["properties"]["engine"]["anyOf"].append(COMMAND)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole}
