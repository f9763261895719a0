// SPDX-License-Identifier: Apache-2.0
// A small internet for tests of slots: the "host" (a namespace of the test's own, so that nothing
// of the machine's network is touched), a namespace "outside" that the host reaches through a
// router port, and guests without a VMM.
//
//	guest namespace eth0 ══ pump ══ tap0 [slot] ── veth ── [host] pub0 ── eth0 [outside]
//
// The outside holds public addresses and the forbidden ones alike, and the host has routes to all:
// what a guest cannot reach there, it is refused by policy.
#pragma once
#include <pthread.h>
#include "net/slot.h"

#define WORLD_HOST "198.51.100.1"   // the host's side of pub0
#define WORLD_PUBLIC "198.51.100.2" // the outside
#define WORLD_PORT 7

struct world {
	char dir[64]; // temporary, removed with the world
	int host, outside;
	int host_listener, outside_listener; // TCP on WORLD_PORT of all addresses
};

// Moves the calling thread into network and mount namespaces of its own, which is the host then.
void world_make(struct world *w);
void world_remove(struct world *w);
// All there is in the host's namespace that a pool could leave behind, as text to be compared.
char *world_inventory(const struct world *w);

// Each runs in the namespace of the descriptor; the sockets stay there.
void world_sh(int ns, const char *script); // fails the test when the script fails
int world_listen(int ns, const char *ip, unsigned port);
int world_udp(int ns, const char *ip, unsigned port);
// A connected socket, or -errno; -ETIMEDOUT after that time without any answer.
int world_connect(int ns, const char *ip, unsigned port, int timeout_ms);
void world_send(int udp, const char *ip, unsigned port, const char *text);
// The next datagram's text; fails the test when none comes in time.
void world_expect(int udp, const char *text, struct sockaddr_in *ret_from);
// A value of /proc/sys as the namespace sees it.
uint64_t world_sysctl(int ns, const char *path);

struct guest {
	int ns, listener; // TCP on WORLD_PORT
	int eth, tap;	  // the two ends that the pump joins
	int stop;
	pthread_t pump;
};
void guest_make(struct guest *g);
void guest_attach(struct guest *g, const struct slot *s, uint32_t uid); // as a VMM with that uid
void guest_detach(struct guest *g);
void guest_remove(struct guest *g);
// Opens the slot's tap as that uid without any capability; the descriptor or -errno.
int guest_open_tap(const struct slot *s, uint32_t uid);
