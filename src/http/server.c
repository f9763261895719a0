// SPDX-License-Identifier: Apache-2.0
// How this works. libmicrohttpd runs each connection on its own thread and calls on_access several
// times per request: once when the headers are there, once for each piece of the body, once at the
// end. It takes a reply only in the first and the last of these calls. A refusal in the first is
// sent at once and ends the connection. To close it with unread data would let the kernel reset it
// under the client's feet, so what still comes is dropped for a moment first (linger). A reply made
// in between (a failed write, a chunked body that is too large) is kept in the request while the
// rest of the body is read and dropped, up to DRAIN_MAX.
//
// The library's time-out of a connection is on only while the client has the next word: it would
// cut connections whose handler or stream takes its time.
//
// The request object is born in on_uri and dies in on_completed, which the library calls for every
// request whatever its end; streams are freed there too, so a stream may use its request until
// the end.
#include "http/server.h"
#include <arpa/inet.h>
#include <microhttpd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include "base/clock.h"
#include "base/json.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/request_id.h"

#define DRAIN_MAX (64u << 20)
#define CONNECTION_MEMORY (64u << 10)
#define STREAM_BLOCK (32u << 10)
#define FILE_BLOCK (128u << 10)
#define SHUTDOWN_GRACE_MS 2000
#define LINGER_MS 1000
#define MAX_CONNECTIONS 1024u

struct http_server {
	struct http_server_config cfg;
	struct MHD_Daemon *daemon;
	atomic_bool closing;
	bool quiesced;	      // the listening socket is another's
	pthread_mutex_t lock; // guards the counts
	pthread_cond_t changed;
	atomic_size_t buffered; // bytes of bodies in memory
	atomic_uint others;	// connections of peers that are not favoured
	unsigned requests;	// between on_uri and on_completed
	unsigned handlers;	// of those, inside one of our callbacks
};

struct reply_header {
	struct reply_header *next;
	const char *value; // behind the name
	char name[];
};

struct http_request {
	struct http_server *server;
	struct MHD_Connection *conn;
	char id[REQUEST_ID_SIZE]; // "": the server has no ids
	const char *method;
	char *uri; // as sent, cut at the '?'; what is behind it is decoded in place
	struct route_match match;
	struct route_query query;
	uint64_t started_ns;
	struct strbuf body;
	size_t body_limit;
	uint64_t received;
	bool seen, malformed, whole; // whole: its body was read to the end
	struct reply_header *headers;
	struct MHD_Response *response;
	int status; // 0: not replied yet
	bool queued;
	http_stream_fn stream_next;
	void *stream;
	void (*stream_free)(void *);
	void *data;
	void (*data_free)(void *);
};

static void enter(const struct http_request *r)
{
	struct http_server *s = r->server;
	request_id_set(r->id);
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&s->lock);
	s->handlers++;
}

static void leave(struct http_server *s)
{
	request_id_set(NULL);
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&s->lock);
	s->handlers--;
	pthread_cond_broadcast(&s->changed);
}

// --- what was asked

const char *http_req_method(const struct http_request *r)
{
	return r->method;
}

const char *http_req_path(const struct http_request *r)
{
	return r->uri;
}

const struct http_route *http_req_route(const struct http_request *r)
{
	return r->match.route;
}

const char *http_req_header(const struct http_request *r, const char *name)
{
	return MHD_lookup_connection_value(r->conn, MHD_HEADER_KIND, name);
}

const char *http_req_query(const struct http_request *r, const char *name)
{
	return route_pair_find(r->query.arg, r->query.n, name);
}

const char *http_req_query_name(const struct http_request *r, unsigned i)
{
	return i < r->query.n ? r->query.arg[i].name : NULL;
}

const char *http_req_param(const struct http_request *r, const char *name)
{
	return route_pair_find(r->match.param, r->match.n, name);
}

const void *http_req_body(const struct http_request *r, size_t *ret_len)
{
	if (ret_len)
		*ret_len = r->body.len;
	return r->body.data ? r->body.data : "";
}

int http_req_json(struct http_request *r, bool allow_empty, json_t **ret, struct err *e)
{
	if (r->body.len == 0 && allow_empty) {
		*ret = json_object();
		return *ret ? 0 : err_set(e, ERR_INTERNAL, "out of memory");
	}
	int rc = json_parse_object(r->body.data, r->body.len, ret, e);
	return rc < 0 ? err_prefix(e, rc, "request body") : 0;
}

void http_req_set_data(struct http_request *r, void *data, void (*free_fn)(void *))
{
	if (r->data_free)
		r->data_free(r->data);
	r->data = data;
	r->data_free = free_fn;
}

void *http_req_data(const struct http_request *r)
{
	return r->data;
}

bool http_req_closing(const struct http_request *r)
{
	return r->server->closing;
}

uint64_t http_req_started_ns(const struct http_request *r)
{
	return r->started_ns;
}

int http_req_socket(const struct http_request *r)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(r->conn, MHD_CONNECTION_INFO_CONNECTION_FD);
	return info ? info->connect_fd : -1;
}

bool http_req_aborted(const struct http_request *r)
{
	struct pollfd p = {.fd = http_req_socket(r), .events = POLLRDHUP};
	return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

// --- the reply

bool http_replied(const struct http_request *r)
{
	return r->status != 0;
}

void http_reply_header(struct http_request *r, const char *name, const char *value)
{
	size_t n = strlen(name) + 1, v = strlen(value) + 1;
	struct reply_header *h = malloc(sizeof *h + n + v);
	if (!h)
		return;
	memcpy(h->name, name, n);
	memcpy(h->name + n, value, v);
	h->value = h->name + n;
	h->next = r->headers;
	r->headers = h;
}

const char *http_reply_get(const struct http_request *r, const char *name)
{
	const struct reply_header *h = r->headers;
	while (h && strcasecmp(h->name, name) != 0)
		h = h->next;
	return h ? h->value : NULL;
}

// Takes response, NULL when it could not be made: then the connection is cut.
static void set_reply(
	struct http_request *r, int status, const char *content_type, struct MHD_Response *response)
{
	if (r->status) {
		log_error("a second reply to %s %s was dropped", r->method, r->uri);
		if (response)
			MHD_destroy_response(response);
		return;
	}
	r->status = status;
	r->response = response;
	if (!response)
		return;
	if (content_type)
		MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, content_type);
	if (r->id[0])
		MHD_add_response_header(response, "X-Request-Id", r->id);
	for (struct reply_header *h = r->headers; h; h = h->next)
		if (MHD_add_response_header(response, h->name, h->value) != MHD_YES)
			log_debug("header %s cannot be sent", h->name);
	if (r->server->closing)
		MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
}

void http_reply_data(
	struct http_request *r, int status, const char *content_type, const void *data, size_t len)
{
	set_reply(r, status, content_type,
		MHD_create_response_from_buffer(len, (void *)data, MHD_RESPMEM_MUST_COPY));
}

void http_reply_json(struct http_request *r, int status, json_t *body)
{
	char *text = json_compact(body);
	json_decref(body);
	set_reply(r, status, "application/json",
		text ? MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE)
		     : NULL);
}

void http_reply_empty(struct http_request *r, int status)
{
	set_reply(r, status, NULL,
		MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT));
}

// Text from a guest or a system call may hold any bytes; JSON takes UTF-8 only.
static void clean(const char *text, char *out, size_t size)
{
	snprintf(out, size, "%s", text);
	if (!str_is_utf8(out, strlen(out)))
		for (char *p = out; *p; p++)
			if ((unsigned char)*p >= 0x80)
				*p = '?';
}

json_t *http_error_json(const struct err *e)
{
	char text[sizeof e->text], cause[sizeof e->cause], at[32];
	clean(e->text, text, sizeof text);
	json_t *j = json_pack("{s:s, s:s}", "code", err_info(e->code)->name, "message", text);
	int bad = 0;
	if (e->cause[0]) {
		clean(e->cause, cause, sizeof cause);
		clock_format_rfc3339(e->ended_ns, at);
		bad |= json_object_set_new(j, "cause", json_string(cause));
		bad |= json_object_set_new(
			j, "stopped_at", e->ended_ns ? json_string(at) : json_null());
	}
	if (err_reason_name(e->reason))
		bad |= json_object_set_new(j, "reason", json_string(err_reason_name(e->reason)));
	if (bad) {
		json_decref(j);
		return NULL;
	}
	return json_pack("{s:o}", "error", j);
}

void http_reply_error_status(struct http_request *r, int status, const struct err *e)
{
	struct strbuf text = {0};
	if (r->server->cfg.format_error) {
		r->server->cfg.format_error(r, status, e, &text);
	} else {
		_cleanup_json_ json_t *body = http_error_json(e);
		_cleanup_free_ char *dump = json_compact(body);
		strbuf_adds(&text, dump ? dump : "{}");
	}
	size_t len = text.len;
	char *data = strbuf_steal(&text);
	set_reply(r, status, "application/json",
		data ? MHD_create_response_from_buffer(len, data, MHD_RESPMEM_MUST_FREE) : NULL);
	strbuf_done(&text);
}

void http_reply_error(struct http_request *r, const struct err *e)
{
	if (err_is_set(e)) {
		http_reply_error_status(r, err_info(e->code)->http_status, e);
		return;
	}
	struct err unknown = {0};
	err_set(&unknown, ERR_INTERNAL, "the request failed without a reason");
	http_reply_error_status(r, 500, &unknown);
}

struct file_reply {
	int fd;
	uint64_t offset;
};

static void file_reply_free(void *cls)
{
	struct file_reply *f = cls;
	close(f->fd);
	free(f);
}

// Not the library's own reply of a file: its sendfile goes on for ever where a file has ended
// before its announced length.
static ssize_t on_file(void *cls, uint64_t pos, char *buf, size_t max)
{
	struct file_reply *f = cls;
	ssize_t n = RETRY_EINTR(pread(f->fd, buf, max, (off_t)(f->offset + pos)));
	return n > 0 ? n : MHD_CONTENT_READER_END_WITH_ERROR;
}

void http_reply_fd(struct http_request *r, int status, const char *content_type, int fd,
	uint64_t offset, uint64_t length)
{
	struct MHD_Response *response = NULL;
	struct file_reply *f = length ? malloc(sizeof *f) : NULL;
	if (f) {
		*f = (struct file_reply){fd, offset};
		response = MHD_create_response_from_callback(
			length, FILE_BLOCK, on_file, f, file_reply_free);
	} else if (!length) {
		response = MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);
	}
	if (!f || !response) {
		close(fd);
		free(f);
	}
	set_reply(r, status, content_type, response);
}

static ssize_t on_stream(void *cls, uint64_t pos, char *buf, size_t max)
{
	struct http_request *r = cls;
	enter(r);
	ssize_t n = r->stream_next(r->stream, buf, max);
	leave(r->server);
	if (n > 0)
		return n;
	return n == 0 ? MHD_CONTENT_READER_END_OF_STREAM : MHD_CONTENT_READER_END_WITH_ERROR;
}

void http_reply_stream(struct http_request *r, int status, const char *content_type,
	http_stream_fn next, void *stream, void (*free_fn)(void *))
{
	if (r->status) {
		log_error("a second reply to %s %s was dropped", r->method, r->uri);
		if (free_fn)
			free_fn(stream);
		return;
	}
	r->stream_next = next;
	r->stream = stream;
	r->stream_free = free_fn;
	set_reply(r, status, content_type,
		MHD_create_response_from_callback(
			MHD_SIZE_UNKNOWN, STREAM_BLOCK, on_stream, r, NULL));
}

// --- the library's callbacks

static void set_timeout(struct http_request *r, unsigned seconds)
{
	const struct http_server_config *cfg = &r->server->cfg;
	if (cfg->idle_timeout_s || cfg->body_timeout_s)
		MHD_set_connection_option(r->conn, MHD_CONNECTION_OPTION_TIMEOUT, seconds);
}

static void drop_body(struct http_request *r)
{
	r->server->buffered -= r->body.len;
	strbuf_done(&r->body);
}

// The answer is sent. What still comes of the body is read and dropped, until the client closes.
static void linger(struct http_request *r)
{
	char buf[16384];
	uint64_t until = deadline_in_ms(LINGER_MS);
	struct pollfd p = {.fd = http_req_socket(r), .events = POLLIN};
	shutdown(p.fd, SHUT_WR);
	for (size_t n = 0; n < DRAIN_MAX && !r->server->closing;) {
		if (poll(&p, 1, deadline_left_ms(until)) <= 0)
			return;
		ssize_t got = recv(p.fd, buf, sizeof buf, MSG_DONTWAIT);
		if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
			return;
		n += got > 0 ? (size_t)got : 0;
	}
}

static void *on_uri(void *cls, const char *uri, struct MHD_Connection *conn)
{
	struct http_server *s = cls;
	struct http_request *r = calloc(1, sizeof *r);
	char *copy = strdup(uri);
	if (!r || !copy) {
		free(r);
		free(copy);
		return NULL;
	}
	r->server = s;
	r->conn = conn;
	r->uri = copy;
	r->started_ns = clock_monotonic_ns();
	char *query = strchr(copy, '?');
	if (query)
		*query++ = '\0';
	r->malformed = !route_parse_query(query, &r->query);
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&s->lock);
	s->requests++;
	return r;
}

static void on_completed(
	void *cls, struct MHD_Connection *conn, void **req, enum MHD_RequestTerminationCode how)
{
	struct http_server *s = cls;
	struct http_request *r = *req;
	*req = NULL;
	if (!r)
		return;
	request_id_set(r->id);
	if (!r->whole && r->queued)
		linger(r);
	set_timeout(r, s->cfg.idle_timeout_s);
	if (r->stream_free)
		r->stream_free(r->stream);
	if (r->data_free)
		r->data_free(r->data);
	request_id_set(NULL);
	if (r->response)
		MHD_destroy_response(r->response);
	while (r->headers) {
		struct reply_header *next = r->headers->next;
		free(r->headers);
		r->headers = next;
	}
	drop_body(r);
	route_match_done(&r->match);
	free(r->uri);
	free(r);
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&s->lock);
	s->requests--;
	pthread_cond_broadcast(&s->changed);
}

static enum MHD_Result queue(struct http_request *r)
{
	if (!r->response)
		return MHD_NO;
	enum MHD_Result ok = MHD_queue_response(r->conn, (unsigned)r->status, r->response);
	MHD_destroy_response(TAKE_PTR(r->response));
	r->queued = true;
	if (r->server->cfg.done)
		r->server->cfg.done(
			r, r->status, clock_monotonic_ns() - r->started_ns, r->server->cfg.ctx);
	return ok;
}

static void refuse(struct http_request *r, int status, enum err_code code, const char *text)
{
	struct err e = {0};
	err_set(&e, code, "%s", text);
	http_reply_error_status(r, status, &e);
}

static void refuse_route(struct http_request *r, int status, const struct strbuf *allow)
{
	struct err e = {0};
	switch (status) {
	case 404:
		err_set(&e, ERR_NOT_FOUND, "no such path: %s %.200s", r->method, r->uri);
		break;
	case 405:
		http_reply_header(r, MHD_HTTP_HEADER_ALLOW, allow->data);
		err_set(&e, ERR_INVALID, "%s is not possible here; allowed: %s", r->method,
			allow->data);
		break;
	case 400:
		err_set(&e, ERR_INVALID, "the path is not properly percent-encoded");
		break;
	default:
		err_set(&e, ERR_INTERNAL, "out of memory");
	}
	http_reply_error_status(r, status, &e);
}

static unsigned max_connections(const struct http_server_config *cfg)
{
	return cfg->max_connections ? cfg->max_connections : MAX_CONNECTIONS;
}

static bool fits_budget(const struct http_request *r, uint64_t more)
{
	size_t budget = r->server->cfg.body_budget, taken = r->server->buffered;
	return !budget || (taken <= budget && more <= budget - taken);
}

static void refuse_busy(struct http_request *r, const char *text)
{
	http_reply_header(r, MHD_HTTP_HEADER_RETRY_AFTER, "1");
	refuse(r, 429, ERR_LIMIT, text);
}

// The headers are there: route, authenticate, check the announced size, prepare a stream.
static void begin(struct http_request *r, uint64_t announced)
{
	_cleanup_strbuf_ struct strbuf allow = {0};
	int status = route_find(r->server->cfg.routes, r->server->cfg.n_routes, r->method, r->uri,
		&r->match, &allow);
	if (status) {
		refuse_route(r, status, &allow);
		return;
	}
	if (r->malformed) {
		refuse(r, 400, ERR_INVALID, "the query is not properly percent-encoded");
		return;
	}
	const struct http_server_config *cfg = &r->server->cfg;
	if (cfg->before && cfg->before(r, r->match.route, cfg->ctx)) {
		if (!r->status)
			refuse(r, 500, ERR_INTERNAL, "the request was ended without a reply");
		return;
	}
	if (cfg->reserve && !(r->match.route->flags & cfg->reserve_flags) &&
		http_server_connections(r->server) > max_connections(cfg) - cfg->reserve) {
		refuse_busy(r, "too many requests at once");
		return;
	}
	r->body_limit =
		r->match.route->body_limit ? r->match.route->body_limit : cfg->default_body_limit;
	if (announced > r->body_limit) {
		struct err e = {0};
		err_set(&e, ERR_TOO_LARGE, "the body is larger than %zu bytes", r->body_limit);
		http_reply_error(r, &e);
		return;
	}
	if (r->match.route->body)
		r->match.route->handler(r, cfg->ctx);
	else if (!fits_budget(r, announced))
		refuse_busy(r, "the bodies of other requests fill the memory for them");
}

static void take_body(struct http_request *r, const void *data, size_t len)
{
	if (r->received > r->body_limit) {
		struct err e = {0};
		err_set(&e, ERR_TOO_LARGE, "the body is larger than %zu bytes", r->body_limit);
		http_reply_error(r, &e);
	} else if (r->match.route->body) {
		int rc = r->match.route->body(r, r->server->cfg.ctx, data, len);
		if (rc < 0 && !r->status) {
			struct err e = {0};
			err_errno(&e, rc, "the body could not be taken");
			http_reply_error(r, &e);
		}
	} else if (!fits_budget(r, len)) {
		refuse_busy(r, "the bodies of other requests fill the memory for them");
	} else {
		size_t before = r->body.len;
		strbuf_add(&r->body, data, len);
		r->server->buffered += r->body.len - before;
		if (r->body.failed)
			refuse(r, 500, ERR_INTERNAL, "out of memory");
	}
	if (r->status && !r->match.route->body)
		drop_body(r);
}

static void finish(struct http_request *r)
{
	if (r->match.route->body) {
		int rc = r->match.route->body(r, r->server->cfg.ctx, NULL, 0);
		if (rc < 0 && !r->status) {
			struct err e = {0};
			err_errno(&e, rc, "the body could not be taken");
			http_reply_error(r, &e);
		}
	} else {
		r->match.route->handler(r, r->server->cfg.ctx);
	}
	if (!r->status)
		refuse(r, 500, ERR_INTERNAL, "the request was left without a reply");
}

static void take_id(struct http_request *r)
{
	const char *given = http_req_header(r, "X-Request-Id");
	if (request_id_is_valid(given))
		snprintf(r->id, sizeof r->id, "%s", given);
	else
		request_id_make(r->id);
	request_id_set(r->id);
}

static enum MHD_Result first_call(struct http_request *r, const char *method)
{
	r->seen = true;
	r->method = method;
	if (r->server->cfg.request_ids)
		take_id(r);
	uint64_t announced = 0;
	const char *length = http_req_header(r, MHD_HTTP_HEADER_CONTENT_LENGTH);
	bool chunked = http_req_header(r, MHD_HTTP_HEADER_TRANSFER_ENCODING) != NULL;
	if (length && !chunked && str_to_u64(length, UINT64_MAX, &announced) < 0)
		return MHD_NO; // the library has parsed it before
	r->whole = !chunked && announced == 0;
	begin(r, announced);
	// Streams may come as slowly as what they are made of.
	bool buffered = !r->status && !r->match.route->body && !r->whole;
	set_timeout(r, buffered ? r->server->cfg.body_timeout_s : 0);
	return r->status ? queue(r) : MHD_YES;
}

static enum MHD_Result on_access(void *cls, struct MHD_Connection *conn, const char *url,
	const char *method, const char *version, const char *data, size_t *size, void **req)
{
	struct http_request *r = *req;
	if (!r)
		return MHD_NO;
	struct http_server *s = cls;
	enum MHD_Result result = MHD_YES;
	enter(r);
	if (!r->seen) {
		result = first_call(r, method);
	} else if (*size > 0) {
		r->received += *size;
		if (!r->status)
			take_body(r, data, *size);
		else if (r->received > DRAIN_MAX && r->body_limit != SIZE_MAX)
			result = MHD_NO;
		*size = 0;
	} else if (!r->queued) {
		r->whole = true;
		set_timeout(r, 0);
		if (!r->status)
			finish(r);
		result = queue(r);
	}
	leave(s);
	return result;
}

// --- connections

static enum MHD_Result on_accept(void *cls, const struct sockaddr *peer, socklen_t len)
{
	struct http_server *s = cls;
	const struct http_server_config *cfg = &s->cfg;
	bool fits = !cfg->is_favoured || cfg->is_favoured(peer, cfg->ctx) ||
		    s->others < cfg->max_others;
	return fits ? MHD_YES : MHD_NO;
}

static void on_connection(void *cls, struct MHD_Connection *conn, void **socket_context,
	enum MHD_ConnectionNotificationCode what)
{
	struct http_server *s = cls;
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
	if (!s->cfg.is_favoured || !info || s->cfg.is_favoured(info->client_addr, s->cfg.ctx))
		return;
	if (what == MHD_CONNECTION_NOTIFY_STARTED)
		s->others++;
	else
		s->others--;
}

// Paths and queries are decoded here, once and after splitting.
static size_t keep_escapes(void *cls, struct MHD_Connection *conn, char *s)
{
	return strlen(s);
}

static void on_log(void *cls, const char *fmt, va_list ap)
{
	char text[300];
	vsnprintf(text, sizeof text, fmt, ap);
	text[strcspn(text, "\n")] = '\0';
	log_debug("http: %s", text);
}

// --- life of the server

int http_listen_tcp(const char *host, uint16_t port, struct err *e)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	if (host && inet_pton(AF_INET, host, &a.sin_addr) != 1)
		return err_set(e, ERR_INVALID, "'%s' is not an IPv4 address", host);
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_errno(e, errno, "socket");
	int one = 1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(fd, 1024) < 0)
		return err_errno(e, errno, "cannot listen on %s:%u", host ? host : "0.0.0.0", port);
	return TAKE_FD(fd);
}

int http_listen_unix(const char *path, mode_t mode, struct err *e)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	if (str_format(a.sun_path, sizeof a.sun_path, "%s", path) < 0)
		return err_set(e, ERR_INVALID, "socket path '%s' is longer than %zu bytes", path,
			sizeof a.sun_path - 1);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_errno(e, errno, "socket");
	struct stat st;
	if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode) && unlink(path) < 0)
		return err_errno(e, errno, "cannot remove the old socket %s", path);
	if (bind(fd, (struct sockaddr *)&a, sizeof a) < 0)
		return err_errno(e, errno, "cannot bind %s", path);
	// Nobody can connect between bind and listen, so the mode is never too wide.
	if (chmod(path, mode) < 0 || listen(fd, 1024) < 0) {
		int errnum = errno;
		unlink(path);
		return err_errno(e, errnum, "cannot listen on %s", path);
	}
	return TAKE_FD(fd);
}

int http_server_start(const struct http_server_config *cfg, struct http_server **ret, struct err *e)
{
	_cleanup_close_ int fd = cfg->listen_fd;
	struct http_server *s = calloc(1, sizeof *s);
	if (!s)
		return err_errno(e, ENOMEM, "http server");
	s->cfg = *cfg;
	s->cfg.listen_fd = -1;
	if (!s->cfg.default_body_limit)
		s->cfg.default_body_limit = 1u << 20;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->changed, NULL);
	s->daemon = MHD_start_daemon(MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL_INTERNAL_THREAD |
					     MHD_USE_ITC | MHD_USE_ERROR_LOG,
		0, on_accept, s, on_access, s,
		// First, so that it sees all messages.
		MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL, MHD_OPTION_LISTEN_SOCKET, fd,
		MHD_OPTION_CONNECTION_LIMIT, max_connections(cfg), MHD_OPTION_CONNECTION_TIMEOUT,
		cfg->idle_timeout_s, MHD_OPTION_THREAD_STACK_SIZE,
		cfg->thread_stack ? cfg->thread_stack : (size_t)(256u << 10),
		MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
		MHD_OPTION_URI_LOG_CALLBACK, on_uri, s, MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes,
		NULL, MHD_OPTION_NOTIFY_COMPLETED, on_completed, s, MHD_OPTION_NOTIFY_CONNECTION,
		on_connection, s, MHD_OPTION_END);
	if (!s->daemon) {
		int rc = err_set(e, ERR_INTERNAL, "the HTTP server cannot start");
		pthread_cond_destroy(&s->changed);
		pthread_mutex_destroy(&s->lock);
		free(s);
		return rc;
	}
	TAKE_FD(fd);
	*ret = s;
	return 0;
}

int http_server_quiesce(struct http_server *s, int *ret_fd, struct err *e)
{
	s->closing = true;
	int fd = MHD_quiesce_daemon(s->daemon);
	if (fd < 0)
		return err_set(e, ERR_INTERNAL, "the HTTP server does not stop to accept");
	s->quiesced = true;
	*ret_fd = fd;
	return 0;
}

bool http_server_wait_idle(struct http_server *s, uint64_t until_ns)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&s->lock);
	while (s->requests > 0)
		if (cond_wait_until(&s->changed, &s->lock, until_ns) < 0)
			return false;
	return true;
}

struct http_server *http_server_free(struct http_server *s)
{
	if (!s)
		return NULL;
	s->closing = true;
	int fd = s->quiesced ? -1 : MHD_quiesce_daemon(s->daemon);
	// Stopping the library cuts all connections: running handlers may first finish and have
	// their replies sent; clients that do not read or write are given up after a short while.
	uint64_t grace = deadline_in_ms(SHUTDOWN_GRACE_MS);
	pthread_mutex_lock(&s->lock);
	while (s->requests > 0 && (s->handlers > 0 || !deadline_over(grace)))
		cond_wait_until(&s->changed, &s->lock, deadline_in_ms(100));
	pthread_mutex_unlock(&s->lock);
	MHD_stop_daemon(s->daemon);
	safe_close(fd);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
	free(s);
	return NULL;
}

unsigned http_server_connections(struct http_server *s)
{
	const union MHD_DaemonInfo *info =
		MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_CURRENT_CONNECTIONS);
	return info ? info->num_connections : 0;
}
