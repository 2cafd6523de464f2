import { open, readFile, rename, rm } from 'node:fs/promises';
import { messageOf, RingbeatError } from '../protocol/errors.ts';
import type { RevokedTasks, Stamp } from '../protocol/revoked-tasks.ts';
import { monotonicMs } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';

const FORMAT = 1;

/** A change is written after this, ms, with those that follow it until then. */
const WRITE_AFTER_MS = 500;

/** What could not be written is tried again after this, ms. */
const AGAIN_AFTER_MS = 5_000;

/** What a state file holds. Times are ms since epoch, for a monotonic clock ends with its machine. */
interface State {
  readonly revoked: readonly (readonly [id: string, revokedAtMs: number])[];
  readonly stamps: readonly Stamp[];
}

export interface StateFileOptions {
  readonly file: string;
  readonly revoked: RevokedTasks;
  readonly log: Log;
  /** ms since epoch. */
  nowMs(): number;
}

/** Keeps what is revoked in a file, across restarts, as Celery's --statedb does. A file of its own for each worker. */
export class StateFile {
  readonly #options: StateFileOptions;
  #timer: NodeJS.Timeout | null = null;
  #writing: Promise<void> = Promise.resolve();
  #isClosed = true;

  constructor(options: StateFileOptions) {
    this.#options = options;
  }

  /**
   * Takes over what the file tells, if there is one, and writes changes from now on. Throws STATE_FILE for a file that
   * cannot be read or written, or is damaged; it is left as it is.
   */
  async open(): Promise<void> {
    const { file, revoked, nowMs } = this.#options;
    const state = await readState(file);
    const epochMs = nowMs() - monotonicMs();
    for (const [id, revokedAtMs] of state.revoked) {
      // A clock that was set back since must not keep an id for longer.
      revoked.add([id], Math.min(revokedAtMs - epochMs, monotonicMs()));
    }
    revoked.addStamps(state.stamps);
    revoked.purge(monotonicMs());
    try {
      await this.#write();
    } catch (error) {
      throw unusable(file, error);
    }
    this.#isClosed = false;
  }

  /** There is more to remember. */
  changed(): void {
    if (!this.#isClosed) this.#arm(WRITE_AFTER_MS);
  }

  /** Writes what is not written yet. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    await this.#writing;
    await this.#write().catch((error: unknown) => this.#complain(error));
  }

  #arm(afterMs: number): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.#writing = this.#writing
        .then(() => this.#write())
        .catch((error: unknown) => {
          this.#complain(error);
          if (!this.#isClosed) this.#arm(AGAIN_AFTER_MS);
        });
    }, afterMs).unref();
  }

  #complain(error: unknown): void {
    const { file, log } = this.#options;
    log.warn({ event: 'state_not_written', file, reason: messageOf(error) });
  }

  async #write(): Promise<void> {
    const { file, revoked, nowMs } = this.#options;
    revoked.purge(monotonicMs());
    const epochMs = nowMs() - monotonicMs();
    const entries = [...revoked.entries()].map(([id, revokedAtMs]) => [id, Math.round(revokedAtMs + epochMs)]);
    const text = `${JSON.stringify({ format: FORMAT, revoked: entries, stamps: revoked.stamps() })}\n`;
    await replaceFile(file, text);
  }
}

/** Either the old text is in the file or the new one, whenever the process or the machine dies. */
async function replaceFile(file: string, text: string): Promise<void> {
  const draft = `${file}.${process.pid}.tmp`;
  try {
    const handle = await open(draft, 'w', 0o600);
    try {
      await handle.writeFile(text);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(draft, file);
  } catch (error) {
    await rm(draft, { force: true });
    throw error;
  }
}

async function readState(file: string): Promise<State> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return { revoked: [], stamps: [] };
    throw unusable(file, error);
  }
  let state: unknown;
  try {
    state = JSON.parse(text);
  } catch (error) {
    throw unusable(file, new Error(`it is damaged (${messageOf(error)})`, { cause: error }));
  }
  if (isState(state)) return state;
  throw unusable(file, new Error('it is not a state file of this version'));
}

function isState(value: unknown): value is State {
  return (
    typeof value === 'object' &&
    value !== null &&
    'format' in value &&
    value.format === FORMAT &&
    'revoked' in value &&
    arePairs(value.revoked, 'number') &&
    'stamps' in value &&
    arePairs(value.stamps, 'string')
  );
}

function arePairs(value: unknown, second: 'number' | 'string'): boolean {
  if (!Array.isArray(value)) return false;
  const pairs: readonly unknown[] = value;
  return pairs.every(
    (pair) => Array.isArray(pair) && pair.length === 2 && typeof pair[0] === 'string' && typeof pair[1] === second,
  );
}

function unusable(file: string, error: unknown): RingbeatError {
  return new RingbeatError('STATE_FILE', { file, reason: messageOf(error) }, { cause: error });
}
