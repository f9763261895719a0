// SPDX-License-Identifier: Apache-2.0
#include "cli/command/weak_agents.h"
#include <fcntl.h>
#include "agentclient/version.h"
#include "base/file.h"
#include "snapshot/info.h"
#include "snapshot/store.h"

#define MAX_NAMED 5u
#define MAX_FILE (1u << 20)

struct look {
	int data_fd;
	struct weak_agents *w;
};

static int look_at(void *ctx, const char *id, bool complete)
{
	struct look *l = ctx;
	struct snapshot_info i;
	char path[sizeof "snapshots//snapshot.json" + UUID_SIZE];
	_cleanup_strbuf_ struct strbuf text = {0};
	snprintf(path, sizeof path, "snapshots/%.36s/snapshot.json", id);
	if (!complete || file_read(l->data_fd, path, MAX_FILE, &text) < 0 ||
		snapshot_decode(text.data, text.len, &i, NULL) < 0)
		return 0;
	l->w->snapshots++;
	if (!agent_weakness(i.agent_version, 0))
		return 0;
	if (l->w->weak++ < MAX_NAMED)
		strbuf_addf(&l->w->names, "%s%s", l->w->names.len ? ", " : "",
			i.kind == SNAPSHOT_PAUSE && i.sandbox[0] ? i.sandbox : id);
	else if (l->w->weak == MAX_NAMED + 1)
		strbuf_adds(&l->w->names, ", ...");
	return 0;
}

int weak_agents_look(const char *data_dir, struct weak_agents *ret, struct err *e)
{
	*ret = (struct weak_agents){0};
	_cleanup_close_ int fd = open(data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(e, errno, "%s", data_dir);
	struct look l = {fd, ret};
	return snapshot_list(fd, look_at, &l, e);
}

void weak_agents_done(struct weak_agents *w)
{
	strbuf_done(&w->names);
}
