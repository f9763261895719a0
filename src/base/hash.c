// SPDX-License-Identifier: Apache-2.0
#include "base/hash.h"
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include "base/id.h"

void hash_sha256_hex(const void *data, size_t len, char out[SHA256_HEX_SIZE])
{
	unsigned char md[32];
	if (!EVP_Digest(data, len, md, NULL, EVP_sha256(), NULL))
		abort(); // only when the library itself is broken
	id_hex(md, sizeof md, out);
}

int hash_sha256_file_hex(int dirfd, const char *path, char out[SHA256_HEX_SIZE])
{
	_cleanup_close_ int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	_cleanup_free_ char *buf = malloc(1 << 17);
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	int rc = buf && ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) ? 0 : -ENOMEM;
	while (rc == 0) {
		ssize_t n = RETRY_EINTR(read(fd, buf, 1 << 17));
		if (n < 0)
			rc = -errno;
		if (n <= 0)
			break;
		EVP_DigestUpdate(ctx, buf, (size_t)n);
	}
	unsigned char md[32];
	if (rc == 0 && !EVP_DigestFinal_ex(ctx, md, NULL))
		rc = -EIO;
	EVP_MD_CTX_free(ctx);
	if (rc == 0)
		id_hex(md, sizeof md, out);
	return rc;
}

void hash_hmac_sha256_hex(
	const void *key, size_t key_len, const void *data, size_t len, char out[SHA256_HEX_SIZE])
{
	unsigned char md[32];
	unsigned n = sizeof md;
	if (!HMAC(EVP_sha256(), key, (int)key_len, data, len, md, &n))
		abort();
	id_hex(md, sizeof md, out);
}
