// SPDX-License-Identifier: Apache-2.0
// Makes one mistake, that a lane of tests with sanitizers shows that it would see it:
//	mistakes overflow|leak|shift
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
	const char *which = argc > 1 ? argv[1] : "";
	volatile size_t n = strlen(which);
	if (strcmp(which, "overflow") == 0) {
		volatile char *block = malloc(n);
		block[n] = 1;
		free((void *)block);
	} else if (strcmp(which, "leak") == 0) {
		char *volatile block = malloc(n);
		block = NULL;
		return block != NULL;
	} else if (strcmp(which, "shift") == 0) {
		volatile int one = 1, by = (int)n + 60;
		one <<= by;
	}
	return 0;
}
