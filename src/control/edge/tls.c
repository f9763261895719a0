// SPDX-License-Identifier: Apache-2.0
#include "control/edge/tls.h"
#include <fcntl.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <string.h>
#include <unistd.h>
#include "base/file.h"
#include "base/str.h"

#define MAX_PEM (1u << 20)

DEFINE_CLEANUP(BIO *, BIO_free)
DEFINE_CLEANUP(X509 *, X509_free)
DEFINE_CLEANUP(EVP_PKEY *, EVP_PKEY_free)

// A key that wants a password has nobody to ask for it.
static int no_password(char *buf, int size, int rwflag, void *ctx)
{
	return -1;
}

static int check(const struct strbuf *cert, const struct strbuf *key, const char *cert_path,
	const char *key_path, struct err *e)
{
	_cleanup_(BIO_freep) BIO *c = BIO_new_mem_buf(cert->data, (int)cert->len);
	_cleanup_(BIO_freep) BIO *k = BIO_new_mem_buf(key->data, (int)key->len);
	if (!c || !k)
		return err_errno(e, ENOMEM, "certificate");
	_cleanup_(X509_freep) X509 *x = PEM_read_bio_X509(c, NULL, no_password, NULL);
	_cleanup_(EVP_PKEY_freep) EVP_PKEY *p = PEM_read_bio_PrivateKey(k, NULL, no_password, NULL);
	if (!x)
		return err_set(e, ERR_INVALID, "tls_cert: %s has no certificate (PEM)", cert_path);
	if (!p)
		return err_set(e, ERR_INVALID,
			"tls_key: %s has no private key (PEM, without a password)", key_path);
	if (X509_check_private_key(x, p) != 1)
		return err_set(
			e, ERR_INVALID, "tls_key: %s is not the key of %s", key_path, cert_path);
	if (X509_cmp_current_time(X509_get0_notAfter(x)) < 0)
		return err_set(e, ERR_INVALID, "tls_cert: %s has expired", cert_path);
	if (X509_cmp_current_time(X509_get0_notBefore(x)) > 0)
		return err_set(e, ERR_INVALID, "tls_cert: %s is not valid yet", cert_path);
	return 0;
}

static int read_pem(const char *setting, const char *path, struct strbuf *ret, struct err *e)
{
	int r = file_read(AT_FDCWD, path, MAX_PEM, ret);
	if (r < 0)
		return err_errno(e, r, "%s: %s", setting, path);
	return ret->len ? 0 : err_set(e, ERR_INVALID, "%s: %s is empty", setting, path);
}

int tls_take(const char *dir, const char *cert, const char *key, unsigned generation,
	struct tls_pair *ret, struct err *e)
{
	_cleanup_strbuf_ struct strbuf c = {0}, k = {0};
	struct tls_pair p;
	int r = read_pem("tls_cert", cert, &c, e);
	if (r == 0)
		r = read_pem("tls_key", key, &k, e);
	if (r == 0)
		r = check(&c, &k, cert, key, e);
	snprintf(p.cert, sizeof p.cert, "%s/tls.%u.crt", dir, generation);
	snprintf(p.key, sizeof p.key, "%s/tls.%u.key", dir, generation);
	if (r == 0 && (r = file_write_atomic(AT_FDCWD, p.cert, c.data, c.len, 0600)) < 0)
		err_errno(e, r, "%s", p.cert);
	if (r == 0 && (r = file_write_atomic(AT_FDCWD, p.key, k.data, k.len, 0600)) < 0) {
		err_errno(e, r, "%s", p.key);
		unlink(p.cert);
	}
	if (k.data)
		explicit_bzero(k.data, k.len);
	if (r == 0)
		*ret = p;
	return r;
}

void tls_drop(const struct tls_pair *p)
{
	if (!p->cert[0])
		return;
	unlink(p->cert);
	unlink(p->key);
}
