// SPDX-License-Identifier: Apache-2.0
// The guest's /etc/resolv.conf: ours as long as it says so in its first line.
#pragma once
#include <stdbool.h>

// IPv4 addresses with commas between.
bool resolv_is_list(const char *dns);
// Whether a file with that text is ours to replace: it begins with our line, is empty, or is what
// images come with.
bool resolv_is_ours(const char *text);
// Puts the list into dir/resolv.conf, at once or not at all, where that is ours, missing, or a link
// to nothing; with replace wherever it is not. A file that cannot be written is told in the log:
// the guest is up all the same. dir is a guest's, and may hold anything.
void resolv_write(const char *dir, const char *dns, bool replace);
