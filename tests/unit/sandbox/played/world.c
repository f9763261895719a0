// SPDX-License-Identifier: Apache-2.0
// Making and dropping a world, and its switches.
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "disk/disk.h"
#include "played/cases.h"
#include "played/played.h"

struct world world = {.born = -1};

static void put(const char *path, const void *data, size_t len)
{
	char full[512];
	snprintf(full, sizeof full, "%s/%s", world.data, path);
	char *slash = strrchr(full, '/');
	*slash = '\0';
	check(file_mkdir_p(AT_FDCWD, full, 0700) == 0, "mkdir %s", full);
	*slash = '/';
	_cleanup_close_ int fd = open(full, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	check(fd >= 0 && file_write_full(fd, data, len) == 0, "write %s", full);
}

// A template whose files are small. The product reads it with its own code.
static void put_image(char version)
{
	static const char kernel[] =
		"1111111111111111111111111111111111111111111111111111111111111111";
	static const char disk[PLAYED_BLOCKS * PLAYED_PAGE];
	char path[128], text[700], sum[sizeof kernel];
	memset(sum, version, sizeof sum - 1);
	sum[sizeof sum - 1] = '\0';
	snprintf(path, sizeof path, "kernels/%s/vmlinux", kernel);
	put(path, "k", 1);
	snprintf(path, sizeof path, "kernels/%s/initrd", kernel);
	put(path, "i", 1);
	snprintf(path, sizeof path, "kernels/%s/config.json", kernel);
	static const char config[] = "{\"release\":\"6.1\",\"boot_args\":\"quiet\","
				     "\"vmlinux_bytes\":1,\"initrd_bytes\":1}";
	put(path, config, sizeof config - 1);
	put("templates/base/rootfs.1.img", disk, sizeof disk);
	snprintf(text, sizeof text,
		"{\"format\":1,\"name\":\"base\",\"kind\":\"base\",\"kernel\":\"%s\",\"vcpus\":1,"
		"\"memory_mb\":%u,\"min_memory_mb\":1,\"disk_mb\":1,\"rootfs\":\"rootfs.1.img\","
		"\"rootfs_sha256\":\"%s\",\"rootfs_bytes\":%zu,"
		"\"created_at\":\"2026-01-01T00:00:00Z\"}",
		kernel, PLAYED_MEMORY_MB, sum, sizeof disk);
	put("templates/base/template.json", text, strlen(text));
}

void world_new_image(void)
{
	put_image('2');
}

// In memory where there is room: nothing has to survive the machine. Or below $STASIS_TEST_DIR.
bool world_make_dir(void)
{
	const char *dir = getenv("STASIS_TEST_DIR");
	snprintf(world.dir, sizeof world.dir, "%s/played-XXXXXX",
		dir				? dir
		: access("/dev/shm", W_OK) == 0 ? "/dev/shm"
						: "/tmp");
	return mkdtemp(world.dir) != NULL;
}

void world_make(void)
{
	struct err e = {0};
	log_setup("played", getenv("PLAYED_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARN);
	signal(SIGPIPE, SIG_IGN);
	snprintf(world.data, sizeof world.data, "%s/data", world.dir);
	snprintf(world.run, sizeof world.run, "%s/run", world.dir);
	world.stage = mmap(NULL, sizeof *world.stage, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(world.stage != MAP_FAILED, "mmap");
	check(volume_init_dir(world.data, &e) == 0, "volume: %s", e.text);
	put_image('1');
	check(born_start(NULL, NULL) == 0, "helper for processes");
}

void world_drop(void)
{
	born_stop();
	munmap(world.stage, sizeof *world.stage);
	world.stage = NULL;
}

int world_try_open(struct host **ret, struct err *e)
{
	bool overcommits =
		world.overcommit.disk || world.overcommit.memory || world.overcommit.vcpus;
	struct host_config cfg = {.data_dir = world.data,
		.run_dir = world.run,
		.vmm = world.firecracker ? "firecracker" : "fcqemu",
		.firecracker_path = "/bin/true",
		.pause_room = world.pause_room,
		.overcommit = overcommits ? &world.overcommit : NULL};
	return host_open(&cfg, ret, e);
}

struct host *world_open(void)
{
	struct host *h = NULL;
	struct err e = {0};
	check(world_try_open(&h, &e) == 0, "host_open: %s", e.text);
	return h;
}

// ---- the stage

void stage_calm(void)
{
	struct stage *s = world.stage;
	atomic_store(&s->way, FAULT_NONE);
	atomic_store(&s->trouble, TROUBLE_NONE);
	atomic_store(&s->stuck, 0);
	stage_let_go();
}

void stage_fault(const char *point, enum fault_way way)
{
	struct stage *s = world.stage;
	snprintf(s->point, sizeof s->point, "%s", point);
	atomic_store(&s->let_go, 0);
	atomic_store(&s->holding, 0);
	atomic_store(&s->reached, 0);
	atomic_store(&s->count, 1);
	atomic_store(&s->way, (int)way);
}

void stage_trouble(const char *call, const char *id, enum trouble t, bool once)
{
	struct stage *s = world.stage;
	snprintf(s->call, sizeof s->call, "%s", call);
	snprintf(s->of, sizeof s->of, "%s", id ? id : "");
	atomic_store(&s->let_go, 0);
	atomic_store(&s->holding, 0);
	atomic_store(&s->reached, 0);
	atomic_store(&s->once, once);
	atomic_store(&s->trouble, (int)t);
}

void stage_wait_holding(void)
{
	for (int i = 0; !atomic_load(&world.stage->holding); i++) {
		check(i < 60000, "nothing holds at %s%s", world.stage->point, world.stage->call);
		clock_sleep_ns(NSEC_PER_MSEC);
	}
}

void stage_let_go(void)
{
	atomic_store(&world.stage->let_go, 1);
}

void stage_skip_ms(uint64_t ms)
{
	atomic_fetch_add(&world.stage->skipped_ns, ms * NSEC_PER_MSEC);
}
