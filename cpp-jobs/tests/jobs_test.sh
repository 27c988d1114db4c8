#!/usr/bin/env bash
# Runs the header's test and every job in the folder given ($1), as Jobber would but without a supervisor, and checks
# exit codes, signals and output. The last line is "N passed, N failed". Everything it makes is below one temporary
# directory, which it removes.
set -u

jobs=$(cd "$1" && pwd)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
guide=$here/../../docs/development/job-development.md
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' HUP INT TERM
cd "$work" || exit 1
ulimit -c 0
for name in $(compgen -e | grep '^JOBBER_'); do unset "$name"; done

passed=0
failed=0
verdict() { # verdict WHAT CONDITION...: counts, and shows what the last job said when it's not as wanted
    local what=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $what (exit code $code)"
        tail -c 500 "$work/out" "$work/err"
    fi
}

code=0
call() { # call COMMAND...: its streams go to files, its exit code (128 + n for signal n) to $code
    { "$@" >"$work/out" 2>"$work/err"; } 2>/dev/null
    code=$?
}

job() { # job NAME ARGUMENT...: with standard input from $input (empty if unset), at most a minute long
    local name=$1
    shift
    printf '%s' "${input-}" >"$work/in"
    call timeout --foreground -s KILL 60 "$jobs/$name" "$@" <"$work/in"
}

ends() { # ends CODE WHAT
    verdict "$2" test "$code" = "$1"
}

says() { # says out|err TEXT: one of the lines is TEXT
    verdict "a line of $1 is: $2" grep -qxF -- "$2" "$work/$1"
}

has() { # has out|err TEXT: TEXT is in it
    verdict "$1 has: $2" grep -qF -- "$2" "$work/$1"
}

stop_when() { # stop_when LINE COMMAND...: sends SIGTERM once LINE has appeared; $child is the process
    local line=$1
    shift
    : >"$work/out"
    { "$@" >"$work/out" 2>"$work/err" </dev/null & } 2>/dev/null
    child=$!
    for _ in $(seq 3000); do
        grep -q -- "$line" "$work/out" && break
        sleep 0.01
    done
    kill -TERM "$child"
}

reap() {
    { wait "$child"; } 2>/dev/null
    code=$?
}

gone() { ! kill -0 "$1" 2>/dev/null; }
no_files() { [ -z "$(find "$1" -type f)" ]; }
size_is() { [ "$(stat -c %s "$1")" = "$2" ]; }

# --- the header -------------------------------------------------------------------------------------------------

call "$jobs/jobber_test"
cat "$work/err"
counts=$(grep -oE '[0-9]+ passed, [0-9]+ failed' "$work/out" || echo "0 passed, 1 failed")
passed=$((passed + ${counts%% passed*}))
failed=$((failed + $(echo "$counts" | grep -oE '[0-9]+ failed' | cut -d' ' -f1)))

cxx="${CXX:-g++} -std=c++17 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror -I$here/../include"
printf '#include "jobber.hpp"\nint main(int c, char** v) { return jobber::run(c, v, [] {}); }\n' >one.cpp
printf '#include "jobber.hpp"\nint two() { return jobber::attempt(); }\n' >two.cpp
call $cxx -pthread one.cpp two.cpp -o both
ends 0 "the header can be in two files of one program, without a warning"
call $cxx -fno-rtti -fsyntax-only one.cpp
ends 0 "the header needs no run-time type information"

# --- the guide's examples ---------------------------------------------------------------------------------------

sed -n '/^```cpp$/,/^```$/p' "$guide" | grep -v '^```' >sum.cpp
call $cxx -O0 -pthread sum.cpp -o sum
ends 0 "the guide's C++ example compiles"
call ./sum 1 2 3.5
ends 0 "the guide's C++ example runs"
says out '::result {"sum":6.5,"count":3}'
call ./sum <<<'{"numbers":[4,5]}'
says out '::result {"sum":9.0,"count":2}'
call ./sum x
ends 64 "the guide's C++ example refuses what is no number"
sed -n '/^```sh job$/,/^```$/p' "$guide" | grep -v '^```' >backup
chmod +x backup
JOBBER_JOB_ID=7 JOBBER_ERROR_FILE=$work/error call ./backup "$work/nowhere"
ends 65 "the guide's shell example fails as it says"
verdict "the guide's shell example writes the error file" grep -q 'there is no directory' "$work/error"
mkdir -p some
JOBBER_JOB_ID=7 JOBBER_ERROR_FILE=$work/error TMPDIR=$work call ./backup "$work/some"
ends 0 "the guide's shell example runs"
has out '::result {"archive":'

# --- hello ------------------------------------------------------------------------------------------------------

job hello
ends 0 "hello completes"
verdict "hello says hello" test "$(cat out)" = hello

# --- clock ------------------------------------------------------------------------------------------------------

before=$(date +%s)
job clock
ends 0 "clock completes"
verdict "clock tells microseconds" test "$(($(cat out) / 1000000))" -ge "$before"
for name in clock dummy-job faulty hello mandelbrot word-count; do
    call readelf -d "$jobs/$name"
    has out "There is no dynamic section"
done

# --- dummy-job --------------------------------------------------------------------------------------------------

input='{"message":"Hello from Jobber!","successRate":1,"workMs":1}' job dummy-job
ends 0 "dummy-job with a success rate of 1"
verdict "dummy-job prints the message" test "$(cat out)" = "Hello from Jobber!"
job dummy-job --success-rate 1 --work-ms 1 a b
ends 0 "dummy-job with arguments"
says out "a b"
input='{"successRate":0,"workMs":1}' job dummy-job
ends 1 "dummy-job with a success rate of 0"
says err "connection to database db-1.internal:5432 timed out after 30 s"
verdict "a failed dummy-job prints nothing" test ! -s out
input='{"successRate":2}' job dummy-job
ends 64 "dummy-job with a wrong success rate"
input='{"successRate":"high"}' job dummy-job
ends 65 "dummy-job with a success rate that is no number"
says err 'bad data: "successRate": expected a number, found a string'
input='{"message"' job dummy-job
ends 65 "dummy-job with malformed data"
both=0
for _ in $(seq 40); do
    input='{"workMs":0}' job dummy-job
    both=$((both | (1 << code)))
done
verdict "dummy-job succeeds and fails at random" test "$both" = 3

# --- mandelbrot -------------------------------------------------------------------------------------------------

mkdir images
input='{"width":160,"height":120,"iterations":200,"output":"images/a.ppm"}' JOBBER_CORES=1 job mandelbrot
ends 0 "mandelbrot on one core"
has out '"width":160,"height":120,"iterations":200,"seconds":'
verdict "mandelbrot ends with 100 %" grep -q '^::progress 100 ' out
verdict "the image has a PPM header" test "$(head -c 15 images/a.ppm | tr '\n' ' ')" = "P6 160 120 255 "
verdict "the image is complete" size_is images/a.ppm $((15 + 160 * 120 * 3))
first=$(grep -o '"checksum":"[0-9a-f]*"' out)
JOBBER_CORES=4 job mandelbrot --width 160 --height 120 --iterations 200 --output images/b.ppm
ends 0 "mandelbrot on four threads"
verdict "the image is the same on any number of cores" cmp -s images/a.ppm images/b.ppm
verdict "the checksum, too" test "$(grep -o '"checksum":"[0-9a-f]*"' out)" = "$first"
JOBBER_JOB_ID=id/7 TMPDIR=$work/images job mandelbrot --width 8 --height 8
ends 0 "mandelbrot without an output"
has out "\"path\":\"$work/images/mandelbrot-id_7.ppm\""
mkdir kept
JOBBER_OUTPUT_DIR=$work/kept job mandelbrot --width 160 --height 120 --iterations 200
ends 0 "mandelbrot with an output directory"
has out '"file":"mandelbrot.png"'
verdict "the checksum is that of the other images" test "$(grep -o '"checksum":"[0-9a-f]*"' out)" = "$first"
verdict "a PNG as large as uncompressed rows make it" size_is kept/mandelbrot.png $((33 + 14 + 120 * (160 * 3 + 1 + 17) + 21 + 12))
verdict "only finished images are there" test "$(ls images | tr '\n' ' ')" = "a.ppm b.ppm mandelbrot-id_7.ppm "
job mandelbrot --width 0
ends 64 "mandelbrot with a width of 0"
job mandelbrot --colour red
ends 64 "mandelbrot with an unknown option"
job mandelbrot --output /nonexistent/a.ppm
ends 1 "mandelbrot with an output that can't be"
has err "couldn't create /nonexistent/a.ppm.part-"
mkdir stopped
stop_when '::progress' "$jobs/mandelbrot" --width 3000 --height 3000 --iterations 1000000 --output stopped/c.ppm
reap
ends 143 "mandelbrot stops when it's told to"
says err "stopped by SIGTERM"
verdict "a stopped mandelbrot leaves no file behind" no_files stopped

# --- word-count -------------------------------------------------------------------------------------------------

printf 'To be, or not to be:\nthat is the question.\n' >hamlet
hamlet='{"lines":2,"words":10,"bytes":43,"top":[{"word":"be","count":2},{"word":"to","count":2}]}'
job word-count --top 2 hamlet
ends 0 "word-count of a file"
says out "::result $hamlet"
input='{"path":"hamlet","top":2}' job word-count
says out "::result $hamlet"
input='{"text":"To be, or not to be:\nthat is the question.\n","top":2}' job word-count
says out "::result $hamlet"
input=$'To be, or not to be:\nthat is the question.\n' job word-count --top 2
says out "::result $hamlet"
input='{ not JSON' job word-count
has out '{"lines":0,"words":3,"bytes":10,'
job word-count
says out '::result {"lines":0,"words":0,"bytes":0,"top":[]}'
printf 'caf\351 \377\000' >latin
job word-count latin
ends 0 "word-count of bytes that are not UTF-8"
job word-count nowhere
ends 1 "word-count of a missing file"
says err "couldn't read nowhere: No such file or directory"
job word-count images
ends 1 "word-count of a directory"
input='{"file":"x"}' job word-count
ends 65 "word-count with data that names nothing"

# --- faulty -----------------------------------------------------------------------------------------------------

job faulty
ends 64 "faulty without a verb"
has err "usage: faulty VERB"
job faulty dance
ends 64 "faulty with an unknown verb"
job faulty exit
ends 64 "faulty with a missing argument"
job faulty --help
ends 0 "faulty --help"
job faulty exit 3
ends 3 "faulty exit 3"
job faulty segfault
ends 139 "faulty segfault"
job faulty segfault-in-method
ends 139 "faulty segfault-in-method"
job faulty segfault-in-thread
ends 139 "faulty segfault-in-thread"
job faulty segfault-in-child
ends 139 "faulty segfault-in-child"
job faulty stack-overflow
ends 139 "faulty stack-overflow"
job faulty use-after-free
ends 139 "faulty use-after-free"
job faulty double-free
ends 134 "faulty double-free"
has err "free(): double free detected"
job faulty pure-virtual-call
ends 134 "faulty pure-virtual-call"
has err "pure virtual method called"
job faulty divide-by-zero
ends 136 "faulty divide-by-zero"
job faulty abort
ends 134 "faulty abort"
job faulty abort-in-destructor
ends 134 "faulty abort-in-destructor"
has err "about to abort in a destructor"
job faulty throw-in-thread "some text"
ends 134 "faulty throw-in-thread"
has err "what():  some text"
job faulty throw "some text"
ends 134 "faulty throw"
has err "what():  some text"
job faulty stderr "what went wrong"
ends 1 "faulty stderr"
verdict "faulty stderr says only that" test "$(cat err)" = "what went wrong"
JOBBER_ERROR_FILE=$work/error job faulty error-file "the error"
ends 1 "faulty error-file"
verdict "faulty error-file writes it" test "$(cat error)" = "the error"
job faulty error-file "the error"
ends 1 "faulty error-file outside Jobber"
job faulty sleep 0.05
ends 0 "faulty sleep"
JOBBER_ATTEMPT=1 job faulty fail-until 3
ends 1 "faulty fail-until, early"
JOBBER_ATTEMPT=3 job faulty fail-until 3
ends 0 "faulty fail-until, in time"
job faulty allocate 32
ends 0 "faulty allocate with a limit"
says out "allocated 32 MB"
call bash -c 'ulimit -v 262144; "$0" allocate' "$jobs/faulty"
ends 134 "faulty allocate without end, where memory ends"
has err "std::bad_alloc"
job faulty flood 3M
ends 0 "faulty flood"
verdict "faulty flood writes that much" size_is out $((3 << 20))
job faulty flood 100001 --one-line
verdict "faulty flood --one-line has no line ends" test "$(wc -lc <out | tr -s ' ')" = " 0 100001"
job faulty flood-stderr 70000
verdict "faulty flood-stderr writes that much" size_is err 70000
job faulty lock locked 0
ends 0 "faulty lock"
JOBBER_JOB_ID=j9 JOBBER_ATTEMPT=2 job faulty lock locked 0
verdict "faulty lock notes both ends" test "$(tr '\n' ';' <locked)" = "start - 1;end - 1;start j9 2;end j9 2;"
call flock locked "$jobs/faulty" lock locked 0
ends 99 "faulty lock when somebody else holds it"
says err "somebody else holds the lock on locked"
call sh -c '"$0" kill-parent; echo survived' "$jobs/faulty"
ends 137 "faulty kill-parent"
verdict "its parent is dead" test ! -s out
input='{"a":1}' JOBBER_JOB_ID=j1 job faulty echo "a b" 'quo"te'
ends 0 "faulty echo"
has out '{"arguments":["a b","quo\u0022te"],"environment":{'
has out '"JOBBER_JOB_ID":"j1"'
has out '"stdin":"{\u0022a\u0022:1}","directory":"'"$work"'"'

for flags in "" --setsid; do
    call setsid --wait "$jobs/faulty" fork-children 2 $flags
    ends 0 "faulty fork-children $flags"
    children=$(sed -n 's/^child //p' out)
    verdict "two children $flags" test "$(echo "$children" | wc -l)" = 2
    for pid in $children; do
        verdict "a child outlives it $flags" kill -0 "$pid"
        group=$(ps -o pgid= -p "$pid" | tr -d ' ')
        own=$([ "$group" = "$pid" ] && echo --setsid)
        verdict "its group is its own only with --setsid" test "$own" = "$flags"
        kill -KILL "$pid"
    done
done
{ "$jobs/faulty" hold-pipe 0.4 --setsid | cat; } >out
start=$EPOCHREALTIME
{ "$jobs/faulty" hold-pipe 0.4 | cat; } >out
verdict "faulty hold-pipe keeps stdout open" test $((${EPOCHREALTIME/[.,]/} - ${start/[.,]/})) -ge 350000

stop_when hanging "$jobs/faulty" hang
reap
ends 143 "faulty hang dies of SIGTERM"
stop_when waiting "$jobs/faulty" exit-on-term 7
reap
ends 7 "faulty exit-on-term"
stop_when ignoring "$jobs/faulty" ignore-term
sleep 0.2
verdict "faulty ignore-term survives SIGTERM" kill -0 "$child"
kill -KILL "$child"
reap
ends 137 "faulty ignore-term dies of SIGKILL"

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
