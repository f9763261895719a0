-- api_key: the key that asked for it, '' for rows from before and for those without one. No reference:
-- a key that is deleted leaves its sandboxes, and its id is never given again. name: what that key
-- calls it; two that have not ended cannot share one.
ALTER TABLE sandboxes ADD COLUMN api_key TEXT NOT NULL DEFAULT '';
ALTER TABLE sandboxes ADD COLUMN name TEXT
	CHECK (name IS NULL OR (api_key <> '' AND length(name) BETWEEN 1 AND 63));
CREATE UNIQUE INDEX sandboxes_name ON sandboxes (api_key, name)
	WHERE name IS NOT NULL AND ended_ns IS NULL;

-- The same table, with one more kind: update, a change of name, metadata or on_timeout.
CREATE TABLE operations_5 (
	id TEXT PRIMARY KEY,
	kind TEXT NOT NULL CHECK (kind IN ('create', 'pause', 'resume', 'rollback', 'fork', 'snapshot',
		'snapshot_delete', 'destroy', 'set_timeout', 'key_delete', 'update')),
	sandbox TEXT NOT NULL,
	snapshot TEXT NOT NULL,
	state TEXT NOT NULL CHECK (state IN ('open', 'done', 'failed')),
	error_code TEXT,
	error TEXT,
	request TEXT NOT NULL,
	phases TEXT NOT NULL,
	api_key TEXT REFERENCES keys (id) ON DELETE SET NULL,
	idempotency_key TEXT,
	request_hash TEXT,
	status INTEGER,
	answer TEXT,
	created_ns INTEGER NOT NULL,
	ended_ns INTEGER,
	CHECK ((state = 'open') = (ended_ns IS NULL)),
	CHECK ((state = 'failed') = (error_code IS NOT NULL)),
	CHECK ((error_code IS NULL) = (error IS NULL)),
	CHECK ((idempotency_key IS NULL) = (request_hash IS NULL))
) STRICT;
INSERT INTO operations_5 SELECT * FROM operations;
DROP TABLE operations;
ALTER TABLE operations_5 RENAME TO operations;
CREATE UNIQUE INDEX operations_key ON operations (api_key, idempotency_key)
	WHERE idempotency_key IS NOT NULL;
CREATE INDEX operations_sandbox ON operations (sandbox, created_ns);
CREATE INDEX operations_open ON operations (created_ns) WHERE state = 'open';
CREATE INDEX operations_created ON operations (created_ns);
