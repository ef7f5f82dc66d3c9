"""The JSON schema of a manifest, and a check of data against it.

The schema is published as `manifest.schema.json` beside this file. Of JSON Schema it uses, and this
checks: type, const, enum, pattern, minimum, minItems, maxItems, items, required, properties,
additionalProperties, anyOf and $ref to its own definitions.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}


@cache
def schema() -> dict[str, Any]:
    """The published schema."""
    text = files("flexdsl.bundle").joinpath("manifest.schema.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def fault_of(data: Any) -> str | None:
    """Where `data` is no manifest and why; None where it is one."""
    return _fault(data, schema(), "manifest")


def _fault(data: Any, rule: dict[str, Any], at: str) -> str | None:
    if "$ref" in rule:
        return _fault(data, schema()["$defs"][rule["$ref"].rsplit("/", 1)[1]], at)
    if "anyOf" in rule:
        faults = [_fault(data, choice, at) for choice in rule["anyOf"]]
        return None if None in faults else faults[0]
    return _fault_of_value(data, rule, at) or _fault_of_parts(data, rule, at)


def _fault_of_value(data: Any, rule: dict[str, Any], at: str) -> str | None:
    wanted = rule.get("type")
    if wanted is not None:
        right = isinstance(data, _TYPES[wanted])
        if not right or (wanted == "integer" and isinstance(data, bool)):
            return f"{at} is no {wanted}"
    if "const" in rule and data != rule["const"]:
        return f"{at} is {data!r}, not {rule['const']!r}"
    if "enum" in rule and data not in rule["enum"]:
        return f"{at} is {data!r}, none of {', '.join(map(repr, rule['enum']))}"
    if "pattern" in rule and re.search(rule["pattern"], data) is None:
        return f"{at} is {data!r}, which does not match {rule['pattern']}"
    if "minimum" in rule and data < rule["minimum"]:
        return f"{at} is {data}, below {rule['minimum']}"
    return None


def _fault_of_parts(data: Any, rule: dict[str, Any], at: str) -> str | None:
    parts: list[tuple[Any, dict[str, Any], str]] = []
    if isinstance(data, list):
        if not rule.get("minItems", 0) <= len(data) <= rule.get("maxItems", len(data)):
            return f"{at} has {len(data)} items"
        parts = [(x, rule.get("items", {}), f"{at}[{i}]") for i, x in enumerate(data)]
    elif isinstance(data, dict):
        missing = [name for name in rule.get("required", ()) if name not in data]
        if missing:
            return f"{at} has no {missing[0]!r}"
        known, other = rule.get("properties", {}), rule.get("additionalProperties", {})
        unknown = [name for name in data if name not in known]
        if other is False and unknown:
            return f"{at} has {unknown[0]!r}, which is unknown"
        parts = [(x, known.get(name, other), f"{at}.{name}") for name, x in data.items()]
    return next((f for part in parts if (f := _fault(*part)) is not None), None)
