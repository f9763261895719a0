// SPDX-License-Identifier: Apache-2.0
#include "http/client.h"
#include <curl/curl.h>
#include <pthread.h>
#include <string.h>
#include "base/request_id.h"
#include "base/clock.h"
#include "base/json.h"

#define HEADERS_MAX (256u << 10) // of one answer
#define MAX_VALUES (1u << 20)	 // of an answer's JSON

struct http_client {
	CURL *curl;
	struct curl_slist *headers; // of the client
	char *base_url;
	bool passes_request_id;
	bool (*may_connect)(void *ctx, const struct sockaddr *address);
	void *may_connect_ctx;
	char error[CURL_ERROR_SIZE];
};

// One call under way, seen by libcurl's callbacks.
struct transfer {
	const struct http_call *call;
	struct http_client *client;
	struct http_response *response;
	size_t max_body, headers;
	bool too_large, failed, aborted;
	curl_off_t moved;  // bytes, both ways
	uint64_t moved_ns; // CLOCK_MONOTONIC of the last of them
	int silent;	   // what alive said
	struct err why;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static void global_init(void)
{
	curl_global_init(CURL_GLOBAL_DEFAULT);
}

static size_t on_write(char *data, size_t size, size_t n, void *arg)
{
	struct transfer *t = arg;
	size_t len = size * n;
	long status = 0;
	curl_easy_getinfo(t->client->curl, CURLINFO_RESPONSE_CODE, &status);
	if (t->call->write && status >= 200 && status < 300) {
		if (t->call->write(t->call->ctx, data, len) == 0)
			return len;
		t->aborted = true;
		return 0;
	}
	if (len > t->max_body - t->response->body.len) {
		t->too_large = true;
		return 0;
	}
	strbuf_add(&t->response->body, data, len);
	t->failed = t->response->body.failed;
	return t->failed ? 0 : len;
}

// libcurl keeps all headers, and those behind a body without a bound.
static size_t on_header(char *data, size_t size, size_t n, void *arg)
{
	struct transfer *t = arg;
	t->headers += size * n;
	t->too_large |= t->headers > HEADERS_MAX;
	return t->too_large ? 0 : size * n;
}

static size_t on_read(char *buf, size_t size, size_t n, void *arg)
{
	struct transfer *t = arg;
	ssize_t got = t->call->read(t->call->ctx, buf, size * n);
	if (got >= 0)
		return (size_t)got;
	t->aborted = true;
	return CURL_READFUNC_ABORT;
}

static bool is_silent(struct transfer *t, curl_off_t moved)
{
	const struct http_call *call = t->call;
	if (!call->alive)
		return false;
	uint64_t now = clock_monotonic_ns();
	if (moved != t->moved) {
		t->moved = moved;
		t->moved_ns = now;
	}
	if (now - t->moved_ns < (uint64_t)call->silence_ms * NSEC_PER_MSEC)
		return false;
	t->silent = call->alive(call->alive_ctx, &t->why);
	t->moved_ns = clock_monotonic_ns();
	return t->silent < 0;
}

static int on_progress(
	void *arg, curl_off_t in_all, curl_off_t in, curl_off_t out_all, curl_off_t out)
{
	struct transfer *t = arg;
	t->aborted = t->call->tick && t->call->tick(t->call->ctx) != 0;
	return t->aborted || is_silent(t, in + out);
}

static curl_socket_t on_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *a)
{
	struct http_client *c = arg;
	if (!c->may_connect(c->may_connect_ctx, &a->addr))
		return CURL_SOCKET_BAD;
	return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

int http_client_new(const struct http_client_config *cfg, struct http_client **ret, struct err *e)
{
	pthread_once(&once, global_init);
	_cleanup_(http_client_freep) struct http_client *c = calloc(1, sizeof *c);
	if (!c || !(c->base_url = strdup(cfg->base_url)) || !(c->curl = curl_easy_init()))
		return err_errno(e, ENOMEM, "HTTP client");
	for (const char *const *h = cfg->headers; h && *h; h++) {
		struct curl_slist *l = curl_slist_append(c->headers, *h);
		if (!l)
			return err_errno(e, ENOMEM, "HTTP client");
		c->headers = l;
	}
	c->passes_request_id = cfg->passes_request_id;
	curl_easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c->curl, CURLOPT_ERRORBUFFER, c->error);
	curl_easy_setopt(c->curl, CURLOPT_TCP_NODELAY, 1L);
	curl_easy_setopt(c->curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	// A proxy of the environment must never see a guest's traffic or a local key.
	curl_easy_setopt(c->curl, CURLOPT_PROXY, "");
	curl_easy_setopt(c->curl, CURLOPT_PROTOCOLS_STR, "http,https");
	if (cfg->may_connect) {
		c->may_connect = cfg->may_connect;
		c->may_connect_ctx = cfg->may_connect_ctx;
		curl_easy_setopt(c->curl, CURLOPT_OPENSOCKETFUNCTION, on_socket);
		curl_easy_setopt(c->curl, CURLOPT_OPENSOCKETDATA, c);
	}
	if (cfg->ca_file)
		curl_easy_setopt(c->curl, CURLOPT_CAINFO, cfg->ca_file);
	if (cfg->unix_path)
		curl_easy_setopt(c->curl, CURLOPT_UNIX_SOCKET_PATH, cfg->unix_path);
	*ret = TAKE_PTR(c);
	return 0;
}

struct http_client *http_client_free(struct http_client *c)
{
	if (!c)
		return NULL;
	if (c->curl)
		curl_easy_cleanup(c->curl);
	curl_slist_free_all(c->headers);
	free(c->base_url);
	free(c);
	return NULL;
}

// libcurl's own words are for programmers; of a certificate only they say what is wrong with it.
static const struct failure {
	CURLcode rc;
	enum err_code code;
	int errnum; // 0: the system's, of the connection
	const char *text;
} failures[] = {
	{CURLE_OPERATION_TIMEDOUT, ERR_TIMEOUT, ETIMEDOUT, "no answer in time"},
	{CURLE_COULDNT_CONNECT, ERR_BAD_GATEWAY, 0, "no connection"},
	{CURLE_COULDNT_RESOLVE_HOST, ERR_BAD_GATEWAY, 0, "the host's name is not known"},
	{CURLE_GOT_NOTHING, ERR_BAD_GATEWAY, ECONNRESET, "the connection ended before an answer"},
	{CURLE_SEND_ERROR, ERR_BAD_GATEWAY, ECONNRESET, "the connection broke"},
	{CURLE_RECV_ERROR, ERR_BAD_GATEWAY, ECONNRESET, "the connection broke"},
	{CURLE_PARTIAL_FILE, ERR_BAD_GATEWAY, ECONNRESET,
		"the connection ended before the answer was complete"},
	{CURLE_URL_MALFORMAT, ERR_INVALID, EINVAL, "the URL is malformed"},
	{CURLE_OUT_OF_MEMORY, ERR_INTERNAL, ENOMEM, "out of memory"},
	{CURLE_UNSUPPORTED_PROTOCOL, ERR_BAD_GATEWAY, EPROTO,
		"the answer is not HTTP, or libcurl was built without https://"},
	{CURLE_WEIRD_SERVER_REPLY, ERR_BAD_GATEWAY, EPROTO, "the answer is not HTTP"},
	{CURLE_SSL_CONNECT_ERROR, ERR_BAD_GATEWAY, EPROTO, "no TLS connection"},
	{CURLE_PEER_FAILED_VERIFICATION, ERR_BAD_GATEWAY, EPROTO,
		"the server's certificate is not trusted"},
};

static int map_error(struct transfer *t, CURLcode rc, const char *what, struct err *e)
{
	const struct failure *f = NULL;
	long os = 0;
	if (t->silent < 0) {
		if (e)
			*e = t->why;
		return t->silent;
	}
	if (t->too_large)
		return err_set(e, ERR_TOO_LARGE, "%s: answer over %zu bytes", what, t->max_body);
	if (t->failed)
		return err_errno(e, ENOMEM, "%s", what);
	if (t->aborted)
		return err_set(e, ERR_CANCELED, "%s: canceled", what);
	for (size_t i = 0; i < ARRAY_SIZE(failures) && !f; i++)
		if (failures[i].rc == rc)
			f = &failures[i];
	if (!f) {
		err_set(e, ERR_INTERNAL, "%s: the call failed (libcurl's error %d)", what, (int)rc);
		if (e)
			e->errnum = EIO;
		return -EIO;
	}
	curl_easy_getinfo(t->client->curl, CURLINFO_OS_ERRNO, &os);
	int err = f->errnum ? f->errnum : os ? (int)os : ECONNREFUSED;
	bool tls = rc == CURLE_SSL_CONNECT_ERROR || rc == CURLE_PEER_FAILED_VERIFICATION;
	const char *more = tls				 ? t->client->error
			   : rc == CURLE_COULDNT_CONNECT ? strerror(err)
							 : "";
	err_set(e, f->code, "%s: %s%s%s", what, f->text, *more ? ": " : "", more);
	if (e)
		e->errnum = err;
	return -err;
}

static void copy_header(CURL *h, const char *name, char *out, size_t size)
{
	struct curl_header *found;
	bool ok = curl_easy_header(h, name, 0, CURLH_HEADER, -1, &found) == CURLHE_OK;
	snprintf(out, size, "%s", ok ? found->value : "");
}

int http_client_call(struct http_client *c, const struct http_call *call, struct http_response *ret,
	struct err *e)
{
	struct transfer t = {.call = call,
		.client = c,
		.response = ret,
		.moved_ns = clock_monotonic_ns(),
		.max_body = call->max_body ? call->max_body : 16u << 20};
	_cleanup_free_ char *url = str_printf("%s%s", c->base_url, call->path);
	_cleanup_free_ char *what = str_printf("%s %s", call->method, call->path);
	_cleanup_free_ char *type = str_printf(
		"Content-Type: %s", call->content_type ? call->content_type : "application/json");
	if (!url || !what || !type)
		return err_errno(e, ENOMEM, "HTTP call");
	struct curl_slist *headers = NULL;
	bool ok = true;
	for (struct curl_slist *h = c->headers; h && ok; h = h->next) {
		struct curl_slist *l = curl_slist_append(headers, h->data);
		ok = l != NULL;
		headers = l ? l : headers;
	}
	// "Expect:" without a value switches off curl's one-second wait for 100-continue.
	const char *extra[5] = {"Expect:"};
	size_t n = 1;
	bool upload = call->read || call->body;
	if (upload)
		extra[n++] = type;
	if (call->read && call->read_length < 0)
		extra[n++] = "Transfer-Encoding: chunked";
	char request[sizeof "X-Request-Id: " + REQUEST_ID_MAX];
	if (c->passes_request_id && request_id_current()[0]) {
		snprintf(request, sizeof request, "X-Request-Id: %s", request_id_current());
		extra[n++] = request;
	}
	for (size_t i = 0; ok && i < n; i++) {
		struct curl_slist *l = curl_slist_append(headers, extra[i]);
		ok = l != NULL;
		headers = l ? l : headers;
	}
	for (const char *const *h = call->headers; ok && h && *h; h++) {
		struct curl_slist *l = curl_slist_append(headers, *h);
		ok = l != NULL;
		headers = l ? l : headers;
	}
	if (!ok) {
		curl_slist_free_all(headers);
		return err_errno(e, ENOMEM, "%s", what);
	}
	CURL *h = c->curl;
	c->error[0] = '\0';
	ret->status = 0;
	ret->content_type[0] = ret->server_timing[0] = ret->request_id[0] = ret->header[0][0] =
		ret->header[1][0] = '\0';
	ret->body.len = 0;
	curl_easy_setopt(h, CURLOPT_URL, url);
	curl_easy_setopt(h, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_write);
	curl_easy_setopt(h, CURLOPT_WRITEDATA, &t);
	curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(h, CURLOPT_HEADERDATA, &t);
	curl_easy_setopt(h, CURLOPT_NOPROGRESS, call->tick || call->alive ? 0L : 1L);
	curl_easy_setopt(h, CURLOPT_XFERINFOFUNCTION, on_progress);
	curl_easy_setopt(h, CURLOPT_XFERINFODATA, &t);
	curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS,
		call->connect_timeout_ms ? (long)call->connect_timeout_ms : 2000L);
	curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)call->timeout_ms);
	// The order matters to libcurl: these three decide the method's shape, CUSTOMREQUEST its
	// name.
	curl_easy_setopt(h, CURLOPT_POSTFIELDS, NULL);
	curl_easy_setopt(h, CURLOPT_HTTPGET, 1L);
	curl_easy_setopt(h, CURLOPT_NOBODY, strcmp(call->method, "HEAD") == 0 ? 1L : 0L);
	if (call->read) {
		curl_easy_setopt(h, CURLOPT_UPLOAD, 1L);
		curl_easy_setopt(h, CURLOPT_READFUNCTION, on_read);
		curl_easy_setopt(h, CURLOPT_READDATA, &t);
		curl_easy_setopt(h, CURLOPT_INFILESIZE_LARGE, (curl_off_t)call->read_length);
	} else if (call->body) {
		curl_easy_setopt(h, CURLOPT_POST, 1L);
		curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->body_len);
		curl_easy_setopt(h, CURLOPT_POSTFIELDS, call->body);
	} else if (strcmp(call->method, "POST") == 0 || strcmp(call->method, "PUT") == 0 ||
		   strcmp(call->method, "PATCH") == 0) {
		curl_easy_setopt(h, CURLOPT_POST, 1L);
		curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)0);
		curl_easy_setopt(h, CURLOPT_POSTFIELDS, "");
	}
	curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, call->method);
	CURLcode rc = curl_easy_perform(h);
	long status = 0;
	const char *ct = NULL;
	curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_getinfo(h, CURLINFO_CONTENT_TYPE, &ct);
	ret->status = (int)status;
	snprintf(ret->content_type, sizeof ret->content_type, "%s", ct ? ct : "");
	copy_header(h, "Server-Timing", ret->server_timing, sizeof ret->server_timing);
	copy_header(h, "X-Request-Id", ret->request_id, sizeof ret->request_id);
	for (size_t i = 0; i < ARRAY_SIZE(call->keep_header); i++)
		if (call->keep_header[i])
			copy_header(h, call->keep_header[i], ret->header[i], sizeof ret->header[i]);
	// libcurl keeps the list's pointer; it must not outlive this call.
	curl_easy_setopt(h, CURLOPT_HTTPHEADER, NULL);
	curl_slist_free_all(headers);
	if (rc != CURLE_OK)
		return map_error(&t, rc, what, e);
	return 0;
}

void http_response_done(struct http_response *r)
{
	strbuf_done(&r->body);
	*r = (struct http_response){0};
}

json_t *http_response_json(const struct http_response *r)
{
	return json_parse_foreign(r->body.data, r->body.len, MAX_VALUES);
}
