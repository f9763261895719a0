// SPDX-License-Identifier: Apache-2.0
// The real control plane with its edge, on a model host whose sandboxes are all at one address.
//
//	model_server DIR LISTEN ADDRESS [CHILDREN [TRUSTED [LIMITS [PLAIN H2C CERT KEY]]]]
//
// DIR gets data/ and run/. Of every fork those children do not come up whose bits are set in
// CHILDREN. TRUSTED: the proxies that the edge believes. LIMITS: the
// edge's, four numbers with ',' between, as struct edge_limits has them. Prints "ready" and runs
// until SIGTERM.
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include "base/file.h"
#include "base/log.h"
#include "control/control.h"
#include "control/edge/conf.h"
#include "../../unit/control/model.h"

int main(int argc, char **argv)
{
	if (argc < 4 || argc > 11) {
		fprintf(stderr,
			"usage: model_server DIR LISTEN ADDRESS [CHILDREN [TRUSTED [LIMITS]]]\n");
		return 2;
	}
	log_setup("model_server", LOG_LEVEL_WARN);
	sigset_t stop;
	sigemptyset(&stop);
	sigaddset(&stop, SIGTERM);
	sigaddset(&stop, SIGINT);
	sigaddset(&stop, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &stop, NULL);
	signal(SIGPIPE, SIG_IGN);

	static struct model model;
	model_init(&model);
	snprintf(model.address, sizeof model.address, "%s", argv[3]);
	model.fail_children = argc > 4 ? (unsigned)strtoul(argv[4], NULL, 0) : 0;
	_cleanup_free_ char *data = str_printf("%s/data", argv[1]);
	_cleanup_free_ char *run = str_printf("%s/run", argv[1]);
	struct edge_limits limits;
	if (argc > 6 && argv[6][0] &&
		sscanf(argv[6], "%u,%u,%u,%u", &limits.address_connections, &limits.address_rate,
			&limits.sandbox_connections, &limits.sandbox_rate) != 4)
		return 2;
	const struct control_config cfg = {.data_dir = data,
		.run_dir = run,
		.listen = argv[2],
		.trusted = argc > 5 && argv[5][0] ? argv[5] : NULL,
		.limits = argc > 6 && argv[6][0] ? &limits : NULL,
		.listen_plain = argc > 7 ? argv[7] : NULL,
		.listen_h2c = argc > 8 ? argv[8] : NULL,
		.tls_cert = argc > 10 && argv[9][0] ? argv[9] : NULL,
		.tls_key = argc > 10 && argv[10][0] ? argv[10] : NULL,
		.host = model_host(&model)};
	struct control *c = NULL;
	struct err e = {0};
	int r = file_mkdir_p(AT_FDCWD, data, 0700);
	if (r == 0)
		r = control_start(&cfg, &c, &e);
	if (r < 0) {
		fprintf(stderr, "model_server: %s\n", err_text(&e, r));
		return 1;
	}
	puts("ready");
	fflush(stdout);
	int sig;
	while (sigwait(&stop, &sig) == 0 && sig == SIGHUP) {
		struct err why = {0};
		if (control_reload(c, &why) < 0)
			printf("refused: %s\n", why.text);
		else
			puts("reloaded");
		fflush(stdout);
	}
	control_stop(c);
	model_done(&model);
	return 0;
}
