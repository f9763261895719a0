-- Whether anybody may reach the ports that its programs serve, or who has the port token alone; that token
-- and the cookies are made of port_epoch, which counts how often they were made anew.
ALTER TABLE sandboxes ADD COLUMN ports_public INTEGER NOT NULL DEFAULT 1 CHECK (ports_public IN (0, 1));
ALTER TABLE sandboxes ADD COLUMN port_epoch INTEGER NOT NULL DEFAULT 0;
