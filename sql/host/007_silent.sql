-- owed: what the guest's agent has not answered yet, as JSON (sandbox/table/owed.h); '': nothing.
-- unquiesced: what it is paused at was taken without the agent.
ALTER TABLE sandboxes ADD COLUMN owed TEXT NOT NULL DEFAULT '';
ALTER TABLE sandboxes ADD COLUMN unquiesced INTEGER NOT NULL DEFAULT 0;
