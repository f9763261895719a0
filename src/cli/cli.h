// SPDX-License-Identifier: Apache-2.0
// The command line.
#pragma once

// The program; returns its exit code.
int cli_main(int argc, char **argv);
