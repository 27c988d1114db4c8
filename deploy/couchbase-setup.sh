#!/bin/sh
# Makes a one-node cluster, the bucket `jobber` and the user `jobber`, as far as they are missing, tells the index service
# how to store indexes where nobody has, and waits until the bucket can be used. May be run again at any time. Collections
# and indexes are made by Jobber itself.
set -eu

node="${COUCHBASE_NODE:-http://127.0.0.1:8091}"
memory="${COUCHBASE_MEMORY:-1024}"
tries="${COUCHBASE_TRIES:-120}"
admin="Administrator:$COUCHBASE_ADMIN_PASSWORD"

# A text as curl reads it between quotes in its configuration.
quoted() {
    printf '%s' "$1" | sed 's/[\\"]/\\&/g'
}

# The HTTP status of a call as the administrator; what was answered goes to $answer. The first argument is a secret to
# send along, or nothing: secrets go by stdin, as arguments can be read by others.
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT
call() {
    secret=$1
    shift
    {
        printf 'user = "%s"\n' "$(quoted "$admin")"
        [ -z "$secret" ] || printf 'data-urlencode = "%s"\n' "$(quoted "$secret")"
    } | curl -sS --max-time 30 -K - -o "$answer" -w '%{http_code}' "$@" || true
}

fail() {
    echo "couchbase-setup: $1" >&2
    cat "$answer" >&2
    echo >&2
    exit 1
}

# Couchbase takes none either, and a line break would end curl's line.
for password in "$COUCHBASE_ADMIN_PASSWORD" "$COUCHBASE_PASSWORD"; do
    if [ "$(printf '%s' "$password" | LC_ALL=C tr -d '[:cntrl:]')" != "$password" ]; then
        echo "couchbase-setup: a password holds a control character, such as a line break" >&2
        exit 1
    fi
done

# How indexes are stored: the community edition has one way only, and no node has a default.
curl -sS --max-time 30 -o "$answer" "$node/pools" || true
if tr -d '[:space:]' <"$answer" | grep -qE '"isEnterprise":false|"implementationVersion":"[^"]*-community"'; then
    storage=forestdb
else
    storage=plasma
fi

case $(call "" "$node/pools/default") in
200) echo "the cluster is there" ;;
401 | 403) fail "the cluster has another administrator's password; see COUCHBASE_ADMIN_PASSWORD" ;;
*)
    status=$(call "password=$COUCHBASE_ADMIN_PASSWORD" "$node/clusterInit" --data "username=Administrator" \
        --data "clusterName=jobber" --data "port=SAME" --data "indexerStorageMode=$storage" \
        --data "services=kv,n1ql,index,fts" --data "memoryQuota=$memory")
    [ "$status" = 200 ] || fail "the cluster could not be made ($status)"
    echo "the cluster was made"
    ;;
esac

# A cluster that others made may have none: then the index service refuses every index. One that is set stays.
status=$(call "" "$node/settings/indexes")
if [ "$status" = 200 ] && tr -d '[:space:]' <"$answer" | grep -q '"storageMode":""'; then
    status=$(call "" "$node/settings/indexes" --data "storageMode=$storage")
    [ "$status" = 200 ] || fail "the index service could not be told to store indexes as $storage ($status)"
    echo "indexes are stored as $storage"
fi

case $(call "" "$node/pools/default/buckets/jobber") in
200) echo "the bucket is there" ;;
*)
    status=$(call "" "$node/pools/default/buckets" --data "name=jobber" --data "ramQuota=$memory" --data "replicaNumber=0")
    [ "$status" = 202 ] || fail "the bucket could not be made ($status)"
    echo "the bucket was made"
    ;;
esac

# Roles as narrow as making collections and indexes allows; the community edition knows only the last.
user="$node/settings/rbac/users/local/jobber"
status=000
for roles in "bucket_admin[jobber],bucket_full_access[jobber],fts_admin[jobber]" "bucket_full_access[jobber]"; do
    status=$(call "password=$COUCHBASE_PASSWORD" -X PUT "$user" --data-urlencode "roles=$roles")
    [ "$status" != 200 ] || break
done
[ "$status" = 200 ] || fail "the user could not be made ($status)"
echo "the user is there"

while :; do
    status=$(call "" "$node/pools/default/buckets/jobber")
    if [ "$status" = 200 ] && grep -q '"status":"healthy"' "$answer"; then
        echo "the bucket can be used"
        exit 0
    fi
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || fail "the bucket is not healthy yet"
    sleep 1
done
