#!/bin/sh
# Tests the job, whose file is the argument: without Jobber it is a plain program.
set -eu
job=$1

output=$("$job" Ada Grace </dev/null)
echo "$output" | grep -qx 'Hello, Ada!'
echo "$output" | grep -qx '::result {"greeted":2}\|::result {"greeted": 2}'

# Its error goes to a file, and its exit code says that another attempt is pointless.
error=$(mktemp)
trap 'rm -f "$error"' EXIT
code=0
JOBBER_ERROR_FILE=$error "$job" </dev/null >/dev/null || code=$?
[ "$code" -eq 64 ]
grep -q 'nobody to greet' "$error"
echo "$job: passed"
