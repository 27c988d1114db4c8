# What the tests of packages share. Sourced by each.

here="$(cd "$(dirname "$0")/../.." && pwd)"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/jobber"
# The release of Debian that packages are installed in.
suite=trixie
passed=0
failed=0

fail() {
    echo "$(basename "$0"): $1" >&2
    exit 1
}

# Runs a command and counts it; the end of what it printed is shown when it fails.
check() {
    what=$1
    shift
    if "$@" >"$scratch/said" 2>&1; then
        passed=$((passed + 1))
        echo "ok      $what"
    else
        failed=$((failed + 1))
        echo "FAILED  $what: $*"
        tail -n 12 "$scratch/said" | sed 's/^/        /'
    fi
}

fails() {
    ! "$@"
}

# Whether a file has a line like this.
has() {
    grep -q -e "$2" "$1" || { tail -n 30 "$1"; return 1; }
}

# Prints the counts, and is false when anything failed.
close() {
    echo "$(basename "$0"): $passed passed, $failed failed"
    [ "$failed" = 0 ]
}

# Installs Debian's packages that are missing: pairs of a command and the package that has it.
needs() {
    missing=""
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
    done
    [ -z "$missing" ] && return
    command -v apt-get >/dev/null || fail "install:$missing"
    echo "installing:$missing"
    # shellcheck disable=SC2086 # a list of package names, meant to be split
    apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
        $missing >/dev/null
}

# Makes a Debian tree with these packages, once for all runs, and copies it to $tree.
debian() {
    packages=$1
    tree=$2
    [ "$(id -u)" = 0 ] || fail "a Debian tree is made and entered as root: run it as root"
    needs debootstrap:debootstrap
    kept="$cache/debian-$suite-$(printf '%s' "$packages" | sha256sum | head -c 12)"
    if [ ! -d "$kept" ]; then
        # Where apt of this machine fetches from.
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
        [ -n "$mirror" ] || fail "apt knows no mirror of Debian: apt-get update"
        mkdir -p "$cache"
        rm -rf "$kept.new"
        echo "making a tree of Debian $suite in $kept"
        debootstrap --variant=minbase --include="$packages" "$suite" "$kept.new" "$mirror" >"$kept.log" 2>&1 ||
            { tail "$kept.log" >&2; fail "debootstrap failed; see $kept.log"; }
        rm -rf "$kept.new"/var/cache/apt/archives/*.deb "$kept.new"/var/lib/apt/lists/*
        mv "$kept.new" "$kept"
    fi
    cp -a --reflink=auto "$kept" "$tree"
}

# Makes of a Debian package the next version, with other settings in its configuration.
next_version() {
    dpkg-deb --raw-extract "$1" "$scratch/next"
    sed -i 's/^Version: .*/Version: 99.0.0-1/' "$scratch/next/DEBIAN/control"
    for file in jobber.env jobber.toml; do
        echo "# A setting of the next version." >>"$scratch/next/etc/jobber/$file"
    done
    dpkg-deb -Zgzip --root-owner-group --build "$scratch/next" "$2" >/dev/null
}

# Makes an environment with what requirements.txt lists, once for all checkouts. Its folder is in $python.
python_tools() {
    needs python3:python3
    python3 -c "import ensurepip, venv" 2>/dev/null || needs python3-venv:python3-venv
    list="$here/tests/packages/requirements.txt"
    python="$cache/python-$(sha256sum <"$list" | head -c 12)"
    if [ ! -e "$python/complete" ]; then
        rm -rf "$python"
        mkdir -p "$cache"
        python3 -m venv "$python"
        "$python/bin/pip" install --quiet --disable-pip-version-check --requirement "$list"
        touch "$python/complete"
    fi
}

scratch=$(mktemp -d)
at_end() { rm -rf "$scratch"; }
trap at_end EXIT
trap 'exit 130' HUP INT TERM
