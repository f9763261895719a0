-- Who asked for a snapshot: the key's id, '' for those from before.
ALTER TABLE templates ADD COLUMN api_key TEXT NOT NULL DEFAULT '';

-- What goes by itself; without a row nothing does. what: paused sandboxes or named snapshots. NULL: no
-- such limit. api_key, template: only those of it; '' for all. per: what keep_newest and max_bytes are
-- counted over.
CREATE TABLE retention_rules (
	name TEXT PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 63),
	what TEXT NOT NULL CHECK (what IN ('paused', 'snapshots')),
	max_age_sec INTEGER CHECK (max_age_sec >= 0),
	keep_newest INTEGER CHECK (keep_newest >= 0),
	max_bytes INTEGER CHECK (max_bytes >= 0),
	api_key TEXT NOT NULL,
	template TEXT NOT NULL,
	per TEXT NOT NULL CHECK (per IN ('all', 'key', 'template')),
	grace_sec INTEGER NOT NULL CHECK (grace_sec >= 0),
	created_ns INTEGER NOT NULL,
	CHECK (max_age_sec IS NOT NULL OR keep_newest IS NOT NULL OR max_bytes IS NOT NULL)
) STRICT;

-- What is never taken: ids of sandboxes, names of snapshots.
CREATE TABLE retention_kept (
	kind TEXT NOT NULL CHECK (kind IN ('sandbox', 'snapshot')),
	id TEXT NOT NULL,
	PRIMARY KEY (kind, id)
) STRICT;

-- What could be taken. stamp changes with each use; since_ns is when it came to be this one, by age_ns of
-- the clock below. rule: which one it was warned by, at warned_ns of served_ns; NULL: it was not.
CREATE TABLE retention_items (
	kind TEXT NOT NULL CHECK (kind IN ('sandbox', 'snapshot')),
	id TEXT NOT NULL,
	stamp TEXT NOT NULL,
	since_ns INTEGER NOT NULL,
	rule TEXT,
	warned_ns INTEGER,
	PRIMARY KEY (kind, id),
	CHECK ((rule IS NULL) = (warned_ns IS NULL))
) STRICT;

-- Clocks that nobody sets. served_ns: for so long a server has run; age_ns: besides what it was away,
-- within bounds. wall_ns: the time of day when they were written.
CREATE TABLE retention_clock (
	served_ns INTEGER NOT NULL,
	age_ns INTEGER NOT NULL,
	wall_ns INTEGER NOT NULL
) STRICT;
-- Ten years, so that what was made before can be older.
INSERT INTO retention_clock VALUES (0, 315360000000000000, 0);
