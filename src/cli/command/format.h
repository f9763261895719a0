// SPDX-License-Identifier: Apache-2.0
// --format: lines made of a template, "{id} {state}\\t{metadata.job}". A field is one of the JSON
// object that -o json prints; behind a dot, one of the object in it. \\t, \\n, \\\\, \\{ and \\}
// are what they are elsewhere.
#pragma once
#include <jansson.h>
#include "base/err.h"
#include "base/str.h"

// Whether it is a template at all, with a field, before there is an object. 0 or ERR_INVALID.
int format_check(const char *format, struct err *e);
// Adds the line of one object, with its end. A field that is null is "-"; one that the object does
// not have is ERR_INVALID, with the list of those it has.
int format_add(struct strbuf *out, const char *format, const json_t *object, struct err *e);
