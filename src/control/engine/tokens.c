// SPDX-License-Identifier: Apache-2.0
#include "control/engine/tokens.h"
#include <string.h>
#include "base/log.h"
#include "control/state/rows.h"

#define ROWS_AT_ONCE 100u

static int tell(struct engine *en, struct sandbox_row *row, struct err *e)
{
	char op[UUID_SIZE], token[SHA256_HEX_SIZE];
	uint64_t epoch = row->token_epoch; // before the token: told is never too much
	row_get_token(row, token);
	en->new_uuid(en->ctx, op);
	int rc = en->host.ops->set_token(en->host.host, op, row->id, token, e);
	explicit_bzero(token, sizeof token);
	return rc == 0 ? rows_token_told(en->rows, row, epoch, e) : rc;
}

int engine_rotate_token(struct engine *en, struct sandbox_row *row, bool *ret_told, struct err *e)
{
	struct err why = {0};
	int rc = rows_rotate(en->rows, row, e);
	if (rc < 0)
		return rc;
	*ret_told = row->now == ROW_RUNNING && tell(en, row, &why) == 0;
	if (row->now == ROW_RUNNING && !*ret_told)
		log_warn("the agent is told its new token later sandbox=%s: %s", row->id, why.text);
	return 0;
}

void engine_tell_tokens(struct engine *en)
{
	struct sandbox_row *rows[ROWS_AT_ONCE];
	uint64_t before = UINT64_MAX;
	size_t n;
	while ((n = rows_older(en->rows, before, rows, ROWS_AT_ONCE)) > 0) {
		before = rows[n - 1]->created_ns;
		for (size_t i = 0; i < n; i++) {
			struct err e = {0};
			bool behind = rows[i]->token_told < rows[i]->token_epoch;
			if (behind && rows[i]->now == ROW_RUNNING && !row_ended(rows[i]) &&
				tell(en, rows[i], &e) < 0)
				log_info("the agent is told its token later sandbox=%s: %s",
					rows[i]->id, e.text);
			row_unref(rows[i]);
		}
	}
}
