// SPDX-License-Identifier: Apache-2.0
// fcqemu_layer DIFF LAYERS_DIR PARENT_HEADER|SIZE CHILD_HEADER: makes a layer of a diff, as the
// server does, and the header of the image that is the parent overlaid with it. A parent that is a
// number is an empty image of that many bytes.
#include <fcntl.h>
#include <string.h>
#include "base/id.h"
#include "snapshot/ingest.h"

int main(int argc, char **argv)
{
	struct err e = {0};
	char layer[UUID_SIZE], image[UUID_SIZE];
	_cleanup_(header_freep) struct header *parent = NULL, *child = NULL;
	uint64_t size;
	if (argc != 5)
		return 2;
	id_new_uuid(layer);
	id_new_uuid(image);
	int rc = str_to_u64(argv[3], UINT64_MAX, &size) == 0
			 ? header_new_zero(size, image, &parent, &e)
			 : header_read(AT_FDCWD, argv[3], &parent, &e);
	_cleanup_close_ int layers = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct layer_stats stats;
	if (rc == 0)
		rc = layer_ingest(
			AT_FDCWD, argv[1], layers, layer, parent, image, &child, &stats, &e);
	if (rc == 0)
		rc = header_write(AT_FDCWD, argv[4], child, &e);
	if (rc < 0)
		fprintf(stderr, "fcqemu_layer: %s\n", err_text(&e, rc));
	return rc < 0;
}
