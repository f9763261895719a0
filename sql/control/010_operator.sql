-- The X-Request-Id of the request that asked for it; '' for what the server does by itself.
ALTER TABLE operations ADD COLUMN request_id TEXT NOT NULL DEFAULT '';

-- Who is told of events. kinds: a JSON array of kinds of events, empty for all. cursor: the last event
-- of that counting (feed.epoch) that was delivered or given up; the next one was tried attempts times
-- since first_ns, and is not tried before next_ns (nanoseconds since 1970).
CREATE TABLE webhooks (
	id TEXT PRIMARY KEY,
	url TEXT NOT NULL,
	secret TEXT NOT NULL,
	kinds TEXT NOT NULL,
	enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
	created_ns INTEGER NOT NULL UNIQUE,
	epoch TEXT NOT NULL,
	cursor INTEGER NOT NULL CHECK (cursor >= 0),
	attempts INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
	first_ns INTEGER NOT NULL DEFAULT 0,
	next_ns INTEGER NOT NULL DEFAULT 0
) STRICT;

-- What was tried last. event: 0 for a test; status: of the receiver's answer, 0 for none.
CREATE TABLE webhook_deliveries (
	number INTEGER PRIMARY KEY AUTOINCREMENT,
	webhook TEXT NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
	event INTEGER NOT NULL,
	kind TEXT NOT NULL,
	attempt INTEGER NOT NULL,
	at_ns INTEGER NOT NULL,
	duration_us INTEGER NOT NULL,
	status INTEGER NOT NULL,
	outcome TEXT NOT NULL CHECK (outcome IN ('delivered', 'failed', 'given_up')),
	error TEXT NOT NULL
) STRICT;
CREATE INDEX webhook_deliveries_webhook ON webhook_deliveries (webhook, number);
