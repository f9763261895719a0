// SPDX-License-Identifier: Apache-2.0
#include "fcqemu/config.h"
#include <ctype.h>
#include <fcntl.h>
#include <net/if.h>
#include <string.h>
#include <strings.h>
#include "base/str.h"
#include "fcqemu/body.h"

#define NO_LIMITER "QEMU's token buckets are not Firecracker's; limit on the host side"
#define DEFAULT_BOOT_ARGS                                                                          \
	"reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd "         \
	"swiotlb=noforce"

void config_init(struct config *c)
{
	*c = (struct config){.vcpus = 1, .memory_mib = 128};
}

static void drive_done(struct drive *d)
{
	free(d->id);
	free(d->path);
	free(d->partuuid);
	free(d->cache_type);
	*d = (struct drive){0};
}

static void nic_done(struct nic *n)
{
	free(n->id);
	free(n->tap);
	free(n->mac);
	safe_close(n->tap_fd);
	*n = (struct nic){.tap_fd = -1};
}

void config_done(struct config *c)
{
	free(c->kernel);
	free(c->initrd);
	free(c->boot_args);
	for (size_t i = 0; i < c->n_drives; i++)
		drive_done(&c->drives[i]);
	for (size_t i = 0; i < c->n_nics; i++)
		nic_done(&c->nics[i]);
	*c = (struct config){0};
}

int config_check_id(const char *id, struct err *e)
{
	if (!*id)
		return err_set(e, ERR_INVALID, "The ID cannot be empty.");
	for (const char *p = id; *p; p++)
		if (!isalnum((unsigned char)*p) && *p != '_')
			return err_set(e, ERR_INVALID,
				"API Resource IDs can only contain alphanumeric characters and "
				"underscores.");
	return 0;
}

static int check_same_id(const char *path_id, const char *body_id, struct err *e)
{
	if (strcmp(path_id, body_id) == 0)
		return 0;
	return err_set(e, ERR_INVALID,
		"The id from the path [%.100s] does not match the id from the body [%.100s]!",
		path_id, body_id);
}

// ---- machine

struct machine_body {
	uint64_t vcpus, memory_mib;
	bool track_dirty;
};

#define MACHINE_FIELDS(required)                                                                   \
	BODY_NUMBER(struct machine_body, vcpus, "vcpu_count", required, 255),                      \
		BODY_NUMBER(struct machine_body, memory_mib, "mem_size_mib", required, 1u << 24),  \
		BODY_REFUSED("smt", "false", "an emulated CPU has no hardware threads"),           \
		BODY_REFUSED("cpu_template", "None", "templates mask the features of a real CPU"), \
		BODY_FLAG(struct machine_body, track_dirty, "track_dirty_pages", false),           \
		BODY_REFUSED("huge_pages", "None", "pages are tracked in units of 4 KiB")

static int set_machine(struct config *c, const struct machine_body *b, struct err *e)
{
	if (b->vcpus < 1 || b->vcpus > 32)
		return err_set(e, ERR_INVALID,
			"The vCPU number is invalid! The vCPU number can only be 1 or an even "
			"number "
			"when SMT is enabled. (1 to 32)");
	if (b->memory_mib == 0)
		return err_set(e, ERR_INVALID, "The memory size (MiB) is invalid.");
	c->vcpus = b->vcpus;
	c->memory_mib = b->memory_mib;
	c->track_dirty = b->track_dirty;
	return 0;
}

int config_put_machine(struct config *c, const char *body, size_t len, struct err *e)
{
	static const struct body_field fields[] = {MACHINE_FIELDS(true)};
	struct machine_body b = {0};
	int rc = body_read(body, len, fields, ARRAY_SIZE(fields), &b, NULL, e);
	return rc < 0 ? rc : set_machine(c, &b, e);
}

int config_patch_machine(struct config *c, const char *body, size_t len, struct err *e)
{
	static const struct body_field fields[] = {MACHINE_FIELDS(false)};
	struct machine_body b = {c->vcpus, c->memory_mib, c->track_dirty};
	uint32_t seen = 0;
	int rc = body_read(body, len, fields, ARRAY_SIZE(fields), &b, &seen, e);
	if (rc < 0)
		return rc;
	if (!seen)
		return err_set(e, ERR_INVALID, "Empty PATCH request.");
	return set_machine(c, &b, e);
}

json_t *config_machine_json(const struct config *c)
{
	return json_pack("{s:I, s:I, s:b, s:b, s:s}", "vcpu_count", (json_int_t)c->vcpus,
		"mem_size_mib", (json_int_t)c->memory_mib, "smt", 0, "track_dirty_pages",
		(int)c->track_dirty, "huge_pages", "None");
}

// ---- boot source

struct boot_body {
	char *kernel, *initrd, *args;
};

static const struct body_field boot_fields[] = {
	BODY_TEXT(struct boot_body, kernel, "kernel_image_path", true),
	BODY_TEXT(struct boot_body, initrd, "initrd_path", false),
	BODY_TEXT(struct boot_body, args, "boot_args", false),
};

static int check_openable(const char *path, int flags, const char *what, struct err *e)
{
	_cleanup_close_ int fd = open(path, flags | O_CLOEXEC);
	if (fd < 0)
		return err_errno(e, errno, "%s cannot be opened: %.500s", what, path);
	return 0;
}

static int check_kernel(const char *path, struct err *e)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	char magic[4];
	if (fd < 0)
		return err_errno(e, errno, "The kernel file cannot be opened: %.500s", path);
	if (read(fd, magic, sizeof magic) != sizeof magic || memcmp(magic,
								     "\x7f"
								     "ELF",
								     4) != 0)
		return err_set(e, ERR_INVALID,
			"The kernel file is no ELF image (use vmlinux, not bzImage): %.500s", path);
	return 0;
}

static int check_boot(const struct boot_body *b, struct err *e)
{
	int rc = check_kernel(b->kernel, e);
	if (rc == 0 && b->initrd)
		rc = check_openable(b->initrd, O_RDONLY, "The initrd file", e);
	if (rc == 0 && b->args && strlen(b->args) >= CONFIG_BOOT_ARGS_MAX)
		rc = err_set(e, ERR_INVALID,
			"The kernel command line is invalid: longer than %u bytes.",
			CONFIG_BOOT_ARGS_MAX);
	return rc;
}

int config_put_boot(struct config *c, const char *body, size_t len, struct err *e)
{
	struct boot_body b = {0};
	int rc = body_read(body, len, boot_fields, ARRAY_SIZE(boot_fields), &b, NULL, e);
	if (rc == 0 && !b.args && !(b.args = strdup(DEFAULT_BOOT_ARGS)))
		rc = err_errno(e, ENOMEM, "boot_args");
	if (rc == 0)
		rc = check_boot(&b, e);
	if (rc == 0) {
		struct boot_body old = {c->kernel, c->initrd, c->boot_args};
		c->kernel = b.kernel;
		c->initrd = b.initrd;
		c->boot_args = b.args;
		b = old;
	}
	body_done(boot_fields, ARRAY_SIZE(boot_fields), &b);
	return rc;
}

// ---- drives

static const struct body_field drive_fields[] = {
	BODY_TEXT(struct drive, id, "drive_id", true),
	BODY_FLAG(struct drive, root, "is_root_device", true),
	BODY_TEXT(struct drive, path, "path_on_host", true),
	BODY_FLAG(struct drive, read_only, "is_read_only", false),
	BODY_TEXT(struct drive, partuuid, "partuuid", false),
	BODY_TEXT(struct drive, cache_type, "cache_type", false),
	BODY_REFUSED("io_engine", "Sync", "only Sync is offered"),
	BODY_REFUSED("rate_limiter", NULL, NO_LIMITER),
	BODY_REFUSED("socket", NULL, "vhost-user devices cannot be part of a snapshot"),
};

struct drive *config_find_drive(const struct config *c, const char *id)
{
	for (size_t i = 0; i < c->n_drives; i++)
		if (strcmp(c->drives[i].id, id) == 0)
			return (struct drive *)&c->drives[i];
	return NULL;
}

static int check_drive(const struct config *c, const struct drive *d, struct err *e)
{
	if (d->cache_type && strcmp(d->cache_type, "Unsafe") != 0 &&
		strcmp(d->cache_type, "Writeback") != 0)
		return err_set(e, ERR_INVALID,
			"unknown variant `%.40s`, expected `Unsafe` or `Writeback`.",
			d->cache_type);
	const struct drive *old = config_find_drive(c, d->id);
	if (d->root && c->n_drives && c->drives[0].root && old != &c->drives[0])
		return err_set(e, ERR_INVALID, "A root block device already exists!");
	if (!old && c->n_drives == CONFIG_DRIVES_MAX)
		return err_set(
			e, ERR_INVALID, "fcqemu offers at most %u drives.", CONFIG_DRIVES_MAX);
	if (d->partuuid && !d->root)
		return err_set(e, ERR_INVALID, "partuuid is for the root device only.");
	return 0;
}

static int check_drive_file(const struct drive *d, struct err *e)
{
	return check_openable(
		d->path, d->read_only ? O_RDONLY : O_RDWR, "The block device's file", e);
}

static void store_drive(struct config *c, struct drive *d)
{
	struct drive *old = config_find_drive(c, d->id);
	size_t at = old ? (size_t)(old - c->drives) : c->n_drives++;
	drive_done(&c->drives[at]);
	c->drives[at] = *d;
	*d = (struct drive){0};
	// The root becomes the guest's first disk.
	if (c->drives[at].root && at > 0) {
		struct drive root = c->drives[at];
		memmove(&c->drives[1], &c->drives[0], at * sizeof root);
		c->drives[0] = root;
	}
}

int config_put_drive(struct config *c, const char *id, const char *body, size_t len, struct err *e)
{
	struct drive d = {0};
	int rc = body_read(body, len, drive_fields, ARRAY_SIZE(drive_fields), &d, NULL, e);
	if (rc == 0)
		rc = check_same_id(id, d.id, e);
	if (rc == 0)
		rc = check_drive(c, &d, e);
	if (rc == 0)
		rc = check_drive_file(&d, e);
	if (rc == 0)
		store_drive(c, &d);
	drive_done(&d);
	return rc;
}

static const struct body_field drive_patch_fields[] = {
	BODY_TEXT(struct drive, id, "drive_id", true),
	BODY_TEXT(struct drive, path, "path_on_host", false),
	BODY_REFUSED("rate_limiter", NULL, NO_LIMITER),
};

int config_read_drive_patch(const struct config *c, const char *id, const char *body, size_t len,
	char **ret_path, struct err *e)
{
	struct drive d = {0};
	int rc = body_read(
		body, len, drive_patch_fields, ARRAY_SIZE(drive_patch_fields), &d, NULL, e);
	if (rc == 0)
		rc = check_same_id(id, d.id, e);
	if (rc == 0 && !config_find_drive(c, id))
		rc = err_set(e, ERR_INVALID, "Invalid device ID! There is no drive %.100s.", id);
	if (rc == 0 && !d.path)
		rc = err_set(e, ERR_INVALID,
			"fcqemu: nothing to change without path_on_host (it has no vhost-user "
			"devices).");
	if (rc == 0) {
		bool read_only = config_find_drive(c, id)->read_only;
		rc = check_openable(
			d.path, read_only ? O_RDONLY : O_RDWR, "The block device's file", e);
	}
	if (rc == 0)
		*ret_path = TAKE_PTR(d.path);
	drive_done(&d);
	return rc;
}

static json_t *drive_json(const struct drive *d)
{
	return json_pack("{s:s, s:s?, s:b, s:s, s:b, s:s, s:n, s:s, s:n}", "drive_id", d->id,
		"partuuid", d->partuuid, "is_root_device", (int)d->root, "cache_type",
		d->cache_type ? d->cache_type : "Unsafe", "is_read_only", (int)d->read_only,
		"path_on_host", d->path, "rate_limiter", "io_engine", "Sync", "socket");
}

// ---- network interfaces

static const struct body_field nic_fields[] = {
	BODY_TEXT(struct nic, id, "iface_id", true),
	BODY_TEXT(struct nic, tap, "host_dev_name", true),
	BODY_TEXT(struct nic, mac, "guest_mac", false),
	BODY_NUMBER(struct nic, mtu, "mtu", false, 65535),
	BODY_REFUSED("rx_rate_limiter", NULL, NO_LIMITER),
	BODY_REFUSED("tx_rate_limiter", NULL, NO_LIMITER),
};

static bool is_mac(const char *s)
{
	for (int i = 0; i < 17; i++)
		if (i % 3 == 2 ? s[i] != ':' : !isxdigit((unsigned char)s[i]))
			return false;
	return s[17] == '\0';
}

static int check_nic(const struct config *c, const struct nic *n, struct err *e)
{
	if (!*n->tap || strlen(n->tap) >= IFNAMSIZ)
		return err_set(e, ERR_INVALID, "Invalid TAP name: 1 to %d bytes.", IFNAMSIZ - 1);
	if (n->mac && !is_mac(n->mac))
		return err_set(e, ERR_INVALID, "Invalid MAC address: %.40s.", n->mac);
	if (n->mtu && n->mtu < 68)
		return err_set(e, ERR_INVALID, "Invalid MTU: 68 to 65535.");
	bool known = false;
	for (size_t i = 0; i < c->n_nics; i++) {
		if (strcmp(c->nics[i].id, n->id) == 0)
			known = true;
		else if (n->mac && c->nics[i].mac && strcasecmp(c->nics[i].mac, n->mac) == 0)
			return err_set(
				e, ERR_INVALID, "The MAC address is already in use: %s", n->mac);
	}
	if (!known && c->n_nics == CONFIG_NICS_MAX)
		return err_set(e, ERR_INVALID, "fcqemu offers at most %u network interfaces.",
			CONFIG_NICS_MAX);
	return 0;
}

int config_put_nic(struct config *c, config_open_tap_fn open_tap, const char *id, const char *body,
	size_t len, struct err *e)
{
	struct nic n = {.tap_fd = -1};
	int rc = body_read(body, len, nic_fields, ARRAY_SIZE(nic_fields), &n, NULL, e);
	if (rc == 0)
		rc = check_same_id(id, n.id, e);
	if (rc == 0)
		rc = check_nic(c, &n, e);
	size_t at = 0;
	while (at < c->n_nics && strcmp(c->nics[at].id, id) != 0)
		at++;
	struct nic *old = at < c->n_nics ? &c->nics[at] : NULL;
	if (rc == 0 && old && strcmp(old->tap, n.tap) == 0)
		n.tap_fd = TAKE_FD(old->tap_fd); // a tap cannot be opened twice
	else if (rc == 0 && (n.tap_fd = open_tap(n.tap, e)) < 0)
		rc = n.tap_fd;
	if (rc == 0) {
		if (old)
			nic_done(old);
		else
			c->n_nics++;
		c->nics[at] = n;
		return 0;
	}
	nic_done(&n);
	return rc;
}

int config_read_nic_patch(
	const struct config *c, const char *id, const char *body, size_t len, struct err *e)
{
	static const struct body_field fields[] = {
		BODY_TEXT(struct nic, id, "iface_id", true),
		BODY_REFUSED("rx_rate_limiter", NULL, NO_LIMITER),
		BODY_REFUSED("tx_rate_limiter", NULL, NO_LIMITER),
	};
	struct nic n = {.tap_fd = -1};
	int rc = body_read(body, len, fields, ARRAY_SIZE(fields), &n, NULL, e);
	if (rc == 0)
		rc = check_same_id(id, n.id, e);
	if (rc == 0) {
		rc = err_set(
			e, ERR_INVALID, "Invalid device ID! There is no interface %.100s.", id);
		for (size_t i = 0; i < c->n_nics; i++)
			if (strcmp(c->nics[i].id, id) == 0)
				rc = 0; // names no limiter: nothing to do
	}
	nic_done(&n);
	return rc;
}

static json_t *nic_json(const struct nic *n)
{
	json_t *j = json_pack("{s:s, s:s, s:s?, s:n, s:n}", "iface_id", n->id, "host_dev_name",
		n->tap, "guest_mac", n->mac, "rx_rate_limiter", "tx_rate_limiter");
	if (j && n->mtu)
		json_object_set_new(j, "mtu", json_integer((json_int_t)n->mtu));
	return j;
}

// ---- entropy

int config_put_entropy(struct config *c, const char *body, size_t len, struct err *e)
{
	static const struct body_field fields[] = {BODY_REFUSED("rate_limiter", NULL, NO_LIMITER)};
	int rc = body_read(body, len, fields, ARRAY_SIZE(fields), c, NULL, e);
	if (rc == 0)
		c->entropy = true;
	return rc;
}

// ---- in a state file

struct state_body {
	struct machine_body machine;
	bool entropy;
	json_t *drives, *nics;
};

static const struct body_field state_fields[] = {
	BODY_NUMBER(struct state_body, machine.vcpus, "vcpu_count", true, 255),
	BODY_NUMBER(struct state_body, machine.memory_mib, "mem_size_mib", true, 1u << 24),
	BODY_FLAG(struct state_body, entropy, "entropy", true),
	BODY_PART(struct state_body, drives, "drives", BODY_ARRAY, true),
	BODY_PART(struct state_body, nics, "network-interfaces", BODY_ARRAY, true),
};

json_t *config_state_json(const struct config *c)
{
	json_t *drives = json_array(), *nics = json_array();
	for (size_t i = 0; i < c->n_drives; i++) {
		const struct drive *d = &c->drives[i];
		json_array_append_new(
			drives, json_pack("{s:s, s:s, s:b, s:b, s:s*, s:s*}", "drive_id", d->id,
					"path_on_host", d->path, "is_root_device", (int)d->root,
					"is_read_only", (int)d->read_only, "partuuid", d->partuuid,
					"cache_type", d->cache_type));
	}
	for (size_t i = 0; i < c->n_nics; i++) {
		const struct nic *n = &c->nics[i];
		json_array_append_new(
			nics, json_pack("{s:s, s:s, s:s*, s:I}", "iface_id", n->id, "host_dev_name",
				      n->tap, "guest_mac", n->mac, "mtu", (json_int_t)n->mtu));
	}
	if (json_array_size(drives) != c->n_drives || json_array_size(nics) != c->n_nics) {
		json_decref(drives);
		json_decref(nics);
		return NULL;
	}
	return json_pack("{s:I, s:I, s:b, s:o, s:o}", "vcpu_count", (json_int_t)c->vcpus,
		"mem_size_mib", (json_int_t)c->memory_mib, "entropy", (int)c->entropy, "drives",
		drives, "network-interfaces", nics);
}

static int read_state_drive(struct config *c, const json_t *o, struct err *e)
{
	struct drive d = {0};
	int rc = body_read_object(o, drive_fields, ARRAY_SIZE(drive_fields), &d, NULL, e);
	if (rc == 0)
		rc = config_check_id(d.id, e);
	if (rc == 0 && config_find_drive(c, d.id))
		rc = err_set(e, ERR_INVALID, "the drive %.100s twice", d.id);
	if (rc == 0 && d.root && c->n_drives)
		rc = err_set(e, ERR_INVALID, "the root drive is not the first");
	if (rc == 0)
		rc = check_drive(c, &d, e);
	if (rc == 0)
		store_drive(c, &d);
	drive_done(&d);
	return rc;
}

static struct nic *find_nic(struct config *c, const char *id)
{
	for (size_t i = 0; i < c->n_nics; i++)
		if (str_eq(c->nics[i].id, id))
			return &c->nics[i];
	return NULL;
}

static int read_state_nic(struct config *c, const json_t *o, struct err *e)
{
	struct nic n = {.tap_fd = -1};
	int rc = body_read_object(o, nic_fields, ARRAY_SIZE(nic_fields), &n, NULL, e);
	if (rc == 0)
		rc = config_check_id(n.id, e);
	if (rc == 0 && find_nic(c, n.id))
		rc = err_set(e, ERR_INVALID, "the interface %.100s twice", n.id);
	if (rc == 0)
		rc = check_nic(c, &n, e);
	if (rc < 0) {
		nic_done(&n);
		return rc;
	}
	c->nics[c->n_nics++] = n;
	return 0;
}

int config_read_state(const json_t *o, struct config *ret, struct err *e)
{
	struct state_body b = {0};
	struct config c;
	size_t i;
	json_t *v;
	config_init(&c);
	int rc = body_read_object(o, state_fields, ARRAY_SIZE(state_fields), &b, NULL, e);
	if (rc == 0)
		rc = set_machine(&c, &b.machine, e);
	c.entropy = b.entropy;
	for (i = 0; rc == 0 && i < json_array_size(b.drives); i++)
		if ((v = json_array_get(b.drives, i)))
			rc = read_state_drive(&c, v, e);
	for (i = 0; rc == 0 && i < json_array_size(b.nics); i++)
		if ((v = json_array_get(b.nics, i)))
			rc = read_state_nic(&c, v, e);
	body_done(state_fields, ARRAY_SIZE(state_fields), &b);
	if (rc < 0) {
		config_done(&c);
		return rc;
	}
	*ret = c;
	return 0;
}

struct override_body {
	char *id, *tap;
};

static int override_nic(struct config *c, const json_t *o, struct err *e)
{
	static const struct body_field fields[] = {
		BODY_TEXT(struct override_body, id, "iface_id", true),
		BODY_TEXT(struct override_body, tap, "host_dev_name", true),
	};
	struct override_body b = {0};
	int rc = body_read_object(o, fields, ARRAY_SIZE(fields), &b, NULL, e);
	struct nic *n = rc == 0 ? find_nic(c, b.id) : NULL;
	if (rc == 0 && !n)
		rc = err_set(e, ERR_INVALID,
			"Unknown Network Device: the snapshot has no interface %.100s.", b.id);
	if (rc == 0 && (!*b.tap || strlen(b.tap) >= IFNAMSIZ))
		rc = err_set(e, ERR_INVALID, "Invalid TAP name: 1 to %d bytes.", IFNAMSIZ - 1);
	if (rc == 0) {
		free(n->tap);
		n->tap = TAKE_PTR(b.tap);
	}
	body_done(fields, ARRAY_SIZE(fields), &b);
	return rc;
}

int config_open_backends(
	struct config *c, config_open_tap_fn open_tap, const json_t *overrides, struct err *e)
{
	for (size_t i = 0; i < json_array_size(overrides); i++) {
		int rc = override_nic(c, json_array_get(overrides, i), e);
		if (rc < 0)
			return rc;
	}
	for (size_t i = 0; i < c->n_drives; i++) {
		int rc = check_drive_file(&c->drives[i], e);
		if (rc < 0)
			return rc;
	}
	for (size_t i = 0; i < c->n_nics; i++) {
		int fd = open_tap(c->nics[i].tap, e);
		if (fd < 0)
			return fd;
		c->nics[i].tap_fd = fd;
	}
	return 0;
}

// ---- all of it

json_t *config_json(const struct config *c)
{
	json_t *drives = json_array(), *nics = json_array(), *boot = json_object();
	for (size_t i = 0; i < c->n_drives; i++)
		json_array_append_new(drives, drive_json(&c->drives[i]));
	for (size_t i = 0; i < c->n_nics; i++)
		json_array_append_new(nics, nic_json(&c->nics[i]));
	if (c->kernel)
		json_object_update_new(
			boot, json_pack("{s:s, s:s?, s:s}", "kernel_image_path", c->kernel,
				      "initrd_path", c->initrd, "boot_args", c->boot_args));
	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:n, s:n, s:n, s:n, s:n, s:n, s:[], s:n}",
		"machine-config", config_machine_json(c), "boot-source", boot, "drives", drives,
		"network-interfaces", nics, "entropy", c->entropy ? json_object() : json_null(),
		"balloon", "cpu-config", "logger", "metrics", "mmds-config", "vsock", "pmem",
		"memory-hotplug");
}
