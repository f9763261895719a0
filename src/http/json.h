// SPDX-License-Identifier: Apache-2.0
// The reader is in base; src/control and src/sandbox ask for it here.
#pragma once
#include "base/json.h"
