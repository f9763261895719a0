// SPDX-License-Identifier: Apache-2.0
#include "agentclient/version.h"
#include <string.h>
#include "base/str.h"

#define HEX "0123456789abcdef"
#define TOLD_SINCE 3u // this revision and later ones say who they are

// What is weak in which agent. Append only: revisions of before do not change.
static const struct agent_weakness weaknesses[] = {
	{1, 1, true,
		"programs in the guest can set the agent's token; one that was started again has "
		"none, and obeys anybody in the guest"},
	{1, 1, false,
		"an upload that breaks off leaves half of a file in the place of the old one"},
	{1, 2, false, "it cannot be replaced: what was mended in later agents stays as it was"},
};

// "0.1.0-3": the digits and dots, and what is behind the dash. The end, NULL when it is none.
static const char *parse(const char *text, unsigned part[3], unsigned *ret_revision)
{
	const char *p = text;
	for (int i = 0; i < 3; i++) {
		char *end;
		if (*p < '0' || *p > '9' || strspn(p, "0123456789") > 4)
			return NULL;
		part[i] = (unsigned)strtoul(p, &end, 10);
		if (*end != (i < 2 ? '.' : '-'))
			return NULL;
		p = end + 1;
	}
	size_t n = strspn(p, "0123456789");
	if (n < 1 || n > 4)
		return NULL;
	*ret_revision = (unsigned)strtoul(p, NULL, 10);
	return *ret_revision ? p + n : NULL;
}

// " init=0.1.0-3", if there is one; text and its end move on.
static const char *parse_init(const char *p)
{
	unsigned part[3], revision;
	return str_starts(p, " init=") ? parse(p + 6, part, &revision) : p;
}

static bool read_told(const char *header, struct agent_version *ret)
{
	unsigned part[3], revision;
	const char *build = parse(header, part, &revision);
	if (!build || *build != '+' || strspn(build + 1, HEX) != AGENT_BUILD_SIZE - 1)
		return false;
	const char *end = parse_init(build + AGENT_BUILD_SIZE);
	if (!end || (*end && *end != ' ') || (size_t)(end - header) >= sizeof ret->text ||
		revision < TOLD_SINCE)
		return false;
	*ret = (struct agent_version){
		.revision = revision, .can_replace = strstr(end, " can=replace") != NULL};
	memcpy(ret->text, header, (size_t)(end - header));
	memcpy(ret->build, build + 1, AGENT_BUILD_SIZE - 1);
	return true;
}

void agent_version_read(const char *header, bool instance, struct agent_version *ret)
{
	if (header && read_told(header, ret))
		return;
	*ret = (struct agent_version){.revision = instance ? 2 : 1};
	snprintf(ret->text, sizeof ret->text, "unknown-%u", ret->revision);
}

unsigned agent_version_revision(const char *text)
{
	unsigned part[3], revision;
	if (parse(text, part, &revision))
		return revision;
	if (str_eq(text, "unknown-1"))
		return 1;
	return str_eq(text, "unknown-2") ? 2 : 0;
}

bool agent_version_is_older(const char *text, const char *than)
{
	unsigned a[3] = {0}, b[3] = {0}, ra = agent_version_revision(text), rb = 0;
	if (!parse(than, b, &rb))
		return false;
	if (!parse(text, a, &ra))
		return true;
	for (int i = 0; i < 3; i++)
		if (a[i] != b[i])
			return a[i] < b[i];
	return ra < rb;
}

const char *agent_version_shown(const char *text)
{
	unsigned part[3], revision;
	return parse(text, part, &revision) ? text : "before 0.1.0-3";
}

const struct agent_weakness *agent_weakness(const char *text, unsigned i)
{
	unsigned revision = agent_version_revision(text);
	for (size_t k = 0; k < ARRAY_SIZE(weaknesses); k++) {
		const struct agent_weakness *w = &weaknesses[k];
		bool has = revision ? revision >= w->first && revision <= w->last
				    : w->last >= TOLD_SINCE - 1;
		if (has && i-- == 0)
			return w;
	}
	return NULL;
}

bool agent_is_owner_only(const char *text)
{
	if (agent_version_revision(text) == 0)
		return false;
	for (unsigned i = 0; agent_weakness(text, i); i++)
		if (agent_weakness(text, i)->owner_only)
			return true;
	return false;
}
