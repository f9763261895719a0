// SPDX-License-Identifier: Apache-2.0
#include "guestinit/root.h"
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "guestinit/console.h"

#define NEW_ROOT "/newroot"
#define ROOT_WAIT_MS 30000

void root_mount_or_die(const char *type, const char *at, unsigned long flags, const char *data)
{
	mkdir(at, 0755);
	// EBUSY: the kernel has mounted devtmpfs itself
	if (mount(type, at, type, flags, data) < 0 && errno != EBUSY)
		init_die(errno, "cannot mount %s at %s", type, at);
}

static void load_module(const char *name)
{
	char path[PATH_MAX];
	if (str_format(path, sizeof path, "/modules/%s", name) < 0)
		init_die(0, "bad module name in /modules/order");
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		init_die(errno, "cannot open %s", path);
	if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)
		init_die(errno, "cannot load %s", path);
}

void root_load_modules(void)
{
	_cleanup_strbuf_ struct strbuf order = {0};
	int rc = file_read(AT_FDCWD, "/modules/order", 1u << 20, &order);
	if (rc == -ENOENT)
		return; // a kernel with everything built in
	if (rc < 0)
		init_die(-rc, "cannot read /modules/order");
	for (char *line = order.data; line && *line;) {
		char *next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		if (*line && *line != '#')
			load_module(line);
		line = next;
	}
}

// Its driver may make the node a moment after the module was loaded: watched, not polled.
static void wait_for_node(const char *path)
{
	_cleanup_close_ int in = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (in < 0 || inotify_add_watch(in, "/dev", IN_CREATE | IN_MOVED_TO) < 0)
		init_die(errno, "cannot watch /dev");
	uint64_t end = deadline_in_ms(ROOT_WAIT_MS);
	while (access(path, F_OK) < 0) {
		char events[4096];
		struct pollfd pf = {.fd = in, .events = POLLIN};
		if (deadline_over(end))
			init_die(0, "the root device %s has not appeared", path);
		poll(&pf, 1, deadline_left_ms(end));
		while (read(in, events, sizeof events) > 0)
			;
	}
}

void root_mount(const struct cmdline *c)
{
	if (!str_starts(c->root, "/dev/"))
		init_die(0, "root=%s: only names of /dev can be mounted", c->root);
	wait_for_node(c->root);
	mkdir(NEW_ROOT, 0755);
	if (mount(c->root, NEW_ROOT, c->rootfstype, MS_NOATIME | (c->ro ? MS_RDONLY : 0), NULL) < 0)
		init_die(errno, "cannot mount %s (%s)", c->root, c->rootfstype);
	init_say("root mounted");
}

// --- into the root

// Makes the directory when it is missing, which a read-only root cannot.
static void new_dir(const char *path, mode_t mode)
{
	if (mkdir(path, mode) < 0 && errno != EEXIST)
		init_die(errno, "the root file system has no %s", path + strlen(NEW_ROOT));
}

static void copy_envd(void)
{
	struct stat st;
	_cleanup_close_ int in = open("/envd", O_RDONLY | O_CLOEXEC);
	if (in < 0 || fstat(in, &st) < 0)
		init_die(errno, "the initramfs has no /envd");
	mkdir(NEW_ROOT "/run/stasis", 0755);
	_cleanup_close_ int out =
		open(NEW_ROOT ENVD_PATH, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
	for (off_t left = st.st_size; left > 0;) {
		ssize_t n = out < 0 ? -1 : sendfile(out, in, NULL, (size_t)left);
		if (n <= 0)
			init_die(errno, "cannot copy envd to %s", ENVD_PATH);
		left -= n;
	}
}

void root_enter(void)
{
	static const char *const moved[] = {"/dev", "/proc", "/sys"};
	char to[64];
	new_dir(NEW_ROOT "/run", 0755);
	root_mount_or_die("tmpfs", NEW_ROOT "/run", MS_NOSUID | MS_NODEV, "mode=0755");
	copy_envd();
	for (size_t i = 0; i < ARRAY_SIZE(moved); i++) {
		snprintf(to, sizeof to, NEW_ROOT "%s", moved[i]);
		new_dir(to, 0755);
		if (mount(moved[i], to, NULL, MS_MOVE, NULL) < 0)
			init_die(errno, "cannot move %s", moved[i]);
	}
	// What the initramfs held is memory.
	file_rm_rf(AT_FDCWD, "/modules");
	unlink("/envd");
	unlink("/init");
	if (chdir(NEW_ROOT) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
		chdir("/") < 0)
		init_die(errno, "cannot move into the root");
}
