// SPDX-License-Identifier: Apache-2.0
// POST /init: what the host tells the guest after every start and resume.
#pragma once
#include "base/err.h"
#include "base/str.h"
#include "http/server.h"

#define INIT_ENTROPY_MIN 32

struct init_request {
	const char *token, *default_user, *default_workdir, *hostname; // NULL: unchanged
	json_t *env;						       // borrowed; NULL: unchanged
	uint64_t timestamp_ns;					       // 0: not given
	struct strbuf entropy;
	const char *dns; // NULL: /etc/resolv.conf stays
	bool dns_own;
	bool grow_root;
	bool resumed; // then there is a timestamp and entropy of at least INIT_ENTROPY_MIN
	bool has_clock_ppm;
	int clock_ppm; // see envd_init of client.h
};

// Reads the body; texts point into it. Fields of E2B's own that mean nothing here are ignored.
int init_read(json_t *body, struct init_request *ret, struct err *e);
void init_request_done(struct init_request *r);

// How the clock is to be changed: it is set when it is more than 50 ms behind or 5 s ahead.
bool init_clock_is_off(uint64_t now_ns, uint64_t host_ns);
// The text of /etc/hosts with 127.0.1.1 naming hostname and nothing else, and localhost where old
// does not have it (an image from a container has an empty file); false when old has that already.
// Without it sudo and others would ask a name server for their own name.
bool init_hosts_text(const char *old, const char *hostname, struct strbuf *ret);

// The call; ctx is the struct agent.
void init_post(struct http_request *req, void *ctx);
