// SPDX-License-Identifier: Apache-2.0
// The settings of serve: flags of the command line, then the configuration file, then defaults.
#pragma once
#include "cli/base/option.h"

#define HOST_SOCKET "host.sock"
#define N_SETTINGS 40

struct settings {
	const char *config, *data_dir, *run_dir, *listen, *domain, *slot_range, *dns, *vmm,
		*firecracker, *nginx, *trusted_proxies, *log_level, *log_format, *role,
		*host_socket, *socket_group, *tls_cert, *tls_key, *listen_plain, *listen_h2c,
		*disk_reserve, *qemu, *vmm_floor, *webhook_allow, *ports_public;
	uint64_t max_sandboxes, warm_slots, metrics_sandboxes, overcommit_disk, overcommit_memory,
		overcommit_vcpus, answer_memory, audit_size, agent_wait;
	uint64_t address_connections, address_rate, sandbox_connections, sandbox_rate;
	bool kill_on_exit, pause_room;
	char **kept; // the texts of the file that are pointed to, and the data directory
	size_t n_kept;
	bool given[N_SETTINGS]; // by the command line
};

// The options, flags and file alike; they point into the settings.
void settings_list(struct settings *s, struct cli_option ret[N_SETTINGS + 1]);
// After the command line was parsed: adds what the file says, and the paths where none are named.
int settings_read(
	struct settings *s, const struct cli_option *options, bool is_host, struct err *e);
void settings_done(struct settings *s);
