// SPDX-License-Identifier: Apache-2.0
// memory_image DIR FILE: makes an image that stasis-pager serves of the memory that a VMM wrote:
// DIR/layers with one layer, into which DIR/FILE is moved, and DIR/memory.hdr.
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include "snapshot/ingest.h"

int main(int argc, char **argv)
{
	struct err e = {0};
	struct stat st;
	char image[UUID_SIZE], layer[UUID_SIZE];
	_cleanup_(header_freep) struct header *zero = NULL, *h = NULL;
	if (argc != 3)
		return 2;
	int dir = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0 || fstatat(dir, argv[2], &st, 0) < 0 || mkdirat(dir, "layers", 0700) < 0) {
		perror(argv[1]);
		return 1;
	}
	int layers = openat(dir, "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	id_new_uuid(image);
	id_new_uuid(layer);
	int rc = header_new_zero((uint64_t)st.st_size, image, &zero, &e);
	id_new_uuid(image);
	if (rc == 0)
		rc = layer_ingest(dir, argv[2], layers, layer, zero, image, &h, NULL, &e);
	if (rc == 0)
		rc = header_write(dir, "memory.hdr", h, &e);
	if (rc < 0)
		fprintf(stderr, "%s\n", err_text(&e, rc));
	return rc < 0;
}
