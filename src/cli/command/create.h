// SPDX-License-Identifier: Apache-2.0
// What a sandbox is created with, for create and run.
#pragma once
#include "cli/base/option.h"

struct create_options {
	const char *template, *name, *on_timeout, *dns;
	uint64_t vcpus, memory, disk, timeout;
	bool has_timeout, cold, verbose, is_public, is_private;
	json_t *env, *metadata; // freed by create_done
};

// Rows of a command's options.
// clang-format off
#define CREATE_OPTIONS(o) \
	{0, "template", "TEMPLATE", "image or snapshot to start from (default: base)", OPT_STRING, \
		&(o).template}, \
	{0, "name", "NAME", "what to call it: a name is as good as the id", OPT_STRING, &(o).name}, \
	{0, "cold", NULL, "boot, even where the image has a frozen machine", OPT_FLAG, &(o).cold}, \
	{0, "vcpus", "N", "virtual CPUs (default: the template's)", OPT_U64, &(o).vcpus, 1, 32}, \
	{0, "memory", "MIB", "memory: 512, 512M, 2G (default: the template's)", OPT_MIB, \
		&(o).memory, 1}, \
	{0, "disk", "MIB", "size of the root file system: 4096, 4G", OPT_MIB, &(o).disk, 1}, \
	{0, "timeout", "TIME", "life: 90s, 5m, 2h, none (default: 5m)", OPT_SECONDS, &(o).timeout, \
		0, 2592000, &(o).has_timeout}, \
	{0, "on-timeout", "kill|pause", "what happens then (default: kill)", OPT_STRING, \
		&(o).on_timeout}, \
	{0, "dns", "ADDR[,ADDR]", "name servers (default: the server's)", OPT_STRING, &(o).dns}, \
	{0, "private", NULL, "its ports want its port token, or a link", OPT_FLAG, \
		&(o).is_private}, \
	{0, "public", NULL, "anybody may reach its ports (default, unless the server's is private)", \
		OPT_FLAG, &(o).is_public}, \
	{'e', "env", "K=V", "environment of all its processes; repeatable", OPT_MAP, &(o).env}, \
	{0, "metadata", "K=V", "label, to find it by; repeatable", OPT_MAP, &(o).metadata}, \
	{'v', "verbose", NULL, "show how long each step took", OPT_FLAG, &(o).verbose}
// clang-format on

// The body of POST /v1/sandboxes; owned by the caller. NULL when a text is not UTF-8, or
// flags exclude each other, with the error set.
json_t *create_body(const struct create_options *o, struct err *e);
void create_done(struct create_options *o);
#define _cleanup_create_ _cleanup_(create_done)
