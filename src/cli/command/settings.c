// SPDX-License-Identifier: Apache-2.0
#include "cli/command/settings.h"
#include <ini.h>
#include <string.h>
#include "base/paths.h"
#include "base/str.h"
#include "cli/base/local.h"

#define CONFIG_DEFAULT "/etc/stasis/stasis.conf"
#define LIMIT_MAX 65535 // nginx's
#define CONFIG_CONTROL "/etc/stasis/control.conf"

// Of the configuration file: the options' own names with '_', a command line's flag wins.
struct file_reader {
	const struct cli_option *options;
	struct settings *settings;
	const char *path;
	struct err *e;
	int rc;
};

static bool same_name(const char *option, const char *key)
{
	for (; *option && *key; option++, key++)
		if (*option != *key && !(*option == '-' && *key == '_'))
			return false;
	return *option == *key;
}

// text: owned by the settings from now on, NULL when out of memory. 0 or -ENOMEM.
static int keep(struct settings *s, char *text)
{
	char **items = reallocarray(s->kept, s->n_kept + 1, sizeof *items);
	if (items)
		s->kept = items;
	if (!items || !text) {
		free(text);
		return -ENOMEM;
	}
	s->kept[s->n_kept++] = text;
	return 0;
}

static int on_setting(void *ctx, const char *section, const char *key, const char *value)
{
	struct file_reader *f = ctx;
	for (const struct cli_option *o = f->options; o->name; o++) {
		if (!same_name(o->name, key) || strcmp(key, "config") == 0)
			continue;
		// Which file is read depends on the role, so the file cannot choose it.
		if (*o->present || str_eq(key, "role"))
			return 1;
		char *copy = strdup(value);
		f->rc = keep(f->settings, copy);
		if (f->rc < 0)
			return 0;
		if (o->type == OPT_FLAG) {
			*(bool *)o->out =
				str_eq(value, "yes") || str_eq(value, "true") || str_eq(value, "1");
			return 1;
		}
		f->rc = cli_set_option(o, copy, f->e);
		return f->rc == 0;
	}
	f->rc = err_set(f->e, ERR_INVALID, "unknown setting '%s'", key);
	return 0;
}

static int read_config(struct file_reader *f, bool given)
{
	if (!given && access(f->path, F_OK) < 0)
		return 0;
	int line = ini_parse(f->path, on_setting, f);
	if (f->rc < 0)
		return err_prefix(f->e, f->rc, "%s, line %d", f->path, line);
	if (line > 0)
		return err_set(f->e, ERR_INVALID, "%s, line %d: not 'name = value'", f->path, line);
	if (line < 0)
		return err_errno(f->e, errno ? errno : EIO, "%s", f->path);
	return 0;
}

void settings_list(struct settings *s, struct cli_option ret[N_SETTINGS + 1])
{
	const struct cli_option options[] = {
		{0, "config", "FILE",
			"settings (default: " CONFIG_DEFAULT ", of role control " CONFIG_CONTROL
			", if there)",
			OPT_STRING, &s->config},
		{0, "data-dir", "DIR",
			"data directory (default: STASIS_DATA, else " PATH_DATA_DEFAULT
			"; of role control with \"" CLI_CONTROL_SUFFIX "\" added)",
			OPT_STRING, &s->data_dir},
		{0, "run-dir", "DIR",
			"sockets and jails (default: " PATH_RUN_DEFAULT
			"; of role control " PATH_RUN_DEFAULT CLI_CONTROL_SUFFIX ")",
			OPT_STRING, &s->run_dir},
		{0, "listen", "ADDR:PORT",
			"where clients connect, [::]:PORT for IPv6 too (default: 127.0.0.1:7070)",
			OPT_STRING, &s->listen},
		{0, "domain", "NAME", "ports are at {port}-{id}.NAME (default: localhost)",
			OPT_STRING, &s->domain},
		{0, "slot-range", "CIDR",
			"host side of the guests' network (default: 10.213.0.0/16)", OPT_STRING,
			&s->slot_range},
		{0, "dns", "LIST",
			"name servers of guests, up to three IPv4 addresses (default: those of "
			"this "
			"machine)",
			OPT_STRING, &s->dns},
		{0, "max-sandboxes", "N", "at most so many at once (default: 200)", OPT_U64,
			&s->max_sandboxes, 1, 10000},
		{0, "warm-slots", "N", "network slots kept ready (default: 4)", OPT_U64,
			&s->warm_slots, 1, 1000},
		{0, "disk-reserve", "SIZE|N%",
			"of the data volume, kept for pauses (default: 5%, 512M to 16G)",
			OPT_STRING, &s->disk_reserve},
		{0, "pause-room", NULL,
			"start nothing that could not be paused beside all that runs", OPT_FLAG,
			&s->pause_room},
		{0, "vmm", "auto|firecracker|fcqemu", "what runs the guests (default: auto)",
			OPT_STRING, &s->vmm},
		{0, "firecracker", "FILE", "its binary (default: firecracker of PATH)", OPT_STRING,
			&s->firecracker},
		{0, "qemu", "FILE", "QEMU's program (default: /usr/bin/qemu-system-x86_64)",
			OPT_STRING, &s->qemu},
		{0, "vmm-floor", "LIST",
			"nothing starts on older VMMs: 'qemu 7.2.9, firecracker 1.14.2'",
			OPT_STRING, &s->vmm_floor},
		{0, "nginx", "FILE", "the edge's program (default: nginx of PATH)", OPT_STRING,
			&s->nginx},
		{0, "trusted-proxies", "LIST",
			"proxies whose X-Forwarded-* headers guests are told: addresses and "
			"networks, or none (default: 127.0.0.0/8, ::1)",
			OPT_STRING, &s->trusted_proxies},
		{0, "webhook-allow", "LIST",
			"networks that webhooks may go to though they are guests' or link-local",
			OPT_STRING, &s->webhook_allow},
		{0, "kill-on-exit", NULL, "end the sandboxes with the server", OPT_FLAG,
			&s->kill_on_exit},
		{0, "log-level", "error|warn|info|debug", "how much is logged (default: info)",
			OPT_STRING, &s->log_level},
		{0, "metrics-sandboxes", "N",
			"so many sandboxes have lines of their own in the metrics (default: 200)",
			OPT_U64, &s->metrics_sandboxes, 0, 10000},
		{0, "log-format", "text|json", "of the lines of the log (default: text)",
			OPT_STRING, &s->log_format},
		{0, "role", "both|host|control", "of this process (default: both)", OPT_STRING,
			&s->role},
		{0, "host-socket", "PATH",
			"where the roles meet (default: " PATH_RUN_DEFAULT "/" HOST_SOCKET
			"; of role host " HOST_SOCKET " in its run directory)",
			OPT_STRING, &s->host_socket},
		{0, "overcommit-disk", "PERCENT",
			"of the data volume, promised to sandboxes as disks (default: 2000; 0: "
			"any)",
			OPT_U64, &s->overcommit_disk, 0, 1000000},
		{0, "overcommit-memory", "PERCENT",
			"of this machine's memory, promised to those that run (default: 1000; 0: "
			"any)",
			OPT_U64, &s->overcommit_memory, 0, 1000000},
		{0, "overcommit-vcpus", "PERCENT",
			"of its processors, promised to those that run (default: 10000; 0: any)",
			OPT_U64, &s->overcommit_vcpus, 0, 1000000},
		{0, "answer-memory", "SIZE",
			"for output of commands in answers under way (default: 256M)", OPT_BYTES,
			&s->answer_memory, .min = 1 << 20},
		{0, "audit-size", "SIZE",
			"of audit.log, of which four older ones are kept (default: 32M)", OPT_BYTES,
			&s->audit_size, .min = 64 << 10},
		{0, "socket-group", "GROUP", "who may connect to it besides root (role host)",
			OPT_STRING, &s->socket_group},
		{0, "agent-wait", "TIME",
			"how long a guest's agent is waited for that answers nothing (default: 3s, "
			"of an emulated guest 10s)",
			OPT_SECONDS, &s->agent_wait, 1, 600},
		{0, "address-connections", "N",
			"requests of one address at once that show no key or token, 0: any "
			"(default: 128)",
			OPT_U64, &s->address_connections, 0, LIMIT_MAX},
		{0, "address-rate", "N", "the same, in a second (default: 100)", OPT_U64,
			&s->address_rate, 0, LIMIT_MAX},
		{0, "sandbox-connections", "N",
			"requests to one sandbox at once, 0: any (default: 512)", OPT_U64,
			&s->sandbox_connections, 0, LIMIT_MAX},
		{0, "sandbox-rate", "N", "the same, in a second (default: 1000)", OPT_U64,
			&s->sandbox_rate, 0, LIMIT_MAX},
		{0, "ports-public", "yes|no",
			"anybody may reach the ports of a new sandbox that does not say (default: "
			"yes)",
			OPT_STRING, &s->ports_public},
		{0, "tls-cert", "FILE",
			"certificate (PEM, with its chain): what --listen names speaks TLS then",
			OPT_STRING, &s->tls_cert},
		{0, "tls-key", "FILE", "its key (PEM); both are read again at SIGHUP", OPT_STRING,
			&s->tls_key},
		{0, "listen-plain", "ADDR:PORT",
			"where clients connect without TLS beside that (default: nowhere)",
			OPT_STRING, &s->listen_plain},
		{0, "listen-h2c", "ADDR:PORT",
			"where clients connect with HTTP/2 without TLS, as gRPC does (default: "
			"nowhere)",
			OPT_STRING, &s->listen_h2c},
		{0},
	};
	_Static_assert(ARRAY_SIZE(options) == N_SETTINGS + 1, "N_SETTINGS");
	memcpy(ret, options, sizeof options);
	for (size_t i = 0; i < N_SETTINGS; i++)
		ret[i].present = &s->given[i];
}

int settings_read(struct settings *s, const struct cli_option *options, bool is_host, struct err *e)
{
	bool is_named = s->config != NULL;
	if (!is_named)
		s->config = is_host ? CONFIG_DEFAULT : CONFIG_CONTROL;
	struct file_reader f = {.options = options, .settings = s, .path = s->config, .e = e};
	int rc = read_config(&f, is_named);
	if (rc < 0)
		return rc;
	if (!s->data_dir && !is_host) {
		char *apart = str_printf("%s" CLI_CONTROL_SUFFIX, cli_data_dir(NULL));
		rc = keep(s, apart);
		if (rc < 0)
			return err_errno(e, rc, "start");
		s->data_dir = apart;
	}
	s->data_dir = cli_data_dir(s->data_dir);
	if (!s->run_dir)
		s->run_dir = is_host ? PATH_RUN_DEFAULT : PATH_RUN_DEFAULT CLI_CONTROL_SUFFIX;
	if (!s->host_socket && !is_host)
		s->host_socket = PATH_RUN_DEFAULT "/" HOST_SOCKET;
	return 0;
}

void settings_done(struct settings *s)
{
	for (size_t i = 0; i < s->n_kept; i++)
		free(s->kept[i]);
	free(s->kept);
}
