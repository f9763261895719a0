// SPDX-License-Identifier: Apache-2.0
// The fault points: those that operations pass (as the stage noted them), those in the code, those
// in docs/fault-points.md.
#pragma once
#include "played/played.h"

void points_begin(const char *act);
void points_take(const struct stage *s);       // in the process of a case
void points_take_calls(const struct stage *s); // the same, of the calls of players
size_t points_of_act(void);
const char *point_of_act(size_t i);
// Fails the case where a point of the code is passed by no operation here and named by no other
// test, or is missing in the document.
void points_check(void);
