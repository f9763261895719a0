-- A dropped snapshot is nobody's any more; the row goes when its files have.
ALTER TABLE snapshots ADD COLUMN dropped INTEGER NOT NULL DEFAULT 0;

-- The layers that this host made. Files of others are kept and reported.
CREATE TABLE layers (id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;

-- Raised at each start and each publishing, here first and then in the volume's marker: a copy of
-- this database from another moment is behind the marker.
ALTER TABLE journal ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
