// SPDX-License-Identifier: Apache-2.0
// The table of commands, and the texts of their help.
#include "cli/commands.h"
#include "base/macro.h"
#include "cli/command/all.h"

// The lines of these texts are the lines that are printed.
// clang-format off

static const char text_create[] =
	"The id is printed once the guest's agent answers. --timeout counts from the creation; the\n"
	"sandbox is killed or paused then ('none': never). A snapshot's processors and memory cannot be\n"
	"changed, its disk can be made larger.\n"
	"\n"
	"Examples:\n"
	"  id=$(stasis create)\n"
	"  stasis create --vcpus 2 --memory 1G --timeout 1h --env LANG=C --metadata job=42\n"
	"  stasis create --template warm --timeout 10m --on-timeout pause\n";

static const char text_run[] =
	"Creates a sandbox, runs the command in it as exec does, and with --rm removes the sandbox on\n"
	"every way out: also when the command fails, after Ctrl-C (while it is created too) and SIGTERM.\n"
	"Without --rm it stays until its time-out, and its id is said on standard error. The exit code is\n"
	"the command's. --timeout is the sandbox's life, 5m unless given, and ends the command as well.\n"
	"\n"
	"Examples:\n"
	"  stasis run --rm -- python3 -c 'print(6 * 7)'\n"
	"  stasis run -it --rm --timeout 2h -- bash\n"
	"  tar -c src | stasis run -i --rm --template warm -- sh -c 'tar -x && make -C src'\n";

static const char text_pause[] =
	"Memory goes to the disk, and all that the sandbox had on the machine is free then, but its\n"
	"disk. Its processes do not notice, apart from the clock. A paused one has no time-out.\n";

static const char text_resume[] =
	"Goes on where the pause was. --from takes the sandbox back to one of its own snapshots, also\n"
	"when it runs: what came after is lost. --disk-only gives up its memory and boots from the disk,\n"
	"which is what is left when the VMM that wrote the snapshot is gone.\n"
	"\n"
	"Examples:\n"
	"  stasis resume i0abc --timeout 1h\n"
	"  stasis resume i0abc --from before-upgrade\n";

static const char text_fork[] =
	"Children are copies with the same memory, processes and files; the source stops for a moment\n"
	"and runs on. Each id is printed as its sandbox comes up. The exit code is not 0 when any did\n"
	"not. Time-out, labels and environment are the source's unless given.\n"
	"\n"
	"Examples:\n"
	"  stasis fork i0abc\n"
	"  stasis fork i0abc -n 4 --timeout 10m --metadata job=42\n";

static const char text_snapshot[] =
	"The sandbox may be running, and goes on after a short stop, or paused. Sandboxes are made from\n"
	"the snapshot with: stasis create --template NAME.\n";

static const char text_snapshot_check[] =
	"Memory is loaded by the VMM and accelerator that wrote it; with KVM also by the kind of processor\n"
	"that its guest has seen. Exit status 7 when it is not, and the reason is told; then the disk alone\n"
	"is to be had. Also told: the version of the agent in its guest, and its known weaknesses.\n";

static const char text_snapshot_rewarm[] =
	"Boots its disk on this host's own VMM and takes it again under its name: for a snapshot whose VMM\n"
	"is old, refused or gone. Processes that ran in it do not. Until the new one is there the old one\n"
	"has the name, and keeps it where this fails. What was made from it lives on.\n";

static const char text_snapshot_rm[] =
	"Sandboxes and snapshots that were made from it live on.\n";

static const char text_runtime[] =
	"A snapshot keeps the VMM that wrote it (QEMU or Firecracker, with libraries and ROMs), since no\n"
	"other reads it for certain. New sandboxes start on the current one alone; a kept one goes with\n"
	"its last snapshot. 'stasis snapshot rewarm NAME' takes a named snapshot again on the current one.\n";

static const char text_runtime_deny[] =
	"Nothing starts on it any more: no create, resume or fork of what was taken with it. What runs\n"
	"goes on. The setting vmm_floor denies all below a version. 'stasis runtime allow' takes it back.\n"
	"\n"
	"Examples:\n"
	"  stasis runtime deny 7f3c0a5d1b2e4c6f8091a2b3c4d5e6f7\n";

static const char text_bench[] =
	"Measures the running server through its API, each call from the request to the end of its\n"
	"answer, with sandboxes of its own, which it removes, also after Ctrl-C. The first round is not\n"
	"counted. With -o json the samples and the phases of each operation are printed as well.\n"
	"\n"
	"  create          a sandbox from the template\n"
	"  create to exec  the same, until /bin/true has run in it\n"
	"  exec            /bin/true in a running sandbox\n"
	"  pause, resume   of a sandbox; resume to exec: until /bin/true has run\n"
	"  fork            until all children are up; first child: until one is\n"
	"  snapshot        a named one of a running sandbox; spawn: a sandbox made from it\n";

static const char text_ls[] =
	"Newest first. States: pending, running, pausing, paused, resuming, stopping, stopped, error,\n"
	"unreachable (the host does not answer; it comes back by itself).\n"
	"Stopped sandboxes stay readable for an hour.\n"
	"\n"
	"Examples:\n"
	"  stasis ls --metadata job=42\n"
	"  stasis rm $(stasis ls -q)\n";

static const char text_exec[] =
	"Output streams as the program writes it. The exit code is the program's; 128+N when signal N\n"
	"ended it, 127 when there is no such program, 126 when it cannot be run; 8 when the time-out of\n"
	"the sandbox ended it, 5 when the sandbox ended otherwise, or was paused; the command goes on\n"
	"then when it is resumed, and its pid is told. With -o json the command is buffered and the\n"
	"API's answer is printed.\n"
	"\n"
	"  -i     sends standard input to the program; its end closes the program's input\n"
	"  -t     gives it a terminal (with -i: this one, in raw mode, resized with it), with TERM and\n"
	"         COLORTERM of this one; the locale is the sandbox's, C.UTF-8 by default (-e LANG=...)\n"
	"\n"
	"It ends with the program, also when a child in the background still holds the output; that\n"
	"goes on, and what it writes is not shown any more. --timeout kills the program and its process\n"
	"group, but not what made a session of its own (setsid, a daemon).\n"
	"\n"
	"Without -t, Ctrl-C terminates the program in the sandbox; what is left of it after two\n"
	"seconds, or at a second Ctrl-C, is killed.\n"
	"\n"
	"Examples:\n"
	"  stasis exec i0abc -- python3 -c 'print(1 + 1)'\n"
	"  stasis exec i0abc -it -- bash\n"
	"  tar -c src | stasis exec i0abc -i -- tar -x\n";

static const char text_cp[] =
	"One of SRC and DST is ID:PATH; a relative PATH starts at the user's home. '-' is standard\n"
	"input or output. A directory is copied with all that is below it: DIR into a directory that\n"
	"is there by its name, 'DIR/.' what is in it. Modes, symbolic and hard links and holes are\n"
	"kept; pipes, sockets and devices are skipped and named. A file takes its place when it is\n"
	"whole: what is interrupted leaves what was there. Out of a sandbox, a DST that is a symbolic\n"
	"link is not followed: a file replaces it, to a directory it is refused.\n"
	"\n"
	"Examples:\n"
	"  stasis cp data.csv i0abc:\n"
	"  stasis cp i0abc:/tmp/out ./results\n"
	"  stasis cp -a src/. i0abc:src\n"
	"  echo hi | stasis cp - i0abc:/tmp/hi\n";

static const char text_events[] =
	"Each line is one change of a sandbox's life. With -f it goes on until Ctrl-C; with -o json\n"
	"each line is one JSON object then.\n";

static const char text_why[] =
	"In one answer: the cause of an end or the last failure, what to do about it, what the guest's\n"
	"kernel killed for lack of memory, the last operations with their steps, the last lines of the\n"
	"console. Also of one that is forgotten, by its id, for as long as its events are kept.\n"
	"\n"
	"Examples:\n"
	"  stasis why i0abc\n"
	"  stasis why web -o json\n";

static const char text_set[] =
	"What is not named stays as it is. A name is unique among the sandboxes of a key that have not\n"
	"ended. When it ends is set by: stasis timeout.\n"
	"\n"
	"Examples:\n"
	"  stasis set i0abc --name web --metadata job=42 --metadata old-\n"
	"  stasis set web --on-timeout pause\n";

static const char text_wait[] =
	"One after the other, all within --timeout, whose exit code is 8. What came of each is printed\n"
	"at the end. One that has ended is in no other state any more: that is exit code 5.\n"
	"\n"
	"Examples:\n"
	"  stasis wait i0abc\n"
	"  stasis wait web --state running,paused --timeout 60s\n";

static const char text_port[] =
	"Whoever knows it reaches the port; the server need not be asked again. A private sandbox's\n"
	"(create --private) wants its port token as X-Stasis-Port-Token, or a link: that works once, and\n"
	"gives a browser a cookie for this port, for twelve hours.\n"
	"\n"
	"Examples:\n"
	"  curl $(stasis port web 3000)\n"
	"  stasis port web 3000 --link --ttl 10m --path /index.html\n";

static const char text_key[] =
	"The key is shown this one time; the server keeps only its hash.\n"
	"\n"
	"Scopes: admin does everything; sandboxes its owner's sandboxes and snapshots; read looks at\n"
	"those (without an owner: at all) and sees no token. Without --scope it is an admin's. Keys of one\n"
	"owner share what is the owner's; without --owner a key of the scope sandboxes is its own.\n"
	"\n"
	"When all keys are lost, root makes one with --offline, whether the server runs or not.\n"
	"\n"
	"Examples:\n"
	"  stasis key create ci --scope sandboxes --owner build --expires 30d --quota-sandboxes 20\n"
	"  stasis key create dashboard --scope read\n";

static const char text_token[] =
	"The token before opens nothing any more, at once. An agent that cannot be told right now is told\n"
	"later, a paused one when it is resumed; until then calls to it fail.\n";

static const char text_audit[] =
	"A line of each call that changed something or was to, and of refused ones within bounds; what\n"
	"goes to a guest by its ports is not in it. For keys of the scope admin.\n"
	"\n"
	"Example:\n"
	"  stasis audit --since 2026-11-24T03:00:00Z\n";

static const char text_key_update[] =
	"What is not named stays as it is. It counts from the key's next call on.\n"
	"\n"
	"Example:\n"
	"  stasis key update 0b6d1f0e-5f0c-4a57-9f0f-0f4c4d2f8f11 --quota-sandboxes 50 --expires none\n";

static const char text_snapshot_share[] =
	"A snapshot has its sandbox's memory in it, with all secrets that were there.\n";

static const char text_build[] =
	"Needs no server, but root and the data volume. What was built before is taken from the cache\n"
	"(STASIS_CACHE, else /var/cache/stasis) when nothing that goes into it has changed.\n";

static const char text_grow[] =
	"Makes the volume that 'stasis setup volume --size' made larger; sandboxes and server go on. The\n"
	"size is that of the whole volume. Nothing is done where the disk below has too little room. What\n"
	"was cut short is done by the same command again.\n"
	"\n"
	"Example:\n"
	"  stasis setup grow --size 40G\n";

static const char text_volume[] =
	"Makes an XFS file system with reflink in a file beside the data directory (DIR.img) that is\n"
	"allocated in full now, so that the disk cannot run full below it, and mounts it. 'stasis\n"
	"serve' mounts it again after a restart. Where the data directory already is on a file\n"
	"system with reflink (XFS, Btrfs), run it without --size: it is used as it is.\n"
	"\n"
	"Examples:\n"
	"  stasis setup volume --size 20G\n"
	"  stasis setup volume --data-dir /srv/stasis\n";

static const char text_operations[] =
	"Each change is an operation: written down before the host is told, and ended with its effect.\n"
	"The newest 100 are shown; they are kept for a week. 'open' is under way, or waits for a host\n"
	"that does not answer.\n";

static const char text_reconcile[] =
	"The server does this by itself, at its start, on events and every 10 seconds. What only the\n"
	"host has is removed when the journal says that it was ended or refused; else it is reported\n"
	"and kept.\n"
	"\n"
	"Example:\n"
	"  stasis reconcile --dry-run\n";

static const char text_du[] =
	"SIZE is all that a sandbox, snapshot or image has, MEMORY its part in layers. UNIQUE is what nobody\n"
	"else has, SHARED what others have too, FREES what its removal gives back now; the first come first.\n"
	"Blocks that a guest frees stay while a snapshot or a copy shares them: they are given back when the\n"
	"last one goes. With a NAME, with whom it shares. What is unknown is in no row of host.db (one that\n"
	"is lost, or an older copy): it is kept, with the layers that it needs.\n"
	"\n"
	"Examples:\n"
	"  stasis du --sort size\n"
	"  stasis du --unknown\n";

static const char text_webhook[] =
	"Each event is sent there as JSON by POST, in order, until it is answered with 2xx; tries go on for\n"
	"a day, also over restarts of the server. Stasis-Signature: t=SECONDS,v1=HEX has the HMAC-SHA256 of\n"
	"'SECONDS.BODY' with the secret, which is shown once.\n"
	"\n"
	"Examples:\n"
	"  stasis webhook create https://ci.example.org/stasis --kinds stopped,paused\n"
	"  stasis webhook create https://ci.example.org/stasis --secret-file secret.txt\n";

static const char text_retention[] =
	"Without a rule nothing goes by itself. What a rule takes is warned of (event retention_due), and\n"
	"removed when its grace is over and it was not used since (event retention_removed, cause\n"
	"retention). --keep-newest alone takes all but these; with --older-than or --max-size these stay in\n"
	"any case. --max-size counts what nobody else has. A rule of the same name is replaced.\n"
	"\n"
	"Examples:\n"
	"  stasis retention add old --of paused --older-than 30d\n"
	"  stasis retention add few --of snapshots --keep-newest 5 --per template --grace 2h\n"
	"  stasis retention add room --of paused --max-size 100G --per key\n";

static const char text_retention_run[] =
	"The server does a pass each minute. ACTION: warn (now), wait (it was warned, and has LEFT of its\n"
	"grace), remove, later (a pass removes ten at most), busy, failed. With --dry-run nothing is done.\n"
	"\n"
	"Example:\n"
	"  stasis retention run --dry-run\n";

static const char text_gc[] =
	"Snapshots and layers that nobody needs any more are removed by the server itself. What it does\n"
	"not know it keeps, until this: machines are ended, disks, snapshots and layers removed.\n"
	"\n"
	"Examples:\n"
	"  stasis du --unknown\n"
	"  stasis gc --unknown --yes\n";

static const char text_db_check[] =
	"Pages, indexes, foreign keys and versions of control.db and host.db; also while a server runs.\n";

static const char text_db_backup[] =
	"The copy is of one moment and is checked before it has its name. An existing FILE is not\n"
	"replaced.\n"
	"\n"
	"Example:\n"
	"  stasis db backup control /var/backups/control.db\n";

static const char text_db_restore[] =
	"Needs the server stopped; its sandboxes may go on. FILE is checked first; what was there is\n"
	"kept beside it as *.before-restore.\n";

static const char text_db_rebuild[] =
	"For a host.db that is lost, damaged, or not of this volume and moment: the server refuses such\n"
	"a one. Needs the server stopped; its sandboxes go on. What runs comes from the state files of the\n"
	"run directory, what is paused and the snapshots from the volume. What was there is kept as\n"
	"host.db.before-rebuild. With --forget the table begins empty: what is there is kept, shown by\n"
	"'stasis du --unknown', and removed by 'stasis gc --unknown' alone.\n"
	"\n"
	"Example:\n"
	"  stasis db rebuild host\n";

static const char text_doctor[] =
	"Each requirement is ok, degraded (works, with less) or missing; what is not ok has the\n"
	"command that mends it. Exits 0 when nothing is missing.\n";

static const char text_completion[] =
	"Completes commands, options, their values, and the ids and names that the server knows; where it\n"
	"does not answer within a second, none of these. For other shells: 'stasis completion words --\n"
	"WORD...' prints what the last of these words may become, each with a tab and what it is.\n"
	"\n"
	"Examples:\n"
	"  source <(stasis completion bash)              # in ~/.bashrc\n"
	"  source <(stasis completion zsh)               # in ~/.zshrc, behind compinit\n"
	"  stasis completion fish > ~/.config/fish/completions/stasis.fish\n";

static const char text_dev_cert[] =
	"Makes a key, a certificate and an authority that signs it, into DIR (/etc/stasis/tls): key.pem,\n"
	"cert.pem, ca.pem; for NAME, *.NAME, localhost, 127.0.0.1 and ::1. The authority's key is not\n"
	"kept, and it is good for these names alone. Says which settings to make and how to trust it.\n"
	"\n"
	"Example:\n"
	"  stasis tls dev-cert ./tls --domain stasis.localhost\n";

static const char text_serve[] =
	"Flags win over the file (--config, INI, the same names with '_'). SIGTERM and SIGINT stop\n"
	"the server; sandboxes go on running and the next start takes them over, unless\n"
	"--kill-on-exit is given. Ready is said on standard output: stasis: ready on URL.\n";
// clang-format on

const struct cli_command cli_commands[] = {
	{"create", "", "create a sandbox and print its id", text_create, CLI_SANDBOXES, true, false,
		cmd_create},
	{"run", "-- COMMAND [ARG...]", "run a command in a new sandbox", text_run, CLI_SANDBOXES,
		true, false, cmd_run},
	{"ls", "", "list sandboxes", text_ls, CLI_SANDBOXES, true, false, cmd_ls},
	{"get", "ID", "show one sandbox", NULL, CLI_SANDBOXES, true, false, cmd_get},
	{"exec", "ID -- COMMAND [ARG...]", "run a command in a sandbox", text_exec, CLI_SANDBOXES,
		true, false, cmd_exec},
	{"cp", "SRC DST", "copy files into or out of a sandbox", text_cp, CLI_SANDBOXES, true,
		false, cmd_cp},
	{"pause", "ID", "freeze a sandbox to disk", text_pause, CLI_SANDBOXES, true, false,
		cmd_pause},
	{"resume", "ID", "let a paused sandbox go on, or take one back", text_resume, CLI_SANDBOXES,
		true, false, cmd_resume},
	{"fork", "ID", "copy a sandbox as it is", text_fork, CLI_SANDBOXES, true, false, cmd_fork},
	{"token rotate", "ID", "make a sandbox's token anew and print it", text_token,
		CLI_SANDBOXES, true, false, cmd_token_rotate},
	{"snapshot create", "ID NAME", "make a snapshot to create sandboxes from", text_snapshot,
		CLI_SANDBOXES, true, false, cmd_snapshot_create},
	{"snapshot ls", "", "list snapshots", NULL, CLI_SANDBOXES, true, false, cmd_snapshot_ls},
	{"snapshot get", "SNAPSHOT", "show one snapshot", NULL, CLI_SANDBOXES, true, false,
		cmd_snapshot_get},
	{"snapshot check", "SNAPSHOT", "tell whether its memory can be loaded here",
		text_snapshot_check, CLI_SANDBOXES, true, false, cmd_snapshot_check},
	{"snapshot rewarm", "SNAPSHOT", "take it again on the current VMM, from its disk",
		text_snapshot_rewarm, CLI_SANDBOXES, true, false, cmd_snapshot_rewarm},
	{"snapshot share", "NAME...", "let every key start from snapshots", text_snapshot_share,
		CLI_SANDBOXES, true, false, cmd_snapshot_share},
	{"snapshot unshare", "NAME...", "keep snapshots to their owners again", NULL, CLI_SANDBOXES,
		true, false, cmd_snapshot_unshare},
	{"snapshot rm", "SNAPSHOT...", "delete snapshots", text_snapshot_rm, CLI_SANDBOXES, true,
		false, cmd_snapshot_rm},
	{"timeout", "ID TIME", "set when a sandbox ends, counted from now", NULL, CLI_SANDBOXES,
		true, false, cmd_timeout},
	{"set", "ID", "change a sandbox's name, labels or end", text_set, CLI_SANDBOXES, true,
		false, cmd_set},
	{"wait", "ID...", "wait until sandboxes have ended, or are in a state", text_wait,
		CLI_SANDBOXES, true, false, cmd_wait},
	{"port", "ID PORT", "print the URL of a port, or a one-time link", text_port, CLI_SANDBOXES,
		true, false, cmd_port},
	{"logs", "ID", "show a guest's console", NULL, CLI_SANDBOXES, true, true, cmd_logs},
	{"why", "ID", "why it ended, or what failed last, and what to do", text_why, CLI_SANDBOXES,
		true, false, cmd_why},
	{"rm", "ID...", "end and remove sandboxes", NULL, CLI_SANDBOXES, true, false, cmd_rm},
	{"events", "", "show what happened to sandboxes", text_events, CLI_SERVER, true, false,
		cmd_events},
	{"audit", "", "show who changed what", text_audit, CLI_SERVER, true, false, cmd_audit},
	{"health", "", "ask the server how it is", NULL, CLI_SERVER, true, false, cmd_health},
	{"bench", "", "measure the running server", text_bench, CLI_SERVER, true, false, cmd_bench},
	{"image ls", "", "list templates", NULL, CLI_SERVER, true, false, cmd_image_ls},
	{"key create", "NAME", "make an API key", text_key, CLI_SERVER, true, false,
		cmd_key_create},
	{"key ls", "", "list API keys", NULL, CLI_SERVER, true, false, cmd_key_ls},
	{"key show", "KEY_ID", "show what a key may do and what its owner has", NULL, CLI_SERVER,
		true, false, cmd_key_show},
	{"key update", "KEY_ID", "change what a key may do", text_key_update, CLI_SERVER, true,
		false, cmd_key_update},
	{"key rm", "KEY_ID...", "revoke API keys", NULL, CLI_SERVER, true, false, cmd_key_rm},
	{"operations", "", "list what was asked for and what came of it", text_operations,
		CLI_SERVER, true, false, cmd_operations},
	{"reconcile", "", "compare the database with the host", text_reconcile, CLI_SERVER, true,
		false, cmd_reconcile},
	{"du", "[NAME]", "show what uses the volume's space", text_du, CLI_SERVER, true, false,
		cmd_du},
	{"runtime ls", "", "list the VMMs that are kept, and what holds them", text_runtime,
		CLI_SERVER, true, false, cmd_runtime_ls},
	{"runtime deny", "RUNTIME", "let nothing start on a VMM", text_runtime_deny, CLI_SERVER,
		true, false, cmd_runtime_deny},
	{"runtime allow", "RUNTIME", "allow it again", NULL, CLI_SERVER, true, false,
		cmd_runtime_allow},
	{"retention add", "RULE", "let paused sandboxes or snapshots go by age, number or size",
		text_retention, CLI_SERVER, true, false, cmd_retention_add},
	{"retention ls", "", "list the rules", NULL, CLI_SERVER, true, false, cmd_retention_ls},
	{"retention rm", "RULE...", "remove rules", NULL, CLI_SERVER, true, false,
		cmd_retention_rm},
	{"retention keep", "NAME...", "let no rule take these sandboxes or snapshots", NULL,
		CLI_SERVER, true, false, cmd_retention_keep},
	{"retention release", "NAME...", "let rules take them again", NULL, CLI_SERVER, true, false,
		cmd_retention_release},
	{"retention run", "", "do a pass now, or say what it would do", text_retention_run,
		CLI_SERVER, true, false, cmd_retention_run},
	{"webhook create", "URL", "let a server be told of events", text_webhook, CLI_SERVER, true,
		false, cmd_webhook_create},
	{"webhook ls", "", "list the webhooks", NULL, CLI_SERVER, true, false, cmd_webhook_ls},
	{"webhook set", "WEBHOOK", "change one, switch it off or on", NULL, CLI_SERVER, true, false,
		cmd_webhook_set},
	{"webhook rm", "WEBHOOK...", "remove webhooks", NULL, CLI_SERVER, true, false,
		cmd_webhook_rm},
	{"webhook deliveries", "WEBHOOK", "what was sent last, and what came of it", NULL,
		CLI_SERVER, true, false, cmd_webhook_deliveries},
	{"webhook test", "WEBHOOK", "send it a made event now", NULL, CLI_SERVER, true, false,
		cmd_webhook_test},
	{"gc", "", "remove what the host does not know", text_gc, CLI_SERVER, true, false, cmd_gc},
	{"db check", "", "check the databases", text_db_check, CLI_MACHINE, false, true,
		cmd_db_check},
	{"db backup", "control|host FILE", "copy a database, also of a running server",
		text_db_backup, CLI_MACHINE, false, true, cmd_db_backup},
	{"db restore", "control|host FILE", "put a copy in a database's place", text_db_restore,
		CLI_MACHINE, false, true, cmd_db_restore},
	{"db rebuild", "host", "make host.db anew from what is on the disk", text_db_rebuild,
		CLI_MACHINE, false, true, cmd_db_rebuild},
	{"doctor", "", "check what this machine can do", text_doctor, CLI_MACHINE, false, false,
		cmd_doctor},
	{"setup volume", "", "make and mount the data volume", text_volume, CLI_MACHINE, false,
		true, cmd_setup_volume},
	{"setup grow", "", "make the data volume larger, while it is in use", text_grow,
		CLI_MACHINE, false, true, cmd_setup_grow},
	{"setup check", "", "say whether the data volume is in order", NULL, CLI_MACHINE, false,
		false, cmd_setup_check},
	{"setup remove", "", "unmount and delete the data volume with all sandboxes", NULL,
		CLI_MACHINE, false, true, cmd_setup_remove},
	{"image build", "[base]", "build the guest's kernel and root file system", text_build,
		CLI_MACHINE, false, true, cmd_image_build},
	{"tls dev-cert", "[DIR]", "make a certificate to try TLS with", text_dev_cert, CLI_MACHINE,
		false, true, cmd_tls_dev_cert},
	{"completion", "bash|zsh|fish", "print a shell's completion", text_completion, CLI_MACHINE,
		true, true, cmd_completion},
	{"serve", "", "run the server", text_serve, CLI_MACHINE, false, true, cmd_serve},
	{0},
};

const struct cli_synonym cli_synonyms[] = {
	{"ps", "ls", NULL},
	{"list", "ls", NULL},
	{"sandboxes", "ls", NULL},
	{"inspect", "get", NULL},
	{"describe", "get", NULL},
	{"show", "get", NULL},
	{"status", "get", "health"},
	{"stop", "pause", "rm"},
	{"suspend", "pause", NULL},
	{"freeze", "pause", NULL},
	{"rename", "set --name", NULL},
	{"label", "set --metadata", NULL},
	{"update", "set", NULL},
	{"patch", "set", NULL},
	{"expose", "port", NULL},
	{"url", "port", NULL},
	{"port-forward", "port", NULL},
	{"kill", "rm", NULL},
	{"delete", "rm", NULL},
	{"remove", "rm", NULL},
	{"destroy", "rm", NULL},
	{"terminate", "rm", NULL},
	{"prune", "rm", NULL},
	{"start", "resume", "run"},
	{"unpause", "resume", NULL},
	{"thaw", "resume", NULL},
	{"restart", "resume", NULL},
	{"restore", "resume", NULL},
	{"rollback", "resume", NULL},
	{"new", "create", "run"},
	{"launch", "create", "run"},
	{"spawn", "create", "run"},
	{"attach", "exec -it", NULL},
	{"shell", "exec -it", NULL},
	{"ssh", "exec -it", NULL},
	{"connect", "exec -it", NULL},
	{"top", "exec", "get"},
	{"stats", "exec", "get"},
	{"copy", "cp", NULL},
	{"scp", "cp", NULL},
	{"upload", "cp", NULL},
	{"download", "cp", NULL},
	{"console", "logs", "exec -it"},
	{"tail", "logs -f", NULL},
	{"watch", "events -f", NULL},
	{"explain", "why", NULL},
	{"clone", "fork", NULL},
	{"commit", "snapshot create", NULL},
	{"checkpoint", "snapshot create", NULL},
	{"save", "snapshot create", NULL},
	{"snapshots", "snapshot ls", NULL},
	{"images", "image ls", NULL},
	{"rmi", "snapshot rm", NULL},
	{"templates", "image ls", NULL},
	{"template", "image ls", NULL},
	{"build", "image build", NULL},
	{"pull", "image build", NULL},
	{"keys", "key ls", NULL},
	{"login", "key create", NULL},
	{"history", "operations", NULL},
	{"info", "health", "doctor"},
	{"check", "doctor", NULL},
	{"ping", "health", NULL},
	{"up", "serve", NULL},
	{"daemon", "serve", NULL},
	{"server", "serve", NULL},
	{"install", "setup volume", NULL},
	{0},
};
