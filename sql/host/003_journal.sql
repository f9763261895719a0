-- Tells this database from one made anew, whose events are numbered from 1 again.
CREATE TABLE journal (id TEXT NOT NULL) STRICT;
INSERT INTO journal SELECT lower(hex(randomblob(16)));
