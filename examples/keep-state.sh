#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Keeps a program's memory between two turns, and has nothing running in between.
set -eu

url=${STASIS_URL:-http://127.0.0.1:7070}
call() { # METHOD PATH [BODY]
	curl -sS --fail-with-body -X "$1" -H "X-API-Key: $STASIS_API_KEY" \
		-H "Content-Type: application/json" ${3:+-d "$3"} "$url/v1/$2"
}
get() { # EXPRESSION: of the JSON on standard input, j
	python3 -c "import json, sys; j = json.load(sys.stdin); print($1)"
}

id=$(call POST sandboxes '{"timeout_sec": 600, "on_timeout": "pause"}' | get 'j["id"]')
trap 'call DELETE sandboxes/$id' EXIT
run() {
	call POST "sandboxes/$id/exec" "{\"cmd\": \"$1\"}" | get 'j["stdout"].strip()'
}

# What a program has in memory, here a file in the guest's memory.
run 'echo 1 > /dev/shm/turn; cat /dev/shm/turn'

call POST "sandboxes/$id/pause" '{}' | get '"paused: " + j["state"]'
# Its memory is on the disk; minutes or weeks may pass.
call POST "sandboxes/$id/resume" '{"timeout_sec": 600}' | get '"resumed: " + j["state"]'

run 'echo $(($(cat /dev/shm/turn) + 1))'
