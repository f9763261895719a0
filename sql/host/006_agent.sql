-- Version of the guest's agent, as it told at the last start or pause (agentclient/version.h); '': an
-- older server did not ask.
ALTER TABLE sandboxes ADD COLUMN agent TEXT NOT NULL DEFAULT '';
