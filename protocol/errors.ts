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
  BACKLOG_FULL:
    'Schedule {id} cannot be given {runs} more runs: at most {most} may wait at once. Wait until some were sent, or ask for fewer.',
  JOURNAL_IN_USE:
    'Journal {folder} is in use by process {pid}. Give each beat node a --journal-dir of its own (if that is no beat node, remove {file}).',
  JOURNAL_FOLDER: 'Cannot use the journal {folder}: {reason}. Make it writable, or give another --journal-dir.',
  JOURNAL_WRITE:
    'Cannot write the journal {folder}: {reason}. Dispatch goes on; the journal is written anew when there is room again.',
  RESTORE_TAKEN:
    'Namespace {namespace} was restored or created by another node meanwhile. Nothing needs to be done; this node joins it.',
  NO_REDIS_SERVER:
    'redis-server was not found on PATH. Install it (Debian: apt-get install redis-server; macOS: brew install redis).',
  REDIS_NOT_STARTED: 'redis-server did not start within {seconds} s: {reason}.',
  REDIS_UNREACHABLE:
    'Redis at {url} does not answer: {reason}. Start it, or give the URL of one that runs with --redis.',
  REDIS_TOO_OLD: 'Redis {version} is too old: Ringbeat needs Redis 6.2 or newer.',
  PORT_TAKEN: 'Cannot listen on {host}:{port}: {reason}. Choose another with {option}.',
  INSECURE_API:
    'Refusing to listen on {host} without a token: anyone who reaches it could change schedules. Give --api-token, or --insecure if that is meant.',
  PIDFILE_TAKEN:
    'Refusing to start: process {pid} lives and has {file}. Stop it, or give another --pidfile (if that is another program, remove the file).',
  PIDFILE_UNUSABLE: 'Cannot use --pidfile {file}: {reason}. Nothing was changed. Give another file.',
  TASKS_MODULE: 'Cannot load tasks module {file}: {reason}.',
  CHILD_LOST: 'A child of the worker pool ended before it was ready ({reason}). See what it wrote to standard error.',
  STATE_FILE:
    'Cannot use the state file {file}: {reason}. Nothing was changed. Repair it, or move it away to start without what it remembers.',
  NO_TASKS: 'No task was defined by {files}. Define one with task(name, fn) from "ringbeat".',
  SCRIPT_REPLY:
    'Script {script} answered {reply}, which is not what its header promises. Do all processes run the same version?',
  BAD_API_URL: 'Cannot use --api "{url}". Give the base URL of a beat node\'s HTTP API, such as http://127.0.0.1:7380.',
  API_UNREACHABLE:
    'The HTTP API at {url} did not answer: {reason}. Start a beat node, or give the URL of one that runs with --api.',
  API_REFUSED: 'The API answered {status}: {detail}',
  BAD_FILE: 'Cannot use {file}: {reason}.',
  BAD_SPEC: 'The {what} is not valid: {reason}.',
  NO_SCHEDULE: 'There is no schedule "{id}" in namespace {namespace}. Create it with create or put.',
  SCHEDULE_EXISTS:
    'There is a schedule "{id}" in namespace {namespace} already. Replace it with put, or change it with update.',
  SCHEDULE_CONTENDED:
    'Schedule "{id}" was changed by others {attempts} times in a row, and not by this update. Send the update again.',
  LOOP_IN_FLIGHT:
    'Schedule "{id}" is a loop whose run has not ended; none was started beside it. Trigger it again once it has.',
  LOOP_HAS_NO_TIMES: 'Schedule "{id}" is a loop: it has no times that could be made up for. Trigger it instead.',
  QUEUE_FULL: 'Task {task} was not sent: queue {queue} is at its cap. Send it later, or start more workers.',
  BAD_QUEUE:
    'Task {task} was not sent: the Redis key of queue {queue} is no list. Use another queue, or delete the key.',
  TASK_FAILED: 'Task {task} ended as {state}: {reason}.',
  TASK_NOT_ENDED:
    'Task {task} has not ended within {seconds} s; it is {state}. Wait longer, or see that a worker serves its queue and that its result is not ignored.',
  NO_CLIENT:
    'Task {task} cannot be sent: this process has no client. Make one with new Client({ redis }), or give one as an option of applyAsync.',
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
