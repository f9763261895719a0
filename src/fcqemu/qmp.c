// SPDX-License-Identifier: Apache-2.0
#include "fcqemu/qmp.h"
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include "base/clock.h"
#include "base/fdpass.h"

#define MESSAGE_MAX (1u << 20)

// Reads what is there. 0, -EAGAIN, -ECONNRESET at the end, -EMSGSIZE for a line without end.
static int fill(struct qmp *q)
{
	char buf[4096];
	ssize_t n = RETRY_EINTR(recv(q->fd, buf, sizeof buf, MSG_DONTWAIT));
	if (n < 0)
		return -errno;
	if (n == 0)
		return -ECONNRESET;
	if (q->in.len > MESSAGE_MAX)
		return -EMSGSIZE;
	strbuf_add(&q->in, buf, (size_t)n);
	return strbuf_check(&q->in);
}

// The next whole message, owned by the caller; NULL when there is none yet. A line that is not JSON
// is passed over.
static json_t *take_message(struct qmp *q)
{
	char *end;
	while (q->in.len && (end = memchr(q->in.data, '\n', q->in.len))) {
		size_t len = (size_t)(end - q->in.data);
		json_t *m = json_loadb(q->in.data, len, 0, NULL);
		strbuf_consume(&q->in, len + 1);
		if (m)
			return m;
	}
	return NULL;
}

static int wait_message(struct qmp *q, uint64_t deadline, json_t **ret)
{
	while (!(*ret = take_message(q))) {
		if (deadline_over(deadline))
			return -ETIMEDOUT;
		struct pollfd pf[] = {{.fd = q->fd, .events = POLLIN}, {.fd = q->watch}};
		int n = poll(pf, 2, deadline_left_ms(deadline));
		if (n < 0) {
			if (errno != EINTR)
				return -errno;
			continue;
		}
		if (pf[1].revents && !pf[0].revents)
			return -EOWNERDEAD;
		int rc = pf[0].revents ? fill(q) : 0;
		if (rc < 0 && rc != -EAGAIN)
			return rc;
	}
	q->events += json_object_get(*ret, "event") != NULL;
	return 0;
}

static int fail(const char *what, int rc, struct err *e)
{
	if (rc == -ETIMEDOUT)
		return err_set(e, ERR_TIMEOUT, "QEMU did not answer %s in time", what);
	if (rc == -ECONNRESET || rc == -EPIPE)
		return err_set(e, ERR_BAD_GATEWAY, "QEMU ended before it answered %s", what);
	if (rc == -EOWNERDEAD)
		return err_set(e, ERR_BAD_GATEWAY,
			"the page server closed its socket before QEMU answered %s", what);
	return err_errno(e, rc, "QEMU's answer to %s", what);
}

static int send_all(struct qmp *q, const char *text, size_t len, int pass_fd)
{
	// A command fits the socket's buffer unless QEMU has stopped reading: then it hangs.
	ssize_t n = fdpass_send(q->fd, text, len, pass_fd, MSG_DONTWAIT);
	if (n < 0 && n != -EAGAIN)
		return (int)n;
	return n == (ssize_t)len ? 0 : -ETIMEDOUT;
}

int qmp_call(struct qmp *q, const char *command, json_t *args, int pass_fd, int timeout_ms,
	json_t **ret, struct err *e)
{
	uint64_t deadline = deadline_in_ms(timeout_ms);
	uint64_t id = ++q->last_id;
	_cleanup_(json_decrefp) json_t *call = json_pack(
		"{s:s, s:I, s:o*}", "execute", command, "id", (json_int_t)id, "arguments", args);
	_cleanup_free_ char *text = call ? json_dumps(call, JSON_COMPACT) : NULL;
	if (!text)
		return err_errno(e, ENOMEM, "%s", command);
	if (q->fd < 0)
		return fail(command, -ECONNRESET, e);
	int rc = send_all(q, text, strlen(text), pass_fd);
	if (rc < 0)
		return fail(command, rc, e);
	for (;;) {
		_cleanup_(json_decrefp) json_t *m = NULL;
		if ((rc = wait_message(q, deadline, &m)) < 0)
			return fail(command, rc, e);
		const json_t *got = json_object_get(m, "id");
		if (!got || (uint64_t)json_integer_value(got) != id)
			continue; // an event, or the late answer to a call given up
		json_t *value = json_object_get(m, "return");
		if (!value) {
			const char *why = json_string_value(
				json_object_get(json_object_get(m, "error"), "desc"));
			return err_set(e, ERR_INTERNAL, "QEMU refused %s: %s", command,
				why ? why : "no reason given");
		}
		if (ret)
			*ret = json_incref(value);
		return 0;
	}
}

int qmp_wait_event(struct qmp *q, uint64_t events, const char *what, int timeout_ms, struct err *e)
{
	uint64_t deadline = deadline_in_ms(timeout_ms);
	while (q->events <= events) {
		_cleanup_(json_decrefp) json_t *m = NULL;
		int rc = wait_message(q, deadline, &m);
		if (rc < 0)
			return fail(what, rc, e);
	}
	return 0;
}

static void read_version(struct qmp *q, json_t *greeting)
{
	json_t *v = json_object_get(
		json_object_get(json_object_get(greeting, "QMP"), "version"), "qemu");
	snprintf(q->version, sizeof q->version, "%d.%d.%d",
		(int)json_integer_value(json_object_get(v, "major")),
		(int)json_integer_value(json_object_get(v, "minor")),
		(int)json_integer_value(json_object_get(v, "micro")));
}

int qmp_open(struct qmp *q, int fd, int watch, int timeout_ms, struct err *e)
{
	*q = (struct qmp){.fd = fd, .watch = watch};
	_cleanup_(json_decrefp) json_t *greeting = NULL;
	int rc = wait_message(q, deadline_in_ms(timeout_ms), &greeting);
	if (rc < 0)
		return fail("its greeting", rc, e);
	read_version(q, greeting);
	return qmp_call(q, "qmp_capabilities", NULL, -1, timeout_ms, NULL, e);
}

void qmp_close(struct qmp *q)
{
	q->fd = safe_close(q->fd);
	strbuf_done(&q->in);
}

int qmp_drain(struct qmp *q)
{
	int rc;
	while ((rc = fill(q)) == 0) {
		json_t *m;
		while ((m = take_message(q)))
			json_decref(m);
	}
	return rc == -EAGAIN ? 0 : rc;
}
