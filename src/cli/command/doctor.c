// SPDX-License-Identifier: Apache-2.0
// doctor: one line for each thing that a sandbox needs of this machine, found out by trying it.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/missing.h"
#include "base/paths.h"
#include "base/proc.h"
#include "base/str.h"
#include "cli/base/local.h"
#include "cli/base/option.h"
#include "cli/base/output.h"
#include "cli/command/all.h"
#include "cli/command/kept.h"
#include "cli/command/nested.h"
#include "cli/command/weak_agents.h"
#include "cli/command/pagemap.h"
#include "disk/disk.h"
#include "disk/space.h"
#include "disk/image.h"
#include "vmm/vmm.h"
#include "sandbox/machine/runtime_file.h"
#include "net/resolvers.h"

#define PROBE_TIMEOUT_MS 60000
#define PROGRAM_MS 60000 // a dead man's switch, for one that prints a few lines

enum verdict { OK, DEGRADED, MISSING };
static const char *const verdict_names[] = {"ok", "degraded", "missing"};

struct report {
	json_t *checks;
	const char *data_dir;
	const char *firecracker;
	unsigned missing;
};

static void tell(struct report *r, const char *name, enum verdict v, const char *remedy,
	const char *fmt, ...) _printf_(5, 6);
static void tell(struct report *r, const char *name, enum verdict v, const char *remedy,
	const char *fmt, ...)
{
	char text[400];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	r->missing += v == MISSING;
	json_array_append_new(
		r->checks, json_pack("{s:s,s:s,s:s,s:s?}", "name", name, "status", verdict_names[v],
				   "text", text, "remedy", v == OK ? NULL : remedy));
}

// Absolute path of a program of PATH or of the system's own directories; owned by the caller.
static char *find_program(const char *name)
{
	const char *path = getenv("PATH");
	_cleanup_free_ char *all =
		str_printf("%s:/usr/local/sbin:/usr/sbin:/sbin", path ? path : "");
	char *rest = all;
	if (strchr(name, '/'))
		return access(name, X_OK) == 0 ? strdup(name) : NULL;
	for (char *dir; (dir = strsep(&rest, ":"));) {
		char *full = *dir ? str_printf("%s/%s", dir, name) : NULL;
		if (full && access(full, X_OK) == 0)
			return full;
		free(full);
	}
	return NULL;
}

static void check_root(struct report *r)
{
	if (geteuid() == 0)
		tell(r, "root", OK, NULL, "running as root");
	else
		tell(r, "root", MISSING, "sudo stasis doctor",
			"running as uid %u: namespaces, mounts and the checks below need root",
			(unsigned)geteuid());
}

static void check_kernel(struct report *r)
{
	struct utsname u;
	unsigned major = 0, minor = 0;
	uname(&u);
	if (sscanf(u.release, "%u.%u", &major, &minor) != 2 || major < 6 ||
		(major == 6 && minor < 1))
		tell(r, "kernel", MISSING, "apt-get install linux-image-amd64 and boot it",
			"Linux %s is older than 6.1", u.release);
	else
		tell(r, "kernel", OK, NULL, "Linux %s", u.release);
}

static void check_programs(struct report *r)
{
	_cleanup_free_ char *parts = strdup(STASIS_PARTS); // of packaging/installed
	_cleanup_strbuf_ struct strbuf absent = {0};
	char *rest = parts;
	for (const char *name; (name = strsep(&rest, " "));) {
		_cleanup_free_ char *path = paths_find(name);
		if (!path)
			strbuf_addf(&absent, "%s%s", absent.len ? ", " : "", name);
	}
	if (absent.len)
		tell(r, "programs", MISSING, "make && make install", "not found: %s", absent.data);
	else
		tell(r, "programs", OK, NULL, "all parts of Stasis are in place");
}

static void check_discard(struct report *r, const struct vmm_version *v)
{
	if (vmm_can_discard(v))
		tell(r, "discard", OK, NULL, "space that guests free comes back at a pause");
	else
		tell(r, "discard", DEGRADED, "Firecracker 1.17 or newer",
			"Firecracker %s: space that guests free stays in use", v->text);
}

// false: none that can be used; has said so where one is named.
static bool check_firecracker(struct report *r, char **ret_path, struct vmm_version *ret)
{
	struct err e = {0};
	_cleanup_free_ char *path = find_program(r->firecracker);
	bool named = strchr(r->firecracker, '/');
	if (!path && !named)
		return false;
	if (vmm_program_version(path ? path : r->firecracker, ret, &e) < 0) {
		tell(r, "firecracker", named ? MISSING : DEGRADED,
			"the binary of a Firecracker release, " VMM_OLDEST " or newer", "%s",
			e.text);
		return false;
	}
	if (!vmm_diff_is_right(ret, UINT32_MAX))
		tell(r, "firecracker", DEGRADED, "Firecracker 1.14.2 or newer",
			"%s, version %s: guests of over 3 GiB are refused, its snapshots of them "
			"are damaged",
			path, ret->text);
	else
		tell(r, "firecracker", OK, NULL, "%s, version %s", path, ret->text);
	*ret_path = TAKE_PTR(path);
	return true;
}

static void check_vmm(struct report *r)
{
	_cleanup_free_ char *firecracker = NULL;
	struct vmm_version version_of_fc;
	bool usable = check_firecracker(r, &firecracker, &version_of_fc);
	_cleanup_free_ char *qemu = find_program("qemu-system-x86_64");
	_cleanup_free_ char *fcqemu = paths_find("fcqemu");
	_cleanup_strbuf_ struct strbuf out = {0};
	_cleanup_json_ json_t *probe = NULL;
	struct err e = {0};
	if (!qemu) {
		tell(r, "vmm", usable ? DEGRADED : MISSING,
			usable ? "stasis serve --vmm firecracker, or apt-get install "
				 "qemu-system-x86"
			       : "apt-get install qemu-system-x86",
			"no qemu-system-x86_64 (also needed to find out whether KVM works)");
		return;
	}
	if (!fcqemu ||
		proc_run((const char *const[]){fcqemu, "--probe", NULL}, NULL, 0, PROBE_TIMEOUT_MS,
			&out, &e) < 0 ||
		json_parse_object(out.data, out.len, &probe, &e) < 0) {
		tell(r, "vmm", MISSING, "make, or make install", "fcqemu --probe: %s",
			fcqemu ? e.text : "not found");
		return;
	}
	const char *reason = json_string_value(json_object_get(probe, "kvm_reason"));
	const char *version = json_string_value(json_object_get(probe, "qemu_version"));
	bool kvm = str_eq(json_string_value(json_object_get(probe, "accel")), "kvm");
	if (kvm && usable)
		tell(r, "vmm", OK, NULL, "%s", firecracker);
	else
		tell(r, "vmm", OK, NULL, "%s, version %s", qemu, version ? version : "unknown");
	check_discard(r, kvm && usable ? &version_of_fc : &(struct vmm_version){.fcqemu = true});
	if (kvm && usable)
		tell(r, "isolation", OK, NULL, "hardware (KVM), Firecracker");
	else if (kvm)
		tell(r, "isolation", DEGRADED, "install the firecracker binary in PATH",
			"hardware (KVM), but QEMU instead of Firecracker");
	else
		tell(r, "isolation", DEGRADED,
			"a machine, or VM with nested virtualisation, whose /dev/kvm works",
			"emulated: %s; %sguests run several times slower",
			reason && *reason ? reason : "KVM does not work here",
			usable ? "Firecracker cannot be used, " : "");
}

// An old VMM is an old set of holes, for as long as a snapshot needs it.
static void check_kept(struct report *r)
{
	_cleanup_free_ char *qemu = find_program("qemu-system-x86_64");
	_cleanup_free_ char *firecracker = find_program(r->firecracker);
	_cleanup_strbuf_ struct strbuf out = {0};
	struct vmm_version fc;
	struct kept_host here[2];
	char version[32] = "", oldest[32];
	struct kept k;
	struct err e = {0};
	size_t n = 0;
	if (qemu && proc_run((const char *const[]){qemu, "--version", NULL}, NULL, 0,
			    PROBE_TIMEOUT_MS, &out, NULL) == 0) {
		const char *p = out.data ? strstr(out.data, "version ") : NULL;
		snprintf(version, sizeof version, "%.*s", p ? (int)strspn(p + 8, "0123456789.") : 0,
			p ? p + 8 : "");
		here[n] = (struct kept_host){.program = "qemu", .version = version};
		runtime_package(qemu, here[n].package, sizeof here[n].package);
		n++;
	}
	if (firecracker && vmm_program_version(firecracker, &fc, NULL) == 0)
		here[n++] = (struct kept_host){.program = "firecracker", .version = fc.text};
	if (kept_look(r->data_dir, here, n, &k, &e) < 0)
		return; // the volume has said so
	clock_format_rfc3339(k.oldest_ns, oldest);
	if (!k.vmms)
		tell(r, "kept VMMs", OK, NULL, "no snapshot needs an older one");
	else
		tell(r, "kept VMMs", DEGRADED,
			"'stasis runtime ls' shows them; 'stasis snapshot rewarm NAME' takes a "
			"named snapshot again, 'stasis resume --disk-only' boots a paused sandbox",
			"%u that %s not this machine's (%s%s), held by %u snapshots, the oldest of "
			"%.10s",
			k.vmms, k.vmms == 1 ? "is" : "are", k.example, k.vmms == 1 ? "" : ", ...",
			k.snapshots, k.snapshots ? oldest : "-");
}

// Guests are not given what it takes, by QEMU (src/fcqemu/qemu.c) and Firecracker (src/vmm/vmm.c);
// what a VMM that was taken over gives its guest is the kernel's to say.
static void check_nested(struct report *r)
{
	const char *module = nested_module("/sys/module");
	if (module)
		tell(r, "nested guests", DEGRADED,
			"'options kvm_amd nested=0' and 'options kvm_intel nested=0' in a file of "
			"/etc/modprobe.d, then boot",
			"%s has nested=1: a VMM may give guests virtualisation of their own, which "
			"is more ways into this kernel",
			module);
	else
		tell(r, "nested guests", OK, NULL, "KVM offers guests no virtualisation");
}

static void check_userfaultfd(struct report *r)
{
	_cleanup_close_ int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	_cleanup_close_ int fd = dev >= 0 ? ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC)
					  : (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	if (fd < 0) {
		tell(r, "userfaultfd", MISSING,
			"sysctl vm.unprivileged_userfaultfd=1, or a kernel with CONFIG_USERFAULTFD",
			"%s", strerror(errno));
		return;
	}
	struct uffdio_api api = {.api = UFFD_API};
	if (ioctl(fd, UFFDIO_API, &api) < 0) {
		tell(r, "userfaultfd", MISSING, "boot a newer kernel", "UFFDIO_API: %s",
			strerror(errno));
		return;
	}
	const struct {
		uint64_t bit;
		const char *name;
	} wanted[] = {
		{UFFD_FEATURE_PAGEFAULT_FLAG_WP, "write-protect"},
		{UFFD_FEATURE_EVENT_REMOVE, "remove events"},
		{UFFD_FEATURE_WP_UNPOPULATED, "write-protect of absent pages"},
		{UFFD_FEATURE_WP_ASYNC, "asynchronous write-protect"},
	};
	_cleanup_strbuf_ struct strbuf absent = {0};
	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
		if (!(api.features & wanted[i].bit))
			strbuf_addf(&absent, "%s%s", absent.len ? ", " : "", wanted[i].name);
	if (absent.len)
		tell(r, "userfaultfd", DEGRADED, "boot Linux 6.7 or newer (bookworm-backports)",
			"works without: %s", absent.data);
	else
		tell(r, "userfaultfd", OK, NULL, "all features");
}

// Of fcqemu's guests; Firecracker has KVM's own log.
static void check_pagemap(struct report *r)
{
	if (pagemap_scan_works()) {
		tell(r, "pagemap", OK, NULL, "PAGEMAP_SCAN works");
		return;
	}
	uint64_t ms = pagemap_compare_ms();
	char cost[80] = "";
	if (ms)
		snprintf(cost, sizeof cost, " (%llu ms of a processor for 100 MiB, tried just now)",
			(unsigned long long)ms);
	tell(r, "pagemap", DEGRADED, "boot Linux 6.7 or newer (bookworm-backports)",
		"no PAGEMAP_SCAN: a pause under QEMU reads and compares all that the guest touched "
		"since its start%s; what is kept is the same",
		cost);
}

static void check_data(struct report *r)
{
	struct volume_info info;
	struct err e = {0};
	bool reflink = false, holes = false;
	if (volume_open(r->data_dir, &info, &e) < 0) {
		tell(r, "data volume", MISSING, "stasis setup volume --size 20G", "%s", e.text);
		return;
	}
	_cleanup_close_ int fd = open(r->data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || disk_probe(fd, &reflink, &holes, &e) < 0) {
		tell(r, "data volume", MISSING, "stasis setup check", "%s: %s", r->data_dir,
			fd < 0 ? strerror(errno) : e.text);
		return;
	}
	if (!reflink)
		tell(r, "data volume", DEGRADED, "stasis setup volume --size 20G",
			"%s: no reflink, each create copies its disk", r->data_dir);
	else if (!holes)
		tell(r, "data volume", DEGRADED, "a file system with blocks of 4 KiB",
			"%s: holes of 4 KiB do not work, snapshots take more room", r->data_dir);
	else
		tell(r, "data volume", OK, NULL, "%s: reflink and holes of 4 KiB", r->data_dir);

	struct disk_space s;
	char free_text[24], reserve_text[24];
	if (disk_space(fd, &s) < 0)
		return;
	uint64_t reserve = disk_reserve(&s, 0, 0), inodes = disk_inode_reserve(&s);
	human_size(s.free, free_text);
	human_size(reserve, reserve_text);
	bool few = s.free_inodes < inodes;
	tell(r, "disk space",
		s.free < reserve || few			      ? MISSING
		: s.free < 4 * reserve || s.free < 4ull << 30 ? DEGRADED
							      : OK,
		"remove what 'stasis du' shows to free most, or make a larger volume",
		"%s free on %s%s; below %s nothing new starts", free_text, r->data_dir,
		few ? ", but no room for more files" : "", reserve_text);
}

static void check_image(struct report *r)
{
	struct image_info image;
	struct err e = {0};
	if (image_load(r->data_dir, "base", &image, &e) == 0)
		tell(r, "image", OK, NULL, "template base, Linux %s", image.kernel_release);
	else
		tell(r, "image", MISSING, "stasis image build base", "%s", e.text);
}

// What was mended in the agent is not mended in the memory of earlier snapshots.
static void check_agents(struct report *r)
{
	_cleanup_(weak_agents_done) struct weak_agents w;
	if (weak_agents_look(r->data_dir, &w, NULL) < 0 || !w.snapshots)
		return;
	if (w.weak)
		tell(r, "agents", DEGRADED,
			"see 'stasis get ID' and 'stasis snapshot check NAME'; make them anew",
			"%u of %u snapshots have an agent with a known weakness: %s", w.weak,
			w.snapshots, w.names.data ? w.names.data : "");
	else
		tell(r, "agents", OK, NULL, "%u snapshots, none has an agent with a known weakness",
			w.snapshots);
}

static void check_devices(struct report *r)
{
	_cleanup_close_ int tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	if (tun >= 0)
		tell(r, "tun", OK, NULL, "/dev/net/tun opens");
	else
		tell(r, "tun", MISSING, "modprobe tun", "/dev/net/tun: %s", strerror(errno));
	_cleanup_close_ int loop = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (loop >= 0)
		tell(r, "loop", OK, NULL, "/dev/loop-control opens");
	else
		tell(r, "loop", DEGRADED, "modprobe loop",
			"/dev/loop-control: %s; the data directory must have reflink itself",
			strerror(errno));
}

static void check_nft(struct report *r)
{
	_cleanup_free_ char *nft = find_program("nft");
	struct err e = {0};
	if (!nft)
		tell(r, "nft", MISSING, "apt-get install nftables", "nft is not installed");
	else if (proc_run((const char *const[]){nft, "list", "tables", NULL}, NULL, 0, PROGRAM_MS,
			 NULL, &e) < 0)
		tell(r, "nft", MISSING, "modprobe nf_tables", "%s", e.text);
	else
		tell(r, "nft", OK, NULL, "%s works", nft);
}

static void check_dns(struct report *r)
{
	struct resolvers found;
	char from[RESOLVERS_FROM_SIZE], list[RESOLVERS_TEXT_SIZE];
	bool ok = resolvers_of_host(&found, from);
	resolvers_format(&found, list);
	if (ok)
		tell(r, "dns", OK, NULL, "guests ask %s, as this machine does (%s)", list, from);
	else
		tell(r, "dns", DEGRADED, "dns = ADDRESS in the settings of the server",
			"%s names no server that guests reach (on loopback, or IPv6): they ask %s",
			from, list);
}

static void check_nginx(struct report *r)
{
	_cleanup_free_ char *nginx = find_program("nginx");
	struct err e = {0};
	_cleanup_strbuf_ struct strbuf out = {0};
	if (!nginx)
		tell(r, "nginx", MISSING, "apt-get install nginx-light", "nginx is not installed");
	else if (proc_run((const char *const[]){nginx, "-V", NULL}, NULL, 0, PROGRAM_MS, &out, &e) <
		 0)
		tell(r, "nginx", MISSING, "apt-get install --reinstall nginx-light", "%s", e.text);
	else if (!strstr(out.data, "http_auth_request_module") ||
		 !strstr(out.data, "http_realip_module"))
		tell(r, "nginx", MISSING, "apt-get install nginx-light",
			"%s lacks the auth_request or the realip module", nginx);
	else
		tell(r, "nginx", OK, NULL, "%s with auth_request", nginx);
}

static void check_cgroups(struct report *r)
{
	struct statfs s;
	if (statfs("/sys/fs/cgroup", &s) == 0 && s.f_type == CGROUP2_SUPER_MAGIC)
		tell(r, "cgroups", OK, NULL, "version 2");
	else
		tell(r, "cgroups", DEGRADED, "boot with systemd.unified_cgroup_hierarchy=1",
			"no cgroup v2 on /sys/fs/cgroup: sandboxes can't be limited by it");
}

static void check_memory(struct report *r)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	unsigned long long kib = 0;
	char text[24];
	const char *p = file_read(AT_FDCWD, "/proc/meminfo", 65536, &b) == 0
				? strstr(b.data, "MemAvailable:")
				: NULL;
	if (p)
		sscanf(p, "MemAvailable: %llu", &kib);
	human_size(kib << 10, text);
	tell(r, "memory",
		kib < 512u << 10 ? MISSING
		: kib < 2u << 20 ? DEGRADED
				 : OK,
		"end other programs, or use a larger machine", "%s available", text);
}

static void check_limits(struct report *r)
{
	struct rlimit l;
	if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_max >= 65536)
		tell(r, "descriptors", OK, NULL, "limit of %llu", (unsigned long long)l.rlim_max);
	else
		tell(r, "descriptors", DEGRADED, "ulimit -Hn 65536 (LimitNOFILE= in a unit)",
			"limit of %llu: too few for hundreds of sandboxes",
			(unsigned long long)l.rlim_max);
}

static void check_port(struct report *r)
{
	const uint16_t port = 7070;
	struct sockaddr_in a = {.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int one = 1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0)
		tell(r, "port", OK, NULL, "127.0.0.1:%u is free", port);
	else
		tell(r, "port", DEGRADED, "stasis health, or: stasis serve --listen 127.0.0.1:PORT",
			"127.0.0.1:%u is taken, perhaps by a running server", port);
}

int cmd_doctor(struct cli *c, struct err *e)
{
	static void (*const checks[])(struct report *) = {check_root, check_kernel, check_programs,
		check_vmm, check_nested, check_userfaultfd, check_pagemap, check_data, check_kept,
		check_image, check_agents, check_devices, check_nft, check_dns, check_nginx,
		check_cgroups, check_memory, check_limits, check_port};
	_cleanup_json_ json_t *list = json_array();
	struct report r = {.checks = list, .firecracker = "firecracker"};
	const struct cli_option options[] = {
		{0, "data-dir", "DIR",
			"data directory (default: STASIS_DATA, else " PATH_DATA_DEFAULT ")",
			OPT_STRING, &r.data_dir},
		{0, "firecracker", "FILE", "the VMM's binary (default: firecracker of PATH)",
			OPT_STRING, &r.firecracker},
		{0},
	};
	int rc = cli_parse(c, options, 0, 0, e);
	if (rc != 0)
		return rc;
	r.data_dir = cli_data_dir(r.data_dir);
	for (size_t i = 0; i < ARRAY_SIZE(checks); i++)
		checks[i](&r);
	c->exit_code = r.missing > 0;
	if (c->json) {
		_cleanup_json_ json_t *j = json_pack("{s:O}", "checks", list);
		return output_json(j);
	}
	const json_t *check;
	size_t i;
	_cleanup_table_ struct table t;
	table_init(&t, (const char *const[]){"CHECK", "STATUS", "FOUND", NULL});
	t.states = 1;
	json_array_foreach (list, i, check) {
		const char *remedy = json_string_value(json_object_get(check, "remedy"));
		table_cell(&t, "%s", json_string_value(json_object_get(check, "name")));
		table_cell(&t, "%s", json_string_value(json_object_get(check, "status")));
		table_cell(&t, "%s%s%s", json_string_value(json_object_get(check, "text")),
			remedy ? "; mend: " : "", remedy ? remedy : "");
	}
	return table_print(&t, stdout);
}
