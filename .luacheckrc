std = "lua51"
read_globals = { "redis", "cjson", "KEYS", "ARGV" }
max_line_length = 140
