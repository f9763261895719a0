-- Whom an operation concerns: its sandbox, and the children of a fork. made: it is what brings the
-- sandbox into being.
CREATE TABLE operation_subjects (
	operation TEXT NOT NULL REFERENCES operations (id) ON DELETE CASCADE,
	sandbox TEXT NOT NULL,
	made INTEGER NOT NULL CHECK (made IN (0, 1)),
	created_ns INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX operation_subjects_sandbox
	ON operation_subjects (sandbox, created_ns, operation);
CREATE INDEX operation_subjects_operation ON operation_subjects (operation);
CREATE INDEX operations_snapshot ON operations (snapshot, created_ns) WHERE snapshot <> '';
DROP INDEX operations_sandbox;

-- Snapshots that an older version was making or deleting have no operation of their own: they get
-- one, which is open. The table that noted them goes.
INSERT INTO operations (id, kind, sandbox, snapshot, state, request, phases, created_ns)
	SELECT lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' ||
			substr(hex(randomblob(2)), 2) || '-8' || substr(hex(randomblob(2)), 2) || '-' ||
			hex(randomblob(6))),
		CASE action WHEN 'create' THEN 'snapshot' ELSE 'snapshot_delete' END, sandbox_id,
		snapshot_id, 'open',
		CASE action WHEN 'create' THEN json_object('name', name, 'parent', parent, 'overwrite',
				json(iif(overwrite, 'true', 'false')))
			ELSE '{}' END,
		'[]', started_ns
	FROM snapshot_operations n
	WHERE NOT EXISTS (SELECT 1 FROM operations o WHERE o.snapshot = n.snapshot_id AND
		o.state = 'open');
DROP TABLE snapshot_operations;

INSERT OR IGNORE INTO operation_subjects (operation, sandbox, made, created_ns)
	SELECT id, sandbox, kind = 'create', created_ns FROM operations WHERE sandbox <> '';
INSERT OR IGNORE INTO operation_subjects (operation, sandbox, made, created_ns)
	SELECT o.id, json_extract(c.value, '$.id'), 1, o.created_ns
	FROM operations o, json_each(o.request, '$.children') c WHERE o.kind = 'fork';

-- Which counting the numbers of events belong to: another one where they could be given twice.
-- '' until the server chooses one.
CREATE TABLE feed (
	epoch TEXT NOT NULL
) STRICT;
INSERT INTO feed VALUES ('');
