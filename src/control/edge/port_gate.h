// SPDX-License-Identifier: Apache-2.0
// Who may reach the ports that a sandbox's programs serve.
#pragma once
#include "control/api/context.h"

// NULL when the request may go on, else the name of the refusal: "port_token", or "link" for one
// that used a one-time link up and is answered with a redirection, whose headers are set then.
// *ret_known becomes true when the request shows what opens the port.
const char *port_gate(struct control *c, struct http_request *r, const struct sandbox_row *row,
	uint16_t port, bool *ret_known);
