// SPDX-License-Identifier: Apache-2.0
#include "../check.h"
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/file.h"
#include "base/str.h"
#include "shim/shim.h"

#define MIB (1ull << 20)

static char *fill(uint64_t bytes, int flags)
{
	char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		_exit(1);
	memset(p, 1, bytes);
	return p;
}

// As fcqemu, with a QEMU for a child: that one has the guest's memory.
static pid_t start_family(void)
{
	int ready[2];
	char byte;
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid_t pid = fork();
	if (pid == 0) {
		if (fork() == 0) {
			fill(48 * MIB, MAP_PRIVATE);
			fill(16 * MIB, MAP_SHARED);
			// Not its own: address space that was never touched.
			mmap(NULL, 512 * MIB, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			if (write(ready[1], "x", 1) != 1)
				_exit(1);
		}
		for (;;)
			pause();
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	close(ready[1]);
	return pid;
}

static void a_child_counts_and_what_was_not_touched_does_not(void **state)
{
	char dir[] = "/tmp/shim-memory.XXXXXX", text[300];
	uint64_t bytes = 0;
	assert_non_null(mkdtemp(dir));
	assert_true(shim_memory(dir, &bytes) < 0); // no state.json
	pid_t pid = start_family();
	snprintf(text, sizeof text,
		"{\"id\":\"ibox\",\"pid\":%d,\"start_time\":1,\"boot_id\":\"b\",\"uid\":1,\"vmm_"
		"pid\":%d}",
		(int)pid, (int)pid);
	_cleanup_free_ char *path = str_printf("%s/state.json", dir);
	assert_int_equal(file_write_atomic(AT_FDCWD, path, text, strlen(text), 0600), 0);
	int rc = shim_memory(dir, &bytes);
	// The child ends with its parent's group in no namespace here: by its own number.
	_cleanup_free_ char *children = str_printf("/proc/%d/task/%d/children", (int)pid, (int)pid);
	_cleanup_strbuf_ struct strbuf list = {0};
	if (file_read(AT_FDCWD, children, 4096, &list) == 0 && list.data)
		kill((pid_t)strtol(list.data, NULL, 10), SIGKILL);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	file_rm_rf(AT_FDCWD, dir);
	if (rc == -ENOENT)
		skip(); // a kernel that does not tell children
	assert_int_equal(rc, 0);
	assert_in_range(bytes, 64 * MIB, 400 * MIB);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_child_counts_and_what_was_not_touched_does_not),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
