#!/usr/bin/env python3
"""@JOB@: greets those whom its arguments name.

arguments: names            data: {"greeting": "Good day"}            result: {"greeted": 2}
"""
import json
import os
import sys


def fail(text, code=1):
    """Ends the job. What it writes to the file is its error."""
    with open(os.environ.get("JOBBER_ERROR_FILE", "/dev/stderr"), "w") as file:
        print(text, file=file)
    sys.exit(code)


def main():
    names = sys.argv[1:]
    if not names:
        # What can't succeed in another attempt ends with another code than 1.
        fail("there is nobody to greet: give names as arguments", 64)
    text = "" if sys.stdin.isatty() else sys.stdin.read()
    try:
        data = json.loads(text) if text.strip() else {}
    except ValueError as error:
        fail(f"the data is no JSON: {error}", 65)
    for done, name in enumerate(names, 1):
        print(f"{data.get('greeting', 'Hello')}, {name}!")
        print(f"::progress {100 * done // len(names)} {name}", flush=True)
    print("::result " + json.dumps({"greeted": len(names)}))


main()
