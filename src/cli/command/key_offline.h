// SPDX-License-Identifier: Apache-2.0
// The way in when all keys are lost.
#pragma once
#include <jansson.h>
#include "base/err.h"

// Makes an admin's key in control.db of this machine: for who may write there, that is root. A
// server may be running, and finds it at the key's first use. data_dir NULL: the default. *ret is
// {"id", "name", "key"}, owned by the caller.
int key_create_offline(const char *data_dir, const char *name, json_t **ret, struct err *e);
