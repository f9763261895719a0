// SPDX-License-Identifier: Apache-2.0
// Serves the contract of a host that only remembers, for clients that are not ours:
//
//	fake-host SOCKET	prints "ready"; each line on its input is an event; ends with its
// input
#include <signal.h>
#include <string.h>
#include "../../unit/hostagent/fake.h"
#include "base/log.h"

int main(int argc, char **argv)
{
	static struct fake fake;
	struct hostagent_server *server = NULL;
	struct err e = {0};
	if (argc != 2)
		return 2;
	signal(SIGPIPE, SIG_IGN);
	log_setup("fake-host", LOG_LEVEL_DEBUG);
	fake_init(&fake);
	const struct hostagent_server_config cfg = {.host = fake_host(&fake), .socket = argv[1]};
	if (hostagent_serve(&cfg, &server, &e) < 0) {
		fprintf(stderr, "%s\n", e.text);
		return 1;
	}
	puts("ready");
	fflush(stdout);
	for (int c; (c = getchar()) != EOF;)
		if (c == '\n')
			fake_add_event(&fake);
	fake_stop(&fake);
	hostagent_server_free(server);
	fake_done(&fake);
	return 0;
}
