// SPDX-License-Identifier: Apache-2.0
// Name servers for guests: lists that users give, and the host's own (resolv.conf(5)).
#pragma once
#include "net/cidr.h"

#define RESOLVERS_MAX 3	       // glibc reads no more (MAXNS)
#define RESOLVERS_TEXT_SIZE 48 // "255.255.255.255" three times, commas between
#define RESOLVERS_FROM_SIZE 64

struct resolvers {
	uint32_t addr[RESOLVERS_MAX]; // host byte order
	size_t n;
};

// "10.0.0.53,1.1.1.1": one to three different IPv4 addresses that a guest could reach; the error
// names the one that is not. Guests have no IPv6.
int resolvers_parse(const char *text, struct resolvers *ret, struct err *e);
bool resolvers_are_same(const struct resolvers *a, const struct resolvers *b);
void resolvers_format(const struct resolvers *r, char out[RESOLVERS_TEXT_SIZE]);

// What this machine asks itself, now. systemd-resolved's 127.0.0.53 stands for the servers that it
// asks; other servers on loopback and by IPv6 are out of a guest's reach and left out. False where
// nothing is left: *ret is then 1.1.1.1 and 8.8.8.8. from: the file that the list is of.
bool resolvers_of_host(struct resolvers *ret, char from[RESOLVERS_FROM_SIZE]);
// The same with other files: resolv.conf, and what stands for a server on loopback in it, each of
// them tried (NULL-terminated).
bool resolvers_of_files(const char *main, const char *const upstream[], struct resolvers *ret,
	char from[RESOLVERS_FROM_SIZE]);
