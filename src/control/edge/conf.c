// SPDX-License-Identifier: Apache-2.0
#include "control/edge/conf.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include "base/embed.h"
#include "base/file.h"
#include "base/proc.h"
#include "base/str.h"

extern const struct embed control_nginx[]; // nginx.conf.in

// A dead man's switch: a program that ends is noticed at once, and one that only starts has needed
// 10 s on a machine whose processors were all taken.
#define CHECK_MS 120000

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

// One address or CIDR of the list; no bit is set behind the prefix.
static bool is_network(char *text)
{
	unsigned char a[sizeof(struct in6_addr)];
	const bool v6 = strchr(text, ':') != NULL;
	const uint64_t bits = v6 ? 128 : 32;
	uint64_t prefix = bits;
	char *slash = strchr(text, '/');
	if (slash)
		*slash = '\0';
	bool ok = inet_pton(v6 ? AF_INET6 : AF_INET, text, a) == 1 &&
		  (!slash || str_to_u64(slash + 1, bits, &prefix) == 0);
	if (slash)
		*slash = '/';
	for (uint64_t i = prefix; ok && i < bits; i++)
		ok = !(a[i / 8] >> (7 - i % 8) & 1);
	return ok;
}

// geo: lines of nginx's geo block; real_ip: its set_real_ip_from.
static int add_trusted(const char *list, struct strbuf *geo, struct strbuf *real_ip, struct err *e)
{
	static const char between[] = ", \t";
	if (str_eq(list, "none"))
		return 0;
	for (const char *p = list; *(p += strspn(p, between));) {
		char network[64];
		size_t len = strcspn(p, between);
		snprintf(network, sizeof network, "%.*s", (int)MIN(len, sizeof network), p);
		if (len >= sizeof network || !is_network(network))
			return err_set(e, ERR_INVALID,
				"trusted_proxies: '%.*s' is not an address or network "
				"(192.0.2.7, 192.0.2.0/24, 2001:db8::/32, or none)",
				(int)MIN(len, 60u), p);
		strbuf_addf(geo, "%s 1; ", network);
		strbuf_addf(real_ip, "set_real_ip_from %s; ", network);
		p += len;
	}
	return 0;
}

// What a request came from and by which name, as guests are told. A guest's server that has names
// of variables for headers (CGI, WSGI) takes '_' for '-', so other spellings of them are removed.
static void add_forwarded(const char *directive, struct strbuf *out)
{
	static const struct {
		const char *name, *value;
	} headers[] = {
		{"X-Forwarded-For", "$stasis_for"},
		{"X-Forwarded-Proto", "$stasis_proto"},
		{"X-Forwarded-Host", "$stasis_host"},
		{"X-Forwarded-Port", "$stasis_forwarded_port"},
		{"X-Forwarded-Ssl", "$stasis_said_ssl"},
		{"X-Forwarded-Scheme", "$stasis_said_scheme"},
		{"X-Forwarded-Protocol", "$stasis_said_protocol"},
		{"X-Forwarded-Prefix", "$stasis_said_prefix"},
		{"X-Real-IP", "$stasis_real_ip"},
		{"Forwarded", "$stasis_forwarded"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(headers); i++) {
		unsigned dashes = 0;
		for (const char *p = headers[i].name; *p; p++)
			dashes += *p == '-';
		// Bit n of spelling: the n-th dash is an underscore.
		for (unsigned spelling = 0; spelling < 1u << dashes; spelling++) {
			unsigned n = 0;
			strbuf_adds(out, directive);
			for (const char *p = headers[i].name; *p; p++) {
				bool other = *p == '-' && (spelling >> n++ & 1);
				strbuf_addc(out, other ? '_' : *p);
			}
			strbuf_addf(out, " %s;\n\t\t\t", spelling ? "''" : headers[i].value);
		}
	}
}

// The zones and where they count; nothing where a limit is 0. An address needs 128 bytes of a zone,
// so that these hold more of them than there are connections.
static void add_limits(const struct edge_limits *l, struct strbuf *zones, struct strbuf *strangers,
	struct strbuf *sandbox)
{
	static const char conn[] = "limit_conn_zone %s zone=%s:4m; ",
			  rate[] = "limit_req_zone %s zone=%s:4m rate=%ur/s; ";
	if (l->address_connections) {
		strbuf_addf(zones, conn, "$stasis_stranger", "strangers");
		strbuf_addf(strangers, "limit_conn strangers %u; ", l->address_connections);
	}
	if (l->address_rate) {
		strbuf_addf(zones, rate, "$stasis_stranger", "strangers_rate", l->address_rate);
		// A browser asks for hundreds of files of a page at once.
		strbuf_addf(strangers, "limit_req zone=strangers_rate burst=%u nodelay; ",
			4 * l->address_rate);
	}
	if (l->sandbox_connections) {
		strbuf_addf(zones, conn, "$stasis_id", "sandboxes");
		strbuf_addf(sandbox, "limit_conn sandboxes %u; ", l->sandbox_connections);
	}
	if (l->sandbox_rate) {
		strbuf_addf(zones, rate, "$stasis_id", "sandboxes_rate", l->sandbox_rate);
		strbuf_addf(sandbox, "limit_req zone=sandboxes_rate burst=%u nodelay; ",
			l->sandbox_rate);
	}
	// The agent keeps places for the host.
	strbuf_addf(zones, conn, "$stasis_agent_of", "agents");
	strbuf_addf(sandbox, "limit_conn agents %u; ", EDGE_AGENT_CONNECTIONS);
}

static void add_listeners(const struct conf_listeners *l, struct strbuf *out)
{
	const bool tls = l->tls.cert[0];
	// The older form of nginx: the newer one is for all addresses of a server, and not in 1.22.
	const char *const options[CONF_LISTENERS] = {
		[CONF_LISTEN] = tls ? "ssl http2" : "", [CONF_PLAIN] = "", [CONF_H2C] = "http2"};
	for (size_t i = 0; i < CONF_LISTENERS; i++)
		if (l->at[i].port)
			listen_add(out, &l->at[i], options[i]);
	if (tls)
		strbuf_addf(out, "ssl_certificate %s;\n\t\tssl_certificate_key %s;\n\t\t",
			l->tls.cert, l->tls.key);
}

static int check_names(const struct edge_config *cfg, struct err *e)
{
	static const char path_chars[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ/._+=,:-";
	if (!is_plain(cfg->domain, ".-") || !cfg->domain[0])
		return err_set(e, ERR_INVALID,
			"domain '%s': must be lower-case letters, digits, '-' and '.'",
			cfg->domain);
	if (!is_plain(cfg->dir, path_chars) || !is_plain(cfg->socket, path_chars) ||
		!is_plain(cfg->edge_socket, path_chars))
		return err_set(e, ERR_INVALID,
			"the run directory must have a name of letters, digits and /._+=,:- only: "
			"%s",
			cfg->dir);
	return 0;
}

struct placeholder {
	const char *name, *value;
};

// The template with its placeholders replaced; '@' before anything else stays.
static void fill_in(struct strbuf *out, const struct placeholder *values, size_t n)
{
	for (const char *p = control_nginx[0].data; *p;) {
		size_t plain = strcspn(p, "@"), i = 0;
		strbuf_add(out, p, plain);
		p += plain;
		while (i < n && !str_starts(p, values[i].name))
			i++;
		if (i < n) {
			strbuf_adds(out, values[i].value ? values[i].value : "");
			p += strlen(values[i].name);
		} else if (*p) {
			strbuf_addc(out, *p++); // a named location
		}
	}
}

int conf_write(const char *path, const struct conf_listeners *listeners,
	const struct edge_config *cfg, struct err *e)
{
	_cleanup_strbuf_ struct strbuf domain = {0}, geo = {0}, real_ip = {0}, forwarded = {0},
				       conf = {0}, zones = {0}, strangers = {0}, sandbox = {0},
				       listen = {0}, grpc_forwarded = {0};
	int r = check_names(cfg, e);
	if (r == 0)
		r = add_trusted(
			cfg->trusted ? cfg->trusted : CONF_TRUSTED_DEFAULT, &geo, &real_ip, e);
	if (r < 0)
		return r;
	for (const char *p = cfg->domain; *p; p++)
		strbuf_addf(&domain, "%s%c", *p == '.' ? "\\" : "", *p);
	add_forwarded("proxy_set_header ", &forwarded);
	add_forwarded("grpc_set_header ", &grpc_forwarded);
	add_listeners(listeners, &listen);
	const struct edge_limits limits = cfg->limits ? *cfg->limits : EDGE_LIMITS_DEFAULT;
	add_limits(&limits, &zones, &strangers, &sandbox);
	struct passwd pw;
	char buf[1024], user[80] = "", workers[16];
	const struct passwd *found = geteuid() == 0 ? conf_worker_user(&pw, buf, sizeof buf) : NULL;
	if (found)
		snprintf(user, sizeof user, "user %s;", found->pw_name);
	snprintf(workers, sizeof workers, "%ld", MIN(MAX(sysconf(_SC_NPROCESSORS_ONLN), 1), 4));
	const struct placeholder values[] = {
		{"@USER@", user},
		{"@WORKERS@", workers},
		{"@DIR@", cfg->dir},
		{"@LISTEN@", listen.data},
		{"@DOMAIN@", domain.data},
		{"@SOCKET@", cfg->socket},
		{"@EDGE_SOCKET@", cfg->edge_socket},
		{"@KEY@", cfg->key},
		{"@TRUSTED_GEO@", geo.data},
		{"@REAL_IP@", real_ip.data},
		{"@FORWARDED@", forwarded.data},
		{"@GRPC_FORWARDED@", grpc_forwarded.data},
		{"@LIMIT_ZONES@", zones.data},
		{"@LIMIT_STRANGERS@", strangers.data},
		{"@LIMIT_SANDBOX@", sandbox.data},
	};
	fill_in(&conf, values, ARRAY_SIZE(values));
	const struct strbuf *const parts[] = {&domain, &geo, &real_ip, &forwarded, &zones,
		&strangers, &sandbox, &listen, &grpc_forwarded, &conf};
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
		if (strbuf_check(parts[i]) < 0)
			return err_errno(e, ENOMEM, "nginx.conf");
	r = file_write_atomic(AT_FDCWD, path, conf.data, conf.len, 0600);
	return r < 0 ? err_errno(e, r, "%s", path) : 0;
}

int conf_check(const char *program, const char *dir, const char *path, struct err *e)
{
	const char *const argv[] = {
		program, "-t", "-q", "-e", "stderr", "-p", dir, "-c", path, NULL};
	int r = proc_run(argv, NULL, 0, CHECK_MS, NULL, e);
	return r < 0 ? err_prefix(e, r, "the edge's configuration was refused") : 0;
}
