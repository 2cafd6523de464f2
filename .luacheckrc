std = "lua51"
read_globals = {
  "redis", "cjson", "KEYS", "ARGV",
  -- What includes give to the scripts and to each other.
  "redis_now", "lateness_bucket", "iso_time", "shard_keys", "times_of", "time_at", "position_after", "occurrence_after",
  "occurrence_until", "excluded_until", "WIDTH", "SERIES_END", "timing_of", "next_due", "first_due", "last_run", "count_uses",
  "add_uses", "forget_schedules", "state_of", "record_changes", "journal_fields", "complete_run", "open_endings", "write_endings", "queue_of", "pushes_of",
  "push", "write_pushes", "parse_template", "put_parked", "parked_message", "is_success", "open_actions", "count_part", "end_runs",
  "hold_chord", "release",
}
globals = { "known_times" }
max_line_length = 150
-- Functions of an include are local there and used by the scripts that include it.
files["lua/include"] = { ignore = { "211" } }
