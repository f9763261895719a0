// SPDX-License-Identifier: Apache-2.0
// serve: settings, then volume, host and control plane in this order, and back in the reverse one.
// As two processes (--role) each does its own part: the host's has the machine, and the contract on
// a socket; the control plane's has neither rights nor the host's files, and only that socket.
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <pwd.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "cli/base/local.h"
#include "cli/base/output.h"
#include "cli/command/all.h"
#include "cli/command/settings.h"
#include "control/control.h"
#include "control/edge/edge.h"
#include "hostagent/hostagent.h"
#include "sandbox/host.h"

// --- the server's life

// sd_notify(3)'s protocol: one datagram.
static void notify(const char *text)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof a.sun_path)
		return;
	memcpy(a.sun_path, path, strlen(path));
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	if (path[0] == '@')
		a.sun_path[0] = '\0';
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&a, len) < 0)
		log_warn("could not tell the service manager error=%s", strerror(errno));
}

static void raise_descriptor_limit(void)
{
	struct rlimit l;
	if (getrlimit(RLIMIT_NOFILE, &l) == 0) {
		l.rlim_cur = l.rlim_max;
		setrlimit(RLIMIT_NOFILE, &l);
	}
}

// Users that the host's firewall lets through to guests, besides root: what faces the network.
enum { USERS_MAX = 16 };

// In one process: nginx's workers. In two: the members of the group of the host's socket.
static size_t guest_users(const struct settings *s, bool alone, uint32_t ret[USERS_MAX])
{
	size_t n = 0;
	struct group *group = alone && s->socket_group ? getgrnam(s->socket_group) : NULL;
	if (!alone && edge_user() != (uid_t)-1)
		ret[n++] = edge_user();
	if (!group)
		return n;
	gid_t gid = group->gr_gid;
	for (char **name = group->gr_mem; *name && n < USERS_MAX; name++) {
		const struct passwd *pw = getpwnam(*name);
		if (pw)
			ret[n++] = pw->pw_uid;
	}
	setpwent();
	for (struct passwd *pw; n < USERS_MAX && (pw = getpwent());)
		if (pw->pw_gid == gid)
			ret[n++] = pw->pw_uid;
	endpwent();
	return n;
}

// "10G", "5%"; NULL: neither.
static int read_reserve(const char *text, uint64_t *ret_bytes, uint64_t *ret_percent, struct err *e)
{
	*ret_bytes = *ret_percent = 0;
	if (!text)
		return 0;
	bool is_percent = str_ends(text, "%");
	char number[32];
	const struct cli_option bytes = {
		0, "disk-reserve", "SIZE|N%", NULL, OPT_BYTES, ret_bytes, .min = 1 << 20};
	if (!is_percent)
		return cli_set_option(&bytes, text, e);
	snprintf(number, sizeof number, "%.*s", (int)strlen(text) - 1, text);
	if (str_to_u64(number, 90, ret_percent) < 0 || *ret_percent == 0)
		return err_set(e, ERR_INVALID, "--disk-reserve: must be a size, or 1%% to 90%%");
	return 0;
}

static int start_host(const struct settings *s, bool alone, struct hostagent *ret, struct err *e)
{
	uint32_t users[USERS_MAX];
	size_t n_users = guest_users(s, alone, users);
	uint64_t reserve, percent;
	int rc = read_reserve(s->disk_reserve, &reserve, &percent, e);
	if (rc < 0)
		return rc;
	rc = local_mount_volume(s->data_dir, e);
	if (rc < 0)
		return err_prefix(e, rc, "data volume");
	const struct host_overcommit over = {(unsigned)s->overcommit_disk,
		(unsigned)s->overcommit_memory, (unsigned)s->overcommit_vcpus};
	return hostagent_start_local(
		&(struct host_config){
			.data_dir = s->data_dir,
			.run_dir = s->run_dir,
			.slot_range = s->slot_range,
			.dns = s->dns,
			.max_sandboxes = (unsigned)s->max_sandboxes,
			.reserve_bytes = reserve,
			.reserve_percent = (unsigned)percent,
			.pause_room = s->pause_room,
			.metrics_sandboxes = (unsigned)s->metrics_sandboxes,
			.overcommit = &over,
			.warm_slots = (unsigned)s->warm_slots,
			.vmm = s->vmm,
			.firecracker_path = s->firecracker,
			.qemu_path = s->qemu,
			.vmm_floor = s->vmm_floor,
			.agent_wait_ms = (unsigned)s->agent_wait * 1000,
			.users = users,
			.n_users = n_users,
		},
		ret, e);
}

static int start_control(
	const struct settings *s, const struct hostagent *host, struct control **ret, struct err *e)
{
	const struct edge_limits limits = {.address_connections = (unsigned)s->address_connections,
		.address_rate = (unsigned)s->address_rate,
		.sandbox_connections = (unsigned)s->sandbox_connections,
		.sandbox_rate = (unsigned)s->sandbox_rate};
	bool ports_private = str_eq(s->ports_public, "no");
	if (!ports_private && !str_eq(s->ports_public, "yes"))
		return err_set(
			e, ERR_INVALID, "--ports-public: '%s' is not yes or no", s->ports_public);
	return control_start(
		&(struct control_config){
			.data_dir = s->data_dir,
			.run_dir = s->run_dir,
			.listen = s->listen,
			.listen_plain = s->listen_plain,
			.listen_h2c = s->listen_h2c,
			.tls_cert = s->tls_cert,
			.tls_key = s->tls_key,
			.domain = s->domain,
			.nginx = s->nginx,
			.trusted = s->trusted_proxies,
			.answer_memory = s->answer_memory,
			.audit_size = s->audit_size,
			.webhook_allow = s->webhook_allow,
			.slot_range = s->slot_range,
			.limits = &limits,
			.ports_private = ports_private,
			.host = *host,
		},
		ret, e);
}

// control: NULL where there is nothing to be read again at SIGHUP.
static void serve_until(const sigset_t *stop, const char *where, struct control *control)
{
	int sig = 0;
	printf("stasis: ready on %s\n", where);
	output_flush();
	notify("READY=1");
	while (sigwait(stop, &sig) == 0 && sig == SIGHUP) {
		struct err e = {0};
		if (control && control_reload(control, &e) < 0)
			log_error("nothing is changed: %s", e.text);
		else
			log_info("configuration of the edge written anew");
	}
	log_info("stopping signal=%s", sigabbrev_np(sig));
	notify("STOPPING=1");
}

static void serve_control_until(const sigset_t *stop, struct control *control)
{
	_cleanup_free_ char *where = str_printf(
		"%s://%s", control_has_tls(control) ? "https" : "http", control_listen(control));
	serve_until(stop, where ? where : control_listen(control), control);
}

static int run_both(const struct settings *s, const sigset_t *stop, struct err *e)
{
	struct hostagent host = {0};
	struct control *control = NULL;
	int rc = start_host(s, false, &host, e);
	if (rc < 0)
		return rc;
	rc = start_control(s, &host, &control, e);
	if (rc < 0) {
		hostagent_stop_local(&host, false);
		return rc;
	}
	serve_control_until(stop, control);
	hostagent_stop_starts_local(&host);
	control_stop(control);
	hostagent_stop_local(&host, s->kill_on_exit);
	return 0;
}

static int run_host(const struct settings *s, const sigset_t *stop, struct err *e)
{
	_cleanup_free_ char *own = str_printf("%s/" HOST_SOCKET, s->run_dir);
	const char *socket = s->host_socket ? s->host_socket : own;
	struct hostagent host = {0};
	struct hostagent_server *server = NULL;
	if (!socket)
		return err_errno(e, ENOMEM, "start");
	int rc = start_host(s, true, &host, e);
	if (rc < 0)
		return rc;
	rc = hostagent_serve(
		&(struct hostagent_server_config){
			.host = host, .socket = socket, .group = s->socket_group},
		&server, e);
	if (rc < 0) {
		hostagent_stop_local(&host, false);
		return rc;
	}
	serve_until(stop, socket, NULL);
	hostagent_stop_starts_local(&host);
	hostagent_server_free(server);
	hostagent_stop_local(&host, s->kill_on_exit);
	return 0;
}

static int run_control(const struct settings *s, const sigset_t *stop, struct err *e)
{
	struct hostagent host = {0};
	struct control *control = NULL;
	int rc = file_mkdir_p(AT_FDCWD, s->data_dir, 0700);
	if (rc < 0)
		return err_errno(e, rc, "%s", s->data_dir);
	rc = hostagent_connect(
		&(struct hostagent_client_config){.socket = s->host_socket}, &host, e);
	if (rc < 0)
		return rc;
	rc = start_control(s, &host, &control, e);
	if (rc == 0) {
		serve_control_until(stop, control);
		control_stop(control);
	}
	hostagent_disconnect(&host);
	return rc;
}

struct role {
	const char *name;
	int (*run)(const struct settings *s, const sigset_t *stop, struct err *e);
	bool is_host;
};

static const struct role roles[] = {
	{"both", run_both, true},
	{"host", run_host, true},
	{"control", run_control, false},
};

static const struct role *find_role(const char *name, struct err *e)
{
	for (size_t i = 0; i < ARRAY_SIZE(roles); i++)
		if (str_eq(roles[i].name, name))
			return &roles[i];
	err_set(e, ERR_INVALID, "--role: '%s' is not both, host or control", name);
	return NULL;
}

static int run_role(const struct settings *s, const struct role *role, struct err *e)
{
	enum log_level level;
	sigset_t stop;
	if (!log_level_parse(s->log_level, &level))
		return err_set(e, ERR_INVALID,
			"--log-level: '%s' is not error, warn, info or debug", s->log_level);
	enum log_format format;
	if (!log_format_parse(s->log_format, &format))
		return err_set(
			e, ERR_INVALID, "--log-format: '%s' is not text or json", s->log_format);
	log_set_format(format);
	int rc = fault_setup(getenv("STASIS_FAULT"), e);
	if (rc < 0)
		return rc;
	if (role->is_host && geteuid() != 0)
		return err_set(e, ERR_FORBIDDEN,
			"serve needs root: it makes namespaces, mounts and network links (--role "
			"control does not)");
	log_setup("stasis", level);
	raise_descriptor_limit();
	// Before there are threads, so that all of them have it blocked.
	sigemptyset(&stop);
	sigaddset(&stop, SIGINT);
	sigaddset(&stop, SIGTERM);
	sigaddset(&stop, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &stop, NULL);
	signal(SIGPIPE, SIG_IGN);
	return role->run(s, &stop, e);
}

int cmd_serve(struct cli *c, struct err *e)
{
	static const struct host_overcommit usual = HOST_OVERCOMMIT_DEFAULT;
	const struct edge_limits limits = EDGE_LIMITS_DEFAULT;
	_cleanup_(settings_done) struct settings s = {.log_level = "info",
		.log_format = "text",
		.metrics_sandboxes = 200,
		.role = "both",
		.overcommit_disk = usual.disk,
		.overcommit_memory = usual.memory,
		.overcommit_vcpus = usual.vcpus,
		.address_connections = limits.address_connections,
		.address_rate = limits.address_rate,
		.sandbox_connections = limits.sandbox_connections,
		.sandbox_rate = limits.sandbox_rate,
		.ports_public = "yes"};
	struct cli_option options[N_SETTINGS + 1];
	settings_list(&s, options);
	int rc = cli_parse(c, options, 0, 0, e);
	if (rc != 0)
		return rc;
	const struct role *role = find_role(s.role, e);
	if (!role)
		return -EINVAL;
	rc = settings_read(&s, options, role->is_host, e);
	return rc < 0 ? rc : run_role(&s, role, e);
}
