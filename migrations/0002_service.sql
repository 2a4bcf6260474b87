-- What this service needs beyond the specification: owners, runners, ends, the change cursor, leadership.

SET LOCAL statement_timeout = 0;

-- Times are whole milliseconds outside the database.
CREATE FUNCTION from_ms(ms bigint) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT to_timestamp(ms / 1000.0) $$;
CREATE FUNCTION to_ms(at timestamptz) RETURNS bigint
    LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT round(extract(epoch FROM at) * 1000)::bigint $$;

ALTER TABLE jobs
    ADD COLUMN owner_id     BIGINT,         -- caps count per owner, over all repositories of a user
    ADD COLUMN runner_name  TEXT,           -- with started_at: which runner took it, and when
    ADD COLUMN started_at   TIMESTAMPTZ,
    ADD COLUMN completed_at TIMESTAMPTZ,
    ADD COLUMN requeued_at  TIMESTAMPTZ,    -- GitHub put it back into its queue; demand until it starts later
    ADD COLUMN failure_info JSONB,          -- why this service failed it
    ADD COLUMN changed_xid  xid8 NOT NULL DEFAULT pg_current_xact_id();  -- the change cursor: who last wrote it

ALTER TABLE workers
    ADD COLUMN owner_id     BIGINT,
    ADD COLUMN changed_xid  xid8 NOT NULL DEFAULT pg_current_xact_id();

-- Rows that were there before. An organisation is its own owner; a user's id was not kept, so what users had under way
-- counts together as nobody's, until it ends. Labels become the canonical set that new rows have: lower case, by bytes;
-- what is no list stays as it is, for one odd row must not keep the others from being served.
UPDATE jobs SET owner_id = CASE entity_type WHEN 'Organization' THEN entity_id ELSE 0 END,
    completed_at = CASE WHEN status IN ('completed', 'failed') THEN updated_at END,
    job_labels = CASE jsonb_typeof(job_labels) WHEN 'array' THEN
        COALESCE((SELECT jsonb_agg(DISTINCT lower(label) COLLATE "C" ORDER BY lower(label) COLLATE "C")
                  FROM jsonb_array_elements_text(job_labels) AS label), '[]') ELSE job_labels END;
UPDATE workers SET owner_id = CASE entity_type WHEN 'Organization' THEN entity_id ELSE 0 END,
    completed_at = CASE WHEN status IN ('completed', 'failed') THEN COALESCE(completed_at, updated_at) END,
    job_labels = CASE jsonb_typeof(job_labels) WHEN 'array' THEN
        COALESCE((SELECT jsonb_agg(DISTINCT lower(label) COLLATE "C" ORDER BY lower(label) COLLATE "C")
                  FROM jsonb_array_elements_text(job_labels) AS label), '[]') ELSE job_labels END;
ALTER TABLE jobs ALTER COLUMN owner_id SET NOT NULL;
ALTER TABLE workers ALTER COLUMN owner_id SET NOT NULL;

-- One row: who leads. Every write of a leader names the epoch it was made under.
CREATE TABLE leadership (
    only_row   BOOLEAN PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch      BIGINT NOT NULL DEFAULT 0,
    holder     TEXT,
    expires_at TIMESTAMPTZ NOT NULL DEFAULT '-infinity'
);
INSERT INTO leadership DEFAULT VALUES;

CREATE INDEX jobs_active ON jobs (entity_id, job_labels) WHERE status IN ('pending', 'running');
CREATE INDEX jobs_by_runner ON jobs (runner_name) WHERE status = 'running';
CREATE INDEX jobs_by_installation ON jobs (installation_id) WHERE status IN ('pending', 'running');
CREATE INDEX jobs_newest ON jobs (created_at DESC, job_id DESC);
CREATE INDEX jobs_changed ON jobs (changed_xid);
CREATE INDEX workers_active ON workers (entity_id, job_labels) WHERE status IN ('pending', 'running');
CREATE INDEX workers_by_owner ON workers (owner_id) WHERE status IN ('pending', 'running');
CREATE INDEX workers_ended ON workers (completed_at) WHERE status IN ('completed', 'failed');
CREATE INDEX workers_changed ON workers (changed_xid);
