#!/bin/sh
# @JOB@: greets those whom its arguments name.
#
#   arguments: names            result: {"greeted": 2}
set -eu

if [ $# -eq 0 ]; then
    # What the job writes here is its error. What can't succeed in another attempt ends with another code than 1.
    echo "there is nobody to greet: give names as arguments" > "${JOBBER_ERROR_FILE:-/dev/stderr}"
    exit 64
fi
greeted=0
for name in "$@"; do
    echo "Hello, $name!"
    greeted=$((greeted + 1))
    echo "::progress $((100 * greeted / $#)) $name"
done
echo "::result {\"greeted\":$greeted}"
