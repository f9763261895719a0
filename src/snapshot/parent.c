// SPDX-License-Identifier: Apache-2.0
//
// How this works. The sums of a layer are read a page of entries (2 MiB of memory) at a time, its
// blocks one by one and only where the sums are equal. Layers are opened when a block of theirs is
// first asked for; a few are kept open, so that the length of a chain is not bounded by
// descriptors. No layer is mapped: one that is cut short is an error here, not a SIGBUS.
#include "snapshot/parent.h"
#include "snapshot/sums.h"

#define OPEN_MAX 16u // a chain is merged before it is as long
#define PAGE_ENTRIES (SNAPSHOT_BLOCK / sizeof(uint64_t))

struct open_layer {
	bool used;
	uint32_t index; // in header.layers
	bool broken;	// cannot be opened: not tried again
	struct layer layer;
	uint64_t entries[PAGE_ENTRIES]; // of the page whose first block is first
	uint64_t first;
};

struct parent {
	const struct header *header;
	int layers_fd;
	size_t at; // mapping of the last block
	uint8_t block[SNAPSHOT_BLOCK];
	struct open_layer open[OPEN_MAX]; // that of layer i at i % OPEN_MAX
};

struct parent *parent_new(const struct header *h, int layers_fd)
{
	struct parent *p = calloc(1, sizeof *p);
	if (p) {
		p->header = h;
		p->layers_fd = layers_fd;
	}
	return p;
}

struct parent *parent_free(struct parent *p)
{
	for (size_t i = 0; p && i < OPEN_MAX; i++)
		layer_close(&p->open[i].layer);
	free(p);
	return NULL;
}

static const struct header_map *mapping_of(struct parent *p, uint64_t offset)
{
	const struct header_map *m = &p->header->maps[p->at];
	if (offset < m->offset)
		m = header_find(p->header, offset);
	while (header_map_end(m) <= offset)
		m++;
	p->at = (size_t)(m - p->header->maps);
	return m;
}

static struct open_layer *open_layer_of(struct parent *p, uint32_t index)
{
	struct open_layer *o = &p->open[index % OPEN_MAX];
	if (o->used && o->index == index)
		return o->broken ? NULL : o;
	layer_close(&o->layer);
	o->used = true;
	o->index = index;
	o->first = UINT64_MAX;
	o->broken = layer_open(p->layers_fd, p->header->layers[index], p->header->size, &o->layer,
			    NULL) < 0;
	return o->broken ? NULL : o;
}

// LAYER_SUM_ABSENT where it cannot be read.
static uint64_t entry_of(struct open_layer *o, uint64_t block)
{
	uint64_t first = block / PAGE_ENTRIES * PAGE_ENTRIES;
	uint64_t n = MIN(PAGE_ENTRIES, o->layer.size / SNAPSHOT_BLOCK - first);
	if (o->first != first && sums_read(&o->layer, first, n, o->entries, NULL) < 0)
		return o->first = UINT64_MAX, LAYER_SUM_ABSENT;
	o->first = first;
	return o->entries[block - first];
}

bool parent_has(struct parent *p, uint64_t block, const void *data, uint64_t sum)
{
	const struct header_map *m = mapping_of(p, block * SNAPSHOT_BLOCK);
	if (m->layer == HEADER_ZERO)
		return sum == LAYER_SUM_ZERO;
	struct open_layer *o = sum == LAYER_SUM_ZERO ? NULL : open_layer_of(p, m->layer);
	if (!o || !layer_sum_fits(&o->layer, entry_of(o, block), sum))
		return false;
	return layer_read_at(o->layer.data_fd, p->block, SNAPSHOT_BLOCK, block * SNAPSHOT_BLOCK) ==
		       0 &&
	       memcmp(p->block, data, SNAPSHOT_BLOCK) == 0;
}
