#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Prepares a sandbox once, snapshots it under a name, and creates from that ever after.
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
new=
trap 'for s in $id $new; do call DELETE sandboxes/$s; done; call DELETE snapshots/example' EXIT

call POST "sandboxes/$id/exec" '{"cmd": "echo prepared > /dev/shm/state"}' >/dev/null

# overwrite: until the new one is complete, the old one has the name.
call POST snapshots "{\"sandbox_id\": \"$id\", \"name\": \"example\", \"overwrite\": true}" |
	get '"snapshot " + j["name"]'

new=$(call POST sandboxes '{"template": "example", "timeout_sec": 600}' | get 'j["id"]')
call POST "sandboxes/$new/exec" '{"cmd": "cat /dev/shm/state"}' |
	get '"sandbox: " + j["stdout"].strip()'
