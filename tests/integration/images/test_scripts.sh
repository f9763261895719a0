#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The image scripts themselves: equal bytes from equal input, clear refusals, nothing left behind
# when they are interrupted. Argument: the directory of the scripts.
set -eu
images=$1
if [ "$(id -u)" != 0 ] || ! command -v mmdebstrap cpio >/dev/null; then
	echo "needs root, mmdebstrap and cpio"
	exit 77
fi
tmp=$(mktemp -d /var/tmp/stasis-test.XXXXXX)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM
mkdir "$tmp/work" "$tmp/modules"
export TMPDIR="$tmp/work"

fail() {
	echo "FAILED: $*"
	exit 1
}

assert_nothing_left() {
	[ -z "$(ls -A "$tmp/work")" ] || fail "$1 left files: $(ls -A "$tmp/work")"
	! grep -q "$tmp" /proc/mounts || fail "$1 left mounts"
}

# The initramfs.
echo agent >"$tmp/envd"
echo init >"$tmp/init"
echo b >"$tmp/modules/b.ko"
echo a >"$tmp/modules/a.ko"
echo unused >"$tmp/modules/c.ko"
printf 'b.ko\na.ko\n' >"$tmp/modules/order"
pack() {
	"$images/build-initrd" "$1" --modules "$tmp/modules" --init "$tmp/init" --envd "$tmp/envd" >/dev/null
}
pack "$tmp/one"
touch "$tmp/modules/a.ko" "$tmp/init"
chmod 0700 "$tmp/init" "$tmp/modules/b.ko"
pack "$tmp/two"
cmp "$tmp/one" "$tmp/two" || fail "the initramfs differs from run to run"
(cd "$tmp" && cpio -i -t --quiet <one) >"$tmp/list"
printf '%s\n' dev dev/console envd init modules modules/a.ko modules/b.ko modules/order |
	diff - "$tmp/list" || fail "wrong files in the initramfs"
assert_nothing_left build-initrd
rm "$tmp/modules/a.ko"
! pack "$tmp/three" 2>"$tmp/said" || fail "a missing module was not noticed"
grep -q a.ko "$tmp/said" || fail "the missing module is not named: $(cat "$tmp/said")"
[ ! -e "$tmp/three" ] || fail "a failed run left its output"
assert_nothing_left "a failed build-initrd"

# Usage.
for script in build-kernel build-initrd build-rootfs; do
	status=0
	"$images/$script" >/dev/null 2>&1 || status=$?
	[ "$status" = 2 ] || fail "$script without arguments: exit status $status"
done

# Interrupted at work: no output, files, mounts, processes.
mkfifo "$tmp/progress"
"$images/build-rootfs" "$tmp/rootfs.img" --modules "$tmp/modules" >"$tmp/progress" 2>"$tmp/said" &
pid=$!
exec 5<"$tmp/progress"
read -r _ <&5 # "progress 0 ..."
read -r _ <&5 # a second later mmdebstrap runs, or has failed for want of a mirror
kill -TERM "$pid"
status=0
wait "$pid" || status=$?
exec 5<&-
[ "$status" = 143 ] || fail "terminated build-rootfs: exit status $status: $(cat "$tmp/said")"
[ ! -e "$tmp/rootfs.img" ] || fail "an interrupted run left its output"
assert_nothing_left "an interrupted build-rootfs"
for cmdline in /proc/[0-9]*/cmdline; do
	! tr '\0' ' ' <"$cmdline" 2>/dev/null | grep -q "mmdebstrap.*$tmp" ||
		fail "an interrupted build-rootfs left ${cmdline%/*}: $(tr "\\0" " " <"$cmdline")"
done
echo "all passed"
