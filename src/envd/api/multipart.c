// SPDX-License-Identifier: Apache-2.0
// How this works. Every delimiter is searched as CRLF "--" boundary; the buffer starts with a CRLF
// of our own so that this holds for the first one too. While a part's data runs, all but a possible
// beginning of a delimiter at the buffer's end is handed on.
#include "envd/api/multipart.h"
#include <string.h>
#include <strings.h>
#include "base/str.h"

#define MAX_BOUNDARY 200
#define MAX_HEADER (16u << 10)

enum state { PREAMBLE, DELIMITER, HEADER, START, DATA, EPILOGUE };

struct multipart {
	const struct multipart_events *ev;
	void *ctx;
	enum state state;
	struct strbuf in;
	size_t delim_len;
	char delim[4 + MAX_BOUNDARY + 1];
};

// Reads one "; name=value" at *pos. Returns false at the end. Values are tokens or quoted strings,
// in which a backslash quotes only itself and the quote: some clients send Windows paths.
static bool next_param(const char **pos, struct strbuf *name, struct strbuf *value)
{
	const char *p = *pos;
	p += strspn(p, " \t;");
	size_t n = strcspn(p, "=; \t");
	if (n == 0)
		return false;
	strbuf_consume(name, name->len);
	strbuf_consume(value, value->len);
	strbuf_add(name, p, n);
	strbuf_add(value, "", 0);
	p += n;
	p += strspn(p, " \t");
	if (*p == '=') {
		p++;
		p += strspn(p, " \t");
		if (*p == '"') {
			for (p++; *p && *p != '"'; p++) {
				if (*p == '\\' && (p[1] == '"' || p[1] == '\\'))
					p++;
				strbuf_addc(value, *p);
			}
			p += *p == '"';
		} else {
			n = strcspn(p, "; \t");
			strbuf_add(value, p, n);
			p += n;
		}
	}
	*pos = p;
	return true;
}

int multipart_new(const char *content_type, const struct multipart_events *ev, void *ctx,
	struct multipart **ret, struct err *e)
{
	static const char type[] = "multipart/form-data";
	_cleanup_strbuf_ struct strbuf name = {0}, value = {0}, boundary = {0};
	size_t n = strlen(type);
	if (strncasecmp(content_type, type, n) != 0 || !strchr("; \t", content_type[n]))
		return err_set(e, ERR_INVALID, "Content-Type: must be multipart/form-data");
	for (const char *p = content_type + n; next_param(&p, &name, &value);)
		if (strcasecmp(name.data, "boundary") == 0 && !boundary.len)
			strbuf_add(&boundary, value.data, value.len);
	if (name.failed || value.failed || boundary.failed)
		return err_errno(e, ENOMEM, "multipart");
	if (boundary.len == 0 || boundary.len > MAX_BOUNDARY || strpbrk(boundary.data, "\r\n"))
		return err_set(e, ERR_INVALID,
			"Content-Type: needs a boundary of 1 to %d characters", MAX_BOUNDARY);
	struct multipart *m = calloc(1, sizeof *m);
	if (!m)
		return err_errno(e, ENOMEM, "multipart");
	m->ev = ev;
	m->ctx = ctx;
	m->delim_len = (size_t)snprintf(m->delim, sizeof m->delim, "\r\n--%s", boundary.data);
	strbuf_adds(&m->in, "\r\n");
	*ret = m;
	return 0;
}

struct multipart *multipart_free(struct multipart *m)
{
	if (m)
		strbuf_done(&m->in);
	free(m);
	return NULL;
}

// Text of the part's header, its lines ended by LF or CRLF.
static int begin_part(struct multipart *m, char *header, struct err *e)
{
	static const char wanted[] = "content-disposition:";
	_cleanup_strbuf_ struct strbuf key = {0}, value = {0}, name = {0}, filename = {0};
	bool has_filename = false;
	for (char *line = header, *next; line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		line[strcspn(line, "\r")] = '\0';
		if (strncasecmp(line, wanted, strlen(wanted)) != 0)
			continue;
		const char *p = line + strlen(wanted);
		p += strspn(p, " \t");
		p += strcspn(p, ";");
		while (next_param(&p, &key, &value)) {
			if (strcasecmp(key.data, "name") == 0 && !name.len) {
				strbuf_add(&name, value.data, value.len);
			} else if (strcasecmp(key.data, "filename") == 0 && !has_filename) {
				has_filename = true;
				strbuf_add(&filename, value.data, value.len);
			}
		}
	}
	if (key.failed || value.failed || name.failed || filename.failed)
		return err_errno(e, ENOMEM, "multipart");
	return m->ev->part(m->ctx, name.data ? name.data : "",
		has_filename ? (filename.data ? filename.data : "") : NULL, e);
}

// Preamble and data: everything before the next delimiter. 1: go on, 0: more input is needed.
static int step_text(struct multipart *m, struct err *e)
{
	char *at = memmem(m->in.data, m->in.len, m->delim, m->delim_len);
	size_t ready;
	if (at) {
		ready = (size_t)(at - m->in.data);
	} else {
		if (m->in.len < m->delim_len)
			return 0;
		ready = m->in.len - (m->delim_len - 1);
	}
	if (m->state == DATA && ready > 0) {
		int rc = m->ev->data(m->ctx, m->in.data, ready, e);
		if (rc < 0)
			return rc;
	}
	strbuf_consume(&m->in, ready);
	if (!at)
		return 0;
	if (m->state == DATA) {
		int rc = m->ev->part_end(m->ctx, e);
		if (rc < 0)
			return rc;
	}
	strbuf_consume(&m->in, m->delim_len);
	m->state = DELIMITER;
	return 1;
}

// Behind a delimiter: "--" ends the body, else blanks and the end of the line.
static int step_delimiter(struct multipart *m, struct err *e)
{
	if (m->in.len < 2)
		return 0;
	if (memcmp(m->in.data, "--", 2) == 0) {
		m->state = EPILOGUE;
		return 1;
	}
	size_t blanks = strspn(m->in.data, " \t");
	if (m->in.len < blanks + 2)
		return blanks > MAX_HEADER ? err_set(e, ERR_INVALID, "multipart: bad delimiter")
					   : 0;
	if (memcmp(m->in.data + blanks, "\r\n", 2) != 0)
		return err_set(e, ERR_INVALID,
			"multipart: the boundary is followed by something else than a line end");
	// The line end stays: it is also that of the empty line of a part without header.
	strbuf_consume(&m->in, blanks);
	m->state = HEADER;
	return 1;
}

static int step_header(struct multipart *m, struct err *e)
{
	char *end = memmem(m->in.data, m->in.len, "\r\n\r\n", 4);
	if (!end && m->in.len <= MAX_HEADER)
		return 0;
	if (!end || end - m->in.data > MAX_HEADER)
		return err_set(
			e, ERR_INVALID, "multipart: a part's header is over %u bytes", MAX_HEADER);
	size_t len = (size_t)(end - m->in.data);
	if (memchr(m->in.data, '\0', len))
		return err_set(e, ERR_INVALID, "multipart: NUL byte in a part's header");
	*end = '\0';
	int rc = begin_part(m, m->in.data, e);
	if (rc < 0)
		return rc;
	// The last line end stays: in a part without a body it begins the next delimiter.
	strbuf_consume(&m->in, len + 2);
	m->state = START;
	return 1;
}

// 1 when it is known whether the part has a body.
static int step_start(struct multipart *m)
{
	size_t n = MIN(m->in.len, m->delim_len);
	m->state = DATA;
	if (memcmp(m->in.data, m->delim, n) != 0)
		strbuf_consume(&m->in, 2);
	else if (n < m->delim_len)
		m->state = START;
	return m->state == DATA;
}

int multipart_feed(struct multipart *m, const void *data, size_t len, struct err *e)
{
	if (m->state == EPILOGUE)
		return 0;
	strbuf_add(&m->in, data, len);
	if (m->in.failed)
		return err_errno(e, ENOMEM, "multipart");
	int rc = 1;
	while (rc > 0 && m->state != EPILOGUE) {
		switch (m->state) {
		case PREAMBLE:
		case DATA:
			rc = step_text(m, e);
			break;
		case DELIMITER:
			rc = step_delimiter(m, e);
			break;
		case START:
			rc = step_start(m);
			break;
		default:
			rc = step_header(m, e);
		}
	}
	return rc;
}

int multipart_finish(struct multipart *m, struct err *e)
{
	if (m->state == EPILOGUE)
		return 0;
	return err_set(e, ERR_INVALID, "multipart: the body ends before its last boundary");
}
