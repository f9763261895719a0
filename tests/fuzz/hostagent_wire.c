// SPDX-License-Identifier: Apache-2.0
// The decoder of the contract's messages. The first byte chooses the message and the mode; what is
// accepted must come back the same when written and read again.
#include <assert.h>
#include <string.h>
#include "base/json.h"
#include "hostagent/messages.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	size_t n = 0;
	while (rpc_messages[n])
		n++;
	if (len == 0)
		return 0;
	const struct wire_message *m = rpc_messages[(data[0] & 0x7f) % n];
	bool lenient = data[0] & 0x80;
	json_t *j = NULL;
	struct err e = {0};
	if (json_parse_object((const char *)data + 1, len - 1, &j, &e) < 0)
		return 0;
	rpc_error_read(j, 500, &e);
	assert(e.code != ERR_NONE);
	e = (struct err){0};
	void *p = malloc(MAX(m->size, 1)), *q = malloc(MAX(m->size, 1));
	int rc = wire_decode(m, j, lenient, p, &e);
	assert((rc == 0) == (e.code == ERR_NONE));
	if (rc == 0) {
		json_t *once = wire_encode(m, p);
		assert(once && wire_decode(m, once, true, q, NULL) == 0);
		json_t *twice = wire_encode(m, q);
		assert(json_equal(once, twice));
		wire_done(m, q);
		json_decref(once);
		json_decref(twice);
	}
	wire_done(m, p);
	json_decref(j);
	free(p);
	free(q);
	return 0;
}
