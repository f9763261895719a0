// SPDX-License-Identifier: Apache-2.0
// tls dev-cert: a certificate for trying TLS out, signed by an authority of its own. The
// authority's key is gone when the certificate is signed, and the authority is good for these names
// alone, so that who trusts it trusts nothing else.
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <string.h>
#include "base/file.h"
#include "base/id.h"
#include "base/str.h"
#include "cli/base/option.h"
#include "cli/command/all.h"

#define DIR_DEFAULT "/etc/stasis/tls"
#define DAYS 825 // more is refused by Apple's clients

DEFINE_CLEANUP(BIO *, BIO_free_all)
DEFINE_CLEANUP(X509 *, X509_free)
DEFINE_CLEANUP(EVP_PKEY *, EVP_PKEY_free)

struct pair {
	X509 *cert;
	EVP_PKEY *key;
};

static void pair_done(struct pair *p)
{
	X509_freep(&p->cert);
	EVP_PKEY_freep(&p->key);
}

static bool add_extension(X509 *x, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509V3_set_ctx_nodb(&ctx);
	X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
	X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	bool ok = ext && X509_add_ext(x, ext, -1) == 1;
	X509_EXTENSION_free(ext);
	return ok;
}

static bool set_serial(X509 *x)
{
	unsigned char raw[16];
	id_random_bytes(raw, sizeof raw);
	raw[0] = (raw[0] & 0x7f) | 0x40; // positive, and no shorter
	BIGNUM *n = BN_bin2bn(raw, sizeof raw, NULL);
	bool ok = n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(x));
	BN_free(n);
	return ok;
}

// An unsigned certificate with a new key. X.509's third version is written 2.
static bool begin(struct pair *p, const char *name, const X509_NAME *issuer)
{
	p->key = EVP_EC_gen("P-256");
	p->cert = X509_new();
	if (!p->key || !p->cert)
		return false;
	X509 *x = p->cert;
	X509_NAME *subject = X509_get_subject_name(x);
	return X509_set_version(x, 2) && set_serial(x) &&
	       X509_gmtime_adj(X509_getm_notBefore(x), -86400) &&
	       X509_gmtime_adj(X509_getm_notAfter(x), DAYS * 86400L) &&
	       X509_NAME_add_entry_by_txt(
		       subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0) &&
	       X509_set_issuer_name(x, issuer ? issuer : subject) && X509_set_pubkey(x, p->key);
}

static bool make_authority(struct pair *p, const char *domain)
{
	_cleanup_free_ char *limits =
		str_printf("critical,permitted;DNS:%s,permitted;DNS:localhost,"
			   "permitted;IP:127.0.0.1/255.255.255.255,"
			   "permitted;IP:::1/ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
			domain);
	return limits && begin(p, "Stasis development authority", NULL) &&
	       add_extension(
		       p->cert, p->cert, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
	       add_extension(p->cert, p->cert, NID_key_usage, "critical,keyCertSign") &&
	       add_extension(p->cert, p->cert, NID_subject_key_identifier, "hash") &&
	       add_extension(p->cert, p->cert, NID_name_constraints, limits) &&
	       X509_sign(p->cert, p->key, EVP_sha256()) > 0;
}

static bool make_server(struct pair *p, const struct pair *ca, const char *domain)
{
	_cleanup_free_ char *names =
		str_printf("DNS:%s,DNS:*.%s,DNS:localhost,IP:127.0.0.1,IP:::1", domain, domain);
	return names && begin(p, "Stasis", X509_get_subject_name(ca->cert)) &&
	       add_extension(p->cert, ca->cert, NID_basic_constraints, "critical,CA:FALSE") &&
	       add_extension(p->cert, ca->cert, NID_key_usage, "critical,digitalSignature") &&
	       add_extension(p->cert, ca->cert, NID_ext_key_usage, "serverAuth") &&
	       add_extension(p->cert, ca->cert, NID_authority_key_identifier, "keyid:always") &&
	       add_extension(p->cert, ca->cert, NID_subject_alt_name, names) &&
	       X509_sign(p->cert, ca->key, EVP_sha256()) > 0;
}

// cert or key: what is written, PEM.
static int write_pem(int dir, const char *name, X509 *cert, EVP_PKEY *key, struct err *e)
{
	_cleanup_(BIO_free_allp) BIO *out = BIO_new(BIO_s_mem());
	char *data;
	if (!out || (cert && !PEM_write_bio_X509(out, cert)) ||
		(key && !PEM_write_bio_PKCS8PrivateKey(out, key, NULL, NULL, 0, NULL, NULL)))
		return err_errno(e, ENOMEM, "%s", name);
	long len = BIO_get_mem_data(out, &data);
	int rc = file_write_atomic(dir, name, data, (size_t)len, key ? 0600 : 0644);
	return rc < 0 ? err_errno(e, rc, "%s", name) : 0;
}

static const char *const files[] = {"key.pem", "ca.pem", "cert.pem"};

static int check_absent(int dir, const char *where, struct err *e)
{
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		int there = file_there(dir, files[i]);
		if (there < 0)
			return err_errno(e, there, "%s/%s", where, files[i]);
		if (there)
			return err_set(e, ERR_CONFLICT,
				"%s/%s is there already: name another directory, or replace it "
				"with "
				"--force",
				where, files[i]);
	}
	return 0;
}

static int write_all(int dir, const char *domain, bool replace, struct err *e)
{
	_cleanup_(pair_done) struct pair ca = {0}, server = {0};
	if (!make_authority(&ca, domain) || !make_server(&server, &ca, domain))
		return err_set(e, ERR_INTERNAL, "libcrypto makes no certificate for '%s'", domain);
	int rc = write_pem(dir, files[0], NULL, server.key, e);
	if (rc == 0)
		rc = write_pem(dir, files[1], ca.cert, NULL, e);
	if (rc == 0)
		rc = write_pem(dir, files[2], server.cert, NULL, e);
	for (size_t i = 0; rc < 0 && !replace && i < ARRAY_SIZE(files); i++)
		unlinkat(dir, files[i], 0);
	return rc;
}

static void tell(const char *dir, const char *domain)
{
	printf("%s/cert.pem is for %s, *.%s, localhost, 127.0.0.1 and ::1, for %d days.\n\n"
	       "Settings of the server (stasis.conf(5)); then restart it:\n"
	       "  tls_cert = %s/cert.pem\n"
	       "  tls_key = %s/key.pem\n"
	       "  domain = %s\n\n"
	       "Trust it:\n"
	       "  export STASIS_URL=https://localhost:7070 STASIS_CA_FILE=%s/ca.pem\n"
	       "  curl --cacert %s/ca.pem https://localhost:7070/v1/health\n"
	       "Or for all programs of a Debian machine:\n"
	       "  cp %s/ca.pem /usr/local/share/ca-certificates/stasis-dev.crt\n"
	       "  update-ca-certificates\n"
	       "Browsers have lists of their own: import ca.pem as an authority for web sites.\n",
		dir, domain, domain, DAYS, dir, dir, domain, dir, dir, dir);
	if (!strchr(domain, '.'))
		printf("\nMost clients do not accept *.%s, a wildcard right below the root: for "
		       "the "
		       "names of\nguests' ports choose a domain with a dot (--domain "
		       "stasis.localhost).\n",
			domain);
}

int cmd_tls_dev_cert(struct cli *c, struct err *e)
{
	const char *domain = "localhost";
	bool force = false;
	const struct cli_option options[] = {
		{0, "domain", "NAME", "as the server's setting (default: localhost)", OPT_STRING,
			&domain},
		{0, "force", NULL, "replace what is there", OPT_FLAG, &force},
		{0},
	};
	int rc = cli_parse(c, options, 0, 1, e);
	if (rc != 0)
		return rc;
	if (!*domain || strlen(domain) > 200 ||
		domain[strspn(domain, "abcdefghijklmnopqrstuvwxyz0123456789.-")])
		return err_set(e, ERR_INVALID,
			"--domain: must be lower-case letters, digits, '-' and '.'");
	const char *where = c->argc > 0 ? c->argv[0] : DIR_DEFAULT;
	rc = file_mkdir_p(AT_FDCWD, where, 0755);
	_cleanup_close_ int dir = rc < 0 ? rc : open(where, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return err_errno(e, rc < 0 ? rc : errno, "%s", where);
	if (!force)
		rc = check_absent(dir, where, e);
	if (rc == 0)
		rc = write_all(dir, domain, force, e);
	if (rc < 0)
		return rc;
	_cleanup_free_ char *full = realpath(where, NULL);
	tell(full ? full : where, domain);
	return 0;
}
