"""The JSON schemas of config.yaml and of the pairs table, made from the types of their keys."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from ..media.crop import Request
from .keys import Crop, Settings, Written

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NAMES = {str: "string", int: "integer"}
PLAIN = ("string", "integer", "number", "boolean")


@cache
def config_schema() -> dict[str, Any]:
    """Return the JSON schema of config.yaml."""
    used, written = (_section(kind) for kind in (Settings, Written))
    properties: dict[str, Any] = {}
    for name, rule in used.items():
        if name == "engines":
            properties["engine"] = written["engine"]
        properties[name] = written.get(name, rule)
    return {
        "$schema": DIALECT,
        "title": "One run of talkies",
        "description": "Every key has a default. config.yaml needs only the keys that differ.",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def _section(kind: type) -> dict[str, Any]:
    """Return the rules of a section's keys."""
    _, named = msgspec.json.schema_components([kind], schema_hook=_hook)
    keys: dict[str, Any] = _plain(named[kind.__name__]["properties"], named)
    # What is made by a function has no default of its own there: a section, whose keys have theirs.
    return {name: rule if "default" in rule else {**rule, "default": {}} for name, rule in keys.items()}


def _hook(kind: type) -> dict[str, Any]:
    assert kind is Request
    return {"anyOf": [msgspec.json.schema(Crop)]}  # which keeps its own meaning, of which messages tell


def _plain(rule: Any, named: dict[str, Any]) -> Any:
    """Return a rule in the form in which messages and the reference are read from it.

    What is named stands where it is used; a section takes no other keys; null and a plain type are one list of types.
    """
    if isinstance(rule, list | tuple):
        return [_plain(each, named) for each in rule]
    if not isinstance(rule, dict):
        return rule
    if "$ref" in rule:
        keys = _plain(named[rule["$ref"].rpartition("/")[2]]["properties"], named)
        own = {name: value for name, value in rule.items() if name != "$ref"}
        return {"type": "object", "additionalProperties": False, "properties": keys, **own}
    return _joined({name: _plain(value, named) for name, value in rule.items()})


def _joined(rule: dict[str, Any]) -> dict[str, Any]:
    """Return a rule with the choices joined that one rule can tell: numbers whole or not, a plain type or null."""
    if "in_order" in rule:
        rule["enum"] = rule.pop("in_order")
    choices = rule.get("anyOf")
    if choices is None:
        return rule
    own = {name: value for name, value in rule.items() if name != "anyOf"}
    if {"number"} < {choice.get("type") for choice in choices}:
        choices = [choice for choice in choices if choice.get("type") != "integer"]
    rest = [choice for choice in choices if choice != {"type": "null"}]
    null = len(rest) < len(choices)
    if len(rest) == 1 and not null and "description" not in rest[0]:
        return {**rest[0], **own}
    if len(rest) == 1 and "enum" in rest[0]:
        values = rest[0]["enum"]
        # The type first: of two faults the first is told.
        return {"type": [NAMES[type(values[0])], "null"], "enum": [None, *values], **own}
    if all(choice.keys() == {"type"} for choice in rest) or (len(rest) == 1 and rest[0].get("type") in PLAIN):
        kinds = [choice["type"] for choice in rest]
        return {**rest[0], "type": [*kinds, *["null"] * null], **own}
    return {"anyOf": [*[{"type": "null"}] * null, *rest], **own}
