// SPDX-License-Identifier: Apache-2.0
// The body of POST /init, and a file of hosts made of it.
#include <string.h>
#include "base/json.h"
#include "envd/wake/init.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	_cleanup_json_ json_t *body = NULL;
	_cleanup_(init_request_done) struct init_request r = {0};
	_cleanup_strbuf_ struct strbuf text = {0}, old = {0}, again = {0};
	strbuf_add(&old, data, len);
	init_hosts_text(old.data, "box", &text);
	// What was made once needs no change.
	if (init_hosts_text(text.data, "box", &again))
		abort();
	if (json_parse_object((const char *)data, len, &body, NULL) < 0 ||
		init_read(body, &r, NULL) < 0)
		return 0;
	if (r.hostname && strlen(r.hostname) > 63)
		abort();
	return 0;
}
