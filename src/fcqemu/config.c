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
#define PATCH_FAILED "Drive config error: Unable to patch the block device: "
#define VERIFY "Please verify the request arguments."
#define NIC_FAILED "Network config error: Could not create the network device"
#define RESTORE_FAILED                                                                             \
	"Failed to build microVM from snapshot: Failed to restore devices: Error restoring MMIO "  \
	"devices: "
#define NET_FAILED RESTORE_FAILED "Net: Failed to create a network device"
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

// ---- machine

struct machine_body {
	uint64_t vcpus, memory_mib;
	bool track_dirty;
};

#define MACHINE_FIELDS(whole)                                                                      \
	{"vcpu_count", BODY_UINT, .required = whole, .nullable = !whole, .max = UINT8_MAX,         \
		BODY_FIELD(struct machine_body, vcpus)},                                           \
		{"mem_size_mib", BODY_UINT, .required = whole, .nullable = !whole,                 \
			.max = 1u << 24, BODY_FIELD(struct machine_body, memory_mib)},             \
		{"smt", BODY_BOOL, .nullable = !whole, .only = "false",                            \
			.why = "an emulated CPU has no hardware threads"},                         \
		{"cpu_template", BODY_CHOICE, .nullable = true, .choices = cpu_templates,          \
			.only = "None", .why = "templates mask the features of a real CPU"},       \
		{"track_dirty_pages", BODY_BOOL, .nullable = !whole,                               \
			BODY_FIELD(struct machine_body, track_dirty)},                             \
	{                                                                                          \
		"huge_pages", BODY_CHOICE, .nullable = !whole, .choices = huge_pages,              \
					   .only = "None",                                         \
					   .why = "pages are tracked in units of 4 KiB"            \
	}

static const char *const cpu_templates[] = {"C3", "T2", "T2S", "None", "T2CL", "T2A", NULL};
static const char *const huge_pages[] = {"None", "2M", NULL};
static const struct body_field machine_fields[] = {MACHINE_FIELDS(true)};
static const struct body_field machine_patch_fields[] = {MACHINE_FIELDS(false)};

static int check_patch(const json_t *o, struct err *e)
{
	const char *name;
	json_t *v;
	json_object_foreach ((json_t *)o, name, v)
		if (!json_is_null(v))
			return 0;
	return err_set(e, ERR_INVALID, "Empty PATCH request.");
}

const struct body_shape config_machine_shape = BODY_SHAPE("struct MachineConfig", machine_fields);
const struct body_shape config_machine_patch_shape =
	BODY_SHAPE("struct MachineConfigUpdate", machine_patch_fields, .check = check_patch);

static int set_machine(struct config *c, const struct machine_body *b, struct err *e)
{
	if (b->vcpus < 1 || b->vcpus > 32)
		return err_set(e, ERR_INVALID,
			"Machine config error: The number of vCPUs must be greater than 0, less "
			"than 32 and must be 1 or an even number if SMT is enabled.");
	if (b->memory_mib == 0)
		return err_set(e, ERR_INVALID,
			"Machine config error: The memory size (MiB) is either 0, or not a "
			"multiple of the configured page size.");
	c->vcpus = b->vcpus;
	c->memory_mib = b->memory_mib;
	c->track_dirty = b->track_dirty;
	return 0;
}

int config_put_machine(struct config *c, const json_t *body, struct err *e)
{
	struct machine_body b = {0};
	int rc = body_take(body, &config_machine_shape, &b, NULL, e);
	return rc < 0 ? rc : set_machine(c, &b, e);
}

int config_patch_machine(struct config *c, const json_t *body, struct err *e)
{
	struct machine_body b = {c->vcpus, c->memory_mib, c->track_dirty};
	int rc = body_take(body, &config_machine_patch_shape, &b, NULL, e);
	return rc < 0 ? rc : set_machine(c, &b, e);
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
	{"kernel_image_path", BODY_STRING, .required = true, BODY_FIELD(struct boot_body, kernel)},
	{"initrd_path", BODY_STRING, .nullable = true, BODY_FIELD(struct boot_body, initrd)},
	{"boot_args", BODY_STRING, .nullable = true, BODY_FIELD(struct boot_body, args)},
};

const struct body_shape config_boot_shape = BODY_SHAPE("struct BootSourceConfig", boot_fields);

static int check_openable(const char *path, const char *what, struct err *e)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0)
		return 0;
	return err_set(
		e, ERR_INVALID, "Boot source error: The %s " OS_ERROR, what, OS_ERROR_OF(errno));
}

static int check_boot(const struct boot_body *b, struct err *e)
{
	int rc = check_openable(b->kernel, "kernel file cannot be opened:", e);
	if (rc == 0 && b->initrd)
		rc = check_openable(b->initrd,
			"initrd file cannot be opened due to invalid path or invalid permissions.",
			e);
	if (rc == 0 && b->args && strlen(b->args) >= CONFIG_BOOT_ARGS_MAX)
		rc = err_set(e, ERR_INVALID,
			"Boot source error: The kernel command line is invalid: Invalid cmdline "
			"capacity provided.");
	return rc;
}

int config_put_boot(struct config *c, const json_t *body, struct err *e)
{
	struct boot_body b = {0};
	int rc = body_take(body, &config_boot_shape, &b, NULL, e);
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
	body_done(&config_boot_shape, &b);
	return rc;
}

int config_check_kernel(const struct config *c, struct err *e)
{
#define BAD_KERNEL                                                                                 \
	"System configuration error: Cannot load kernel due to invalid memory configuration or "   \
	"invalid kernel image: Kernel Loader: failed to load ELF kernel image: Kernel Loader: "
	_cleanup_close_ int fd = open(c->kernel, O_RDONLY | O_CLOEXEC);
	unsigned char magic[4];
	if (fd < 0)
		return err_set(e, ERR_INVALID, BAD_KERNEL OS_ERROR, OS_ERROR_OF(errno));
	if (pread(fd, magic, sizeof magic, 0) == sizeof magic && memcmp(magic, "\177ELF", 4) == 0)
		return 0;
	return err_set(e, ERR_INVALID, BAD_KERNEL "Unable to read elf header");
}

// ---- drives

static const char *const cache_types[] = {"Unsafe", "Writeback", NULL};
static const char *const io_engines[] = {"Async", "Sync", NULL};

static const struct body_field drive_fields[] = {
	{"drive_id", BODY_STRING, .required = true, BODY_FIELD(struct drive, id)},
	{"partuuid", BODY_STRING, .nullable = true, BODY_FIELD(struct drive, partuuid)},
	{"is_root_device", BODY_BOOL, .required = true, BODY_FIELD(struct drive, root)},
	{"cache_type", BODY_CHOICE, .choices = cache_types, BODY_FIELD(struct drive, cache_type)},
	{"is_read_only", BODY_BOOL, .nullable = true, BODY_FIELD(struct drive, read_only)},
	{"path_on_host", BODY_STRING, .nullable = true, BODY_FIELD(struct drive, path)},
	{"rate_limiter", BODY_OBJECT, .nullable = true, .why = NO_LIMITER},
	{"io_engine", BODY_CHOICE, .nullable = true, .choices = io_engines, .only = "Sync",
		.why = "only Sync is offered"},
	{"socket", BODY_STRING, .nullable = true,
		.why = "vhost-user devices cannot be part of a snapshot"},
};

const struct body_shape config_drive_shape = BODY_SHAPE("struct BlockDeviceConfig", drive_fields);

struct drive *config_find_drive(const struct config *c, const char *id)
{
	for (size_t i = 0; i < c->n_drives; i++)
		if (strcmp(c->drives[i].id, id) == 0)
			return (struct drive *)&c->drives[i];
	return NULL;
}

static int check_drive(const struct config *c, const struct drive *d, struct err *e)
{
	const struct drive *old = config_find_drive(c, d->id);
	if (d->root && c->n_drives && c->drives[0].root && old != &c->drives[0])
		return err_set(
			e, ERR_INVALID, "Drive config error: A root block device already exists!");
	if (!d->path)
		return err_set(e, ERR_INVALID,
			"Drive config error: Unable to create the virtio block device: Invalid "
			"block config.");
	if (!old && c->n_drives == CONFIG_DRIVES_MAX)
		return err_set(
			e, ERR_INVALID, "fcqemu offers at most %u drives.", CONFIG_DRIVES_MAX);
	return 0;
}

static int open_drive(const char *path, bool read_only, const char *doing, struct err *e)
{
	_cleanup_close_ int fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	if (fd >= 0)
		return 0;
	return err_set(e, ERR_INVALID,
		"%s Virtio backend error: Error manipulating the backing file: " OS_ERROR " %.500s",
		doing, OS_ERROR_OF(errno), path);
}

static int check_drive_file(const struct drive *d, struct err *e)
{
	return open_drive(d->path, d->read_only,
		"Drive config error: Unable to create the virtio block device:", e);
}

static void store_drive(struct config *c, struct drive *d)
{
	struct drive *old = config_find_drive(c, d->id);
	size_t at = old ? (size_t)(old - c->drives) : c->n_drives++;
	drive_done(&c->drives[at]);
	c->drives[at] = *d;
	*d = (struct drive){0};
	if (!c->drives[at].root || at == 0)
		return;
	// The root becomes the guest's first disk: a new one before all others, one that was there
	// in the place of the first.
	struct drive root = c->drives[at];
	if (old)
		c->drives[at] = c->drives[0];
	else
		memmove(&c->drives[1], &c->drives[0], at * sizeof root);
	c->drives[0] = root;
}

int config_put_drive(struct config *c, const json_t *body, struct err *e)
{
	struct drive d = {0};
	int rc = body_take(body, &config_drive_shape, &d, NULL, e);
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
	{"drive_id", BODY_STRING, .required = true, BODY_FIELD(struct drive, id)},
	{"path_on_host", BODY_STRING, .nullable = true, BODY_FIELD(struct drive, path)},
	{"rate_limiter", BODY_OBJECT, .nullable = true, .why = NO_LIMITER},
};

const struct body_shape config_drive_patch_shape =
	BODY_SHAPE("struct BlockDeviceUpdateConfig", drive_patch_fields);

int config_read_drive_patch(const struct config *c, const json_t *body, struct drive **ret,
	char **ret_path, struct err *e)
{
	struct drive d = {0};
	int rc = body_take(body, &config_drive_patch_shape, &d, NULL, e);
	struct drive *found = rc == 0 ? config_find_drive(c, d.id) : NULL;
	if (rc == 0 && !found)
		rc = err_set(e, ERR_INVALID,
			PATCH_FAILED "Failed perform action on device: Device not found " VERIFY);
	// Without a path it asks for the new size of a vhost-user device.
	if (rc == 0 && !d.path)
		rc = err_set(e, ERR_INVALID,
			PATCH_FAILED "Block: Running method expected different backend. " VERIFY);
	if (rc == 0 && (rc = open_drive(d.path, found->read_only, PATCH_FAILED "Block:", e)) < 0 &&
		e)
		strncat(e->text, " " VERIFY, sizeof e->text - strlen(e->text) - 1);
	if (rc == 0) {
		*ret = found;
		*ret_path = TAKE_PTR(d.path);
	}
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

static int check_mac(const json_t *o, struct err *e);

static const struct body_field nic_fields[] = {
	{"iface_id", BODY_STRING, .required = true, BODY_FIELD(struct nic, id)},
	{"host_dev_name", BODY_STRING, .required = true, BODY_FIELD(struct nic, tap)},
	{"guest_mac", BODY_STRING, .nullable = true, BODY_FIELD(struct nic, mac)},
	{"mtu", BODY_UINT, .nullable = true, .max = UINT16_MAX, BODY_FIELD(struct nic, mtu)},
	{"rx_rate_limiter", BODY_OBJECT, .nullable = true, .why = NO_LIMITER},
	{"tx_rate_limiter", BODY_OBJECT, .nullable = true, .why = NO_LIMITER},
};

const struct body_shape config_nic_shape =
	BODY_SHAPE("struct NetworkInterfaceConfig", nic_fields, .check = check_mac);

static bool is_mac(const char *s)
{
	for (int i = 0; i < 17; i++)
		if (i % 3 == 2 ? s[i] != ':' : !isxdigit((unsigned char)s[i]))
			return false;
	return s[17] == '\0';
}

static int check_mac(const json_t *o, struct err *e)
{
	const char *mac = json_string_value(json_object_get(o, "guest_mac"));
	if (!mac || is_mac(mac))
		return 0;
	return err_set(e, ERR_INVALID,
		"An error occurred when deserializing the json body of a request: The provided MAC "
		"address is invalid..");
}

static int check_nic(const struct config *c, const struct nic *n, struct err *e)
{
	if (!*n->tap || strlen(n->tap) >= IFNAMSIZ)
		return err_set(e, ERR_INVALID,
			NIC_FAILED ": Open tap device failed: Invalid interface name");
	if (n->mtu && n->mtu < 68)
		return err_set(e, ERR_INVALID, NIC_FAILED ": MTU %u is out of range [68, 65535]",
			(unsigned)n->mtu);
	bool known = false;
	for (size_t i = 0; i < c->n_nics; i++) {
		if (strcmp(c->nics[i].id, n->id) == 0)
			known = true;
		else if (n->mac && c->nics[i].mac && strcasecmp(c->nics[i].mac, n->mac) == 0)
			return err_set(e, ERR_INVALID,
				"Network config error: The MAC address is already in use: %s",
				n->mac);
	}
	if (!known && c->n_nics == CONFIG_NICS_MAX)
		return err_set(e, ERR_INVALID, "fcqemu offers at most %u network interfaces.",
			CONFIG_NICS_MAX);
	return 0;
}

int config_put_nic(struct config *c, config_open_tap_fn open_tap, const json_t *body, struct err *e)
{
	struct nic n = {.tap_fd = -1};
	int rc = body_take(body, &config_nic_shape, &n, NULL, e);
	if (rc == 0)
		rc = check_nic(c, &n, e);
	size_t at = 0;
	while (rc == 0 && at < c->n_nics && strcmp(c->nics[at].id, n.id) != 0)
		at++;
	struct nic *old = rc == 0 && at < c->n_nics ? &c->nics[at] : NULL;
	if (old && strcmp(old->tap, n.tap) == 0)
		n.tap_fd = TAKE_FD(old->tap_fd); // a tap cannot be opened twice
	else if (rc == 0 && (n.tap_fd = open_tap(n.tap, e)) < 0)
		rc = err_prefix(e, n.tap_fd, NIC_FAILED);
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

static const struct body_field nic_patch_fields[] = {
	{"iface_id", BODY_STRING, .required = true, BODY_FIELD(struct nic, id)},
	{"rx_rate_limiter", BODY_OBJECT, .nullable = true, .why = NO_LIMITER},
	{"tx_rate_limiter", BODY_OBJECT, .nullable = true, .why = NO_LIMITER},
};

const struct body_shape config_nic_patch_shape =
	BODY_SHAPE("struct NetworkInterfaceUpdateConfig", nic_patch_fields);

int config_read_nic_patch(const struct config *c, const json_t *body, struct err *e)
{
	struct nic n = {.tap_fd = -1};
	int rc = body_take(body, &config_nic_patch_shape, &n, NULL, e);
	if (rc == 0) {
		rc = err_set(e, ERR_INVALID,
			"Network config error: Unable to update the net device: Failed perform "
			"action on device: Device not found");
		for (size_t i = 0; i < c->n_nics; i++)
			if (strcmp(c->nics[i].id, n.id) == 0)
				rc = 0; // names no limiter: nothing to do
	}
	nic_done(&n);
	return rc;
}

static json_t *nic_json(const struct nic *n)
{
	json_t *j = json_pack("{s:s, s:s, s:s?, s:n, s:n, s:n}", "iface_id", n->id, "host_dev_name",
		n->tap, "guest_mac", n->mac, "mtu", "rx_rate_limiter", "tx_rate_limiter");
	if (j && n->mtu)
		json_object_set_new(j, "mtu", json_integer((json_int_t)n->mtu));
	return j;
}

// ---- entropy

static const struct body_field entropy_fields[] = {
	{"rate_limiter", BODY_OBJECT, .nullable = true, .why = NO_LIMITER},
};

const struct body_shape config_entropy_shape =
	BODY_SHAPE("struct EntropyDeviceConfig", entropy_fields);

int config_put_entropy(struct config *c, const json_t *body, struct err *e)
{
	int rc = body_take(body, &config_entropy_shape, c, NULL, e);
	if (rc == 0)
		c->entropy = true;
	return rc;
}

// ---- in a state file

struct state_body {
	struct machine_body machine;
	bool entropy;
	json_t *drives, *nics, *boot;
};

static const struct body_field state_fields[] = {
	{"vcpu_count", BODY_UINT, .required = true, .max = UINT8_MAX,
		BODY_FIELD(struct state_body, machine.vcpus)},
	{"mem_size_mib", BODY_UINT, .required = true, .max = 1u << 24,
		BODY_FIELD(struct state_body, machine.memory_mib)},
	{"entropy", BODY_BOOL, .required = true, BODY_FIELD(struct state_body, entropy)},
	{"drives", BODY_ARRAY, .required = true, .shape = &config_drive_shape,
		BODY_FIELD(struct state_body, drives)},
	{"network-interfaces", BODY_ARRAY, .required = true, .shape = &config_nic_shape,
		BODY_FIELD(struct state_body, nics)},
	{"boot-source", BODY_OBJECT, .shape = &config_boot_shape,
		BODY_FIELD(struct state_body, boot)},
};

const struct body_shape config_state_shape = BODY_SHAPE("a machine", state_fields);

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
	// What it booted from is kept for the answers.
	json_t *boot = c->kernel ? json_pack("{s:s, s:s?, s:s?}", "kernel_image_path", c->kernel,
					   "initrd_path", c->initrd, "boot_args", c->boot_args)
				 : NULL;
	return json_pack("{s:I, s:I, s:b, s:o, s:o, s:o*}", "vcpu_count", (json_int_t)c->vcpus,
		"mem_size_mib", (json_int_t)c->memory_mib, "entropy", (int)c->entropy, "drives",
		drives, "network-interfaces", nics, "boot-source", boot);
}

static int read_state_drive(struct config *c, const json_t *o, struct err *e)
{
	struct drive d = {0};
	int rc = body_take(o, &config_drive_shape, &d, NULL, e);
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
	int rc = body_take(o, &config_nic_shape, &n, NULL, e);
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

static int read_state_boot(struct config *c, const json_t *o, struct err *e)
{
	struct boot_body b = {0};
	int rc = body_take(o, &config_boot_shape, &b, NULL, e);
	if (rc < 0)
		return rc;
	c->kernel = b.kernel;
	c->initrd = b.initrd;
	c->boot_args = b.args;
	return 0;
}

int config_read_state(const json_t *o, struct config *ret, struct err *e)
{
	struct state_body b = {0};
	struct config c;
	size_t i;
	json_t *v;
	config_init(&c);
	int rc = body_take(o, &config_state_shape, &b, NULL, e);
	if (rc == 0)
		rc = set_machine(&c, &b.machine, e);
	c.entropy = b.entropy;
	if (rc == 0 && b.boot)
		rc = read_state_boot(&c, b.boot, e);
	for (i = 0; rc == 0 && i < json_array_size(b.drives); i++)
		if ((v = json_array_get(b.drives, i)))
			rc = read_state_drive(&c, v, e);
	for (i = 0; rc == 0 && i < json_array_size(b.nics); i++)
		if ((v = json_array_get(b.nics, i)))
			rc = read_state_nic(&c, v, e);
	body_done(&config_state_shape, &b);
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

static const struct body_field override_fields[] = {
	{"iface_id", BODY_STRING, .required = true, BODY_FIELD(struct override_body, id)},
	{"host_dev_name", BODY_STRING, .required = true, BODY_FIELD(struct override_body, tap)},
};

const struct body_shape config_override_shape =
	BODY_SHAPE("struct NetworkOverride", override_fields, .open = true);

static int override_nic(struct config *c, const json_t *o, struct err *e)
{
	struct override_body b = {0};
	int rc = body_take(o, &config_override_shape, &b, NULL, e);
	struct nic *n = rc == 0 ? find_nic(c, b.id) : NULL;
	if (rc == 0 && !n)
		rc = err_set(e, ERR_INVALID,
			"Failed to get snapshot state from file: Unknown Network Device.");
	if (rc == 0 && (!*b.tap || strlen(b.tap) >= IFNAMSIZ))
		rc = err_set(e, ERR_INVALID,
			NET_FAILED ": Open tap device failed: Invalid interface name");
	if (rc == 0) {
		free(n->tap);
		n->tap = TAKE_PTR(b.tap);
	}
	body_done(&config_override_shape, &b);
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
		const struct drive *d = &c->drives[i];
		int rc = open_drive(d->path, d->read_only, RESTORE_FAILED "Block:", e);
		if (rc < 0)
			return rc;
	}
	for (size_t i = 0; i < c->n_nics; i++) {
		int fd = open_tap(c->nics[i].tap, e);
		if (fd < 0)
			return err_prefix(e, fd, NET_FAILED);
		c->nics[i].tap_fd = fd;
	}
	return 0;
}

// ---- all of it

json_t *config_json(const struct config *c)
{
	json_t *drives = json_array(), *nics = json_array();
	json_t *entropy = c->entropy ? json_pack("{s:n}", "rate_limiter") : json_null();
	for (size_t i = 0; i < c->n_drives; i++)
		json_array_append_new(drives, drive_json(&c->drives[i]));
	for (size_t i = 0; i < c->n_nics; i++)
		json_array_append_new(nics, nic_json(&c->nics[i]));
	json_t *boot = json_pack("{s:s, s:s?, s:s?}", "kernel_image_path",
		c->kernel ? c->kernel : "", "initrd_path", c->initrd, "boot_args", c->boot_args);
	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:n, s:n, s:n, s:n, s:n, s:n, s:[], s:n}",
		"machine-config", config_machine_json(c), "boot-source", boot, "drives", drives,
		"network-interfaces", nics, "entropy", entropy, "balloon", "cpu-config", "logger",
		"metrics", "mmds-config", "vsock", "pmem", "memory-hotplug");
}
