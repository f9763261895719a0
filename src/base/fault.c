// SPDX-License-Identifier: Apache-2.0
#include "base/fault.h"
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"

enum action { FAIL, KILL, SLEEP };

// Written once by fault_setup before threads start; only the counters change afterwards.
static struct point {
	char name[64];
	enum action action;
	uint64_t arg, nth;
	_Atomic uint64_t seen;
} points[16];
static size_t n_points;

int fault_setup(const char *spec, struct err *e)
{
	n_points = 0;
	if (!spec || !*spec)
		return 0;
	_cleanup_free_ char *copy = strdup(spec);
	if (!copy)
		return -ENOMEM;
	char *rest = copy;
	for (char *s; (s = strsep(&rest, ","));) {
		if (n_points == ARRAY_SIZE(points))
			return err_set(e, ERR_INVALID, "STASIS_FAULT: too many points");
		struct point *p = &points[n_points];
		*p = (struct point){0};
		char *act = strrchr(s, ':'), *at = strrchr(s, '@');
		if (!act || (size_t)(act - s) >= sizeof p->name || act == s)
			return err_set(e, ERR_INVALID, "STASIS_FAULT: '%s' is not name:action", s);
		if (at && at > act) {
			*at = '\0';
			if (str_to_u64(at + 1, UINT32_MAX, &p->nth) < 0)
				return err_set(
					e, ERR_INVALID, "STASIS_FAULT: bad count in '%s'", s);
		}
		*act++ = '\0';
		snprintf(p->name, sizeof p->name, "%s", s);
		if (strcmp(act, "fail") == 0)
			p->action = FAIL;
		else if (strcmp(act, "kill") == 0)
			p->action = KILL;
		else if (str_starts(act, "sleep=") && str_to_u64(act + 6, 3600000, &p->arg) == 0)
			p->action = SLEEP;
		else
			return err_set(e, ERR_INVALID,
				"STASIS_FAULT: '%s' is not fail, kill or sleep=MS", act);
		n_points++;
	}
	return 0;
}

int fault_hit(const char *name, struct err *e)
{
	for (size_t i = 0; i < n_points; i++) {
		struct point *p = &points[i];
		if (strcmp(p->name, name) != 0)
			continue;
		uint64_t seen = atomic_fetch_add(&p->seen, 1) + 1;
		if (p->nth && seen != p->nth)
			continue;
		log_warn("fault point reached point=%s", name);
		switch (p->action) {
		case FAIL:
			return err_errno(e, EIO, "injected fault at %s", name);
		case KILL:
			kill(getpid(), SIGKILL);
			_exit(137); // PID 1 of a namespace cannot kill itself
		case SLEEP:
			clock_sleep_ns(p->arg * NSEC_PER_MSEC);
			break;
		}
	}
	return 0;
}
