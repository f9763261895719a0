// SPDX-License-Identifier: Apache-2.0
// The bare Firecracker: one process, one PUT /snapshot/load. Its state names the files of the jail
// that it was taken in, so its root is a directory (root of the job) that has them: rootfs.img,
// vmstate, mem or the pager's socket uffd.sock. /dev is bound there, in a mount namespace of this
// program's own. It tracks what the guest writes, as it does in a sandbox, which is to be paused.
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
#include "floor.h"

#define BIN "/firecracker"
#define API "/api.sock"

static void bind(const char *from, const char *to)
{
	if (mount(from, to, NULL, MS_BIND, NULL) < 0)
		die(to);
}

void firecracker_prepare(void)
{
	char dev[256], bin[256];
	snprintf(dev, sizeof dev, "%s/dev", job_get("root"));
	snprintf(bin, sizeof bin, "%s" BIN, job_get("root"));
	mkdir(dev, 0755);
	int fd = open(bin, O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
	if (fd < 0 || unshare(CLONE_NEWNS) < 0 ||
		mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		die("mount namespace");
	close(fd);
	bind("/dev", dev);
	bind(job_get("firecracker"), bin);
}

pid_t firecracker_load(void)
{
	char api[256], body[512], text[1024], answer[4096];
	snprintf(api, sizeof api, "%s" API, job_get("root"));
	unlink(api);
	char *argv[] = {BIN, "--api-sock", API, "--id", "floor", NULL};
	pid_t pid = start(job_get("root"), argv, (char *const[]){NULL}, NULL, 0);
	bool file = *job_get("memory");
	int n = snprintf(body, sizeof body,
		"{\"snapshot_path\":\"/vmstate\",\"mem_backend\":{\"backend_type\":\"%s\","
		"\"backend_path\":\"%s\"},\"track_dirty_pages\":true,\"resume_vm\":true}",
		file ? "File" : "Uffd", file ? "/mem" : "/uffd.sock");
	n = snprintf(text, sizeof text,
		"PUT /snapshot/load HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
		"application/json\r\n"
		"Content-Length: %d\r\n\r\n%s",
		n, body);
	while (!file && access(job_get("socket"), F_OK) < 0) // it connects once
		usleep(200);
	int fd = connect_unix(api);
	if (write(fd, text, (size_t)n) != n)
		die("PUT /snapshot/load");
	ssize_t got = read(fd, answer, sizeof answer - 1);
	answer[got < 0 ? 0 : got] = '\0';
	if (strncmp(answer, "HTTP/1.1 204", 12) != 0) {
		fprintf(stderr, "floor: PUT /snapshot/load: %s\n", answer);
		_exit(1);
	}
	close(fd);
	return pid;
}
