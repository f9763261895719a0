// SPDX-License-Identifier: Apache-2.0
// What a pager leaves behind: the record of a start, and its figures.
#pragma once
#include "sandbox/table/table.h"

// In a sandbox's directory: what its pager is to load ahead.
#define WORKING_SET "working_set"
#define WORKING_SET_MAX (16ull << 20) // bytes

// Takes the record that the pager left, for later resumes, and adds its figures to the host's. The
// sandbox is claimed.
void harvest(struct host *h, struct sandbox *s);
// In Prometheus's text format.
void harvest_metrics(const struct pager_figures *f, struct strbuf *out);
