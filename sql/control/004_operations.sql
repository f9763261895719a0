INSERT OR IGNORE INTO hosts VALUES ('local', '', 0);
-- The last row of events that the sandboxes below know of; moves in the transaction that applies it.
ALTER TABLE hosts ADD COLUMN applied INTEGER NOT NULL DEFAULT 0 CHECK (applied >= 0);

-- What a user asked for: state is what the host said last, generation the host's count of changes
-- that it belongs to. One that was never confirmed is 'creating': the host is asked about it.
CREATE TABLE sandboxes_4 (
	id TEXT PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 63),
	host TEXT NOT NULL REFERENCES hosts (name),
	template TEXT NOT NULL,
	metadata TEXT NOT NULL,
	env TEXT NOT NULL,
	on_timeout TEXT NOT NULL CHECK (on_timeout IN ('kill', 'pause')),
	timeout_sec INTEGER NOT NULL CHECK (timeout_sec >= 0),
	created_ns INTEGER NOT NULL UNIQUE,
	state TEXT NOT NULL CHECK (state IN ('creating', 'running', 'paused', 'stopped')),
	generation INTEGER NOT NULL CHECK (generation >= 0),
	ended_ns INTEGER,
	ended TEXT,
	CHECK ((state = 'stopped') = (ended_ns IS NOT NULL)),
	CHECK ((ended_ns IS NULL) = (ended IS NULL))
) STRICT;
INSERT INTO sandboxes_4
	SELECT id, 'local', template, metadata, env, on_timeout, timeout_sec, created_ns,
		CASE WHEN ended_ns IS NOT NULL THEN 'stopped' WHEN confirmed THEN 'running'
			ELSE 'creating' END,
		0, ended_ns, CASE WHEN ended_ns IS NOT NULL THEN coalesce(ended, '{}') END
	FROM sandboxes;
DROP TABLE sandboxes;
ALTER TABLE sandboxes_4 RENAME TO sandboxes;

-- Every change that was asked for, written before the host hears of it; the id is the host's op_id.
-- sandbox: whom it concerns, '' for none (a fork's children are in its request); request: what the
-- host is asked again with; status and answer: what a request with the same key is told, for a day.
-- Rows stay for a week, as the record of what may be removed from a host.
CREATE TABLE operations (
	id TEXT PRIMARY KEY,
	kind TEXT NOT NULL CHECK (kind IN ('create', 'pause', 'resume', 'rollback', 'fork', 'snapshot',
		'snapshot_delete', 'destroy', 'set_timeout', 'key_delete')),
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
CREATE UNIQUE INDEX operations_key ON operations (api_key, idempotency_key)
	WHERE idempotency_key IS NOT NULL;
CREATE INDEX operations_sandbox ON operations (sandbox, created_ns);
CREATE INDEX operations_open ON operations (created_ns) WHERE state = 'open';
CREATE INDEX operations_created ON operations (created_ns);
