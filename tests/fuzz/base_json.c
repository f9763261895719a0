// SPDX-License-Identifier: Apache-2.0
// Request bodies: parsing and the table of fields.
#include <assert.h>
#include <string.h>
#include "base/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	json_t *j = NULL, *map = NULL, *list = NULL, *object = NULL, *any = NULL;
	const char *text = NULL;
	uint64_t n = 5;
	bool flag, present = false;
	struct err e = {0};
	const struct json_field fields[] = {
		{.name = "s", .type = JF_STRING, .out = &text, .max = 8},
		{.name = "n", .type = JF_U64, .out = &n, .min = 5, .max = 9, .present = &present},
		{.name = "b", .type = JF_BOOL, .out = &flag},
		{.name = "m", .type = JF_STRING_MAP, .out = &map},
		{.name = "o", .type = JF_OBJECT, .out = &object},
		{.name = "l", .type = JF_ARRAY, .out = &list},
		{.name = "a", .type = JF_ANY, .out = &any},
	};
	if (json_parse_object((const char *)data, len, &j, &e) < 0) {
		assert(e.code == ERR_INVALID && e.text[0]);
		return 0;
	}
	for (int ignore = 0; ignore < 2; ignore++) {
		e = (struct err){0};
		int r = json_read_fields(j, fields, ARRAY_SIZE(fields), ignore, &e);
		assert((r == 0) == (e.code == ERR_NONE));
		assert(n >= 5 && n <= 9 && (!text || strlen(text) <= 8));
	}
	json_decref(j);
	return 0;
}
