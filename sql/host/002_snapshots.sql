-- A paused sandbox has its snapshot and no slot. lineage: 0 when base.hdr and the VMM's dirty
-- tracking together are all of memory, 1 when they may not be (a diff was taken and its fate is
-- open): then only a full snapshot is right. token is what the guest's agent knows.
ALTER TABLE sandboxes ADD COLUMN snapshot TEXT NOT NULL DEFAULT '';
ALTER TABLE sandboxes ADD COLUMN backend TEXT NOT NULL DEFAULT '';
ALTER TABLE sandboxes ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sandboxes ADD COLUMN lineage INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sandboxes ADD COLUMN kernel_id TEXT NOT NULL DEFAULT '';
ALTER TABLE sandboxes ADD COLUMN parent TEXT NOT NULL DEFAULT '';

-- What recovery needs to finish or undo an operation: the ids of what it makes, as JSON.
ALTER TABLE operations ADD COLUMN data TEXT NOT NULL DEFAULT '{}';

-- The snapshots below <data>/snapshots. kind: pause, checkpoint, template, frozen (the machine of a
-- base image, booted once; image_key says of which image and VMM).
CREATE TABLE snapshots (
	id TEXT PRIMARY KEY,
	kind TEXT NOT NULL CHECK (kind IN ('pause', 'checkpoint', 'template', 'frozen')),
	sandbox TEXT NOT NULL,
	template TEXT NOT NULL,
	parent TEXT NOT NULL,
	image_key TEXT NOT NULL,
	token TEXT NOT NULL,
	vcpus INTEGER NOT NULL,
	memory_mb INTEGER NOT NULL,
	disk_mb INTEGER NOT NULL,
	memory_bytes INTEGER NOT NULL,
	disk_bytes INTEGER NOT NULL,
	created_ns INTEGER NOT NULL
) STRICT;
CREATE INDEX snapshots_sandbox ON snapshots (sandbox);
