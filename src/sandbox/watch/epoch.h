// SPDX-License-Identifier: Apache-2.0
// Whether host.db is the database of this volume, and of now. Both carry one number, the epoch: it
// is raised at every start, every commit of an operation and every orderly stop, in the database
// first and in the volume's marker (stasis.volume) after that. So a database whose epoch is below
// the marker's is a copy of an earlier moment, and one with another journal than the marker's is of
// another volume, or was made anew. What such a database does not name would look like leftovers.
#pragma once
#include "sandbox/table/table.h"

// Before host.db is opened, for that makes it. ERR_CONFLICT where there is none beside sandboxes or
// snapshots.
int epoch_check_there(struct host *h, struct err *e);
// ERR_CONFLICT for one that is behind, or of another volume.
int epoch_check(struct host *h, struct err *e);
// At the start, when the database was found right, and at the end. A volume that is full keeps
// nobody from starting: what fails is logged.
void epoch_raise(struct host *h);
// The marker follows the database; false when it could not be written (it is logged).
bool epoch_follow(struct host *h);
