// SPDX-License-Identifier: Apache-2.0
// cp. A file or a tree goes as one archive through the agent's /files/tar, standard streams through
// its /files. The guest's archive is a stranger's: see archive/unpack.h for what it cannot do.
#include <string.h>
#include "base/json.h"
#include "base/str.h"
#include "cli/base/ending.h"
#include "cli/base/option.h"
#include "cli/base/term.h"
#include "cli/command/all.h"
#include "cli/command/copy_in.h"
#include "cli/command/copy_out.h"

struct place {
	char *id; // NULL: on this machine
	const char *path;
};

// "ID:PATH", or a name, is a place in a sandbox; "./a:b" is not, nor is anything with a slash
// before the colon.
static int parse_place(const char *text, struct place *ret, struct err *e)
{
	const char *colon = strchr(text, ':');
	*ret = (struct place){.path = text};
	if (!colon || colon == text || memchr(text, '/', (size_t)(colon - text)))
		return 0;
	ret->id = strndup(text, (size_t)(colon - text));
	ret->path = colon + 1;
	return ret->id ? 0 : err_errno(e, ENOMEM, "%s", text);
}

static int copy_places(struct cli *c, struct copy *x, const struct place *src,
	const struct place *dst, struct err *e)
{
	const char *id = src->id ? src->id : dst->id;
	int rc = guest_open(c, id, x->user, &x->guest, e);
	if (rc < 0 && !e->cause[0] && (e->code == ERR_NOT_FOUND || e->code == ERR_INVALID)) {
		struct err why = *e;
		return err_set(e, why.code, "%.800s; a local name with a colon is written ./%s:...",
			why.text, id);
	}
	if (rc < 0)
		return rc;
	term_catch_signals(false);
	progress_start(&x->progress, "copying");
	x->progress.bytes = true;
	rc = src->id ? copy_out(x, src->path, dst->path, e) : copy_in(x, src->path, dst->path, e);
	progress_clear(&x->progress);
	static const struct ending_words words = {
		.paused = "the copy is broken off: begin it again when it is resumed",
		.gone = "the copy is broken off"};
	if (rc < 0)
		return ending_explain(c, &x->guest, &words, rc, e);
	if (c->json && strcmp(dst->path, "-") != 0) {
		_cleanup_json_ json_t *j = json_pack(
			"{s:I,s:I}", "files", (json_int_t)x->files, "bytes", (json_int_t)x->bytes);
		return output_json(j);
	}
	return 0;
}

int cmd_cp(struct cli *c, struct err *e)
{
	bool recursive = false;
	struct copy x = {0};
	struct place src = {0}, dst = {0};
	const struct cli_option options[] = {
		{'u', "user", "USER", "as this user of the guest (default: user)", OPT_STRING,
			&x.user},
		{'a', "archive", NULL, "owners (by number), times and attributes too", OPT_FLAG,
			&x.exact},
		{'L', "follow-link", NULL, "copy what symbolic links lead to", OPT_FLAG, &x.follow},
		{'r', "recursive", NULL, "taken for granted: directories are always copied whole",
			OPT_FLAG, &recursive},
		{0},
	};
	int rc = cli_parse(c, options, 2, 2, e);
	if (rc == 0)
		rc = parse_place(c->argv[0], &src, e);
	if (rc == 0)
		rc = parse_place(c->argv[1], &dst, e);
	if (rc == 0 && !src.id == !dst.id)
		rc = err_set(e, ERR_INVALID, "exactly one of SRC and DST must be ID:PATH");
	if (rc == 0)
		rc = copy_places(c, &x, &src, &dst, e);
	guest_done(&x.guest);
	free(src.id);
	free(dst.id);
	return rc;
}
