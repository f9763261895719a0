-- What a key may do, and for whom. Those from before may do everything. owner: whose sandboxes it sees,
-- and whose those are that it makes; '' for all, of an admin's or a reader's. NULL: no such limit.
ALTER TABLE keys ADD COLUMN scope TEXT NOT NULL DEFAULT 'admin'
	CHECK (scope IN ('admin', 'sandboxes', 'read'));
ALTER TABLE keys ADD COLUMN owner TEXT NOT NULL DEFAULT '' CHECK (scope <> 'sandboxes' OR owner <> '');
ALTER TABLE keys ADD COLUMN expires_ns INTEGER;
ALTER TABLE keys ADD COLUMN max_sandboxes INTEGER CHECK (max_sandboxes > 0);
ALTER TABLE keys ADD COLUMN max_vcpus INTEGER CHECK (max_vcpus > 0);
ALTER TABLE keys ADD COLUMN max_memory_mb INTEGER CHECK (max_memory_mb > 0);
ALTER TABLE keys ADD COLUMN max_disk_mb INTEGER CHECK (max_disk_mb > 0);
ALTER TABLE keys ADD COLUMN max_creates INTEGER CHECK (max_creates > 0);

-- Whose a sandbox is. Without a row: the operator's. Outlives the sandbox, for its events and operations.
CREATE TABLE sandbox_owners (
	sandbox TEXT PRIMARY KEY,
	owner TEXT NOT NULL CHECK (owner <> '')
) STRICT, WITHOUT ROWID;
CREATE INDEX sandbox_owners_owner ON sandbox_owners (owner);

-- What a sandbox was promised; 0: not known, of one from before. token_epoch: how often its token was
-- made anew; token_told: which of them its agent is known to have.
ALTER TABLE sandboxes ADD COLUMN vcpus INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sandboxes ADD COLUMN memory_mb INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sandboxes ADD COLUMN disk_mb INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sandboxes ADD COLUMN token_epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sandboxes ADD COLUMN token_told INTEGER NOT NULL DEFAULT 0;

-- Whose a snapshot is, '' for the operator's, and whether everybody may start from it.
ALTER TABLE templates ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE templates ADD COLUMN public INTEGER NOT NULL DEFAULT 0 CHECK (public IN (0, 1));

-- For whom an operation was done; '' for the operator.
ALTER TABLE operations ADD COLUMN owner TEXT NOT NULL DEFAULT '';
CREATE INDEX operations_owner ON operations (owner, created_ns) WHERE owner <> '';
