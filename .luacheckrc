std = "lua51"
read_globals = { "redis", "cjson", "KEYS", "ARGV", "redis_now", "last_run", "first_due", "lateness_bucket", "drop_template" }
max_line_length = 150
-- Functions of an include are local there and used by the scripts that include it.
files["lua/include"] = { ignore = { "211" } }
