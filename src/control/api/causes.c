// SPDX-License-Identifier: Apache-2.0
#include "control/api/causes.h"

static const struct cause_text ends[END_CAUSE_MAX] = {
	[END_KILLED] = {"api", "It was removed by a call (stasis rm, DELETE).",
		"Nothing. Which call it was: stasis operations --sandbox ID."},
	[END_TIMEOUT] = {"timeout", "Its time was over, and on_timeout was \"kill\".",
		"Give the next one more time (stasis create --timeout 1h, stasis timeout ID 1h), "
		"or have it paused instead of ended: stasis create --on-timeout pause."},
	[END_GUEST_POWEROFF] = {"guest", "The guest switched itself off, or rebooted.",
		"A sandbox does not boot again. If that was not meant, look for what calls "
		"poweroff, reboot or halt in it, or ends its process 1."},
	[END_GUEST_PANIC] = {"guest", "The guest's kernel panicked.",
		"Read the last lines of the console. If it happens again with the same work, "
		"report it with these lines; a paused copy (stasis snapshot create) before the "
		"work loses nothing."},
	[END_GUEST_OOM] = {"guest",
		"The guest's kernel panicked: its memory was used up, and nothing was left that it "
		"could kill for more.",
		"Give the next one more memory: stasis create --memory 2G. What used it up is in "
		"the last lines of the console."},
	[END_VMM_CRASH] = {"host", "The program that runs the guest (the VMM) ended.",
		"The detail has its last words, the server's log more. Resume the last pause or "
		"create from a snapshot, if there is one; if it happens again, report it, with "
		"the VMM that stasis doctor names."},
	[END_HOST_OOM] = {"host",
		"The host's kernel killed the program that runs the guest: the host, or the cgroup "
		"of the server, had no memory left.",
		"Run fewer sandboxes or smaller ones on this host (serve --max-sandboxes), pause "
		"those that idle, or raise the limit of the server's cgroup (systemctl show -p "
		"MemoryMax stasis). The host's log has the kill: dmesg | grep 'Killed process'."},
	[END_PAGER_LOST] = {"host", "The program that serves the guest's memory (the pager) ended.",
		"The detail says how. Errors of the disk are in the host's log (dmesg). Resume or "
		"create again; if it happens again, check the volume: stasis setup check."},
	[END_SHIM_LOST] = {"host",
		"All that ran of it was gone without a word: its process on the host was killed, "
		"or the host was restarted or lost power.",
		"Look at the host: uptime, and dmesg for a kill. What is to outlive the host must "
		"be paused, or in a snapshot: stasis pause, stasis snapshot create."},
	[END_HOST_LOST] = {"host", "The host does not have it any more, and did not say why.",
		"Look at the host's log and at what it has and nobody knows: stasis du --unknown. "
		"An older copy of host.db that was restored looks like this too."},
	[END_SERVER_STOPPED] = {"server", "The server was stopped, and ran with --kill-on-exit.",
		"Leave --kill-on-exit out: then sandboxes go on without the server, and the next "
		"start takes them over."},
	[END_RETENTION] = {"server",
		"It was paused and not used, and a rule of retention took it, after a warning.",
		"Which rule, and why: stasis events. What is never to go: stasis retention keep "
		"NAME; what the rules would take next: stasis retention run --dry-run."},
	[END_CREATE_FAILED] = {"host", "It never ran: its create failed.",
		"The failure below has the reason; then create again."},
};

const struct cause_text *causes_of_end(const char *cause)
{
	enum end_cause c = end_cause_parse(cause);
	return c == END_CAUSE_MAX ? NULL : &ends[c];
}

static const char *const advices[ERR_CODE_MAX] = {
	[ERR_NONE] = "Nothing.",
	[ERR_INVALID] = "The request is to be corrected: the message names what is wrong with it.",
	[ERR_UNAUTHENTICATED] = "A key is needed: stasis key create, STASIS_API_KEY.",
	[ERR_FORBIDDEN] = "The key that was used may not do that.",
	[ERR_NOT_FOUND] = "What it is about is not there (any more): stasis ls --all, stasis "
			  "snapshot ls.",
	[ERR_CONFLICT] = "It was in another state, or something else was under way: look with "
			 "stasis get, then ask again.",
	[ERR_GONE] = "What it is about is not to be had any more: begin anew.",
	[ERR_TOO_LARGE] = "Send less at once, or use stasis cp for files.",
	[ERR_LIMIT] = "The host is full: remove or pause sandboxes (stasis ls), or raise "
		      "max_sandboxes.",
	[ERR_CANCELED] = "Whoever asked went away: ask again.",
	[ERR_INTERNAL] = "The message and the server's log say what failed on the host; stasis "
			 "doctor checks it. Ask again once that is mended.",
	[ERR_UNIMPLEMENTED] =
		"That is not possible here: stasis doctor says what this host can do.",
	[ERR_BAD_GATEWAY] = "The guest did not answer. Look at its console (stasis logs ID); if it "
			    "stays so: stasis rm ID.",
	[ERR_UNAVAILABLE] = "Try again. If it stays so, the message names what is missing: stasis "
			    "health, stasis doctor.",
	[ERR_TIMEOUT] =
		"The guest or the host was too slow. Try again when the host has less to do "
		"(stasis ls); the guest's console may say what it was at.",
	[ERR_NO_SPACE] = "The volume is low: stasis du shows what its removal frees. Remove "
			 "sandboxes and snapshots, or make it larger.",
	[ERR_NOT_QUIESCED] = "It was paused without its agent, which did not answer: resume it and "
			     "pause it again once its agent answers, or boot anew from its disk: "
			     "stasis resume --disk-only ID.",
};

const char *causes_advice(enum err_code code)
{
	return (unsigned)code < ERR_CODE_MAX ? advices[code] : advices[ERR_INTERNAL];
}

const char *causes_oom_advice(bool in_cgroup)
{
	return in_cgroup
		       ? "A cgroup in the guest has a limit that its programs need more than: "
			 "raise it there."
		       : "The guest has less memory than its programs need: stasis create --memory "
			 "2G, or start less at once in it.";
}
