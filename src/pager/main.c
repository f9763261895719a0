// SPDX-License-Identifier: Apache-2.0
// stasis-pager: see pager.h. Exit status: 0 the VM has ended, 1 a page could not be served (reason
// on stderr), 2 wrong arguments, 3 no VMM, or no whole hand-shake (the shim knows 0 and 3).
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include "base/str.h"
#include "pager/pager.h"

static const char usage[] =
	"usage: stasis-pager --socket PATH --header PATH --layers DIR [--working-set PATH]\n"
	"                    [--record PATH] [--stats PATH] [--prefetch-cap BYTES] [--timeout-ms "
	"N]\n";

static int parse(int argc, char **argv, struct pager_config *c)
{
	const struct option options[] = {
		{"socket", required_argument, NULL, 's'},
		{"header", required_argument, NULL, 'h'},
		{"layers", required_argument, NULL, 'l'},
		{"working-set", required_argument, NULL, 'w'},
		{"record", required_argument, NULL, 'r'},
		{"stats", required_argument, NULL, 't'},
		{"prefetch-cap", required_argument, NULL, 'p'},
		{"timeout-ms", required_argument, NULL, 'm'},
		{0},
	};
	uint64_t timeout = PAGER_TIMEOUT_MS;
	int o, r = 0;
	while ((o = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (o) {
		case 's':
			c->socket = optarg;
			break;
		case 'h':
			c->header = optarg;
			break;
		case 'l':
			c->layers = optarg;
			break;
		case 'w':
			c->working_set = optarg;
			break;
		case 'r':
			c->record = optarg;
			break;
		case 't':
			c->stats = optarg;
			break;
		case 'p':
			r |= str_to_u64(optarg, UINT64_MAX, &c->prefetch_cap);
			break;
		case 'm':
			r |= str_to_u64(optarg, 600000, &timeout);
			break;
		default:
			return -EINVAL;
		}
	}
	c->timeout_ms = (int)timeout;
	return r < 0 || optind < argc || !c->socket || !c->header || !c->layers ? -EINVAL : 0;
}

int main(int argc, char **argv)
{
	struct pager_config config = {.prefetch_cap = PAGER_PREFETCH_CAP};
	struct err e = {0};
	if (parse(argc, argv, &config) < 0) {
		fputs(usage, stderr);
		return 2;
	}
	prctl(PR_SET_NAME, "stasis-pager"); // a jail starts it by its dynamic linker
	signal(SIGPIPE, SIG_IGN);
	int r = pager_run(&config, &e);
	if (r == 0)
		return 0;
	fprintf(stderr, "stasis-pager: %s\n", err_text(&e, r));
	return r == -EPROTO ? 3 : 1;
}
