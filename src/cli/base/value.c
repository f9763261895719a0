// SPDX-License-Identifier: Apache-2.0
#include "cli/base/value.h"
#include <errno.h>
#include <string.h>
#include "base/str.h"

int cli_parse_seconds(const char *s, uint64_t *ret)
{
	static const struct {
		char letter;
		uint64_t factor;
	} units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
	char digits[24];
	size_t n = strlen(s);
	uint64_t factor = 1, v;
	if (strcmp(s, "none") == 0) {
		*ret = 0;
		return 0;
	}
	if (n == 0 || n >= sizeof digits)
		return -EINVAL;
	for (size_t i = 0; i < ARRAY_SIZE(units); i++)
		if (s[n - 1] == units[i].letter) {
			factor = units[i].factor;
			n--;
			break;
		}
	memcpy(digits, s, n);
	digits[n] = '\0';
	int rc = str_to_u64(digits, UINT64_MAX / 86400, &v);
	if (rc == 0)
		*ret = v * factor;
	return rc;
}

int cli_parse_bytes(const char *s, uint64_t unit, uint64_t *ret)
{
	static const char letters[] = "KMGT";
	char digits[24];
	size_t n = strlen(s);
	uint64_t factor = unit, v;
	if (n == 0 || n >= sizeof digits)
		return -EINVAL;
	// "20G", "20GB" and "20GiB" are all meant as powers of 1024.
	if (n > 3 && strcmp(s + n - 2, "iB") == 0)
		n -= 2;
	else if (n > 2 && s[n - 1] == 'B')
		n--;
	const char *letter = n > 1 ? strchr(letters, s[n - 1] & ~32) : NULL;
	if (letter && *letter) {
		factor = 1024ull << (10 * (letter - letters));
		n--;
	} else if (s[n] != '\0') {
		return -EINVAL;
	}
	memcpy(digits, s, n);
	digits[n] = '\0';
	int rc = str_to_u64(digits, UINT64_MAX, &v);
	if (rc == 0 && __builtin_mul_overflow(v, factor, &v))
		rc = -ERANGE;
	if (rc == 0)
		*ret = v;
	return rc;
}

const char *cli_ca_file(void)
{
	const char *env = getenv("STASIS_CA_FILE");
	return env && *env ? env : NULL;
}
