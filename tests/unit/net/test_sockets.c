// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include "net/sockets.h"

// A connection to the address, both ends; the listener is closed.
static void connect_pair(const char *address, int ret[2])
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	socklen_t len = sizeof a;
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(inet_pton(AF_INET, address, &a.sin_addr), 1);
	assert_int_equal(bind(l, (struct sockaddr *)&a, sizeof a), 0);
	assert_int_equal(listen(l, 1), 0);
	assert_int_equal(getsockname(l, (struct sockaddr *)&a, &len), 0);
	ret[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(ret[0], (struct sockaddr *)&a, sizeof a), 0);
	ret[1] = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	assert_true(ret[1] >= 0);
	close(l);
}

static bool is_aborted(int fd)
{
	char c;
	return recv(fd, &c, 1, MSG_DONTWAIT) < 0 && errno == ECONNABORTED;
}

static void only_connections_to_the_address_are_aborted(void **state _unused_)
{
	int hit[2], other[2];
	unsigned n = 0;
	struct err e = {0};
	char c = 'x';
	if (geteuid() != 0) {
		print_message("needs root\n");
		skip();
	}
	connect_pair("127.93.7.1", hit);
	connect_pair("127.93.7.2", other);
	int rc = sockets_abort("127.93.7.1", &n, &e);
	if (rc == -EOPNOTSUPP) {
		print_message("this kernel has no SOCK_DESTROY\n");
		skip();
	}
	assert_int_equal(rc, 0);
	assert_int_equal(n, 1); // the side that leads to the address, not the one at it
	assert_true(is_aborted(hit[0]));
	assert_int_equal(send(other[0], &c, 1, MSG_NOSIGNAL), 1);
	struct pollfd pf = {.fd = other[1], .events = POLLIN};
	assert_int_equal(poll(&pf, 1, 5000), 1);
	assert_int_equal(recv(other[1], &c, 1, 0), 1);
	for (int i = 0; i < 2; i++) {
		close(hit[i]);
		close(other[i]);
	}
}

static void a_bad_address_is_refused(void **state _unused_)
{
	struct err e = {0};
	assert_int_equal(sockets_abort("300.1.1.1", NULL, &e), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_connections_to_the_address_are_aborted),
		cmocka_unit_test(a_bad_address_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
