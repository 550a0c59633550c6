"""The reference of config.yaml and the pairs table, made from their schemas: on a terminal, as a page, as a file."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from ..files import shipped
from .schema import config_schema
from .settings import KINDS, schema

EXAMPLE_TABLE = "run_folder/pairs.tsv"
"""In the workflow's folder: a pair, and a part of the same pair."""


ENTRY = "NAME"
"""In place of a name that the user gives, such as a file's."""

PLAIN = ("text", "text or null", "true or false", "a section")
"""Kinds of values that a key's default and meaning show well enough."""


@dataclass(frozen=True)
class Key:
    """One key: its dotted name, the kind of its value in words, its default as YAML (empty if none) and its meaning.

    keys: the keys below it. optional: they are not part of its default; a user may give them instead.
    """

    name: str
    kind: str
    default: str
    meaning: str
    keys: tuple[Key, ...] = ()
    optional: bool = False

    @property
    def last(self) -> str:
        """The name in a file: without the sections above it."""
        return self.name.rpartition(".")[2]

    def all(self) -> Iterator[Key]:
        """Yield this key and all below it, without sections that have no meaning of their own."""
        if not self.keys or self.optional or self.meaning:
            yield self
        for key in self.keys:
            yield from key.all()


def config_keys() -> tuple[Key, ...]:
    """Return the keys of config.yaml, in the schema's order."""
    whole = schema("config")
    return tuple(_key(name, rule, whole) for name, rule in whole["properties"].items())


def table_columns() -> tuple[Key, ...]:
    """Return the columns of the pairs table, in the schema's order."""
    whole = schema("pairs")
    return tuple(_key(name, rule, whole) for name, rule in whole["properties"].items())


def _key(name: str, rule: Mapping[str, Any], whole: Mapping[str, Any]) -> Key:
    choices = [_resolved(choice, whole) for choice in rule.get("anyOf", [])]
    ways = [choice for choice in choices if choice.get("properties")]
    rule = _resolved(rule, whole)
    entry = rule.get("additionalProperties")
    below = (ways[0] if ways else rule).get("properties", {})
    if isinstance(entry, dict) and (inner := _resolved(entry, whole).get("properties")):
        ways, below = [entry], {f"{ENTRY}.{key}": value for key, value in inner.items()}
    return Key(
        name,
        _kind(rule, whole),
        value_text(rule["default"]) if "default" in rule else "",
        rule.get("description", ""),
        tuple(_key(f"{name}.{key}", value, whole) for key, value in below.items()),
        optional=bool(ways),
    )


def _resolved(rule: Mapping[str, Any], whole: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a rule of the schema with its $ref resolved."""
    if "$ref" not in rule:
        return rule
    named: Any = whole
    for step in rule["$ref"].removeprefix("#/").split("/"):
        named = named[step]
    return {**named, **{key: value for key, value in rule.items() if key != "$ref"}}


def _kind(rule: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    """Return in words what values a rule of the schema allows."""
    rule = _resolved(rule, whole)
    if "anyOf" in rule:
        return " or ".join(_kind(choice, whole) for choice in rule["anyOf"])
    if "enum" in rule:
        return ", ".join("null" if value is None else str(value) for value in rule["enum"])
    if "const" in rule:
        return str(rule["const"])
    kinds = rule.get("type", [])
    return " or ".join(_one_kind(kind, rule, whole) for kind in ([kinds] if isinstance(kinds, str) else kinds))


def _one_kind(kind: str, rule: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    if kind == "array":
        some = f"{rule['minItems']} " if rule.get("minItems") == rule.get("maxItems", -1) else ""
        items = _kind(rule.get("items", {}), whole)
        return f"list of {some}{items}{'s' * (' ' not in items)}"
    if kind == "object":
        if "properties" in rule:
            return "a section"
        if names := rule.get("propertyNames", {}).get("enum"):
            return f"a section of {', '.join(names)}"
        return f"a section of {ENTRY}s, each with {_kind(rule['additionalProperties'], whole)}"
    if "minimum" in rule and "maximum" in rule and kind in ("integer", "number"):
        return f"{KINDS[kind]}, {rule['minimum']} to {rule['maximum']}"
    bounds = [
        f"{word} {rule[bound]}"
        for bound, word in (("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most"))
        if bound in rule and kind in ("integer", "number")
    ]
    return ", ".join([KINDS[kind], *bounds])


def value_text(value: Any) -> str:
    """Return a value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).strip().removesuffix("\n...").strip()


# --- on a terminal ---------------------------------------------------------------------------------------


def as_text(width: int = 100) -> str:
    """Return the reference for a terminal. width: its columns."""
    lines = ["config.yaml: every key, its default, its meaning. A key that is not given has its default.", ""]
    for top in config_keys():
        for key in top.all():
            lines += [f"{key.name}: {key.default}".rstrip(), *_indented(_told(key), width), ""]
    lines += [*_indented(f"The pairs table (pairs): {schema('pairs')['description']}", width, ""), ""]
    for column in table_columns():
        lines += [column.name, *_indented(_told(column), width), ""]
    return "\n".join(lines)


def _told(key: Key) -> str:
    """Return a key's meaning, and, unless it is plain, the kind of its value."""
    return key.meaning if key.kind in PLAIN else f"{key.meaning} ({key.kind})"


def _indented(text: str, width: int, indent: str = "    ") -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


# --- as a file -------------------------------------------------------------------------------------------


def as_yaml(**given: Any) -> str:
    """Return a config.yaml with the meaning and default of every key. given: values of top keys to write instead."""
    lines = [
        *_indented(
            "The settings of this folder's run. Every key is here with its default, and may be left out. "
            "`talkies config` prints the same on a terminal.",
            100,
            "# ",
        ),
        "",
    ]
    for key in config_keys():
        value = value_text(given[key.name]) if key.name in given else key.default
        lines += [*_yaml(key, "", value), ""]
    return "\n".join(lines).rstrip() + "\n"


def _yaml(key: Key, indent: str, value: str) -> list[str]:
    comment = f"{indent}# "
    lines = _indented(_told(key), 100, comment) if key.meaning else []
    if not key.keys:
        return [*lines, f"{indent}{key.last}: {value}"]
    if key.optional:
        lines += [f"{comment}{key.last}:"]
        inner = f"{comment}  "
        if f".{ENTRY}." in key.keys[0].name:
            lines, inner = [*lines, f"{inner}{ENTRY}:"], f"{inner}  "
        for each in key.keys:
            lines += _indented(_told(each), 100, f"{inner}# ")
            lines += [f"{inner}{each.last}: {each.default}".rstrip()]
        return [*lines, f"{indent}{key.last}: {value}"]
    lines += [f"{indent}{key.last}:"]
    for each in key.keys:
        lines += _yaml(each, f"{indent}  ", each.default)
    return lines


def as_schema() -> str:
    """Return the file workflow/schemas/config.schema.yaml."""
    made = "# Made by `talkies config --format schema` from src/talkies/run/keys.py: edit that, then `make docs`.\n"
    return made + yaml.safe_dump(config_schema(), sort_keys=False, allow_unicode=True, width=120)


# --- as a page -------------------------------------------------------------------------------------------


def as_markdown() -> str:
    """Return the page docs/configuration.md."""
    lines = [
        "# Configuration",
        "",
        "<!-- Made by `talkies config --format markdown` from src/talkies/run/keys.py: edit it, then `make docs`. -->",
        "",
        "Settings are in `config.yaml` in the run folder. Every key has a default; an unknown key or a wrong value is",
        "refused before anything runs. `talkies config` prints this page's texts on a terminal. For one run alone:",
        "",
        "    snakemake --config first=3",
        "",
        "| key | default | meaning |",
        "|---|---|---|",
    ]
    for top in config_keys():
        for key in top.all():
            lines += [_row(f"`{key.name}`", f"`{key.default}`" if key.default else "", _told(key))]
    lines += [
        "",
        "## The pairs table",
        "",
        f"The key `pairs` names it. {schema('pairs')['description']}",
        "",
        "| column | meaning |",
        "|---|---|",
        *(_row(f"`{column.name}`", _told(column)) for column in table_columns()),
        "",
        "For example:",
        "",
        *(f"    {line.expandtabs(12)}" for line in (shipped("workflow") / EXAMPLE_TABLE).read_text().splitlines()),
    ]
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;').replace('<', '&lt;') for cell in cells)} |"
