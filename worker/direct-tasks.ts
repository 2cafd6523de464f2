import { tasks } from '../client/task.ts';
import { asciiJsonString } from '../protocol/json.ts';
import type { RateLimits } from './rate-limits.ts';

/** Most bytes of names that one reserve carries; with more tasks none start as they are taken. */
const MAX_NAMES = 8_192;

/** The tasks whose messages may start as they are taken: those that no rate limit holds up. */
export class DirectTasks {
  readonly #acksLate: boolean;
  readonly #rateLimits: RateLimits;
  #names = '';
  /** Of what the names were made. */
  #revisions: readonly number[] = [];

  constructor(options: { readonly acksLate: boolean; readonly rateLimits: RateLimits }) {
    this.#acksLate = options.acksLate;
    this.#rateLimits = options.rateLimits;
  }

  /** Their names as `DirectStart` has them; '' for none. */
  get names(): string {
    const [ofTasks, ofLimits] = this.#revisions;
    if (ofTasks !== tasks.revision || ofLimits !== this.#rateLimits.revision) this.#read();
    return this.#names;
  }

  #read(): void {
    this.#revisions = [tasks.revision, this.#rateLimits.revision];
    const names = [...tasks.values()]
      .filter(({ name }) => !this.#rateLimits.limits(name))
      .map(({ name, options }) => `${(options.acksLate ?? this.#acksLate) ? '+' : ''}${asciiJsonString(name)}`)
      .join('\n');
    this.#names = names.length > MAX_NAMES ? '' : names;
  }
}
