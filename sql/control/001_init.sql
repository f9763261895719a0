-- Times are nanoseconds since 1970. Host state (running, address, ...) is not here: the host owns it.
CREATE TABLE keys (
	id TEXT PRIMARY KEY,
	name TEXT NOT NULL,
	sha256 TEXT NOT NULL UNIQUE,
	prefix TEXT NOT NULL,
	created_ns INTEGER NOT NULL,
	last_used_ns INTEGER NOT NULL DEFAULT 0
) STRICT;

-- What users asked for. "confirmed" is set when the host has made it; a row without is removed at
-- the next start if the host does not have it either. "ended" is the host's last report as JSON,
-- NULL until it stopped.
CREATE TABLE sandboxes (
	id TEXT PRIMARY KEY,
	template TEXT NOT NULL,
	metadata TEXT NOT NULL,
	env TEXT NOT NULL,
	on_timeout TEXT NOT NULL CHECK (on_timeout IN ('kill', 'pause')),
	timeout_sec INTEGER NOT NULL,
	created_ns INTEGER NOT NULL UNIQUE,
	confirmed INTEGER NOT NULL DEFAULT 0,
	ended_ns INTEGER,
	ended TEXT
) STRICT;
