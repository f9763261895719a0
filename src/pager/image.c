// SPDX-License-Identifier: Apache-2.0
#include "pager/image.h"
#include <endian.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

int image_open(const char *header_path, const char *layers_dir, struct image *ret, struct err *e)
{
	_cleanup_(image_close) struct image img = {0};
	_cleanup_close_ int dir = open(layers_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return err_errno(e, errno, "%s", layers_dir);
	int r = header_read(AT_FDCWD, header_path, &img.header, e);
	if (r < 0)
		return r;
	img.layers = calloc(img.header->n_layers + 1u, sizeof *img.layers);
	if (!img.layers)
		return err_errno(e, ENOMEM, "image");
	for (uint32_t i = 0; i < img.header->n_layers; i++) {
		r = layer_open(dir, img.header->layers[i], img.header->size, &img.layers[i], e);
		if (r == 0)
			r = layer_map(&img.layers[i], e);
		if (r < 0)
			return r;
	}
	*ret = img;
	img = (struct image){0};
	return 0;
}

void image_close(struct image *img)
{
	for (uint32_t i = 0; img->layers && i < img->header->n_layers; i++)
		layer_close(&img->layers[i]);
	free(img->layers);
	header_free(img->header);
	*img = (struct image){0};
}

// For the SIGBUS handler, which can be told nothing: the layer being read.
static const char *volatile reading = "?";

int image_run(const struct image *img, uint64_t offset, uint64_t max, uint64_t *ret_len,
	const uint8_t **ret_data, struct err *e)
{
	const struct header_map *m = header_find(img->header, offset);
	uint64_t len = MIN(max, header_map_end(m) - offset);
	if (m->layer == HEADER_ZERO) {
		*ret_len = len;
		*ret_data = NULL;
		return 0;
	}
	const struct layer *l = &img->layers[m->layer];
	reading = l->id;
	// For a long run one call instead of a minor fault every 64 KiB. What it cannot map is
	// found by the read.
	if (len > SNAPSHOT_BLOCK)
		madvise((void *)(l->data + offset), len, MADV_POPULATE_READ);
	uint64_t bad = layer_first_unfit(l, offset, l->data + offset, len);
	if (bad < offset + len)
		return err_set(e, ERR_INTERNAL,
			"layers/%s: block at offset %" PRIu64 " does not match its checksum", l->id,
			bad);
	*ret_len = len;
	*ret_data = l->data + offset;
	return 0;
}

static void on_sigbus(int sig)
{
	static const char head[] = "stasis-pager: layers/",
			  tail[] = ": truncated or unreadable while it was read\n";
	const char *id = reading;
	ssize_t n = write(STDERR_FILENO, head, sizeof head - 1);
	n = write(STDERR_FILENO, id, strlen(id));
	n = write(STDERR_FILENO, tail, sizeof tail - 1);
	_exit(n < 0 ? 2 : 1);
}

void image_catch_sigbus(void)
{
	struct sigaction sa = {.sa_handler = on_sigbus};
	sigaction(SIGBUS, &sa, NULL);
}
