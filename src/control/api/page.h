// SPDX-License-Identifier: Apache-2.0
// One page of a list: limit and cursor of the query, next_cursor of the answer.
#pragma once
#include "http/server.h"

#define PAGE_MAX 100

struct page {
	uint64_t limit;
	uint64_t before; // the cursor of a list that is newest first; UINT64_MAX: from the start
};

// limit alone.
int page_read_limit(struct http_request *r, uint64_t *ret, struct err *e);
// A cursor is the time of creation of the last one shown, in nanoseconds: unique, and it stays
// valid when that one is gone.
int page_read(struct http_request *r, struct page *ret, struct err *e);
// {name: list, "next_cursor"}; steals list. next 0: there is no other page.
void page_reply(struct http_request *r, const char *name, json_t *list, uint64_t next);
