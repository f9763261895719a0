// SPDX-License-Identifier: Apache-2.0
// The guest agent: processes, terminals, files, clock and identity of a sandbox, over HTTP.
// In a guest it runs as root below stasis-init; by hand it runs on any Linux host.
#include <fcntl.h>
#include <getopt.h>
#include <linux/close_range.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include "base/fault.h"
#include "base/file.h"
#include "base/id.h"
#include "base/log.h"
#include "envd/api/routes.h"
#include "envd/process/path.h"
#include "agentclient/client.h"
#include "envd/process/env.h"
#include "envd/process/oom.h"
#include "envd/wake/handover.h"
#include "envd/wake/identity.h"
#include "envd/wake/settings.h"
#include "envd/wake/trim.h"

#ifndef CGROUP2_SUPER_MAGIC
#define CGROUP2_SUPER_MAGIC 0x63677270
#endif

#define USER_CGROUP "/sys/fs/cgroup/user"
#define THREAD_STACK (256u << 10)
// A connection costs some 40 KiB. The host's own calls (freeze, thaw, init) have the last places,
// and programs of the guest cannot take more than a few: the owner comes from the host's side.
#define CONNECTIONS 384u
#define CONNECTIONS_HOST 32u
#define CONNECTIONS_GUEST 64u
#define IDLE_S 30
#define BODY_S 60
#define BODIES_MIN (32u << 20) // the longest message fits
#define BODIES_MAX (64u << 20) // between the two: an eighth of the memory

static const char usage[] =
	"usage: envd [--port N] [--host ADDRESS] [--no-clock] "
	"[--cgroup DIR | --no-cgroup] [--guest]\n"
	"            [--state FILE] [--only-from ADDRESS%INTERFACE] [--trim DIR]\n"
	"            [--foreground] [--version]\n"
	"Closed until POST /init has set an access token.\n"
	"  --port N        listen there (49983)\n"
	"  --host ADDRESS  IPv4 address to listen at (0.0.0.0)\n"
	"  --no-clock      never set the clock\n"
	"  --cgroup DIR    put processes below it, a cgroup v2, made if missing\n"
	"                  (/sys/fs/cgroup/user)\n"
	"  --no-cgroup     leave processes in the agent's own cgroup\n"
	"  --guest         the machine is the sandbox's alone: a resume ends all its\n"
	"                  TCP connections and runs /etc/stasis/resume.d\n"
	"  --state FILE    keep the settings of /init there, so that they outlive the\n"
	"                  agent; mode 0600\n"
	"  --trim DIR      before a freeze, give back to its disk what was freed in the\n"
	"                  file system at DIR\n"
	"  --only-from ADDRESS%INTERFACE\n"
	"                  take /init, /freeze and /thaw from there alone\n"
	"  --foreground    stay in the foreground: it always does\n";

struct options {
	const char *host;
	uint16_t port;
	const char *cgroup; // NULL: none
	bool clock, guest;
	const char *state_file; // NULL: none
	const char *trim;	// NULL: none
	struct agent_host only_from;
	char *const *argv; // for an agent that takes over
};

// "169.254.0.22%eth0"
static int parse_only_from(const char *text, struct agent_host *ret)
{
	char address[INET_ADDRSTRLEN];
	const char *percent = strchr(text, '%');
	size_t len = percent ? (size_t)(percent - text) : 0;
	if (!percent || len >= sizeof address || !percent[1] ||
		str_format(ret->interface, sizeof ret->interface, "%s", percent + 1) < 0)
		return -EINVAL;
	memcpy(address, text, len);
	address[len] = '\0';
	return inet_pton(AF_INET, address, &ret->peer) == 1 ? 0 : -EINVAL;
}

// -1: stop with status 2; 1: stop with status 0.
static int parse_options(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {{"port", required_argument, NULL, 'p'},
		{"host", required_argument, NULL, 'h'}, {"no-clock", no_argument, NULL, 'c'},
		{"no-cgroup", no_argument, NULL, 'g'}, {"cgroup", required_argument, NULL, 'd'},
		{"guest", no_argument, NULL, 'm'}, {"foreground", no_argument, NULL, 'f'},
		{"state", required_argument, NULL, 's'},
		{"only-from", required_argument, NULL, 'o'}, {"trim", required_argument, NULL, 't'},
		{"version", no_argument, NULL, 'v'}, {"help", no_argument, NULL, '?'}, {0}};
	uint64_t port;
	for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) >= 0;) {
		switch (c) {
		case 'p':
			if (str_to_u64(optarg, UINT16_MAX, &port) < 0) {
				fprintf(stderr, "envd: --port: '%s' is not a port\n", optarg);
				return -1;
			}
			o->port = (uint16_t)port;
			break;
		case 'h':
			o->host = optarg;
			break;
		case 'c':
			o->clock = false;
			break;
		case 'g':
			o->cgroup = NULL;
			break;
		case 'd':
			o->cgroup = optarg;
			break;
		case 'm':
			o->guest = true;
			break;
		case 'f':
			break;
		case 's':
			o->state_file = optarg;
			break;
		case 'o':
			if (parse_only_from(optarg, &o->only_from) < 0) {
				fprintf(stderr,
					"envd: --only-from: '%s' is not ADDRESS%%INTERFACE\n",
					optarg);
				return -1;
			}
			break;
		case 't':
			o->trim = optarg;
			break;
		case 'v':
			puts("envd " ENVD_VERSION " (stasis " STASIS_VERSION ")");
			return 1;
		default:
			fputs(usage, stderr);
			return -1;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "envd: unexpected argument '%s'\n%s", argv[optind], usage);
		return -1;
	}
	return 0;
}

// Where users' processes go, so that they can be frozen without us. -1 without cgroup v2.
static int open_user_cgroup(const char *path)
{
	struct statfs fs;
	bool made = mkdir(path, 0755) == 0;
	if (statfs(path, &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC)
		return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (made)
		rmdir(path);
	return -1;
}

// Connections whose peer is gone without a word (the guest was paused) must not stay for ever.
// Accepted sockets inherit the settings.
static void set_socket(int fd)
{
	int on = 1, idle = 60, interval = 10, count = 3;
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	// And know the interface that they came in by: routes_before asks.
	setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
}

// All that comes from outside comes from the host's address, which no program but root's can have.
static bool is_from_outside(const struct sockaddr *peer, void *ctx)
{
	const struct agent *a = ctx;
	const struct sockaddr_in *in = (const struct sockaddr_in *)peer;
	return !a->host.interface[0] ||
	       (in->sin_family == AF_INET && in->sin_addr.s_addr == a->host.peer.s_addr);
}

// The agent goes after the programs when memory runs out, but before all of them: one that has more
// than half of the memory has lost its way, and a guest without a process to kill panics.
// stasis-init starts it again, with its settings.
#define OOM_SCORE "-500"
static void set_oom_score(void)
{
	int rc = file_write_existing(AT_FDCWD, "/proc/self/oom_score_adj", OOM_SCORE);
	if (rc < 0)
		log_warn("oom_score_adj is not set: %s", strerror(-rc));
}

static void *give_up_server(void *server)
{
	http_server_free(server);
	return NULL;
}

// Becomes another program, or goes on with a new server at the old one's socket.
static int stay(struct agent *a, char *const *argv, struct http_server_config *cfg, struct err *e)
{
	struct err why = {0};
	pthread_t thread;
	if (handover_run(a, argv, &cfg->listen_fd, &why) == 0)
		return 0;
	log_warn("the agent is not replaced error=%s", why.text);
	// Its requests may take their time.
	if (pthread_create(&thread, NULL, give_up_server, a->server) == 0)
		pthread_detach(thread);
	int rc = http_server_start(cfg, &a->server, e);
	a->moving = false;
	return rc;
}

static int serve(const struct options *o, const sigset_t *stop, struct err *e)
{
	struct agent a = {.set_clock = o->clock,
		.as_root = geteuid() == 0,
		.guest = o->guest,
		.state_file = o->state_file,
		.host = o->only_from,
		.successor_fd = -1,
		.listen_fd = -1};
	unsigned char instance[8];
	id_random_bytes(instance, sizeof instance);
	id_hex(instance, sizeof instance, a.instance);
	identity_text(getenv(AGENT_INIT_VARIABLE), a.identity);
	pthread_mutex_init(&a.lock, NULL);
	pthread_mutex_init(&a.resume_lock, NULL);
	_cleanup_close_ int cgroup = o->cgroup ? open_user_cgroup(o->cgroup) : -1;
	a.env = json_pack("{s:s}", "E2B_SANDBOX", "true");
	a.processes = process_table_new(cgroup, ENV_CGROUP_NAMESPACE);
	a.trim = o->trim ? trim_new(o->trim) : NULL;
	if (!a.env || !a.processes || (o->trim && !a.trim))
		return err_errno(e, ENOMEM, "cannot start");
	if (o->guest) {
		process_table_watch_oom(a.processes);
		set_oom_score();
	}
	int state = handover_state_fd(), fd = -1;
	if (state >= 0) {
		int rc = handover_take(&a, state, false, &fd, e);
		if (rc < 0)
			return rc;
	} else {
		settings_load(&a);
		fd = http_listen_tcp(o->host, o->port, e);
		if (fd < 0)
			return fd;
		set_socket(fd);
	}
	struct sockaddr_in addr = {0};
	socklen_t len = sizeof addr;
	getsockname(fd, (struct sockaddr *)&addr, &len);
	struct http_server_config cfg = {.routes = agent_routes,
		.n_routes = agent_n_routes,
		.ctx = &a,
		.listen_fd = fd,
		.thread_stack = THREAD_STACK,
		.max_connections = CONNECTIONS,
		.idle_timeout_s = IDLE_S,
		.body_timeout_s = BODY_S,
		.body_budget = MIN(BODIES_MAX, MAX(oom_memory_bytes() / 8, (uint64_t)BODIES_MIN)),
		.reserve = CONNECTIONS_HOST,
		.reserve_flags = ROUTE_HOST | ROUTE_PUBLIC,
		.is_favoured = is_from_outside,
		.max_others = CONNECTIONS_GUEST,
		.before = routes_before,
		.format_error = routes_format_error};
	int rc = http_server_start(&cfg, &a.server, e);
	if (rc < 0)
		return rc;
	if (state >= 0)
		handover_install(&a);
	log_info("listening port=%u version=%s agent=\"%s\"%s", ntohs(addr.sin_port), ENVD_VERSION,
		a.identity, state >= 0 ? " taken over" : "");
	int sig;
	while (sigwait(stop, &sig) == 0 && sig == HANDOVER_SIGNAL)
		if ((rc = stay(&a, o->argv, &cfg, e)) < 0)
			return rc;
	log_info("stopping signal=%d", sig);
	// Ends the processes, which ends their streams, then the server.
	process_table_stop(a.processes);
	http_server_free(a.server);
	process_table_free(a.processes);
	trim_free(a.trim);
	json_decref(a.env);
	free(a.token);
	free(a.default_user);
	free(a.default_workdir);
	return 0;
}

int main(int argc, char **argv)
{
	struct options o = {
		.host = "0.0.0.0", .port = ENVD_PORT, .clock = true, .cgroup = USER_CGROUP};
	struct err e = {0};
	sigset_t stop;
	if (argc == 2 && str_eq(argv[1], HANDOVER_CHECK))
		return handover_take(NULL, STDIN_FILENO, true, NULL, &e) < 0;
	int rc = parse_options(argc, argv, &o);
	if (rc)
		return rc < 0 ? 2 : 0;
	o.argv = argv;
	log_setup("envd", LOG_LEVEL_INFO);
	// One heap for all threads, given back early: an idle agent must be small.
	mallopt(M_ARENA_MAX, 1);
	mallopt(M_TRIM_THRESHOLD, 64 << 10);
	umask(022);
	// What our starter left open is not for users' processes.
	close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&stop);
	sigaddset(&stop, SIGTERM);
	sigaddset(&stop, SIGINT);
	sigaddset(&stop, HANDOVER_SIGNAL);
	pthread_sigmask(SIG_BLOCK, &stop, NULL); // inherited by all threads
	if (fault_setup(getenv("STASIS_FAULT"), &e) < 0 || serve(&o, &stop, &e) < 0) {
		log_error("%s", err_text(&e, 0));
		return 1;
	}
	return 0;
}
