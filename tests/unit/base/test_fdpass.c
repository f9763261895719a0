// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include "../check.h"
#include "base/fdpass.h"

static int s[2];

static int setup(void **state)
{
	return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s);
}

static int teardown(void **state)
{
	safe_close(s[0]);
	safe_close(s[1]);
	return 0;
}

static size_t open_descriptors(void)
{
	size_t n = 0;
	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static bool same_file(int a, int b)
{
	struct stat x, y;
	return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev &&
	       x.st_ino == y.st_ino;
}

static void a_descriptor_comes_with_its_bytes(void **state)
{
	_cleanup_close_ int sent = open("/dev/null", O_RDONLY | O_CLOEXEC), got = -1;
	char buf[8];
	assert_int_equal(fdpass_send(s[0], "hello", 5, sent, 0), 5);
	assert_int_equal(fdpass_send(s[0], "more", 4, -1, 0), 4);
	// In pieces: it comes with the first.
	assert_int_equal(fdpass_receive(s[1], buf, 2, &got, 0), 2);
	assert_memory_equal(buf, "he", 2);
	assert_true(got >= 0 && same_file(got, sent));
	assert_int_equal(fcntl(got, F_GETFD), FD_CLOEXEC);
	int first = got;
	assert_int_equal(fdpass_receive(s[1], buf, 3, &got, 0), 3);
	assert_int_equal(fdpass_receive(s[1], buf, sizeof buf, &got, 0), 4);
	assert_memory_equal(buf, "more", 4);
	assert_int_equal(got, first);
}

static void what_is_too_much_is_closed(void **state)
{
	size_t before = open_descriptors();
	int got = -1;
	char buf[2];
	union {
		char bytes[CMSG_SPACE(3 * sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec io = {"x", 1};
	struct msghdr m = {.msg_iov = &io,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof control.bytes};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(3 * sizeof(int));
	memcpy(CMSG_DATA(c), (int[]){0, 1, 2}, 3 * sizeof(int));
	assert_int_equal(sendmsg(s[0], &m, 0), 1);
	assert_int_equal(fdpass_receive(s[1], buf, sizeof buf, &got, 0), 1);
	assert_true(got >= 0 && same_file(got, 0));
	assert_int_equal(open_descriptors(), before + 1);
	int had = got;
	assert_int_equal(fdpass_send(s[0], "y", 1, 1, 0), 1);
	assert_int_equal(fdpass_receive(s[1], buf, sizeof buf, &got, 0), 1);
	assert_int_equal(got, had);
	assert_int_equal(open_descriptors(), before + 1);
	close(got);
}

static void ends_and_errors(void **state)
{
	int got = -1;
	char buf[2];
	assert_int_equal(fdpass_receive(s[1], buf, sizeof buf, &got, MSG_DONTWAIT), -EAGAIN);
	s[0] = safe_close(s[0]);
	assert_int_equal(fdpass_receive(s[1], buf, sizeof buf, &got, 0), 0);
	assert_int_equal(fdpass_send(s[1], "x", 1, 0, 0), -EPIPE);
	assert_int_equal(fdpass_send(-1, "x", 1, 0, 0), -EBADF);
	assert_int_equal(got, -1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(a_descriptor_comes_with_its_bytes),
		T(what_is_too_much_is_closed),
		T(ends_and_errors),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
