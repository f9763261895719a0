// SPDX-License-Identifier: Apache-2.0
#include "control/edge/conf.h"
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include "base/embed.h"
#include "base/file.h"
#include "base/proc.h"
#include "base/str.h"

extern const struct embed control_nginx[]; // nginx.conf.in

static const char *const worker_users[] = {"www-data", "nginx", "nobody"};

const struct passwd *conf_worker_user(struct passwd *pw, char *buf, size_t size)
{
	struct passwd *found = NULL;
	for (size_t i = 0; i < ARRAY_SIZE(worker_users) && !found; i++)
		if (getpwnam_r(worker_users[i], pw, buf, size, &found) != 0)
			found = NULL;
	return found;
}

static bool is_plain(const char *text, const char *more)
{
	for (; *text; text++)
		if (!((*text >= 'a' && *text <= 'z') || (*text >= '0' && *text <= '9') ||
			    strchr(more, *text)))
			return false;
	return true;
}

int conf_write(const char *path, const char *listen, const struct edge_config *cfg, struct err *e)
{
	static const char path_chars[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ/._+=,:-";
	if (!is_plain(cfg->domain, ".-") || !cfg->domain[0])
		return err_set(e, ERR_INVALID,
			"domain '%s': must be lower-case letters, digits, '-' and '.'",
			cfg->domain);
	if (!is_plain(cfg->dir, path_chars) || !is_plain(cfg->socket, path_chars))
		return err_set(e, ERR_INVALID,
			"the run directory must have a name of letters, digits and /._+=,:- only: "
			"%s",
			cfg->dir);
	_cleanup_strbuf_ struct strbuf domain = {0}, conf = {0};
	for (const char *p = cfg->domain; *p; p++)
		strbuf_addf(&domain, "%s%c", *p == '.' ? "\\" : "", *p);
	struct passwd pw;
	char buf[1024], user[80] = "", workers[16];
	const struct passwd *found = geteuid() == 0 ? conf_worker_user(&pw, buf, sizeof buf) : NULL;
	if (found)
		snprintf(user, sizeof user, "user %s;", found->pw_name);
	snprintf(workers, sizeof workers, "%ld", MIN(MAX(sysconf(_SC_NPROCESSORS_ONLN), 1), 4));
	const struct {
		const char *name, *value;
	} values[] = {
		{"@USER@", user},
		{"@WORKERS@", workers},
		{"@DIR@", cfg->dir},
		{"@LISTEN@", listen},
		{"@DOMAIN@", domain.data},
		{"@SOCKET@", cfg->socket},
		{"@KEY@", cfg->key},
	};
	for (const char *p = control_nginx[0].data; *p;) {
		size_t plain = strcspn(p, "@"), i = 0;
		strbuf_add(&conf, p, plain);
		p += plain;
		while (i < ARRAY_SIZE(values) && !str_starts(p, values[i].name))
			i++;
		if (i < ARRAY_SIZE(values)) {
			strbuf_adds(&conf, values[i].value);
			p += strlen(values[i].name);
		} else if (*p) {
			strbuf_addc(&conf, *p++); // a named location
		}
	}
	if (strbuf_check(&domain) < 0 || strbuf_check(&conf) < 0)
		return err_errno(e, ENOMEM, "nginx.conf");
	int r = file_write_atomic(AT_FDCWD, path, conf.data, conf.len, 0600);
	return r < 0 ? err_errno(e, r, "%s", path) : 0;
}

int conf_check(const char *program, const char *dir, const char *path, struct err *e)
{
	const char *const argv[] = {
		program, "-t", "-q", "-e", "stderr", "-p", dir, "-c", path, NULL};
	int r = proc_run(argv, NULL, 0, 10000, NULL, e);
	return r < 0 ? err_prefix(e, r, "the edge's configuration was refused") : 0;
}
