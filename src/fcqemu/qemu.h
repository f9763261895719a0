// SPDX-License-Identifier: Apache-2.0
// One QEMU process that runs the configured guest. Started at InstanceStart, when everything is
// known; it lives until the guest ends. Everything here is called from one thread, the main one.
#pragma once
#include <sys/types.h>
#include "fcqemu/config.h"
#include "fcqemu/loaded.h"
#include "fcqemu/qmp.h"

enum accel { ACCEL_AUTO, ACCEL_KVM, ACCEL_TCG };

// A reading of the time stamp counter and the clock, taken at process start: the rate is what went
// by until the guest starts.
struct tsc_mark {
	uint64_t tsc, ns;
};

struct qemu_options {
	const char *qemu, *ramhook;
	// What the page server of a load has: its header and the directory of its layers. NULL: not
	// known.
	const char *memory_header, *memory_layers;
	enum accel accel;
	struct tsc_mark mark;
	uint64_t tsc_khz; // 0: measured (for tests)
};

// Where guest memory lies: see ramhook.c.
enum memory { MEMORY_BOOT, MEMORY_FILE, MEMORY_UFFD };

// What a load needs besides the machine. Descriptors stay the caller's.
struct qemu_incoming {
	int state_fd;	// at the begin of QEMU's stream
	int backend_fd; // the memory file, or a connection to the page server
	enum memory memory;
	enum accel accel;
	char format[64]; // that the state file asks for (state_format)
};

struct qemu {
	pid_t pid;
	int pidfd;	     // -1: not running
	int stderr_fd;	     // -1: closed
	char last_line[512]; // of what it wrote on stderr
	size_t line_len;
	bool line_done; // the line is complete: the next byte begins a new one
	struct qmp qmp;
	int state_timeout_ms; // for QEMU to stop, go on, write its devices, change a drive
	enum accel accel;
	enum memory memory;
	uint64_t ram_base, ram_size; // of guest memory, in QEMU's address space
	uint64_t tsc_khz;	     // of the guest, since it booted
	bool tracking;		     // writes to it are noted
	_Atomic uint64_t *removed;   // pages thrown away; shared with the hook
	struct loaded loaded;	     // what its memory was at the start
	int hook_fd;		     // the hook's thread (hook.h)
	uint64_t hook_id;
	unsigned drive_file[CONFIG_DRIVES_MAX]; // which file node is below each drive
};

struct tsc_mark tsc_mark_now(void);
uint64_t tsc_khz_since(const struct tsc_mark *since); // waits until 5 ms have gone by

void qemu_init(struct qemu *q);
// Kills it if it runs, and reaps it.
void qemu_done(struct qemu *q);
// 0 when the guest runs. On an error no process is left; the text has QEMU's own last words.
int qemu_start(struct qemu *q, const struct qemu_options *o, const struct config *c, struct err *e);
// 0 when the machine is there with the state loaded, stopped.
int qemu_load(struct qemu *q, const struct qemu_options *o, const struct config *c,
	const struct qemu_incoming *in, struct err *e);
// Writes the state of all devices, not the memory, to fd (write-only) at its offset. The guest is
// stopped and stays as it is.
int qemu_save_devices(struct qemu *q, int fd, struct err *e);
int qemu_pause(struct qemu *q, struct err *e);
int qemu_resume(struct qemu *q, struct err *e);
// Puts another file behind a drive of the running guest.
int qemu_set_drive(
	struct qemu *q, size_t index, const struct drive *d, const char *path, struct err *e);
// Reads what QEMU said on stderr and passes it on to ours.
void qemu_read_stderr(struct qemu *q);
// After pidfd became readable: the wait status, and the rest of stderr is read.
int qemu_reap(struct qemu *q, int *ret_status);

// The guest's kernel command line: the client's, the root device, what the emulated machine needs;
// before "--", which begins init's own arguments. tsc_khz 0: none. Owned by the caller.
int qemu_command_line(const struct config *c, uint64_t tsc_khz, char **ret, struct err *e);
