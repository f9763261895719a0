-- What sandboxes can be made from beside the host's images: named snapshots. A row of kind base
-- would stand for an image; today the host alone tells of those. "parent" is the template that the
-- source came from.
CREATE TABLE templates (
	name TEXT PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 63),
	kind TEXT NOT NULL CHECK (kind IN ('base', 'snapshot')),
	snapshot_id TEXT UNIQUE CHECK ((kind = 'snapshot') = (snapshot_id IS NOT NULL)),
	sandbox_id TEXT NOT NULL,
	parent TEXT NOT NULL,
	vcpus INTEGER NOT NULL CHECK (vcpus > 0),
	memory_mb INTEGER NOT NULL CHECK (memory_mb > 0),
	disk_mb INTEGER NOT NULL CHECK (disk_mb > 0),
	memory_bytes INTEGER NOT NULL CHECK (memory_bytes >= 0),
	disk_bytes INTEGER NOT NULL CHECK (disk_bytes >= 0),
	created_ns INTEGER NOT NULL
) STRICT;

-- Snapshots that are being made or deleted, written before the host is told. A create that is left
-- over is finished when the host has the snapshot and dropped when not; a delete is asked for again
-- until the host has done it. A name can be in the making once at a time.
CREATE TABLE snapshot_operations (
	snapshot_id TEXT PRIMARY KEY,
	action TEXT NOT NULL CHECK (action IN ('create', 'delete')),
	name TEXT UNIQUE CHECK ((action = 'create') = (name IS NOT NULL)),
	sandbox_id TEXT NOT NULL,
	parent TEXT NOT NULL,
	overwrite INTEGER NOT NULL CHECK (overwrite IN (0, 1)),
	started_ns INTEGER NOT NULL
) STRICT;
