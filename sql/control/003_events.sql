-- What happened, as the hosts told it: applied once, since the cursor moves in the same transaction.
-- journal and cursor: the database of the host that the numbers are of, and the last one applied.
CREATE TABLE hosts (
	name TEXT PRIMARY KEY,
	journal TEXT NOT NULL,
	cursor INTEGER NOT NULL CHECK (cursor >= 0)
) STRICT;

CREATE TABLE events (
	seq INTEGER PRIMARY KEY AUTOINCREMENT,
	host TEXT NOT NULL REFERENCES hosts (name),
	host_seq INTEGER NOT NULL,
	at_ns INTEGER NOT NULL,
	sandbox TEXT NOT NULL,
	kind TEXT NOT NULL,
	cause TEXT NOT NULL,
	data TEXT NOT NULL
) STRICT;
CREATE INDEX events_sandbox ON events (sandbox, seq);
