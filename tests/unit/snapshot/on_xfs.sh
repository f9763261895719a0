#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs a test program with its files on XFS with reflink, as the data volume is. Needs root and loop devices.
[ "$(id -u)" = 0 ] && command -v mkfs.xfs >/dev/null && [ -e /dev/loop-control ] || {
	echo "skipped: needs root, mkfs.xfs and loop devices"
	exit 77
}
dir=$(mktemp -d /tmp/stasis-xfs-XXXXXX) || exit 1
trap 'umount "$dir/mnt" 2>/dev/null; rm -rf "$dir"' EXIT INT TERM
mkdir "$dir/mnt" && truncate -s 400M "$dir/image" && mkfs.xfs -q -m reflink=1 "$dir/image" || exit 1
mount -o loop "$dir/image" "$dir/mnt" || {
	echo "skipped: loop devices cannot be mounted here"
	exit 77
}
STASIS_TEST_DIR="$dir/mnt" "$@"
