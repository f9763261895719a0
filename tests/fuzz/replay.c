// SPDX-License-Identifier: Apache-2.0
// Runs a fuzz target over the files of the directories named: the committed corpus as an ordinary
// test. Each file is also cut at every eighth of its length.
#include <fcntl.h>
#include <string.h>
#include "base/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static int replay(int dir, const char *name)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	int rc = file_read(dir, name, 1u << 24, &b);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i <= 8; i++) {
		size_t len = b.len * i / 8;
		// On the heap and exact, so that the sanitizers see a read beyond.
		_cleanup_free_ uint8_t *copy = malloc(len ? len : 1);
		if (!copy)
			return -ENOMEM;
		memcpy(copy, b.data, len);
		LLVMFuzzerTestOneInput(copy, len);
	}
	return 0;
}

int main(int argc, char **argv)
{
	size_t n = 0;
	for (int i = 1; i < argc; i++) {
		_cleanup_closedir_ DIR *d = opendir(argv[i]);
		for (struct dirent *de; d && (de = readdir(d));) {
			if (de->d_name[0] == '.')
				continue;
			int rc = replay(dirfd(d), de->d_name);
			if (rc < 0) {
				fprintf(stderr, "%s/%s: %s\n", argv[i], de->d_name, strerror(-rc));
				return 1;
			}
			n++;
		}
	}
	printf("%zu inputs\n", n);
	return n == 0;
}
