// SPDX-License-Identifier: Apache-2.0
// The log and metrics files of PUT /logger and PUT /metrics. Nothing is written until they are set;
// a failed write is dropped, as a full log must not stop a guest.
#pragma once
#include "base/err.h"
#include "fcqemu/body.h"

enum report_level { REPORT_OFF, REPORT_ERROR, REPORT_WARN, REPORT_INFO, REPORT_DEBUG };

enum report_latency {
	REPORT_PAUSE,
	REPORT_RESUME,
	REPORT_FULL_CREATE,
	REPORT_DIFF_CREATE,
	REPORT_LOAD,
	REPORT_LATENCIES,
};

struct report {
	const char *id;
	int log_fd, metrics_fd; // -1: not set
	enum report_level level;
	bool show_level;
	uint64_t requests, failed;
	uint64_t latency_us[REPORT_LATENCIES]; // the last one of each
};

void report_init(struct report *r, const char *id);
void report_done(struct report *r);
extern const struct body_shape report_logger_shape, report_metrics_shape;
int report_put_logger(struct report *r, const json_t *body, struct err *e);
int report_put_metrics(struct report *r, const json_t *body, struct err *e);
void report_log(struct report *r, enum report_level level, const char *fmt, ...) _printf_(3, 4);
void report_flush_metrics(struct report *r);
