// SPDX-License-Identifier: Apache-2.0
// A control plane on a model host in a temporary directory, and a client of it. Failures end the
// test.
#pragma once
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include "control/control.h"
#include "http/client.h"
#include "model.h"

struct fixture {
	char dir[32], data[48], run[48], key[64];
	struct model model;
	struct hostagent host; // the model, or a client of it (STASIS_TEST_CONTRACT=socket)
	struct hostagent_server *host_server;
	struct control *control;
	struct http_client *client;
};

int fixture_setup(void **state); // *state is the fixture, started
int fixture_teardown(void **state);
void fixture_start(struct fixture *f);
void fixture_stop(struct fixture *f); // the model host stays as it is

// The answer's body; status compared. Owned by the caller.
json_t *call(struct fixture *f, const char *method, const char *path, const char *body, int want);
void call_drop(struct fixture *f, const char *method, const char *path, const char *body, int want);
// The error's message must have the part in it.
void refused(struct fixture *f, const char *method, const char *path, const char *body, int want,
	const char *part);
const char *text(json_t *j, const char *key); // "(none)" when it is no string
// Database and host are compared now.
void look_and_apply(struct fixture *f);
void create_box(struct fixture *f, const char *body, char id[64]);
char *path_of(const char *id, const char *rest, char out[200]);
