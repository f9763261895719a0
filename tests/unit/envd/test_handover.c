// SPDX-License-Identifier: Apache-2.0
// What an agent takes over from the one before it, and texts that lie.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>
#include <sys/mman.h>
#include "base/file.h"
#include "base/hash.h"
#include "base/str.h"
#include "envd/wake/handover.h"
#include "envd/wake/sha256.h"

static void sums_are_those_of_openssl(void **state)
{
	static unsigned char data[4096];
	char ours[SHA256_TEXT_SIZE], theirs[SHA256_HEX_SIZE];
	for (size_t i = 0; i < sizeof data; i++)
		data[i] = (unsigned char)(i * 131 + (i >> 7));
	for (size_t len = 0; len <= sizeof data; len += len < 260 ? 1 : 97) {
		sha256_text(data, len, ours);
		hash_sha256_hex(data, len, theirs);
		assert_string_equal(ours, theirs);
	}
}

static int take(const char *text, size_t len)
{
	struct err e = {0};
	int listen_fd;
	_cleanup_close_ int fd = memfd_create("state", MFD_CLOEXEC);
	assert_int_equal(file_write_full(fd, text, len), 0);
	int rc = handover_take(NULL, fd, true, &listen_fd, &e);
	assert_int_equal(rc < 0, err_is_set(&e));
	return rc;
}

#define SETTINGS                                                                                   \
	"\"settings\":{\"accessToken\":\"t\",\"envVars\":{\"A\":\"b\"},\"lastInitNs\":5,"          \
	"\"clockPpm\":-3}"
#define HEAD "{\"format\":1,\"listen\":4,\"program\":5,\"oomTold\":0," SETTINGS ","
#define TABLE(list) "\"table\":{\"processes\":[" list "],\"filesSoft\":1024,\"filesHard\":4096}}"
#define ONE                                                                                        \
	"{\"pid\":77,\"pidfd\":6,\"out\":7,\"err\":8,\"in\":9,\"pty\":false,\"endsOnExit\":true,"  \
	"\"reaped\":false,\"forced\":false,\"timedOut\":false,\"attached\":true,\"status\":0,"     \
	"\"reapedNs\":0,\"outputNs\":0,\"owed\":0,\"tag\":\"x\",\"config\":{\"cmd\":\"y\"}}"
#define ENDED                                                                                      \
	"{\"pid\":78,\"pidfd\":-1,\"out\":-1,\"err\":-1,\"in\":-1,\"end\":{\"exitCode\":3,"        \
	"\"exited\":true,\"killed\":false,\"timedOut\":false,\"outputOpen\":false,"                \
	"\"status\":\"exit status 3\",\"atNs\":9}}"

static void what_is_right_is_taken(void **state)
{
	static const char *const good[] = {HEAD TABLE(""), HEAD TABLE(ONE),
		HEAD TABLE(ENDED "," ONE),
		// A later agent may say more.
		HEAD "\"new\":[1]," TABLE(ONE)};
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_int_equal(take(good[i], strlen(good[i])), 0);
}

static void what_lies_is_refused(void **state)
{
	static const char *const bad[] = {"", "{}", "[]", "null", HEAD "\"table\":[]}",
		HEAD "\"table\":{}}", "{\"format\":1,\"listen\":4,\"program\":5," TABLE(ONE),
		"{\"format\":2,\"listen\":4,\"program\":5," SETTINGS "," TABLE(ONE),
		"{\"format\":1,\"listen\":2,\"program\":5," SETTINGS "," TABLE(ONE),
		"{\"format\":1,\"listen\":4,\"program\":-1," SETTINGS "," TABLE(ONE),
		"{\"format\":1,\"listen\":4294967300,\"program\":5," SETTINGS "," TABLE(ONE),
		HEAD TABLE("7"), HEAD TABLE("{}"), HEAD TABLE("{\"pid\":0,\"pidfd\":6}"),
		HEAD TABLE("{\"pid\":-1,\"pidfd\":6}"), HEAD TABLE("{\"pid\":77}"),
		HEAD TABLE("{\"pid\":77,\"pidfd\":1}"),
		HEAD TABLE("{\"pid\":77,\"pidfd\":6,\"out\":0}"),
		HEAD TABLE("{\"pid\":77,\"pidfd\":6,\"in\":-2}"),
		HEAD TABLE("{\"pid\":77,\"pidfd\":6,\"owed\":-1}"),
		HEAD TABLE("{\"pid\":77,\"pidfd\":6,\"pty\":1}"),
		HEAD TABLE("{\"pid\":77,\"pidfd\":6,\"tag\":\"a\\u0000b\"}"),
		HEAD TABLE("{\"pid\":77,\"pidfd\":6,\"config\":[]}"),
		HEAD TABLE("{\"pid\":78,\"end\":{}}"),
		HEAD TABLE(
			"{\"pid\":78,\"end\":{\"exitCode\":99999,\"exited\":true,\"killed\":false,"
			"\"timedOut\":false,\"outputOpen\":false,\"status\":\"\",\"atNs\":9}}"),
		HEAD TABLE("{\"pid\":78,\"end\":{\"exitCode\":1,\"exited\":true,\"killed\":false,"
			   "\"timedOut\":false,\"outputOpen\":false,\"status\":"
			   "\"0123456789012345678901234"
			   "5678901234567890123456789012345678901234567890\",\"atNs\":9}}"),
		"{\"format\":1,\"listen\":4,\"program\":5,\"settings\":{}," TABLE(ONE),
		"{\"format\":1,\"listen\":4,\"program\":5,\"settings\":{\"accessToken\":\"t\","
		"\"envVars\":{\"A=B\":\"c\"}}," TABLE(ONE)};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_true(take(bad[i], strlen(bad[i])) < 0);
	// Cut anywhere.
	static const char whole[] = HEAD TABLE(ENDED "," ONE);
	for (size_t len = 0; len < sizeof whole - 1; len += 3)
		assert_true(take(whole, len) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sums_are_those_of_openssl),
		cmocka_unit_test(what_is_right_is_taken),
		cmocka_unit_test(what_lies_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
