// SPDX-License-Identifier: Apache-2.0
#include "played/points.h"
#include <fcntl.h>
#include <ftw.h>
#include <string.h>
#include <sys/mman.h>
#include "base/file.h"
#include "base/str.h"
#include "played/cases.h"

#define MAX_POINTS 200

static struct passed {
	char name[MAX_POINTS][48];
	size_t n;
} * passed, all; // of one act, in memory that its process shares; of all acts

static bool has(const struct passed *p, const char *name)
{
	for (size_t i = 0; i < p->n; i++)
		if (strcmp(p->name[i], name) == 0)
			return true;
	return false;
}

static void add(struct passed *p, const char *name)
{
	if (!has(p, name) && p->n < MAX_POINTS)
		snprintf(p->name[p->n++], sizeof p->name[0], "%s", name);
}

void points_begin(const char *act)
{
	if (!passed)
		passed = mmap(NULL, sizeof *passed, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	passed->n = 0;
}

void points_take(const struct stage *s)
{
	unsigned n = MIN(atomic_load(&s->n_hits), (unsigned)STAGE_HITS);
	for (unsigned i = 0; i < n; i++)
		if (!str_eq(s->hits[i], "disk.reflink")) // where blocks cannot be shared
			add(passed, s->hits[i]);
}

void points_take_calls(const struct stage *s)
{
	unsigned n = MIN(atomic_load(&s->n_calls), (unsigned)STAGE_HITS);
	for (unsigned i = 0; i < n; i++)
		add(passed, s->calls[i]);
}

size_t points_of_act(void)
{
	for (size_t i = 0; i < passed->n; i++)
		add(&all, passed->name[i]);
	return passed->n;
}

const char *point_of_act(size_t i)
{
	return passed->name[i];
}

// ---- the code

// Names in it, with the file they stand in: "create.after_slot", or a step "after_slot" that gets
// its first half from elsewhere.
static struct passed written;
static char where[MAX_POINTS][128];
static struct strbuf tests, document;

static bool is_point(const char *s, size_t len)
{
	const char *dot = memchr(s, '.', len), *step = dot ? dot + 1 : s;
	size_t n = len - (size_t)(step - s);
	if (len >= 48 || strspn(s, "abcdefghijklmnopqrstuvwxyz_.") < len)
		return false;
	return (n > 6 && strncmp(step, "after_", 6) == 0) ||
	       (n > 7 && strncmp(step, "before_", 7) == 0);
}

static int read_source(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	size_t len = strlen(path);
	if (type != FTW_F || len < 2 || strcmp(path + len - 2, ".c") != 0 ||
		file_read(AT_FDCWD, path, 1 << 20, &text) < 0)
		return 0;
	for (const char *p = text.data; p && (p = strchr(p, '"')); p++) {
		const char *end = strpbrk(p + 1, "\"\n");
		char name[48];
		if (!end || *end != '"' || !is_point(p + 1, (size_t)(end - p - 1))) {
			continue;
		}
		snprintf(name, sizeof name, "%.*s", (int)(end - p - 1), p + 1);
		if (!has(&written, name)) {
			snprintf(where[written.n], sizeof where[0], "%s",
				path + sizeof PLAYED_SOURCE);
			add(&written, name);
		}
		p = end;
	}
	return 0;
}

static int read_test(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	if (type == FTW_F && (str_ends(path, ".c") || str_ends(path, ".py")) &&
		!strstr(path, "unit/sandbox") && file_read(AT_FDCWD, path, 1 << 20, &text) == 0)
		strbuf_adds(&tests, text.data);
	return 0;
}

static bool is_passed(const char *name)
{
	if (strchr(name, '.'))
		return has(&all, name);
	for (size_t i = 0; i < all.n; i++)
		if (str_eq(strchr(all.name[i], '.') + 1, name))
			return true;
	return false;
}

void points_check(void)
{
	_cleanup_strbuf_ struct strbuf wrong = {0};
	char quoted[64];
	nftw(PLAYED_SOURCE "/src", read_source, 16, 0);
	nftw(PLAYED_SOURCE "/tests", read_test, 16, 0);
	check(file_read(AT_FDCWD, PLAYED_SOURCE "/docs/fault-points.md", 1 << 20, &document) == 0,
		"docs/fault-points.md");
	check(written.n > 30 && all.n > 30, "%zu points are written, %zu passed", written.n, all.n);
	for (size_t i = 0; i < written.n; i++)
		if (!is_passed(written.name[i]) &&
			!(tests.data && strstr(tests.data, written.name[i])))
			strbuf_addf(&wrong,
				"\n\t%s of %s: no operation here passes it, no test names it",
				written.name[i], where[i]);
	for (size_t i = 0; i < all.n; i++) {
		snprintf(quoted, sizeof quoted, "`%s`", all.name[i]);
		if (!strstr(document.data, quoted))
			strbuf_addf(&wrong, "\n\t%s is not in docs/fault-points.md", all.name[i]);
	}
	check(!wrong.len, "%s", wrong.data);
}
