// SPDX-License-Identifier: Apache-2.0
#include "control/api/logs.h"
#include <sys/stat.h>
#include "base/str.h"
#include "control/api/find.h"
#include "control/api/reply.h"

#define MAX_TAIL 10000 // lines of a console

// Where the last lines of a file begin; one that is not ended counts too.
static int find_tail(int fd, uint64_t size, uint64_t lines, uint64_t *ret_offset, struct err *e)
{
	char buf[16384];
	uint64_t end = size;
	bool first = true;
	while (end > 0) {
		size_t len = (size_t)MIN(end, (uint64_t)sizeof buf);
		ssize_t n = RETRY_EINTR(pread(fd, buf, len, (off_t)(end - len)));
		if (n != (ssize_t)len)
			return err_errno(e, n < 0 ? errno : EIO, "console log");
		for (size_t i = len; i-- > 0; first = false)
			if (buf[i] == '\n' && !first && --lines == 0) {
				*ret_offset = end - len + i + 1;
				return 0;
			}
		end -= len;
	}
	*ret_offset = 0;
	return 0;
}

void sandboxes_logs(struct http_request *r, void *ctx)
{
	struct control *c = ctx;
	struct err e = {0};
	_cleanup_(row_unrefp) struct sandbox_row *row = NULL;
	_cleanup_close_ int fd = -1;
	struct stat st = {0};
	char id[64];
	uint64_t lines = 0, offset = 0;
	const char *tail = http_req_query(r, "tail");
	int rc = 0;
	if (tail && (str_to_u64(tail, MAX_TAIL, &lines) < 0 || lines == 0))
		rc = err_set(&e, ERR_INVALID, "tail: must be an integer from 1 to %d", MAX_TAIL);
	// Not only live ones: the log of one that crashed is what is wanted most.
	find_path_id(c, r, id);
	row = rows_get(c->rows, id);
	if (rc == 0)
		rc = row ? c->host.ops->open_log(c->host.host, row->id, &fd, &e)
			 : find_none(id, &e);
	if (rc < 0)
		find_say_cause(row, &e);
	if (rc == 0 && fstat(fd, &st) < 0)
		rc = err_errno(&e, errno, "console log");
	if (rc == 0 && tail)
		rc = find_tail(fd, (uint64_t)st.st_size, lines, &offset, &e);
	if (rc < 0)
		reply_error(r, &e);
	else
		http_reply_fd(r, 200, "text/plain; charset=utf-8", TAKE_FD(fd), offset,
			(uint64_t)st.st_size - offset);
}
