# SPDX-License-Identifier: Apache-2.0
# Sourced by the build scripts. Afterwards: standard output is kept for progress lines, what the
# commands say goes to a log whose end is shown when something fails, and $tmp is a directory that
# disappears on every exit. shellcheck shell=sh
set -eu
umask 022
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin

say_usage() {
	echo "usage: $usage" >&2
	exit 2
}

# progress PERCENT TEXT: one line on the script's own output, for a person or for stasis to read.
progress() {
	echo "progress $*" >&3
	echo "=== $*"
}

# fail TEXT: the reason, and what to do next; ends the script.
fail() {
	echo "${0##*/}: $*" >&4
	: >"$tmp/failed"
	exit 1
}

# need COMMAND PACKAGE...: checks pairs of a command and the Debian package that has it.
need() {
	missing=
	while [ $# -gt 1 ]; do
		command -v "$1" >/dev/null || missing="$missing $2"
		shift 2
	done
	[ -z "$missing" ] || fail "missing programs: apt-get install --no-install-recommends$missing"
}

finish() {
	status=$?
	trap '' INT TERM HUP
	# A namespace's first process takes all others with it; unshare ends after they have ended.
	if [ -n "$background" ]; then
		kill -KILL $(cat "/proc/$background/task/$background/children") || :
		wait "$background" || :
	fi 2>/dev/null
	if [ "$status" -gt 0 ] && [ "$status" -lt 128 ] && [ ! -e "$tmp/failed" ]; then
		echo "${0##*/}: exit status $status; the last lines of its log:" >&4
		tail -n 20 "$tmp/log" >&4
	fi
	cd /
	rm -rf "$tmp"
	exit "$status"
}

background= # a running unshare --fork
exec 3>&1 4>&2
tmp=$(mktemp -d "${TMPDIR:-/tmp}/stasis-image.XXXXXX")
export TMPDIR="$tmp" # what the programs called put aside goes with it
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
exec >"$tmp/log" 2>&1
