// SPDX-License-Identifier: Apache-2.0
// How this works. A record of /dev/kmsg (Documentation/ABI/testing/dev-kmsg) is one read:
//
//	3,812,5210941,-;Out of memory: Killed process 417 (python3) total-vm:461012kB, ...
//
// Before the ';' are priority and facility in one number, sequence number, time, flags; what is not
// printable in the text is written as \xNN, so a process cannot begin a line by its name. The
// number of the facility is 0 for the kernel alone: the kernel gives 1 to what programs write
// there.
#include "base/oomlog.h"
#include <string.h>
#include "base/printable.h"

// Undoes the kernel's \xNN.
static size_t unescape(const char *s, size_t len, char *out, size_t size)
{
	size_t n = 0;
	for (size_t i = 0; i < len && n < size; n++) {
		unsigned v;
		char hex[3] = {0};
		if (len - i >= 4 && s[i] == '\\' && s[i + 1] == 'x') {
			memcpy(hex, s + i + 2, 2);
			if (sscanf(hex, "%2x", &v) == 1) {
				out[n] = (char)v;
				i += 4;
				continue;
			}
		}
		out[n] = s[i++];
	}
	return n;
}

static void copy_text(char *out, size_t size, const char *s, size_t len)
{
	char raw[512];
	printable_copy(out, size, raw, unescape(s, len, raw, sizeof raw));
}

// The last place of a text, since what a process is called may contain it.
static const char *find_last(const char *text, const char *what)
{
	const char *found = NULL;
	for (const char *p = text; (p = strstr(p, what)); p++)
		found = p;
	return found;
}

bool oom_number_after(const char *text, const char *key, uint64_t max, uint64_t *ret)
{
	const char *p = strstr(text, key);
	char *end;
	if (!p || p[strlen(key)] < '0' || p[strlen(key)] > '9')
		return false;
	errno = 0;
	unsigned long long v = strtoull(p + strlen(key), &end, 10);
	if (errno || v > max)
		return false;
	*ret = v;
	return true;
}

// oom-kill:constraint=...,oom_memcg=/a,task_memcg=/a/b,task=python3,pid=417,uid=1000
static void parse_summary(const char *text, struct oom_summary *ret)
{
	static const char begins[] = ",oom_memcg=";
	uint64_t pid;
	const char *at = strstr(text, begins), *end = at ? strstr(at, ",task_memcg=") : NULL;
	const char *last = find_last(text, ",pid=");
	*ret = (struct oom_summary){0};
	if (!end || !last || !oom_number_after(last, ",pid=", INT32_MAX, &pid))
		return;
	at += strlen(begins);
	copy_text(ret->cgroup, sizeof ret->cgroup, at, (size_t)(end - at));
	ret->pid = (pid_t)pid;
}

// ...: Killed process 417 (python3) total-vm:461012kB, anon-rss:440320kB, file-rss:12kB,
// shmem-rss:0kB, UID:1000 pgtables:912kB oom_score_adj:100
static bool parse_kill(const char *text, struct oom_kill *k)
{
	static const char killed[] = "Killed process ";
	const char *at = strstr(text, killed), *end = find_last(text, ") total-vm:");
	uint64_t pid, uid = 0, anon = 0, file = 0, shmem = 0;
	char *open;
	if (!at || !end)
		return false;
	at += strlen(killed);
	pid = strtoull(at, &open, 10);
	if (open == at || pid == 0 || pid > INT32_MAX || strncmp(open, " (", 2) != 0 ||
		open + 2 > end)
		return false;
	if (!oom_number_after(end, "anon-rss:", UINT64_MAX >> 12, &anon))
		return false;
	oom_number_after(end, "file-rss:", UINT64_MAX >> 12, &file);
	oom_number_after(end, "shmem-rss:", UINT64_MAX >> 12, &shmem);
	oom_number_after(end, "UID:", UINT32_MAX, &uid);
	*k = (struct oom_kill){.pid = (pid_t)pid,
		.uid = (uint32_t)uid,
		.rss_bytes = (anon + file + shmem) << 10,
		.in_cgroup = str_starts(text, "Memory cgroup out of memory")};
	copy_text(k->comm, sizeof k->comm, open + 2, (size_t)(end - (open + 2)));
	return true;
}

bool oom_record_number(const char *record, size_t len, uint64_t *ret)
{
	char head[64];
	size_t n = MIN(len, sizeof head - 1);
	memcpy(head, record, n);
	head[n] = '\0';
	return oom_number_after(head, ",", UINT64_MAX - 1, ret);
}

bool oom_parse(const char *record, size_t len, struct oom_summary *summary, struct oom_kill *ret)
{
	char line[2048];
	const char *newline = memchr(record, '\n', len);
	size_t n = MIN(newline ? (size_t)(newline - record) : len, sizeof line - 1);
	memcpy(line, record, n);
	line[n] = '\0';
	char *end, *text = strchr(line, ';');
	unsigned long prio = strtoul(line, &end, 10);
	if (!text || end == line || *end != ',' || prio > 7)
		return false;
	text++;
	if (str_starts(text, "oom-kill:")) {
		parse_summary(text, summary);
		return false;
	}
	if (!(str_starts(text, "Out of memory") ||
		    str_starts(text, "Memory cgroup out of memory")) ||
		!parse_kill(text, ret))
		return false;
	if (!oom_record_number(record, len, &ret->seq))
		return false;
	if (ret->in_cgroup && summary->pid == ret->pid)
		memcpy(ret->cgroup, summary->cgroup, sizeof ret->cgroup);
	*summary = (struct oom_summary){0};
	return true;
}
