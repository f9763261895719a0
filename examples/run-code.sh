#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs code that nobody has read, with a limit of time, and shows how it ended.
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
trap 'call DELETE sandboxes/$id' EXIT

# Standard input is base64: any bytes may be in it.
code=$(base64 -w 0 <<'END'
print("six times seven is", 6 * 7)
END
)
call POST "sandboxes/$id/exec" \
	"{\"args\": [\"/usr/bin/python3\", \"-\"], \"timeout_sec\": 30, \"stdin\": \"$code\"}" |
	get 'j["stdout"] + "exit code %d" % j["exit_code"]'

# Code that does not end is ended.
call POST "sandboxes/$id/exec" '{"cmd": "sleep 1000", "timeout_sec": 1}' |
	get '"the endless one: " + j["error"]["code"]'
