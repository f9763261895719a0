// SPDX-License-Identifier: Apache-2.0
// fcqemu: Firecracker's HTTP API in front of QEMU, for machines without Firecracker or usable KVM.
// One process is one guest, for life. It ends when QEMU ends, with status 0 when the guest powered
// off or reset, and takes QEMU with it when it ends itself.
#include <getopt.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include "base/log.h"
#include "base/paths.h"
#include "base/proc.h"
#include "fcqemu/probe.h"
#include "fcqemu/qemu.h"
#include "fcqemu/server.h"
#include "fcqemu/snapshot.h"
#include "fcqemu/state.h"
#include "fcqemu/tap.h"

struct options {
	const char *api_sock, *id;
	const char *describe; // a state file
	bool probe, snapshot_version;
	enum log_level level;
	struct qemu_options qemu;
};

struct app {
	struct options opt;
	struct qemu qemu;
};

static int op_start(void *ctx, const struct config *c, struct err *e)
{
	struct app *a = ctx;
	return qemu_start(&a->qemu, &a->opt.qemu, c, e);
}

static int op_pause(void *ctx, struct err *e)
{
	return qemu_pause(&((struct app *)ctx)->qemu, e);
}

static int op_resume(void *ctx, struct err *e)
{
	return qemu_resume(&((struct app *)ctx)->qemu, e);
}

static int op_set_drive(
	void *ctx, size_t index, const struct drive *d, const char *path, struct err *e)
{
	return qemu_set_drive(&((struct app *)ctx)->qemu, index, d, path, e);
}

static int op_create(
	void *ctx, const struct config *c, const struct snapshot_create *s, struct err *e)
{
	struct app *a = ctx;
	return snapshot_create(&a->qemu, &a->opt.qemu, c, s, e);
}

static int op_load(void *ctx, const struct snapshot_load *l, struct config *ret, struct err *e)
{
	struct app *a = ctx;
	return snapshot_load(&a->qemu, &a->opt.qemu, l, tap_open, ret, e);
}

static const struct machine_ops ops = {
	.start = op_start,
	.pause = op_pause,
	.resume = op_resume,
	.set_drive = op_set_drive,
	.create = op_create,
	.load = op_load,
	.open_tap = tap_open,
};

static void usage(FILE *to)
{
	fprintf(to, "usage: fcqemu --api-sock PATH [--id ID] [--qemu PATH] [--ramhook PATH]\n"
		    "              [--accel auto|kvm|tcg] [--level LEVEL] [--tsc-khz KHZ]\n"
		    "              [--memory-header FILE --memory-layers DIR] [--no-pagemap-scan]\n"
		    "       fcqemu --probe [--qemu PATH]\n"
		    "       fcqemu --snapshot-version [--qemu PATH]\n"
		    "       fcqemu --describe-snapshot FILE\n"
		    "       fcqemu --version\n"
		    "Serves Firecracker's API on a Unix socket and runs the guest in QEMU.\n");
}

static bool parse_accel(const char *text, enum accel *ret)
{
	static const char *const names[] = {
		[ACCEL_AUTO] = "auto", [ACCEL_KVM] = "kvm", [ACCEL_TCG] = "tcg"};
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strcmp(text, names[i]) == 0) {
			*ret = (enum accel)i;
			return true;
		}
	return false;
}

// -1: go on; else the exit status. 153 and 152 as Firecracker's.
static int parse_options(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {{"api-sock", required_argument, NULL, 'a'},
		{"id", required_argument, NULL, 'i'}, {"qemu", required_argument, NULL, 'q'},
		{"ramhook", required_argument, NULL, 'r'}, {"accel", required_argument, NULL, 'A'},
		{"probe", no_argument, NULL, 'p'}, {"version", no_argument, NULL, 'V'},
		{"snapshot-version", no_argument, NULL, 's'},
		{"describe-snapshot", required_argument, NULL, 'd'},
		{"tsc-khz", required_argument, NULL, 't'}, {"level", required_argument, NULL, 'l'},
		{"memory-header", required_argument, NULL, 'H'},
		{"memory-layers", required_argument, NULL, 'L'},
		{"no-pagemap-scan", no_argument, NULL, 'P'}, {"help", no_argument, NULL, 'h'}, {0}};
	for (int c; (c = getopt_long(argc, argv, "h", longs, NULL)) >= 0;) {
		switch (c) {
		case 'a':
			o->api_sock = optarg;
			break;
		case 'i':
			o->id = optarg;
			break;
		case 'q':
			o->qemu.qemu = optarg;
			break;
		case 'r':
			o->qemu.ramhook = optarg;
			break;
		case 'A':
			if (parse_accel(optarg, &o->qemu.accel))
				break;
			fprintf(stderr, "fcqemu: --accel %s: auto, kvm or tcg\n", optarg);
			return 153;
		case 'p':
			o->probe = true;
			break;
		case 's':
			o->snapshot_version = true;
			break;
		case 'd':
			o->describe = optarg;
			break;
		case 't':
			if (str_to_u64(optarg, 1000000000, &o->qemu.tsc_khz) == 0)
				break;
			fprintf(stderr, "fcqemu: --tsc-khz %s: kHz\n", optarg);
			return 153;
		case 'H':
			o->qemu.memory_header = optarg;
			break;
		case 'L':
			o->qemu.memory_layers = optarg;
			break;
		case 'P': // for tests: as on a kernel before 6.7
			setenv("STASIS_NO_PAGEMAP_SCAN", "1", 1);
			break;
		case 'l':
			if (log_level_parse(optarg, &o->level))
				break;
			fprintf(stderr, "fcqemu: --level %s: error, warn, info or debug\n", optarg);
			return 153;
		case 'V':
			printf("Firecracker v%s\n", CONFIG_VERSION);
			return 0;
		case 'h':
			usage(stdout);
			return 0;
		default:
			usage(stderr);
			return 153;
		}
	}
	if (optind < argc || (!o->probe && !o->snapshot_version && !o->describe && !o->api_sock)) {
		usage(stderr);
		return 153;
	}
	return -1;
}

static bool is_instance_id(const char *s)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-");
	return n > 0 && n <= 64 && s[n] == '\0';
}

static int run_probe(const struct options *o)
{
	struct err e = {0};
	char version[32];
	if (probe_qemu_version(o->qemu.qemu, version, sizeof version, &e) < 0) {
		fprintf(stderr, "fcqemu: %s\n", e.text);
		return 1;
	}
	bool certain;
	int rc = probe_kvm(o->qemu.qemu, &certain, &e);
	// Nobody should remember what is not certain: a time-out is no answer.
	_cleanup_(json_decrefp) json_t *j = json_pack("{s:s, s:s?, s:b, s:s, s:I}", "accel",
		rc == 0 ? "kvm" : "tcg", "kvm_reason", rc == 0 ? NULL : e.text, "certain",
		(int)certain, "qemu_version", version, "tsc_khz",
		(json_int_t)tsc_khz_since(&o->qemu.mark));
	_cleanup_free_ char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
	if (!text || puts(text) < 0 || fflush(stdout) != 0)
		return 1;
	return 0;
}

static int run_snapshot_version(const struct options *o)
{
	struct err e = {0};
	char version[32], format[64];
	if (probe_qemu_version(o->qemu.qemu, version, sizeof version, &e) < 0) {
		fprintf(stderr, "fcqemu: %s\n", e.text);
		return 1;
	}
	state_format(version, format, sizeof format);
	return puts(format) < 0 || fflush(stdout) != 0;
}

static int run_describe(const char *path)
{
	struct err e = {0};
	struct state s;
	char format[64];
	int rc = state_read(path, &s, NULL, &e);
	if (rc < 0) {
		fprintf(stderr, "fcqemu: %s: %s\n", path, err_text(&e, rc));
		return 1;
	}
	state_format(s.qemu_version, format, sizeof format);
	_cleanup_(json_decrefp) json_t *j = json_pack("{s:s, s:I, s:s, s:s, s:o}", "version",
		format, "tsc_khz", (json_int_t)s.tsc_khz, "qemu_version", s.qemu_version, "accel",
		s.accel, "machine", config_state_json(&s.config));
	state_done(&s);
	_cleanup_free_ char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
	return !text || puts(text) < 0 || fflush(stdout) != 0;
}

// Signals that would end us arrive by descriptor, so that QEMU is ended in order.
static int open_signals(struct err *e)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return err_errno(e, errno, "sigprocmask");
	int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? err_errno(e, errno, "signalfd") : fd;
}

static int guest_ended(struct qemu *q)
{
	int status = 0;
	char how[64];
	qemu_reap(q, &status);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	proc_status_text(status, how, sizeof how);
	fprintf(stderr, "fcqemu: QEMU ended: %s%s%s\n", how, q->last_line[0] ? ": " : "",
		q->last_line);
	return 1;
}

enum { POLL_SIGNAL, POLL_QEMU, POLL_QMP, POLL_STDERR, POLL_SERVER };

static int serve(struct app *app, struct server *server, int signals)
{
	struct qemu *q = &app->qemu;
	for (;;) {
		struct pollfd pf[POLL_SERVER + SERVER_POLL_MAX] = {
			[POLL_SIGNAL] = {.fd = signals, .events = POLLIN},
			[POLL_QEMU] = {.fd = q->pidfd, .events = POLLIN},
			[POLL_QMP] = {.fd = q->qmp.fd, .events = POLLIN},
			[POLL_STDERR] = {.fd = q->stderr_fd, .events = POLLIN},
		};
		server_poll_fill(server, pf + POLL_SERVER);
		if (poll(pf, ARRAY_SIZE(pf), -1) < 0) {
			if (errno == EINTR)
				continue;
			fprintf(stderr, "fcqemu: poll: %s\n", strerror(errno));
			return 1;
		}
		if (pf[POLL_SIGNAL].revents) {
			struct signalfd_siginfo si;
			if (read(signals, &si, sizeof si) == sizeof si)
				return 128 + (int)si.ssi_signo;
		}
		if (pf[POLL_STDERR].revents)
			qemu_read_stderr(q);
		if (pf[POLL_QMP].revents && qmp_drain(&q->qmp) < 0)
			qmp_close(&q->qmp); // its end follows
		server_poll_run(server, pf + POLL_SERVER);
		if (server->api->ended && !server_is_sending(server)) {
			fprintf(stderr, "fcqemu: the load failed\n");
			return 1;
		}
		if (pf[POLL_QEMU].revents)
			return guest_ended(q);
	}
}

static int run(struct app *app, struct err *e)
{
	struct api api;
	struct server server;
	_cleanup_close_ int signals = open_signals(e);
	if (signals < 0)
		return signals;
	api_init(&api, app->opt.id, &ops, app);
	qemu_init(&app->qemu);
	int rc = server_open(&server, app->opt.api_sock, &api, e);
	if (rc == 0) {
		rc = serve(app, &server, signals);
		server_close(&server);
	}
	qemu_done(&app->qemu);
	api_done(&api);
	return rc;
}

int main(int argc, char **argv)
{
	struct app app = {
		.opt = {.id = "anonymous-instance",
			.level = LOG_LEVEL_INFO,
			.qemu = {.qemu = "/usr/bin/qemu-system-x86_64", .mark = tsc_mark_now()}}};
	struct err e = {0};
	signal(SIGPIPE, SIG_IGN);
	int status = parse_options(argc, argv, &app.opt);
	if (status >= 0)
		return status;
	log_setup("fcqemu", app.opt.level);
	if (app.opt.snapshot_version)
		return run_snapshot_version(&app.opt);
	if (app.opt.describe)
		return run_describe(app.opt.describe);
	if (app.opt.probe)
		return run_probe(&app.opt);
	_cleanup_free_ char *hook = app.opt.qemu.ramhook ? NULL : paths_find("ramhook.so");
	if (!app.opt.qemu.ramhook)
		app.opt.qemu.ramhook = hook;
	if (!app.opt.qemu.ramhook || access(app.opt.qemu.ramhook, R_OK) < 0 ||
		strpbrk(app.opt.qemu.ramhook, ": ")) {
		fprintf(stderr, "fcqemu: ramhook.so is not there (name it with --ramhook; no blank "
				"or colon "
				"in its path)\n");
		return 153;
	}
	if (!is_instance_id(app.opt.id)) {
		fprintf(stderr, "fcqemu: --id: 1 to 64 letters, digits and '-'\n");
		return 153;
	}
	int rc = run(&app, &e);
	if (rc < 0) {
		fprintf(stderr, "fcqemu: %s\n", err_text(&e, rc));
		return 1;
	}
	return rc;
}
