import { type RegisteredTask, tasks } from '../client/task.ts';
import { asciiJsonString } from '../protocol/json.ts';
import type { RateLimits } from './rate-limits.ts';

/** Most bytes of names that one reserve carries; with more tasks none start as they are taken. */
const MAX_NAMES = 8_192;

/** The tasks whose messages may start as they are taken: those that no rate limit holds up. */
export class DirectTasks {
  readonly #acksLate: boolean;
  readonly #rateLimits: RateLimits;
  /** What the names were made of. */
  #tasks: readonly RegisteredTask[] = [];
  #revision = Number.NaN;
  #names = '';

  constructor(options: { readonly acksLate: boolean; readonly rateLimits: RateLimits }) {
    this.#acksLate = options.acksLate;
    this.#rateLimits = options.rateLimits;
  }

  /** Their names as `DirectStart` has them; '' for none. */
  get names(): string {
    if (!this.#isCurrent()) this.#read();
    return this.#names;
  }

  #isCurrent(): boolean {
    if (this.#revision !== this.#rateLimits.revision || this.#tasks.length !== tasks.size) return false;
    let at = 0;
    for (const task of tasks.values()) if (this.#tasks[at++] !== task) return false;
    return true;
  }

  #read(): void {
    this.#tasks = [...tasks.values()];
    this.#revision = this.#rateLimits.revision;
    const names = this.#tasks
      .filter(({ name }) => !this.#rateLimits.limits(name))
      .map(({ name, options }) => `${(options.acksLate ?? this.#acksLate) ? '+' : ''}${asciiJsonString(name)}`)
      .join('\n');
    this.#names = names.length > MAX_NAMES ? '' : names;
  }
}
