-- Name servers of the guest, commas between; '': not told, of an older server. dns_own: they were
-- asked for, else they are the host's of the last start.
ALTER TABLE sandboxes ADD COLUMN dns TEXT NOT NULL DEFAULT '';
ALTER TABLE sandboxes ADD COLUMN dns_own INTEGER NOT NULL DEFAULT 0;
