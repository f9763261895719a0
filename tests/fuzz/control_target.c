// SPDX-License-Identifier: Apache-2.0
// Headers and hosts at the edge: lines id, port, host, uri. A target that is accepted is a good
// one.
#include <assert.h>
#include <string.h>
#include "base/id.h"
#include "base/str.h"
#include "control/edge/target.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	_cleanup_free_ char *text = malloc(len + 1);
	const char *field[4] = {"", "", "", ""};
	if (!text)
		return 0;
	memcpy(text, data, len);
	text[len] = '\0';
	char *next = text;
	for (size_t i = 0; i < 4 && next; i++) {
		field[i] = next;
		next = strchr(next, '\n');
		if (next)
			*next++ = '\0';
	}
	struct edge_target t;
	const char *bad = target_parse(field[0], field[1], field[2], "sbx.example", &t);
	if (!bad)
		assert(id_is_sandbox(t.id) && t.port > 0);
	else
		assert(str_eq(bad, "bad_port") || t.id[0] == '\0');
	target_is_internal_path(field[3]);
	return 0;
}
