"""What may stand in config.yaml and the pairs table, told from their schemas: on a terminal, as a page, as a file."""

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
"""In the workflow's folder: a pair as a whole, and again a part of it."""


ENTRY = "NAME"
"""Stands for the name of an entry, where the user gives it (a file's)."""


@dataclass(frozen=True)
class Key:
    """One key: its dotted name, what may stand there in words, its default as YAML (if any) and its meaning.

    keys: those below it. optional: its default has none of them; they are one way to give it, or a named entry's.
    """

    name: str
    kind: str
    default: str
    meaning: str
    keys: tuple[Key, ...] = ()
    optional: bool = False

    @property
    def last(self) -> str:
        """The name as it stands in a file, without the sections it is in."""
        return self.name.rpartition(".")[2]

    def all(self) -> Iterator[Key]:
        """Return this key and all below it; a section that says nothing of itself stands back."""
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
    """Return a rule with what its $ref names filled in."""
    if "$ref" not in rule:
        return rule
    named: Any = whole
    for step in rule["$ref"].removeprefix("#/").split("/"):
        named = named[step]
    return {**named, **{key: value for key, value in rule.items() if key != "$ref"}}


def _kind(rule: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    """Say in words what a rule lets stand."""
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
        return f"list of {some}{_kind(rule.get('items', {}), whole)}s"
    if kind == "object":
        if "properties" in rule:
            return "a section"
        if names := rule.get("propertyNames", {}).get("enum"):
            return f"a section of {', '.join(names)}"
        return f"a section of {ENTRY}s, each with {_kind(rule['additionalProperties'], whole)}"
    bounds = [
        f"{word} {rule[bound]}"
        for bound, word in (("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most"))
        if bound in rule and kind in ("integer", "number")
    ]
    return ", ".join([KINDS[kind], *bounds])


def value_text(value: Any) -> str:
    """Return a value as it stands in YAML, on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).strip().removesuffix("\n...").strip()


# --- on a terminal ---------------------------------------------------------------------------------------


def as_text(width: int = 100) -> str:
    """Return the reference for a terminal of so many columns."""
    lines = ["config.yaml: every key, its default, its meaning. What is not named there has its default.", ""]
    for top in config_keys():
        for key in top.all():
            lines += [f"{key.name}: {key.default}".rstrip(), *_indented(_told(key), width), ""]
    lines += [*_indented(f"The pairs table (pairs): {schema('pairs')['description']}", width, ""), ""]
    for column in table_columns():
        lines += [column.name, *_indented(_told(column), width), ""]
    return "\n".join(lines)


def _told(key: Key) -> str:
    """Return a key's meaning, and where that is not plain what may stand there."""
    return key.meaning if key.kind in ("text", "a section") else f"{key.meaning} ({key.kind})"


def _indented(text: str, width: int, indent: str = "    ") -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


# --- as a file -------------------------------------------------------------------------------------------


def as_yaml(**given: Any) -> str:
    """Return a config.yaml of every key with its meaning and its default, or what is given here for a top key."""
    lines = [
        *_indented(
            "What this folder's run makes. Every key stands here with its default and may be left away; "
            "`talkies config` tells the same on a terminal.",
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
        "What a run does stands in `config.yaml` in its folder. Every key has a default; an unknown key or a value of",
        "the wrong kind is refused before anything runs. `talkies config` prints the same on a terminal, and",
        "`talkies init DIR` writes it as comments into a new folder's `config.yaml`. A value for one run alone:",
        "",
        "    snakemake --config first=3",
        "",
        "| key | default | may be | meaning |",
        "|---|---|---|---|",
    ]
    for top in config_keys():
        for key in top.all():
            lines += [_row(f"`{key.name}`", f"`{key.default}`" if key.default else "", key.kind, key.meaning)]
    lines += [
        "",
        "## The pairs table",
        "",
        f"`pairs` names it. {schema('pairs')['description']}",
        "",
        "| column | may be | meaning |",
        "|---|---|---|",
        *(_row(f"`{column.name}`", column.kind, column.meaning) for column in table_columns()),
        "",
        "For instance:",
        "",
        *(f"    {line.expandtabs(12)}" for line in (shipped("workflow") / EXAMPLE_TABLE).read_text().splitlines()),
    ]
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;').replace('<', '&lt;') for cell in cells)} |"
