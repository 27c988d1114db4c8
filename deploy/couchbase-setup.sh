#!/bin/sh
# Makes a one-node cluster, the bucket `jobber` and the user `jobber`, as far as they are missing, and waits until the
# bucket can be used. May be run again at any time. Collections and indexes are made by Jobber itself.
set -eu

node="${COUCHBASE_NODE:-http://127.0.0.1:8091}"
memory="${COUCHBASE_MEMORY:-1024}"
tries="${COUCHBASE_TRIES:-120}"
admin="Administrator:$COUCHBASE_ADMIN_PASSWORD"

# The HTTP status of a call as the administrator; what was answered goes to $answer. The first argument is a secret to
# send along, or nothing: secrets go by stdin, as arguments can be read by others.
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT
call() {
    secret=$1
    shift
    {
        printf 'user = "%s"\n' "$admin"
        [ -z "$secret" ] || printf 'data-urlencode = "%s"\n' "$secret"
    } | curl -sS --max-time 30 -K - -o "$answer" -w '%{http_code}' "$@" || true
}

fail() {
    echo "couchbase-setup: $1" >&2
    cat "$answer" >&2
    echo >&2
    exit 1
}

case $(call "" "$node/pools/default") in
200) echo "the cluster is there" ;;
401 | 403) fail "the cluster has another administrator's password; see COUCHBASE_ADMIN_PASSWORD" ;;
*)
    status=$(call "password=$COUCHBASE_ADMIN_PASSWORD" "$node/clusterInit" --data "username=Administrator" \
        --data "clusterName=jobber" --data "port=SAME" \
        --data "services=kv,n1ql,index,fts" --data "memoryQuota=$memory")
    [ "$status" = 200 ] || fail "the cluster could not be made ($status)"
    echo "the cluster was made"
    ;;
esac

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
