-- What runs on this machine, the journal of operations, and the events told to the control plane.
CREATE TABLE sandboxes (
	id TEXT PRIMARY KEY,
	template TEXT NOT NULL,
	state TEXT NOT NULL,
	vcpus INTEGER NOT NULL,
	memory_mb INTEGER NOT NULL,
	disk_mb INTEGER NOT NULL,
	created_ns INTEGER NOT NULL,
	started_ns INTEGER NOT NULL,
	stopped_ns INTEGER NOT NULL,
	ends_at_ns INTEGER NOT NULL,
	on_timeout INTEGER NOT NULL,
	slot INTEGER NOT NULL, -- -1: none
	token TEXT NOT NULL,
	cause TEXT NOT NULL,
	detail TEXT NOT NULL,
	phases TEXT NOT NULL -- JSON: [["slot", 120], ...]
) STRICT;
CREATE INDEX sandboxes_stopped ON sandboxes (stopped_ns);

CREATE TABLE operations (
	op_id TEXT PRIMARY KEY,
	kind TEXT NOT NULL,
	sandbox TEXT NOT NULL,
	state TEXT NOT NULL CHECK (state IN ('open', 'done')),
	started_ns INTEGER NOT NULL,
	ended_ns INTEGER NOT NULL
) STRICT;
CREATE INDEX operations_sandbox ON operations (sandbox);

CREATE TABLE events (
	seq INTEGER PRIMARY KEY AUTOINCREMENT,
	at_ns INTEGER NOT NULL,
	sandbox TEXT NOT NULL,
	kind TEXT NOT NULL,
	cause TEXT NOT NULL,
	data TEXT NOT NULL
) STRICT;
