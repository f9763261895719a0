// SPDX-License-Identifier: Apache-2.0
#include "control/api/page.h"
#include <inttypes.h>
#include "base/str.h"

int page_read_limit(struct http_request *r, uint64_t *ret, struct err *e)
{
	const char *text = http_req_query(r, "limit");
	*ret = PAGE_MAX;
	if (text && (str_to_u64(text, PAGE_MAX, ret) < 0 || *ret == 0))
		return err_set(e, ERR_INVALID, "limit: must be an integer from 1 to %d", PAGE_MAX);
	return 0;
}

int page_read(struct http_request *r, struct page *ret, struct err *e)
{
	const char *cursor = http_req_query(r, "cursor");
	int rc = page_read_limit(r, &ret->limit, e);
	ret->before = UINT64_MAX;
	if (rc == 0 && cursor && *cursor && str_to_u64(cursor, INT64_MAX, &ret->before) < 0)
		rc = err_set(e, ERR_INVALID, "cursor: is not one that a list has given");
	return rc;
}

void page_reply(struct http_request *r, const char *name, json_t *list, uint64_t next)
{
	char text[24];
	snprintf(text, sizeof text, "%" PRIu64, next);
	http_reply_json(
		r, 200, json_pack("{s:o, s:s?}", name, list, "next_cursor", next ? text : NULL));
}
