// SPDX-License-Identifier: Apache-2.0
#include "snapshot/seal.h"
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <string.h>
#include <sys/stat.h>
#include "base/file.h"
#include "base/hash.h"
#include "base/id.h"
#include "base/str.h"

#define NONCE 12
#define TAG 16

DEFINE_CLEANUP(EVP_CIPHER_CTX *, EVP_CIPHER_CTX_free)

// 0, or -ENOENT where there is no key yet.
static int read_key(int data_fd, struct seal *ret, struct err *e)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	char hex[SHA256_HEX_SIZE];
	int rc = file_read(data_fd, SEAL_KEY_FILE, sizeof ret->key, &b);
	if (rc == -ENOENT)
		return rc;
	if (rc < 0 && rc != -EFBIG)
		return err_errno(e, rc, SEAL_KEY_FILE);
	if (rc < 0 || b.len != sizeof ret->key)
		return err_set(
			e, ERR_INTERNAL, SEAL_KEY_FILE ": not a key of %zu bytes", sizeof ret->key);
	memcpy(ret->key, b.data, sizeof ret->key);
	explicit_bzero(b.data, b.len);
	hash_sha256_hex(ret->key, sizeof ret->key, hex);
	snprintf(ret->key_id, sizeof ret->key_id, "%.16s", hex);
	return 0;
}

// Of several callers one wins; the key is whole and durable under its name, or not there.
static int make_key(int data_fd)
{
	uint8_t key[32];
	char uuid[UUID_SIZE], tmp[sizeof SEAL_KEY_FILE + UUID_SIZE + 8];
	id_new_uuid(uuid);
	snprintf(tmp, sizeof tmp, "." SEAL_KEY_FILE ".%s.tmp", uuid);
	id_random_bytes(key, sizeof key);
	int rc = file_write_atomic(data_fd, tmp, key, sizeof key, 0600);
	explicit_bzero(key, sizeof key);
	if (rc == 0 && renameat2(data_fd, tmp, data_fd, SEAL_KEY_FILE, RENAME_NOREPLACE) < 0 &&
		errno != EEXIST)
		rc = -errno;
	unlinkat(data_fd, tmp, 0);
	return rc < 0 ? rc : file_fsync_dir(data_fd, ".");
}

int seal_open(int data_fd, struct seal *ret, struct err *e)
{
	int rc = read_key(data_fd, ret, e);
	if (rc != -ENOENT)
		return rc;
	rc = make_key(data_fd);
	if (rc < 0)
		return err_errno(e, rc, "make " SEAL_KEY_FILE);
	rc = read_key(data_fd, ret, e);
	return rc == -ENOENT ? err_errno(e, rc, SEAL_KEY_FILE) : rc;
}

int seal_token(const struct seal *s, const char *snapshot, const char *token,
	struct snapshot_token *ret, struct err *e)
{
	uint8_t out[NONCE + SEAL_TOKEN_MAX + TAG], *text = out + NONCE;
	int len = (int)strlen(token), n = 0;
	*ret = (struct snapshot_token){0};
	if (len == 0)
		return 0;
	if (len > (int)SEAL_TOKEN_MAX)
		return err_set(e, ERR_INVALID, "token: too long to be sealed");
	_cleanup_(EVP_CIPHER_CTX_freep) EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	id_random_bytes(out, NONCE);
	if (!c || EVP_EncryptInit_ex(c, EVP_aes_256_gcm(), NULL, s->key, out) != 1 ||
		EVP_EncryptUpdate(c, NULL, &n, (const uint8_t *)snapshot, (int)strlen(snapshot)) !=
			1 ||
		EVP_EncryptUpdate(c, text, &n, (const uint8_t *)token, len) != 1 ||
		EVP_EncryptFinal_ex(c, text + n, &n) != 1 ||
		EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, TAG, text + len) != 1)
		return err_set(e, ERR_INTERNAL, "token: cannot be sealed");
	memcpy(ret->key_id, s->key_id, sizeof ret->key_id);
	id_hex(out, (size_t)(NONCE + len + TAG), ret->sealed);
	return 0;
}

// The bytes' number, or -EINVAL.
static int parse_hex(const char *text, uint8_t *out, size_t max)
{
	size_t len = strlen(text);
	if (len % 2 || len / 2 > max || strspn(text, "0123456789abcdef") != len)
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		unsigned digit = (unsigned)(text[i] <= '9' ? text[i] - '0' : text[i] - 'a' + 10);
		out[i / 2] = (uint8_t)(i % 2 ? out[i / 2] | digit : digit << 4);
	}
	return (int)(len / 2);
}

int unseal_token(const struct seal *s, const char *snapshot, const struct snapshot_token *t,
	char ret[SEAL_TOKEN_MAX + 1], struct err *e)
{
	uint8_t in[NONCE + SEAL_TOKEN_MAX + TAG], text[SEAL_TOKEN_MAX + 1];
	int n = 0, last = 0;
	ret[0] = '\0';
	if (!t->key_id[0])
		return 0;
	if (!str_eq(t->key_id, s->key_id))
		return err_set(e, ERR_UNAVAILABLE,
			"the token of snapshot %s was sealed with key %s, and " SEAL_KEY_FILE
			" is key %s: its disk can be used, its memory cannot",
			snapshot, t->key_id, s->key_id);
	int len = parse_hex(t->sealed, in, sizeof in) - NONCE - TAG;
	_cleanup_(EVP_CIPHER_CTX_freep) EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	if (len <= 0 || !c || EVP_DecryptInit_ex(c, EVP_aes_256_gcm(), NULL, s->key, in) != 1 ||
		EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_SET_TAG, TAG, in + NONCE + len) != 1 ||
		EVP_DecryptUpdate(c, NULL, &n, (const uint8_t *)snapshot, (int)strlen(snapshot)) !=
			1 ||
		EVP_DecryptUpdate(c, text, &n, in + NONCE, len) != 1 ||
		EVP_DecryptFinal_ex(c, text + n, &last) != 1)
		return err_set(e, ERR_INTERNAL,
			"the token of snapshot %s is damaged, or another snapshot's", snapshot);
	memcpy(ret, text, (size_t)len);
	ret[len] = '\0';
	return 0;
}
