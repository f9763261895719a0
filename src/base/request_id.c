// SPDX-License-Identifier: Apache-2.0
#include "base/request_id.h"
#include <string.h>
#include "base/id.h"

// By this model no program needs the dynamic linker as a library, as by the usual one.
static _Thread_local char current[REQUEST_ID_SIZE] __attribute__((tls_model("initial-exec")));

bool request_id_is_valid(const char *s)
{
	static const char fit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
				  "._:+/=@-";
	size_t n = s ? strspn(s, fit) : 0;
	return n >= 1 && n <= REQUEST_ID_MAX && s[n] == '\0';
}

void request_id_make(char out[REQUEST_ID_SIZE])
{
	unsigned char raw[16];
	id_random_bytes(raw, sizeof raw);
	id_hex(raw, sizeof raw, out);
}

const char *request_id_current(void)
{
	return current;
}

void request_id_set(const char *id)
{
	if (id != current)
		snprintf(current, sizeof current, "%s", request_id_is_valid(id) ? id : "");
}

struct start {
	void *(*f)(void *ctx);
	void *ctx;
	char id[REQUEST_ID_SIZE];
};

static void *run(void *arg)
{
	struct start *given = arg;
	struct start s = *given;
	free(given);
	request_id_set(s.id);
	return s.f(s.ctx);
}

int request_id_thread(pthread_t *ret, void *(*f)(void *ctx), void *ctx)
{
	struct start *s = malloc(sizeof *s);
	if (!s)
		return ENOMEM;
	*s = (struct start){.f = f, .ctx = ctx};
	memcpy(s->id, current, sizeof s->id);
	int errnum = pthread_create(ret, NULL, run, s);
	if (errnum)
		free(s);
	return errnum;
}
