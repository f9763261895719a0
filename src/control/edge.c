// SPDX-License-Identifier: Apache-2.0
// How this works. nginx runs in the foreground as a child in its own session, on a configuration
// written once. A request that names a sandbox, by header or by host, is rewritten to one internal
// location, where auth_request asks the server for the target (route.c); everything else is proxied
// to the API socket. Whatever reaches a guest or the server has the internal headers set or removed
// here, so clients cannot forge them; internal requests to the server also carry a random key.
//
// nginx's workers run as another user than root and must reach the API socket: they get it by the
// socket's group. A supervisor thread starts nginx again when it dies, and kills the workers that a
// killed master leaves behind (they would keep the port).
#include "control/edge.h"
#include <arpa/inet.h>
#include <grp.h>
#include <poll.h>
#include <pthread.h>
#include <pwd.h>
#include <signal.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/proc.h"
#include "base/str.h"
#include "http/json.h"

#define START_MS 10000
#define STOP_GRACE_MS 3000
#define BACKOFF_MIN_MS 100
#define BACKOFF_MAX_MS 5000
#define STEADY_NS (30 * NSEC_PER_SEC) // after this long a death starts the back-off anew

struct edge {
	char *program, *dir, *conf;
	char ip[16];
	uint16_t port;
	pthread_t supervisor;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool supervised;
	// under lock
	bool stopping;
	int pidfd; // of nginx, -1 between two; closed by the supervisor alone
	unsigned deaths;
};

static const char *const worker_users[] = {"www-data", "nginx", "nobody"};

static const struct passwd *worker_user(struct passwd *pw, char *buf, size_t size)
{
	struct passwd *found = NULL;
	for (size_t i = 0; i < ARRAY_SIZE(worker_users) && !found; i++)
		if (getpwnam_r(worker_users[i], pw, buf, size, &found) != 0)
			found = NULL;
	return found;
}

gid_t edge_group(void)
{
	struct passwd pw;
	char buf[1024];
	const struct passwd *found = geteuid() == 0 ? worker_user(&pw, buf, sizeof buf) : NULL;
	return found ? found->pw_gid : (gid_t)-1;
}

// --- configuration

static const char conf_head[] =
	"daemon off;\n"
	"worker_shutdown_timeout 2s;\n"
	"worker_rlimit_nofile 16384;\n"
	"error_log stderr warn;\n"
	"pcre_jit on;\n"
	"events { worker_connections 4096; }\n"
	"http {\n"
	"\taccess_log off;\n"
	"\tserver_tokens off;\n"
	"\ttcp_nodelay on;\n"
	"\tlarge_client_header_buffers 4 32k;\n"
	"\tproxy_http_version 1.1;\n"
	"\tproxy_buffering off;\n"
	"\tproxy_request_buffering off;\n"
	"\tproxy_buffer_size 64k;\n"
	"\tproxy_socket_keepalive on;\n"
	"\tproxy_next_upstream off;\n"
	"\tmap $http_upgrade $stasis_connection { default upgrade; '' close; }\n"
	"\tmap $http_e2b_sandbox_id $stasis_by_id { default 1; '' 0; }\n"
	"\tmap $stasis_by_id$stasis_by_host $stasis_sandbox { default 1; 00 ''; }\n"
	// What a target of the server's own socket gets instead of the client's path.
	"\tmap $stasis_refusal $stasis_uri { default $stasis_refusal; '' $request_uri; }\n";

static const char conf_api[] = "\t\tlocation / {\n"
			       "\t\t\tif ($stasis_sandbox) { rewrite ^ /_stasis/sandbox last; }\n"
			       "\t\t\tclient_max_body_size 2m;\n"
			       "\t\t\terror_page 413 = @too_large;\n"
			       "\t\t\tproxy_connect_timeout 5s;\n"
			       // Longer than the longest exec.
			       "\t\t\tproxy_read_timeout 3700s;\n"
			       "\t\t\tproxy_set_header Host $http_host;\n"
			       "\t\t\tproxy_set_header Connection '';\n"
			       "\t\t\tproxy_set_header X-Stasis-Edge '';\n"
			       "\t\t\tproxy_set_header X-Stasis-Id '';\n"
			       "\t\t\tproxy_set_header X-Stasis-Port '';\n"
			       "\t\t\tproxy_pass http://stasis_api;\n"
			       "\t\t}\n";

static const char conf_sandbox[] =
	"\t\tlocation = /_stasis/sandbox {\n"
	"\t\t\tinternal;\n"
	"\t\t\tauth_request /_stasis/auth;\n"
	"\t\t\tauth_request_set $stasis_target $upstream_http_x_stasis_target;\n"
	"\t\t\tauth_request_set $stasis_refusal $upstream_http_x_stasis_refusal;\n"
	"\t\t\tauth_request_set $stasis_id $upstream_http_x_stasis_id;\n"
	"\t\t\tauth_request_set $stasis_port $upstream_http_x_stasis_port;\n"
	"\t\t\tclient_max_body_size 0;\n"
	"\t\t\tclient_body_timeout 1h;\n"
	"\t\t\tsend_timeout 1h;\n"
	"\t\t\tproxy_connect_timeout 3s;\n"
	"\t\t\tproxy_read_timeout 1h;\n"
	"\t\t\tproxy_send_timeout 1h;\n"
	// Guests are not trusted: no header of theirs may steer nginx.
	"\t\t\tproxy_ignore_headers X-Accel-Redirect X-Accel-Expires X-Accel-Limit-Rate\n"
	"\t\t\t\tX-Accel-Buffering X-Accel-Charset Expires Cache-Control Set-Cookie Vary;\n"
	"\t\t\tproxy_pass_header Server;\n"
	"\t\t\tproxy_pass_header Date;\n"
	// Only what nginx itself found; an application's own 502 goes through untouched.
	"\t\t\tproxy_intercept_errors off;\n"
	"\t\t\terror_page 502 504 = @closed;\n"
	"\t\t\tproxy_set_header Host $http_host;\n"
	"\t\t\tproxy_set_header Upgrade $http_upgrade;\n"
	"\t\t\tproxy_set_header Connection $stasis_connection;\n"
	"\t\t\tproxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n"
	"\t\t\tproxy_set_header X-Forwarded-Proto $scheme;\n"
	"\t\t\tproxy_set_header X-Forwarded-Host $http_host;\n"
	"\t\t\tproxy_set_header X-Stasis-Edge $stasis_refusal_key;\n"
	"\t\t\tproxy_set_header X-Stasis-Id $stasis_refusal_id;\n"
	"\t\t\tproxy_set_header X-Stasis-Port $stasis_refusal_port;\n"
	"\t\t\tproxy_pass http://$stasis_target$stasis_uri;\n"
	"\t\t}\n";

// Only requests to the server see the internal headers.
static const char conf_maps[] =
	"\tmap $stasis_refusal $stasis_refusal_id { default $stasis_id; '' ''; }\n"
	"\tmap $stasis_refusal $stasis_refusal_port { default $stasis_port; '' ''; }\n";

static const char conf_auth[] = "\t\tlocation = /_stasis/auth {\n"
				"\t\t\tinternal;\n"
				"\t\t\tproxy_method GET;\n"
				"\t\t\tproxy_pass_request_body off;\n"
				"\t\t\tproxy_pass_request_headers off;\n"
				"\t\t\tproxy_connect_timeout 5s;\n"
				"\t\t\tproxy_set_header Host stasis;\n"
				"\t\t\tproxy_set_header Connection '';\n"
				"\t\t\tproxy_set_header Content-Length '';\n"
				"\t\t\tproxy_set_header E2b-Sandbox-Id $http_e2b_sandbox_id;\n"
				"\t\t\tproxy_set_header E2b-Sandbox-Port $http_e2b_sandbox_port;\n"
				"\t\t\tproxy_set_header X-Access-Token $http_x_access_token;\n"
				"\t\t\tproxy_set_header X-Stasis-Host $host;\n"
				"\t\t\tproxy_set_header X-Stasis-Uri $request_uri;\n";

static const char conf_error_body[] = "\t\t\tproxy_method GET;\n"
				      "\t\t\tproxy_pass_request_body off;\n"
				      "\t\t\tproxy_pass_request_headers off;\n"
				      "\t\t\tproxy_set_header Host stasis;\n"
				      "\t\t\tproxy_set_header Connection '';\n"
				      "\t\t\tproxy_set_header Content-Length '';\n"
				      "\t\t\tproxy_set_header X-Stasis-Id $stasis_id;\n"
				      "\t\t\tproxy_set_header X-Stasis-Port $stasis_port;\n"
				      "\t\t\tproxy_pass http://stasis_api;\n"
				      "\t\t}\n";

static bool is_plain(const char *text, const char *more)
{
	for (; *text; text++)
		if (!((*text >= 'a' && *text <= 'z') || (*text >= '0' && *text <= '9') ||
			    strchr(more, *text)))
			return false;
	return true;
}

static int write_conf(struct edge *g, const struct edge_config *cfg, struct err *e)
{
	static const char upper[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ/._+=@,:-";
	if (!is_plain(cfg->domain, ".-") || !cfg->domain[0])
		return err_set(e, ERR_INVALID,
			"domain '%s': must be lower-case letters, digits, "
			"'-' and '.'",
			cfg->domain);
	if (!is_plain(cfg->dir, upper) || !is_plain(cfg->socket, upper))
		return err_set(e, ERR_INVALID,
			"the run directory %s must have a name of letters, digits and /._+=@,:-",
			cfg->dir);
	_cleanup_strbuf_ struct strbuf b = {0};
	struct passwd pw;
	char buf[1024];
	const struct passwd *user = geteuid() == 0 ? worker_user(&pw, buf, sizeof buf) : NULL;
	if (user)
		strbuf_addf(&b, "user %s;\n", user->pw_name);
	strbuf_addf(&b, "worker_processes %ld;\npid %s/nginx.pid;\nlock_file %s/nginx.lock;\n",
		MIN(MAX(sysconf(_SC_NPROCESSORS_ONLN), 1), 4), cfg->dir, cfg->dir);
	strbuf_adds(&b, conf_head);
	static const char *const temp[] = {"client_body", "proxy", "fastcgi", "uwsgi", "scgi"};
	for (size_t i = 0; i < ARRAY_SIZE(temp); i++)
		strbuf_addf(&b, "\t%s_temp_path %s/%s;\n", temp[i], cfg->dir, temp[i]);
	strbuf_adds(&b, "\tmap $host $stasis_by_host { default 0; \"~^[0-9]+-.*\\.");
	for (const char *p = cfg->domain; *p; p++)
		strbuf_addf(&b, "%s%c", *p == '.' ? "\\" : "", *p);
	strbuf_adds(&b, "$\" 1; }\n");
	strbuf_adds(&b, conf_maps);
	strbuf_addf(
		&b, "\tmap $stasis_refusal $stasis_refusal_key { default %s; '' ''; }\n", cfg->key);
	strbuf_addf(&b, "\tupstream stasis_api { server unix:%s; keepalive 32; }\n", cfg->socket);
	strbuf_addf(&b,
		"\tserver {\n\t\tlisten %s:%u so_keepalive=on;\n\t\tserver_name _;\n"
		"\t\tset $stasis_refusal '';\n\t\tset $stasis_id '';\n\t\tset $stasis_port '';\n",
		g->ip, g->port);
	strbuf_adds(&b, conf_api);
	strbuf_adds(&b, conf_sandbox);
	strbuf_adds(&b, conf_auth);
	strbuf_addf(&b,
		"\t\t\tproxy_set_header X-Stasis-Edge %s;\n"
		"\t\t\tproxy_pass http://stasis_api/_edge/auth;\n\t\t}\n",
		cfg->key);
	static const char *const named[] = {"closed", "too_large"};
	for (size_t i = 0; i < ARRAY_SIZE(named); i++) {
		strbuf_addf(&b,
			"\t\tlocation @%s {\n\t\t\trewrite ^ /_edge/refuse/%s break;\n"
			"\t\t\tproxy_set_header X-Stasis-Edge %s;\n",
			named[i], named[i], cfg->key);
		strbuf_adds(&b, conf_error_body);
	}
	strbuf_adds(&b, "\t}\n}\n");
	if (strbuf_check(&b) < 0)
		return err_errno(e, ENOMEM, "nginx.conf");
	int r = file_write_atomic(AT_FDCWD, g->conf, b.data, b.len, 0600);
	return r < 0 ? err_errno(e, r, "%s", g->conf) : 0;
}

static int check_conf(struct edge *g, struct err *e)
{
	const char *const argv[] = {
		g->program, "-t", "-q", "-e", "stderr", "-p", g->dir, "-c", g->conf, NULL};
	int r = proc_run(argv, NULL, 0, 10000, NULL, e);
	return r < 0 ? err_prefix(e, r, "the edge's configuration was refused") : 0;
}

// --- which nginx is ours, for the time after a crash

static char *pid_path(const struct edge *g)
{
	return str_printf("%s/edge.json", g->dir);
}

static void record(struct edge *g, pid_t pid)
{
	_cleanup_free_ char *path = pid_path(g);
	uint64_t start = 0;
	char boot[37];
	clock_boot_id(boot);
	if (!path || proc_start_time(pid, &start) < 0)
		return;
	_cleanup_json_ json_t *j = json_pack("{s:I, s:I, s:s}", "pid", (json_int_t)pid,
		"start_time", (json_int_t)start, "boot_id", boot);
	_cleanup_free_ char *text = json_compact(j);
	int r = text ? file_write_atomic(AT_FDCWD, path, text, strlen(text), 0600) : -ENOMEM;
	if (r < 0)
		log_warn("a crash of the server would leave nginx running pid=%d: %s: %s", pid,
			path, strerror(-r));
}

static void end_leftover(struct edge *g)
{
	_cleanup_free_ char *path = pid_path(g);
	_cleanup_strbuf_ struct strbuf text = {0};
	_cleanup_json_ json_t *j = NULL;
	uint64_t pid = 0, start = 0, now_start = 0;
	const char *boot = "";
	char this_boot[37];
	const struct json_field fields[] = {
		{.name = "pid",
			.type = JF_U64,
			.out = &pid,
			.min = 2,
			.max = INT32_MAX,
			.required = true},
		{.name = "start_time", .type = JF_U64, .out = &start, .required = true},
		{.name = "boot_id", .type = JF_STRING, .out = &boot, .required = true},
	};
	if (!path || file_read(AT_FDCWD, path, 4096, &text) < 0 ||
		json_parse_object(text.data, text.len, &j, NULL) < 0 ||
		json_read_fields(j, fields, ARRAY_SIZE(fields), false, NULL) < 0)
		return;
	clock_boot_id(this_boot);
	_cleanup_close_ int pidfd = proc_pidfd_open((pid_t)pid);
	// The start time is read while the descriptor holds the process.
	if (pidfd < 0 || !str_eq(boot, this_boot) || proc_start_time((pid_t)pid, &now_start) < 0 ||
		now_start != start)
		return;
	log_info("ending the nginx of an earlier server pid=%d", (int)pid);
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	proc_kill(pidfd, SIGTERM);
	if (poll(&p, 1, STOP_GRACE_MS) <= 0)
		kill(-(pid_t)pid, SIGKILL);
}

// --- supervision

static int spawn(struct edge *g, struct err *e)
{
	const char *const argv[] = {g->program, "-e", "stderr", "-p", g->dir, "-c", g->conf, NULL};
	const struct proc_spawn s = {.argv = argv,
		.stdin_fd = -1,
		.stdout_fd = -1,
		.stderr_fd = -1,
		.new_session = true,
		.death_signal = SIGTERM}; // the supervisor's thread ends after nginx
	pid_t pid;
	int pidfd;
	int r = proc_spawn(&s, &pid, &pidfd, e);
	if (r < 0)
		return err_prefix(e, r, "the edge cannot be started");
	record(g, pid);
	pthread_mutex_lock(&g->lock);
	g->pidfd = pidfd;
	// A stop that came in between found no process.
	if (g->stopping)
		proc_kill(pidfd, SIGTERM);
	pthread_mutex_unlock(&g->lock);
	return pid;
}

static bool has_ended(int pidfd, int timeout_ms)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	return RETRY_EINTR(poll(&p, 1, timeout_ms)) > 0;
}

// Waits for the end of nginx and reaps it. While it is unreaped its process group is surely ours.
static int reap(struct edge *g, pid_t pid)
{
	int status = 0;
	has_ended(g->pidfd, -1);
	kill(-pid, SIGKILL);
	proc_wait(g->pidfd, -1, &status);
	pthread_mutex_lock(&g->lock);
	g->pidfd = safe_close(g->pidfd);
	g->deaths++;
	pthread_mutex_unlock(&g->lock);
	return status;
}

// Sleeps; true when the edge is to stop.
static bool pause_stopping(struct edge *g, unsigned ms)
{
	uint64_t until = clock_monotonic_ns() + ms * NSEC_PER_MSEC;
	struct timespec ts = {
		.tv_sec = (time_t)(until / NSEC_PER_SEC), .tv_nsec = (long)(until % NSEC_PER_SEC)};
	pthread_mutex_lock(&g->lock);
	while (!g->stopping && pthread_cond_timedwait(&g->wake, &g->lock, &ts) != ETIMEDOUT)
		;
	bool stopping = g->stopping;
	pthread_mutex_unlock(&g->lock);
	return stopping;
}

static void *supervise(void *arg)
{
	struct edge *g = arg;
	unsigned backoff = BACKOFF_MIN_MS;
	do {
		struct err e = {0};
		char text[64];
		uint64_t started = clock_monotonic_ns();
		int pid = spawn(g, &e);
		if (pid < 0) {
			log_error("%s; again in %u ms", e.text, backoff);
			pthread_mutex_lock(&g->lock);
			g->deaths++;
			pthread_mutex_unlock(&g->lock);
			continue;
		}
		int status = reap(g, pid);
		if (pause_stopping(g, 0))
			break;
		if (clock_monotonic_ns() - started > STEADY_NS)
			backoff = BACKOFF_MIN_MS;
		proc_status_text(status, text, sizeof text);
		log_error("nginx ended (%s), starting it again in %u ms", text, backoff);
	} while (!pause_stopping(g, backoff) && (backoff = MIN(backoff * 2, BACKOFF_MAX_MS)));
	return NULL;
}

// --- life

static int parse_listen(struct edge *g, const char *listen, struct err *e)
{
	const char *colon = strrchr(listen, ':');
	uint64_t port = 0;
	struct in_addr a;
	if (!colon || str_to_u64(colon + 1, UINT16_MAX, &port) < 0 || port == 0 ||
		(size_t)(colon - listen) >= sizeof g->ip)
		return err_set(e, ERR_INVALID, "listen '%s': must be ADDRESS:PORT", listen);
	snprintf(g->ip, sizeof g->ip, "%.*s", (int)(colon - listen), listen);
	if (str_eq(g->ip, "localhost"))
		snprintf(g->ip, sizeof g->ip, "127.0.0.1");
	if (inet_pton(AF_INET, g->ip, &a) != 1)
		return err_set(
			e, ERR_INVALID, "listen '%s': '%s' is not an IPv4 address", listen, g->ip);
	g->port = (uint16_t)port;
	return 0;
}

static struct sockaddr_in address_of(const struct edge *g)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(g->port)};
	inet_pton(AF_INET, g->ip, &a.sin_addr);
	return a;
}

// nginx would try for seconds and then say less.
static int check_free(const struct edge *g, struct err *e)
{
	struct sockaddr_in a = address_of(g);
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int one = 1;
	if (fd < 0)
		return err_errno(e, errno, "socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, (struct sockaddr *)&a, sizeof a) < 0)
		return err_errno(e, errno, "cannot listen on %s:%u (choose another with --listen)",
			g->ip, g->port);
	return 0;
}

static int wait_ready(struct edge *g, struct err *e)
{
	struct sockaddr_in a = address_of(g);
	if (a.sin_addr.s_addr == htonl(INADDR_ANY))
		a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	uint64_t deadline = clock_monotonic_ns() + START_MS * NSEC_PER_MSEC;
	while (clock_monotonic_ns() < deadline) {
		_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) == 0)
			return 0;
		pthread_mutex_lock(&g->lock);
		unsigned deaths = g->deaths;
		pthread_mutex_unlock(&g->lock);
		if (deaths > 0)
			return err_set(e, ERR_INTERNAL,
				"the edge ended while starting; see the lines above");
		clock_sleep_ns(2 * NSEC_PER_MSEC);
	}
	return err_set(
		e, ERR_TIMEOUT, "the edge does not accept connections on %s:%u", g->ip, g->port);
}

int edge_start(const struct edge_config *cfg, struct edge **ret, struct err *e)
{
	_cleanup_(edge_stopp) struct edge *g = calloc(1, sizeof *g);
	if (!g)
		return err_errno(e, ENOMEM, "edge");
	pthread_mutex_init(&g->lock, NULL);
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&g->wake, &attr);
	pthread_condattr_destroy(&attr);
	g->pidfd = -1;
	// Root's PATH need not have sbin in it.
	const char *found = access("/usr/sbin/nginx", X_OK) == 0 ? "/usr/sbin/nginx" : "nginx";
	g->program = strdup(cfg->nginx ? cfg->nginx : found);
	g->dir = strdup(cfg->dir);
	g->conf = str_printf("%s/nginx.conf", cfg->dir);
	if (!g->program || !g->dir || !g->conf)
		return err_errno(e, ENOMEM, "edge");
	int r = parse_listen(g, cfg->listen, e);
	if (r == 0 && (r = file_mkdir_p(AT_FDCWD, g->dir, 0711)) < 0)
		err_errno(e, r, "%s", g->dir);
	if (r == 0) {
		end_leftover(g);
		r = check_free(g, e);
	}
	if (r == 0)
		r = write_conf(g, cfg, e);
	if (r == 0)
		r = check_conf(g, e);
	if (r == 0) {
		r = -pthread_create(&g->supervisor, NULL, supervise, g);
		if (r < 0)
			err_errno(e, r, "thread of the edge");
		g->supervised = r == 0;
	}
	if (r == 0)
		r = wait_ready(g, e);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(g);
	return 0;
}

void edge_drain(struct edge *g)
{
	if (!g)
		return;
	pthread_mutex_lock(&g->lock);
	g->stopping = true;
	if (g->pidfd >= 0)
		proc_kill(g->pidfd, SIGQUIT);
	pthread_cond_broadcast(&g->wake);
	pthread_mutex_unlock(&g->lock);
}

struct edge *edge_stop(struct edge *g)
{
	if (!g)
		return NULL;
	edge_drain(g);
	// A copy, since the supervisor closes its own as soon as nginx has ended.
	pthread_mutex_lock(&g->lock);
	_cleanup_close_ int pidfd = g->pidfd >= 0 ? dup(g->pidfd) : -1;
	pthread_mutex_unlock(&g->lock);
	if (pidfd >= 0 && !has_ended(pidfd, STOP_GRACE_MS)) {
		proc_kill(pidfd, SIGTERM);
		if (!has_ended(pidfd, STOP_GRACE_MS))
			proc_kill(pidfd, SIGKILL);
	}
	if (g->supervised)
		pthread_join(g->supervisor, NULL);
	_cleanup_free_ char *path = pid_path(g);
	if (path)
		unlink(path);
	pthread_cond_destroy(&g->wake);
	pthread_mutex_destroy(&g->lock);
	free(g->program);
	free(g->dir);
	free(g->conf);
	free(g);
	return NULL;
}
