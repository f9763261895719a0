// SPDX-License-Identifier: Apache-2.0
// What the calls share; ctx of every handler.
#pragma once
#include "control/api/agents.h"
#include "control/api/exec_budget.h"
#include "control/api/stats.h"
#include "control/engine/engine.h"
#include "control/engine/timings.h"
#include "control/state/feed.h"
#include "http/server.h"

struct audit;
struct edge;
struct hooks;
struct port_links;
struct edge_limits;

struct control {
	struct hostagent host;
	char *nginx, *trusted, *listen_plain, *listen_h2c, *tls_cert,
		*tls_key;	    // NULL: as the edge has it
	struct edge_limits *limits; // owned; NULL: the default
	char *data_dir, *run_dir, *listen, *domain, *socket, *edge_socket;
	int lock_fd, run_lock_fd;
	struct db *db;
	struct keys *keys;
	struct rows *rows;
	struct underway *underway;
	struct engine engine;
	pthread_t watcher; // applies events
	bool watcher_runs;
	struct feed *feed;
	atomic_uint waits, followers, execs; // calls that last, see calls.h
	atomic_uint slow_questions;	     // of the edge, that wait for a guest
	struct port_links *port_links;
	bool ports_private; // of sandboxes whose create does not say
	char edge_key[65];  // tells nginx's sub-requests from what clients send
	struct stats *stats;
	struct timings *timings;
	struct audit *audit;
	struct hooks *hooks;
	struct agents *agents;
	struct exec_budget answers; // output of commands under way
	struct http_server *http;
	struct http_server *edge_http; // answers the edge's own questions
	struct edge *edge;
	pthread_t keeper;
	bool keeper_runs;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool stopping; // under lock
};
