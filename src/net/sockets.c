// SPDX-License-Identifier: Apache-2.0
// sock_diag(7): one dump of the TCP sockets, then SOCK_DESTROY for each that leads to the address.
#include "net/sockets.h"
#include <arpa/inet.h>
#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <string.h>

#define MAX_SOCKETS 4096u
#define ALL_STATES (~(1u << TCP_LISTEN | 1u << TCP_TIME_WAIT | 1u << TCP_CLOSE))

struct found {
	uint32_t address; // network byte order
	struct inet_diag_sockid *ids;
	unsigned n;
};

static int on_socket(const struct nlmsghdr *nlh, void *data)
{
	struct found *f = data;
	const struct inet_diag_msg *m = mnl_nlmsg_get_payload(nlh);
	if (mnl_nlmsg_get_payload_len(nlh) >= sizeof *m && m->id.idiag_dst[0] == f->address &&
		f->n < MAX_SOCKETS)
		f->ids[f->n++] = m->id;
	return MNL_CB_OK;
}

static struct nlmsghdr *request(char *buf, uint16_t type, uint16_t flags,
	const struct inet_diag_sockid *id, uint32_t states)
{
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	nlh->nlmsg_type = type;
	nlh->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
	nlh->nlmsg_seq = 1;
	struct inet_diag_req_v2 *r = mnl_nlmsg_put_extra_header(nlh, sizeof *r);
	r->sdiag_family = AF_INET;
	r->sdiag_protocol = IPPROTO_TCP;
	r->idiag_states = states;
	if (id)
		r->id = *id;
	return nlh;
}

static int receive(struct mnl_socket *nl, mnl_cb_t cb, void *data)
{
	char buf[32768];
	for (;;) {
		ssize_t n = mnl_socket_recvfrom(nl, buf, sizeof buf);
		if (n < 0)
			return -errno;
		int rc = mnl_cb_run(buf, (size_t)n, 1, mnl_socket_get_portid(nl), cb, data);
		if (rc <= MNL_CB_STOP)
			return rc < 0 ? -errno : 0;
	}
}

int sockets_abort(const char *address, unsigned *ret_n, struct err *e)
{
	char buf[512];
	struct found f = {0};
	unsigned aborted = 0;
	if (inet_pton(AF_INET, address, &f.address) != 1)
		return err_set(e, ERR_INVALID, "'%s' is not an address", address);
	struct mnl_socket *nl = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);
	if (!nl)
		return err_errno(e, errno, "sock_diag");
	int rc = -ENOMEM;
	_cleanup_free_ struct inet_diag_sockid *ids = calloc(MAX_SOCKETS, sizeof *ids);
	f.ids = ids;
	struct nlmsghdr *nlh = request(buf, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, NULL, ALL_STATES);
	if (ids && mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) == 0 &&
		mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) > 0)
		rc = receive(nl, on_socket, &f);
	for (unsigned i = 0; rc == 0 && i < f.n; i++) {
		nlh = request(buf, SOCK_DESTROY, NLM_F_ACK, &f.ids[i], 0);
		int r = mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0 ? -errno
								       : receive(nl, NULL, NULL);
		if (r == 0)
			aborted++;
		else if (r != -ENOENT) // it ended by itself in between
			rc = r;
	}
	mnl_socket_close(nl);
	if (rc < 0)
		return err_errno(e, rc, "abort connections to %s", address);
	if (ret_n)
		*ret_n = aborted;
	return 0;
}
