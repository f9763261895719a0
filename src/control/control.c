// SPDX-License-Identifier: Apache-2.0
// Start and stop of the control plane, and its upkeep thread.
#include "control/control.h"
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/lock.h"
#include "base/log.h"
#include "control/api/agents.h"
#include "base/embed.h"
#include "base/id.h"
#include "control/api/answer.h"
#include "control/api/audit.h"
#include "control/api/context.h"
#include "control/api/hooks.h"
#include "control/api/login.h"
#include "control/edge/edge.h"
#include "control/engine/catchup.h"
#include "control/engine/retention.h"
#include "control/engine/start.h"
#include "control/engine/tokens.h"
#include "control/engine/upkeep.h"
#include "control/routes.h"
#include "control/state/audit.h"
#include "control/state/event_log.h"
#include "control/state/port_links.h"

extern const struct embed control_migrations[];

#define SLOT_RANGE_DEFAULT "10.213.0.0/16" // of guests, as struct slot_pool_config
#define UPKEEP_S 10
#define RETENTION_PASSES 6 // of the upkeep, to one of retention
#define OWNER_PASSES 60	   // to one look for owners of what is forgotten
#define WATCH_MS 10000
#define RETRY_MS 500

// Calls that last have bounds of their own (api/calls.h), which together leave many.
#define SERVER_CONNECTIONS 2048u
#define SERVER_IDLE_S 90 // longer than nginx keeps one: it would find it closed as it asks
#define SERVER_BODY_S 30 // nginx has the whole body before it asks
#define SERVER_BODIES (128u << 20)

// A new key is in its file before it is in the database: a crash in between makes another one.
static int make_admin_key(struct control *c, struct err *e)
{
	if (keys_count(c->keys) > 0)
		return 0;
	char key[API_KEY_SIZE], line[API_KEY_SIZE + 1];
	_cleanup_free_ char *path = str_printf("%s/admin.key", c->data_dir);
	if (!path)
		return err_errno(e, ENOMEM, "admin.key");
	keys_generate(key);
	int n = snprintf(line, sizeof line, "%s\n", key);
	int r = file_write_atomic(AT_FDCWD, path, line, (size_t)n, 0600);
	if (r < 0)
		return err_errno(e, r, "%s", path);
	struct key_info admin = {.name = "admin", .scope = KEY_ADMIN};
	r = keys_add(c->keys, key, &admin, e);
	explicit_bzero(key, sizeof key);
	explicit_bzero(line, sizeof line);
	return r;
}

// 64 hex digits that the agents' tokens are made from; losing it would lock us out of them.
static int load_secret(const char *data_dir, char **ret, struct err *e)
{
	_cleanup_free_ char *path = str_printf("%s/secret", data_dir);
	_cleanup_free_ char *text = NULL;
	if (!path)
		return err_errno(e, ENOMEM, "secret");
	int r = file_read_line(AT_FDCWD, path, &text);
	if (r == -ENOENT) {
		unsigned char raw[32];
		text = malloc(65);
		if (!text)
			return err_errno(e, ENOMEM, "secret");
		id_random_bytes(raw, sizeof raw);
		id_hex(raw, sizeof raw, text);
		r = file_write_atomic(AT_FDCWD, path, text, 64, 0600);
	}
	if (r < 0)
		return err_errno(e, r, "%s", path);
	if (strlen(text) != 64)
		return err_set(e, ERR_INTERNAL,
			"%s is damaged: restore it, or remove it and all running sandboxes", path);
	*ret = TAKE_PTR(text);
	return 0;
}

// Looks at the host and applies what follows.
static void compare(struct control *c)
{
	_cleanup_(look_freep) struct look *l = NULL;
	struct err e = {0};
	if (engine_look(&c->engine, false, &l, &e) < 0)
		log_warn("database and host are not compared: %s", e.text);
	else
		engine_apply(&c->engine, l);
}

static void retain(struct control *c)
{
	_cleanup_free_ struct retention_outcome *list = NULL;
	size_t n = 0;
	struct err e = {0};
	if (engine_retention(&c->engine, c->feed, false, &list, &n, &e) < 0)
		log_warn("retention takes nothing now: %s", e.text);
}

static void upkeep(struct control *c, unsigned pass)
{
	struct err e = {0};
	compare(c);
	engine_tell_tokens(&c->engine);
	engine_expire(&c->engine);
	if (pass % RETENTION_PASSES == 0)
		retain(c);
	if (pass % OWNER_PASSES == 0 && rows_expire_owners(c->rows, &e) < 0)
		log_warn("owners of old sandboxes are kept: %s", e.text);
	if (event_log_expire(c->db, &e) < 0)
		log_warn("old events are kept: %s", e.text);
	audit_sync(c->audit);
	if (keys_flush(c->keys, &e) < 0)
		log_warn("times of use of keys are not written: %s", e.text);
}

static void *keeper(void *arg)
{
	struct control *c = arg;
	unsigned pass = 0;
	pthread_mutex_lock(&c->lock);
	while (!c->stopping) {
		if (cond_wait_until(&c->wake, &c->lock, deadline_in_ms(UPKEEP_S * 1000)) == 0)
			continue;
		pthread_mutex_unlock(&c->lock);
		upkeep(c, ++pass);
		pthread_mutex_lock(&c->lock);
	}
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

static bool is_stopping(struct control *c)
{
	pthread_mutex_lock(&c->lock);
	bool yes = c->stopping;
	pthread_mutex_unlock(&c->lock);
	return yes;
}

// Applies what the feed brings, as it comes.
static void *watch(void *arg)
{
	struct control *c = arg;
	uint64_t seen = 0;
	while (!is_stopping(c)) {
		struct err e = {0};
		seen = feed_wait(c->feed, seen, WATCH_MS);
		if (is_stopping(c))
			break;
		if (engine_apply_events(&c->engine, SIZE_MAX, &e) < 0) {
			log_warn("events are applied later: %s", e.text);
			seen = 0;
			clock_sleep_ns(RETRY_MS * NSEC_PER_MSEC);
		}
	}
	return NULL;
}

static uint64_t engine_now(void *ctx)
{
	return clock_realtime_ns();
}

static void engine_uuid(void *ctx, char out[UUID_SIZE])
{
	id_new_uuid(out);
}

static int engine_bring(void *ctx, struct err *e)
{
	struct control *c = ctx;
	return feed_catch_up(c->feed, e);
}

static int start_engine(struct control *c, struct err *e)
{
	c->engine.db = c->db;
	c->engine.rows = c->rows;
	c->engine.underway = c->underway;
	c->engine.keys = c->keys;
	c->engine.timings = c->timings;
	c->engine.host = c->host;
	c->engine.now_ns = engine_now;
	c->engine.new_uuid = engine_uuid;
	c->engine.bring_events = engine_bring;
	c->engine.answer = answer_to_keep;
	c->engine.ctx = c;
	return engine_init(&c->engine, e);
}

// Nobody else has the directory: the databases of data, and the edge and its socket of run.
static int lock_dir(const char *what, const char *dir, int *ret_fd, struct err *e)
{
	_cleanup_free_ char *path = str_printf("%s/control.lock", dir);
	pid_t holder = 0;
	if (!path)
		return err_errno(e, ENOMEM, "lock");
	int r = file_lock(AT_FDCWD, path, ret_fd, &holder);
	if (r == -EBUSY)
		return err_set(e, ERR_CONFLICT,
			"another server (pid %d) has the %s directory %s: stop that one or choose "
			"another --%s-dir",
			(int)holder, what, dir, what);
	return r < 0 ? err_errno(e, r, "%s", path) : 0;
}

static int open_db(struct control *c, struct err *e)
{
	_cleanup_free_ char *path = str_printf("%s/control.db", c->data_dir);
	if (!path)
		return err_errno(e, ENOMEM, "control.db");
	return db_open(path, control_migrations, &c->db, e);
}

static int open_state(struct control *c, uint64_t audit_size, struct err *e)
{
	_cleanup_free_ char *secret = NULL;
	int r = open_db(c, e);
	if (r == 0)
		r = load_secret(c->data_dir, &secret, e);
	if (r == 0)
		r = audit_open(c->data_dir, audit_size, &c->audit, e);
	if (r == 0)
		r = keys_load(c->db, &c->keys, e);
	if (r == 0)
		r = make_admin_key(c, e);
	if (r == 0)
		r = rows_load(c->db, secret, strlen(secret), &c->rows, e);
	if (r == 0)
		r = underway_load(c->db, &c->underway, e);
	if (r == 0)
		r = feed_start(c->db, &c->host, &c->feed, e);
	if (r == 0)
		r = start_engine(c, e);
	if (secret)
		explicit_bzero(secret, strlen(secret));
	return r;
}

static void count_request(struct http_request *r, int status, uint64_t duration_ns, void *ctx)
{
	struct control *c = ctx;
	stats_count(c->stats, http_req_route(r), status, duration_ns);
	audit_note(c, r, status);
}

static int start_http(struct control *c, const char *path, const struct http_route *routes,
	size_t n_routes, struct http_server **ret, struct err *e)
{
	// nginx's workers come by the group; nobody else may connect.
	gid_t group = edge_group();
	int fd = http_listen_unix(path, group == (gid_t)-1 ? 0600 : 0660, e);
	if (fd < 0)
		return fd;
	if (group != (gid_t)-1 && chown(path, (uid_t)-1, group) < 0) {
		int errnum = errno;
		safe_close(fd);
		return err_errno(e, errnum, "%s", path);
	}
	const struct http_server_config cfg = {
		.routes = routes,
		.n_routes = n_routes,
		.ctx = c,
		.listen_fd = fd,
		.max_connections = SERVER_CONNECTIONS,
		.idle_timeout_s = SERVER_IDLE_S,
		.body_timeout_s = SERVER_BODY_S,
		.body_budget = SERVER_BODIES,
		.before = login_before,
		.done = count_request,
		.request_ids = true,
	};
	return http_server_start(&cfg, ret, e);
}

// The edge's own questions have a socket and threads of their own: calls of the API cannot take
// them, so they do not stop the traffic of guests.
static int start_servers(struct control *c, struct err *e)
{
	const size_t n = CONTROL_N_EDGE_ROUTES;
	int r = start_http(c, c->edge_socket, control_routes, n, &c->edge_http, e);
	return r < 0 ? r
		     : start_http(
			       c, c->socket, control_routes + n, control_n_routes - n, &c->http, e);
}

static struct edge_config edge_config_of(const struct control *c, const char *dir)
{
	return (struct edge_config){
		.nginx = c->nginx,
		.trusted = c->trusted,
		.limits = c->limits,
		.dir = dir,
		.listen = c->listen,
		.listen_plain = c->listen_plain,
		.listen_h2c = c->listen_h2c,
		.tls_cert = c->tls_cert,
		.tls_key = c->tls_key,
		.domain = c->domain,
		.socket = c->socket,
		.edge_socket = c->edge_socket,
		.key = c->edge_key,
	};
}

static int start_edge(struct control *c, struct err *e)
{
	_cleanup_free_ char *dir = str_printf("%s/nginx", c->run_dir);
	const struct edge_config cfg = edge_config_of(c, dir);
	return dir ? edge_start(&cfg, &c->edge, e) : err_errno(e, ENOMEM, "edge");
}

int control_reload(struct control *c, struct err *e)
{
	_cleanup_free_ char *dir = str_printf("%s/nginx", c->run_dir);
	const struct edge_config cfg = edge_config_of(c, dir);
	if (!c->edge)
		return 0;
	return dir ? edge_reload(c->edge, &cfg, e) : err_errno(e, ENOMEM, "edge");
}

// Where clients find the ports of guests: the domain, and the port that the edge listens on.
static void set_place(struct control *c)
{
	const char *port = strrchr(c->listen, ':');
	_cleanup_free_ char *place = str_printf(".%s%s", c->domain, port ? port : "");
	rows_set_place(c->rows, control_has_tls(c) ? "https" : "http", place ? place : "");
}

static int fill(struct control *c, const struct control_config *cfg, struct err *e)
{
	unsigned char raw[32];
	c->host = cfg->host;
	c->answers.limit = cfg->answer_memory ? cfg->answer_memory : CONTROL_ANSWER_MEMORY_DEFAULT;
	c->lock_fd = c->run_lock_fd = -1;
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->wake, NULL);
	c->data_dir = strdup(cfg->data_dir);
	c->run_dir = strdup(cfg->run_dir);
	c->listen = strdup(cfg->listen ? cfg->listen : CONTROL_LISTEN_DEFAULT);
	c->domain = strdup(cfg->domain ? cfg->domain : CONTROL_DOMAIN_DEFAULT);
	c->socket = str_printf("%s/control.sock", cfg->run_dir);
	if (cfg->limits && (c->limits = malloc(sizeof *c->limits)))
		*c->limits = *cfg->limits;
	c->edge_socket = str_printf("%s/edge.sock", cfg->run_dir);
	c->stats = stats_new(control_routes, control_n_routes);
	c->timings = timings_new();
	c->agents = agents_new();
	c->port_links = port_links_new();
	c->ports_private = cfg->ports_private;
	id_random_bytes(raw, sizeof raw);
	id_hex(raw, sizeof raw, c->edge_key);
	bool ok = !cfg->limits == !c->limits && c->data_dir && c->run_dir && c->listen &&
		  c->domain && c->socket && c->edge_socket && c->stats && c->timings && c->agents &&
		  c->port_links;
	const struct {
		const char *from;
		char **to;
	} texts[] = {
		{cfg->nginx, &c->nginx},
		{cfg->trusted, &c->trusted},
		{cfg->listen_plain, &c->listen_plain},
		{cfg->listen_h2c, &c->listen_h2c},
		{cfg->tls_cert, &c->tls_cert},
		{cfg->tls_key, &c->tls_key},
	};
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		if (texts[i].from && !(*texts[i].to = strdup(texts[i].from)))
			ok = false;
	return ok ? 0 : err_errno(e, ENOMEM, "control plane");
}

// nginx's workers pass through the run directory to the socket, but cannot look around.
static int take_dirs(struct control *c, struct err *e)
{
	gid_t group = edge_group();
	int r = lock_dir("data", c->data_dir, &c->lock_fd, e);
	if (r < 0)
		return r;
	r = file_private_dir(AT_FDCWD, c->run_dir, 0710);
	if (r == 0 && group != (gid_t)-1)
		r = file_let_group_pass(AT_FDCWD, c->run_dir, group);
	if (r < 0)
		return err_errno(e, r, "%s", c->run_dir);
	return lock_dir("run", c->run_dir, &c->run_lock_fd, e);
}

static int start_threads(struct control *c, struct err *e)
{
	int r = -pthread_create(&c->keeper, NULL, keeper, c);
	if (r < 0)
		return err_errno(e, r, "upkeep thread");
	c->keeper_runs = true;
	r = -pthread_create(&c->watcher, NULL, watch, c);
	if (r < 0)
		return err_errno(e, r, "thread of the events");
	c->watcher_runs = true;
	return 0;
}

int control_start(const struct control_config *cfg, struct control **ret, struct err *e)
{
	_cleanup_(control_stopp) struct control *c = calloc(1, sizeof *c);
	if (!c)
		return err_errno(e, ENOMEM, "control plane");
	int r = fill(c, cfg, e);
	if (r == 0)
		r = take_dirs(c, e);
	if (r == 0)
		r = open_state(c, cfg->audit_size, e);
	if (r == 0)
		r = hooks_start(c->db, c->feed,
			&(struct receiver_rules){cfg->webhook_allow,
				cfg->slot_range ? cfg->slot_range : SLOT_RANGE_DEFAULT},
			&c->hooks, e);
	if (r == 0) {
		set_place(c);
		compare(c);
		engine_tell_tokens(&c->engine);
		r = start_servers(c, e);
	}
	if (r == 0 && !cfg->no_edge)
		r = start_edge(c, e);
	if (r == 0)
		r = start_threads(c, e);
	if (r == 0)
		*ret = TAKE_PTR(c);
	return r;
}

struct control *control_stop(struct control *c)
{
	if (!c)
		return NULL;
	edge_drain(c->edge);
	pthread_mutex_lock(&c->lock);
	c->stopping = true;
	pthread_cond_broadcast(&c->wake);
	pthread_mutex_unlock(&c->lock);
	feed_close(c->feed);
	if (c->http) {
		http_server_free(c->http);
		unlink(c->socket);
	}
	if (c->edge_http) {
		http_server_free(c->edge_http);
		unlink(c->edge_socket);
	}
	edge_stop(c->edge);
	if (c->keeper_runs)
		pthread_join(c->keeper, NULL);
	if (c->watcher_runs)
		pthread_join(c->watcher, NULL);
	struct err e = {0};
	if (c->keys && keys_flush(c->keys, &e) < 0)
		log_warn("times of use of keys are not written: %s", e.text);
	hooks_stop(c->hooks);
	feed_stop(c->feed);
	engine_done(&c->engine);
	underway_free(c->underway);
	rows_free(c->rows);
	keys_free(c->keys);
	db_close(c->db);
	stats_free(c->stats);
	timings_free(c->timings);
	audit_close(c->audit);
	agents_free(c->agents);
	port_links_free(c->port_links);
	safe_close(c->run_lock_fd);
	safe_close(c->lock_fd);
	pthread_cond_destroy(&c->wake);
	pthread_mutex_destroy(&c->lock);
	explicit_bzero(c->edge_key, sizeof c->edge_key);
	free(c->data_dir);
	free(c->run_dir);
	free(c->listen);
	free(c->domain);
	free(c->socket);
	free(c->edge_socket);
	free(c->limits);
	free(c->nginx);
	free(c->trusted);
	free(c->listen_plain);
	free(c->listen_h2c);
	free(c->tls_cert);
	free(c->tls_key);
	free(c);
	return NULL;
}

bool control_has_tls(const struct control *c)
{
	return c->tls_cert && *c->tls_cert;
}

const char *control_listen(const struct control *c)
{
	return c->listen;
}

const char *control_socket(const struct control *c)
{
	return c->socket;
}
