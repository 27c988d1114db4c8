"""What schemathesis can't read from the API's description."""

import os
import re

import schemathesis

ID = re.compile(r"[!$&-.0->@-\[\]-~]+\Z")
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
NUMBER = r"[0-9]{1,10}"
PART = f"{NUMBER}(-{NUMBER}(:{NUMBER})?)?"
ARRAY = re.compile(f"{PART}(,{PART})*(%[1-9][0-9]{{0,9}})?\\Z")


def acceptable(value):
    """The value with `hello`, which the server has, for every name of a binary, and without jobs to come after: others than
    those that the server has are refused. A list that the description refuses stays."""
    if isinstance(value, list):
        return [acceptable(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: accepted(key, item)
        for key, item in value.items()
        if key != "after" or not is_list_of_jobs(item)
    }


def accepted(key, item):
    if key == "name" and isinstance(item, str) and WORD.match(item):
        return "hello"
    # Any array may have a million jobs.
    if key == "array" and isinstance(item, str) and ARRAY.match(item):
        return "0-2"
    return acceptable(item)


def is_list_of_jobs(value):
    is_id = lambda item: isinstance(item, str) and len(item) <= 256 and ID.match(item)
    return isinstance(value, list) and len(value) <= 1000 and all(map(is_id, value)) and len(set(value)) == len(value)


@schemathesis.hook
def map_body(context, body):
    submits = context.operation.path in ("/jobs", "/api/v1/jobs", "/api/v1/jobs:bulk", "/api/v1/flows")
    schedules = context.operation.path.startswith("/api/v1/schedules")
    return acceptable(body) if submits or schedules else body


@schemathesis.hook
def map_query(context, query):
    """The query without what only the server can give, and without a long wait for a job that may never end."""
    if not isinstance(query, dict):
        return query
    query = {key: value for key, value in query.items() if key != "cursor"}
    if isinstance(query.get("wait"), int):
        query["wait"] = min(query["wait"], 1)
    return query


@schemathesis.hook
def before_load_schema(context, raw_schema):
    # The description allows requests without a token, because a server on loopback may have none. This one has.
    if os.environ.get("JOBBER_TOKEN"):
        raw_schema["security"] = [{"token": []}]
