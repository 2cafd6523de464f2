/**
 * Every error that Ringbeat raises on purpose: what happened, and what to do about it. `docs/errors.md` is generated
 * from this table. `{name}` in a text is filled with the value of that name.
 */
const ERRORS = {
  BAD_URL:
    'Cannot use {option} "{url}": {reason}. Give a URL such as redis://127.0.0.1:6379/0, rediss://… or unix:///path.',
  NOT_YET_SUPPORTED: '{what} is not supported by this version. {remedy}',
  BAD_NAMESPACE: 'Namespace "{namespace}" is not usable: {reason}. Use 1 to 64 letters, digits, "-", "_" or ".".',
  NAMESPACE_SHARDS:
    'Namespace {namespace} has {stored} shards; this node was started with --shards {given}. Start it without --shards, or with --shards {stored}.',
  NAMESPACE_FORMAT:
    'Namespace {namespace} was written in format {stored}; this version reads format {known}. Upgrade this process, or point it at another namespace.',
  NAMESPACE_GONE:
    'Namespace {namespace} is not in Redis (deleted, flushed, or another Redis). Nothing was changed. Start a beat node to create it, or check --redis and --namespace.',
  NO_REDIS_SERVER:
    'redis-server was not found on PATH. Install it (Debian: apt-get install redis-server; macOS: brew install redis).',
  REDIS_NOT_STARTED: 'redis-server did not start within {seconds} s: {reason}.',
  REDIS_UNREACHABLE:
    'Redis at {url} does not answer: {reason}. Start it, or give the URL of one that runs with --redis.',
  REDIS_TOO_OLD: 'Redis {version} is too old: Ringbeat needs Redis 6.2 or newer.',
  PORT_TAKEN: 'Cannot listen on {host}:{port}: {reason}. Choose another with {option}.',
  INSECURE_API:
    'Refusing to listen on {host} without a token: anyone who reaches it could change schedules. Give --api-token, or --insecure if that is meant.',
  TASKS_MODULE: 'Cannot load tasks module {file}: {reason}.',
  NO_TASKS: 'No task was defined by {files}. Define one with task(name, fn) from "ringbeat".',
  SCRIPT_REPLY:
    'Script {script} answered {reply}, which is not what its header promises. Do all processes run the same version?',
  UNDECODABLE_MESSAGE: 'Message cannot be decoded: {reason}.',
} as const;

export type ErrorCode = keyof typeof ERRORS;

export type ErrorValues = Readonly<Record<string, string | number>>;

/** An error with a stable `code` (a key of the table above) and the `values` its text was made of. */
export class RingbeatError extends Error {
  readonly code: ErrorCode;
  readonly values: ErrorValues;

  constructor(code: ErrorCode, values: ErrorValues, options?: ErrorOptions) {
    super(fill(ERRORS[code], values), options);
    this.name = 'RingbeatError';
    this.code = code;
    this.values = values;
  }
}

/** [code, text] of every error, in the order of the table; for `docs/errors.md`. */
export function listErrors(): ReadonlyArray<readonly [string, string]> {
  return Object.entries(ERRORS);
}

function fill(template: string, values: ErrorValues): string {
  return template.replace(/\{(\w+)\}/g, (hole, name: string) => (name in values ? String(values[name]) : hole));
}

/** The text of whatever was thrown. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}
