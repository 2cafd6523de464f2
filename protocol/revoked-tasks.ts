/** As many as Celery's workers remember, and for as long (celery/worker/state.py). */
const MAX_TASKS = 50_000;
const EXPIRES_MS = 10_800_000;

/** Most stamps that are remembered. Celery has no limit. */
const MAX_STAMPS = 50_000;

/** A message as far as it says whether it is revoked. */
export interface Revocable {
  readonly id: string;
  readonly headers: { readonly [key: string]: unknown };
}

/** A stamp, `[header, value]`: every message that carries it is revoked. */
export type Stamp = readonly [header: string, value: string];

/**
 * What is not to be run: tasks by id, remembered for 3 hours, the newest 50,000; and messages by a stamp that they carry
 * (celery/canvas.py, StampingVisitor), the newest 50,000 stamps. Times are of one monotonic clock, ms.
 */
export class RevokedTasks {
  readonly #onChange: () => void;
  /** Id -> when it was revoked, oldest first. */
  readonly #revokedAtMs = new Map<string, number>();
  /** `<header>\0<value>`, oldest first. */
  readonly #stamps = new Set<string>();

  /** `onChange` is told when there is more to remember. */
  constructor(onChange: () => void = () => {}) {
    this.#onChange = onChange;
  }

  /** How many ids are remembered. */
  get size(): number {
    return this.#revokedAtMs.size;
  }

  has(id: string): boolean {
    return this.#revokedAtMs.has(id);
  }

  /** Whether a message is not to be run, by its id or by a stamp. Costs next to nothing while nothing is revoked. */
  covers({ id, headers }: Revocable): boolean {
    if (this.#revokedAtMs.size > 0 && this.#revokedAtMs.has(id)) return true;
    if (this.#stamps.size === 0) return false;
    return stampsOf(headers).some((stamp) => this.#stamps.has(keyOf(stamp)));
  }

  add(ids: Iterable<string>, nowMs: number): void {
    for (const id of ids) {
      this.#revokedAtMs.delete(id);
      this.#revokedAtMs.set(id, nowMs);
    }
    this.purge(nowMs);
    this.#onChange();
  }

  addStamps(stamps: Iterable<Stamp>): void {
    for (const stamp of stamps) this.#stamps.add(keyOf(stamp));
    for (const key of this.#stamps) {
      if (this.#stamps.size <= MAX_STAMPS) break;
      this.#stamps.delete(key);
    }
    this.#onChange();
  }

  /** Forgets ids that are too old or too many. */
  purge(nowMs: number): void {
    for (const [id, revokedAtMs] of this.#revokedAtMs) {
      if (this.#revokedAtMs.size <= MAX_TASKS && revokedAtMs > nowMs - EXPIRES_MS) return;
      this.#revokedAtMs.delete(id);
    }
  }

  /** [id, when it was revoked], oldest first. */
  entries(): Iterable<readonly [string, number]> {
    return this.#revokedAtMs.entries();
  }

  /** Oldest first. */
  stamps(): Stamp[] {
    return [...this.#stamps].map((key) => {
      const at = key.indexOf('\0');
      return [key.slice(0, at), key.slice(at + 1)];
    });
  }
}

/** The stamps that a message carries. */
export function stampsOf(headers: Revocable['headers']): Stamp[] {
  const { stamped_headers: names, stamps } = headers;
  if (!Array.isArray(names) || typeof stamps !== 'object' || stamps === null) return [];
  const values = new Map<string, unknown>(Object.entries(stamps));
  return names.flatMap((name) => (typeof name === 'string' ? stampsFrom(name, values.get(name)) : []));
}

/** A stamp for the value of a header, or for each of its values where it has a list. */
export function stampsFrom(header: string, value: unknown): Stamp[] {
  const values: readonly unknown[] = Array.isArray(value) ? value : [value];
  return values.flatMap((one): Stamp[] => {
    if (one === undefined || one === null) return [];
    return [[header, typeof one === 'object' ? JSON.stringify(one) : String(one)]];
  });
}

function keyOf([header, value]: Stamp): string {
  return `${header}\0${value}`;
}
