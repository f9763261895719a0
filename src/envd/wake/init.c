// SPDX-License-Identifier: Apache-2.0
#include "envd/wake/init.h"
#include <fcntl.h>
#include <linux/random.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <time.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/lock.h"
#include "base/log.h"
#include "envd/wake/agent.h"
#include "envd/process/env.h"
#include "envd/process/path.h"
#include "envd/wake/resolv.h"
#include "envd/wake/resume.h"
#include "envd/wake/settings.h"

#ifndef EXT4_IOC_RESIZE_FS // fs/ext4/ext4.h of the kernel, not among its uapi headers
#define EXT4_IOC_RESIZE_FS _IOW('f', 16, uint64_t)
#endif
#ifndef EXT4_SUPER_MAGIC
#define EXT4_SUPER_MAGIC 0xEF53
#endif

#define MAX_ENTROPY 512
#define CLOCK_BEHIND_NS (50 * NSEC_PER_MSEC)
#define CLOCK_AHEAD_NS (5 * NSEC_PER_SEC)

// --- reading

static bool is_hostname(const char *s)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-");
	return n >= 1 && n <= 63 && !s[n] && s[0] != '-' && s[n - 1] != '-';
}

int init_read(json_t *body, struct init_request *ret, struct err *e)
{
	const char *timestamp = NULL, *entropy = NULL;
	struct init_request r = {0};
	const struct json_field f[] = {
		{"accessToken", JF_STRING, &r.token, .max = INIT_TOKEN_MAX},
		{"envVars", JF_OBJECT, &r.env},
		{"timestamp", JF_STRING, &timestamp},
		{"defaultUser", JF_STRING, &r.default_user, .max = 255},
		{"defaultWorkdir", JF_STRING, &r.default_workdir},
		{"hostname", JF_STRING, &r.hostname},
		{"entropy", JF_STRING, &entropy},
		{"dns", JF_STRING, &r.dns, .max = 255},
		{"dnsOwn", JF_BOOL, &r.dns_own},
		{"growRoot", JF_BOOL, &r.grow_root},
		{"resumed", JF_BOOL, &r.resumed},
		{"clockPpm", JF_INT, &r.clock_ppm, .max = INIT_CLOCK_PPM_MAX,
			.present = &r.has_clock_ppm},
	};
	int rc = json_read_fields(body, f, ARRAY_SIZE(f), true, e);
	if (rc == 0 && r.env)
		rc = env_check(r.env, e);
	if (rc == 0 && r.token && !*r.token)
		rc = err_set(e, ERR_INVALID, "accessToken: must not be empty");
	if (rc == 0 && timestamp && clock_parse_rfc3339(timestamp, &r.timestamp_ns) < 0)
		rc = err_set(e, ERR_INVALID, "timestamp: must be RFC 3339");
	if (rc == 0 && r.hostname && !is_hostname(r.hostname))
		rc = err_set(e, ERR_INVALID,
			"hostname: 1 to 63 letters, digits and hyphens, no hyphen at the ends");
	if (rc == 0 && r.dns && !resolv_is_list(r.dns))
		rc = err_set(e, ERR_INVALID, "dns: must be IPv4 addresses with commas between");
	if (rc == 0 && r.default_workdir && *r.default_workdir && *r.default_workdir != '/')
		rc = err_set(e, ERR_INVALID, "defaultWorkdir: must be an absolute path");
	if (rc == 0 && entropy &&
		(str_base64_decode(&r.entropy, entropy, strlen(entropy)) < 0 ||
			r.entropy.len > MAX_ENTROPY))
		rc = err_set(
			e, ERR_INVALID, "entropy: must be base64 of at most %d bytes", MAX_ENTROPY);
	if (rc == 0 && r.resumed && (!r.timestamp_ns || r.entropy.len < INIT_ENTROPY_MIN))
		rc = err_set(e, ERR_INVALID,
			"resumed: needs 'timestamp' and 'entropy' of at least %d bytes",
			INIT_ENTROPY_MIN);
	if (rc < 0) {
		init_request_done(&r);
		return rc;
	}
	*ret = r;
	return 0;
}

void init_request_done(struct init_request *r)
{
	strbuf_done(&r->entropy);
}

bool init_clock_is_off(uint64_t now_ns, uint64_t host_ns)
{
	return now_ns < host_ns ? host_ns - now_ns > CLOCK_BEHIND_NS
				: now_ns - host_ns > CLOCK_AHEAD_NS;
}

// A line of /etc/hosts, of n bytes, that has "localhost" among its names.
static bool names_localhost(const char *line, size_t n)
{
	static const char name[] = "localhost", blank[] = " \t\r\n";
	const char *comment = memchr(line, '#', n);
	n = comment ? (size_t)(comment - line) : n;
	for (size_t i = 1; i + strlen(name) <= n; i++) {
		size_t end = i + strlen(name);
		if (strchr(blank, line[i - 1]) && strncmp(line + i, name, strlen(name)) == 0 &&
			(end == n || strchr(blank, line[end])))
			return true;
	}
	return false;
}

bool init_hosts_text(const char *old, const char *hostname, struct strbuf *ret)
{
	char line[128];
	snprintf(line, sizeof line, "127.0.1.1\t%s\n", hostname);
	unsigned ours = 0, others = 0;
	bool localhost = false;
	_cleanup_strbuf_ struct strbuf rest = {0};
	for (const char *p = old; *p;) {
		size_t n = strcspn(p, "\n");
		n += p[n] == '\n';
		localhost |= names_localhost(p, n);
		if (strncmp(p, "127.0.1.1", 9) != 0 || !p[9] || !strchr(" \t", p[9]))
			strbuf_add(&rest, p, n);
		else if (n == strlen(line) && strncmp(p, line, n) == 0)
			ours++;
		else
			others++;
		p += n;
	}
	if (!localhost)
		strbuf_adds(
			ret, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
	strbuf_add(ret, rest.data ? rest.data : "", rest.len);
	if (ret->len && ret->data[ret->len - 1] != '\n')
		strbuf_addc(ret, '\n');
	strbuf_adds(ret, line);
	return ours != 1 || others || !localhost;
}

// --- doing

static int add_entropy(const struct strbuf *bytes, struct err *e)
{
	_Alignas(struct rand_pool_info) char room[sizeof(struct rand_pool_info) + MAX_ENTROPY];
	struct rand_pool_info *add = (struct rand_pool_info *)room;
	add->entropy_count = (int)bytes->len * 8;
	add->buf_size = (int)bytes->len;
	memcpy(add->buf, bytes->data, bytes->len);
	_cleanup_close_ int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, RNDADDENTROPY, add) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
		return err_errno(e, errno, "cannot give entropy to the kernel");
	return 0;
}

// exact: set it whatever it is. host_ns was true at the request's arrival.
static int set_clock(uint64_t host_ns, uint64_t arrived_ns, bool exact, struct err *e)
{
	uint64_t now = clock_monotonic_ns();
	host_ns += now > arrived_ns ? now - arrived_ns : 0;
	struct timespec t = {.tv_sec = (time_t)(host_ns / NSEC_PER_SEC),
		.tv_nsec = (long)(host_ns % NSEC_PER_SEC)};
	if ((exact || init_clock_is_off(clock_realtime_ns(), host_ns)) &&
		clock_settime(CLOCK_REALTIME, &t) < 0)
		return err_errno(e, errno, "cannot set the clock");
	return 0;
}

static int set_hostname(const char *name, struct err *e)
{
	_cleanup_strbuf_ struct strbuf old = {0}, text = {0};
	if (sethostname(name, strlen(name)) < 0)
		return err_errno(e, errno, "cannot set the host name");
	int rc = file_read(AT_FDCWD, "/etc/hosts", 1u << 20, &old);
	if (rc < 0 && rc != -ENOENT)
		return err_errno(e, rc, "cannot read /etc/hosts");
	if (!init_hosts_text(old.data ? old.data : "", name, &text))
		return 0;
	// In place and not synced: a container may have bound the file. Cut only where it became
	// shorter: ext4 allocates the blocks of a file that was emptied at once when it is closed.
	_cleanup_close_ int fd = open("/etc/hosts", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	rc = fd < 0 ? -errno : file_write_full(fd, text.data, text.len);
	if (rc == 0 && text.len < old.len && ftruncate(fd, (off_t)text.len) < 0)
		rc = -errno;
	if (rc < 0 && rc != -EROFS)
		return err_errno(e, rc, "cannot write /etc/hosts");
	return 0;
}

// Grows an ext4 root to the size of its device; other file systems are left alone.
static int grow_root(struct err *e)
{
	struct statfs fs;
	struct stat st;
	char path[64];
	_cleanup_free_ char *line = NULL;
	uint64_t sectors;
	_cleanup_close_ int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fstatfs(fd, &fs) < 0 || fstat(fd, &st) < 0)
		return err_errno(e, errno, "cannot look at the root file system");
	if (fs.f_type != EXT4_SUPER_MAGIC)
		return 0;
	snprintf(
		path, sizeof path, "/sys/dev/block/%u:%u/size", major(st.st_dev), minor(st.st_dev));
	int rc = file_read_line(AT_FDCWD, path, &line);
	if (rc == 0)
		rc = str_to_u64(line, UINT64_MAX / 512, &sectors);
	if (rc < 0)
		return err_errno(e, rc, "cannot read the size of the root device (%s)", path);
	uint64_t blocks = sectors * 512 / (uint64_t)fs.f_bsize;
	if (ioctl(fd, EXT4_IOC_RESIZE_FS, &blocks) < 0)
		return err_errno(e, errno, "cannot grow the root file system");
	return 0;
}

// Under the lock.
static int take_settings(struct agent *a, const struct init_request *r, struct err *e)
{
	const char *const from[] = {r->token, r->default_user, r->default_workdir};
	char **const to[] = {&a->token, &a->default_user, &a->default_workdir};
	for (size_t i = 0; i < ARRAY_SIZE(to); i++) {
		if (!from[i] || str_eq(from[i], *to[i]))
			continue;
		char *copy = strdup(from[i]);
		if (!copy)
			return err_errno(e, ENOMEM, "settings");
		free(*to[i]);
		*to[i] = copy;
	}
	if (r->env) {
		_cleanup_json_ json_t *merged = json_copy(a->env);
		if (!merged || json_object_update(merged, r->env) < 0)
			return err_errno(e, ENOMEM, "settings");
		json_decref(a->env);
		a->env = json_incref(merged);
	}
	return 0;
}

// The first caller sets the token; later ones show that they know the current one, as the header or
// by setting it again (a host that repeats a call whose answer was lost).
static int authorize(
	const struct agent *a, const struct init_request *r, const char *header, struct err *e)
{
	if (!a->token)
		return r->token ? 0
				: err_set(e, ERR_UNAUTHENTICATED,
					  "accessToken: the first call must set one");
	if (str_eq_secret(header ? header : "", a->token) ||
		(r->token && str_eq_secret(r->token, a->token)))
		return 0;
	return err_set(e, ERR_UNAUTHENTICATED,
		"X-Access-Token: must be the current token to set another one");
}

static int set_rate(struct agent *a, int ppm, struct err *e)
{
	// As it is, a time service of the user's keeps what it found out.
	if (ppm == a->clock_ppm)
		return 0;
	int rc = clock_rate_set(ppm, e);
	if (rc == 0)
		a->clock_ppm = ppm;
	return rc;
}

// Who resumes under another name is another sandbox: what its origin still had to tell is not its.
static void forget_origin(struct agent *a, const struct init_request *r)
{
	char name[65] = "";
	gethostname(name, sizeof name - 1);
	if (r->resumed && r->hostname && !str_eq(name, r->hostname))
		oom_watch_forget(process_table_oom(a->processes));
}

static int apply_settings(
	struct agent *a, const struct init_request *r, struct http_request *req, struct err *e)
{
	pthread_mutex_lock(&a->lock);
	int rc = authorize(a, r, http_req_header(req, "X-Access-Token"), e);
	bool fresh = r->timestamp_ns > a->last_init_ns;
	if (rc == 0 && r->entropy.len)
		rc = add_entropy(&r->entropy, e);
	if (rc == 0 && fresh && a->set_clock)
		rc = set_clock(r->timestamp_ns, http_req_started_ns(req), r->resumed, e);
	if (rc == 0 && r->has_clock_ppm && a->set_clock)
		rc = set_rate(a, r->clock_ppm, e);
	if (rc == 0 && fresh)
		a->last_init_ns = r->timestamp_ns;
	if (rc == 0)
		forget_origin(a, r);
	if (rc == 0 && r->hostname)
		rc = set_hostname(r->hostname, e);
	if (rc == 0 && r->dns)
		resolv_write("/etc", r->dns, r->dns_own);
	if (rc == 0)
		rc = take_settings(a, r, e);
	if (rc == 0)
		rc = settings_save(a, e);
	pthread_mutex_unlock(&a->lock);
	if (rc == 0 && r->grow_root)
		rc = grow_root(e);
	return rc;
}

static void run_hooks(struct agent *a)
{
	if (access(RESUME_HOOKS, F_OK) < 0)
		return;
	_cleanup_json_ json_t *global = agent_env(a);
	_cleanup_free_ char **env = NULL;
	struct err e = {0};
	if (env_build(ENV_PATH_DEFAULT, "root", "/root", global, NULL, &env, &e) < 0)
		log_warn("resume hooks cannot run error=%s", err_text(&e, 0));
	else
		resume_run_hooks(RESUME_HOOKS, env);
}

// Whatever fails, the processes stay frozen: none runs with stale time or another one's randomness.
static int apply(
	struct agent *a, const struct init_request *r, struct http_request *req, struct err *e)
{
	if (!r->resumed)
		return apply_settings(a, r, req, e);
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&a->resume_lock);
	int rc = apply_settings(a, r, req, e);
	if (rc == 0 && a->guest) {
		resume_end_connections(http_req_socket(req));
		run_hooks(a);
	}
	return rc == 0 ? gate_thaw(process_table_gate(a->processes), e) : rc;
}

void init_post(struct http_request *req, void *ctx)
{
	struct err e = {0};
	_cleanup_json_ json_t *body = NULL;
	_cleanup_(init_request_done) struct init_request r = {0};
	http_reply_header(req, "Cache-Control", "no-store");
	http_reply_header(req, "X-Envd-Version", ENVD_VERSION);
	if (http_req_json(req, true, &body, &e) < 0 || init_read(body, &r, &e) < 0 ||
		apply(ctx, &r, req, &e) < 0) {
		http_reply_error(req, &e);
		return;
	}
	// So the caller knows how long the time that it told was on its way.
	char took[48];
	snprintf(took, sizeof took, "init;dur=%.3f",
		(double)(clock_monotonic_ns() - http_req_started_ns(req)) / NSEC_PER_MSEC);
	http_reply_header(req, "Server-Timing", took);
	http_reply_empty(req, 204);
}
