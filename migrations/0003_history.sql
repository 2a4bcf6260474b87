-- The order of /history: what is pending, then what is running, then what has ended, each newest first. A job that this
-- service failed stands among the completed ones, by its time: whoever looks for what went wrong looks at the newest.
-- A page is read by this index alone, however many jobs there are.

SET LOCAL statement_timeout = 0;

CREATE INDEX jobs_history ON jobs (LEAST(status, 'completed'), created_at DESC, job_id DESC);
