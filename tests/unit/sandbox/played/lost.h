// SPDX-License-Identifier: Apache-2.0
// The host's database is lost, or is another one.
#pragma once
#include "played/played.h"

// host.db with its -wal and -shm; from and to are "" for its place, or a name to keep it by.
void database_move(const char *from, const char *to);
void database_copy(const char *from, const char *to);
void database_sql(const char *text); // in its place
// As if it were of another volume.
void database_of_another(void);
// The host must refuse to start and name the way out.
void must_refuse(void);
// Of this world; ends the test when it fails.
void rebuild(bool forget);
