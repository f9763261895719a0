#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Prepares one sandbox, forks ten copies of it as it runs, and lets each go its own way.
set -eu

url=${STASIS_URL:-http://127.0.0.1:7070}
call() { # METHOD PATH [BODY]
	curl -sS --fail-with-body -X "$1" -H "X-API-Key: $STASIS_API_KEY" \
		-H "Content-Type: application/json" ${3:+-d "$3"} "$url/v1/$2"
}
get() { # EXPRESSION: of the JSON on standard input, j
	python3 -c "import json, sys; j = json.load(sys.stdin); print($1)"
}

id=$(call POST sandboxes '{"timeout_sec": 600}' | get 'j["id"]')
copies=
trap 'for s in $id $copies; do call DELETE sandboxes/$s; done' EXIT

# What would take long: packages, a repository, a data set in memory.
call POST "sandboxes/$id/exec" '{"cmd": "seq 1 1000 > /dev/shm/data"}' >/dev/null

copies=$(call POST "sandboxes/$id/fork" '{"count": 10, "timeout_sec": 300}' |
	get '*(c["id"] for c in j["children"] if "error" not in c)')
n=0
for copy in $copies; do
	call POST "sandboxes/$copy/exec" "{\"cmd\": \"grep -c $n /dev/shm/data\"}" |
		get "\"copy $n: \" + j[\"stdout\"].strip()"
	n=$((n + 1))
done
