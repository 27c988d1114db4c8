"""Checks that every example of the API's description fits its schema: `examples.py openapi.json`."""

import json
import sys

from jsonschema import Draft202012Validator

document = json.load(open(sys.argv[1]))
checked = 0


def check(place, schema, example):
    global checked
    checked += 1
    validator = Draft202012Validator({**schema, "components": document["components"]})
    errors = [f"{place}: {error.json_path}: {error.message}" for error in validator.iter_errors(example)]
    if errors:
        sys.exit("\n".join(errors))


def walk(place, value):
    if isinstance(value, list):
        for at, item in enumerate(value):
            walk(f"{place}/{at}", item)
    elif isinstance(value, dict):
        # A media type and a parameter have their schema beside the example, a schema is its own.
        schema = value.get("schema", value if "type" in value else None)
        if schema is not None and "example" in value:
            check(place, schema, value["example"])
        for key, item in value.items():
            walk(f"{place}/{key}", item)


walk("", document["paths"])
walk("", document["components"]["schemas"])
print(checked)
