import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf, RingbeatError } from '../protocol/errors.ts';
import type { Log } from '../runtime/log.ts';

/**
 * One kind of script call, one call in flight. A call that failed "may have run", so it is repeated with the same counter
 * until it is answered; the scripts answer a repeated counter as they did the first time.
 */
export class Lane {
  readonly #name: string;
  readonly #log: Log;
  readonly #onFailure: () => void;
  #counter = 0;
  #flight: Promise<void> | null = null;
  #closed = false;

  /** `onFailure` is told of every call that failed. */
  constructor(name: string, log: Log, onFailure: () => void = () => {}) {
    this.#name = name;
    this.#log = log;
    this.#onFailure = onFailure;
  }

  get isBusy(): boolean {
    return this.#flight !== null;
  }

  /**
   * Makes the call and hands its answer on. An error that a repetition would not change goes to `onRefused`. Only when
   * not busy.
   */
  send<Answer>(
    call: (counter: number) => Promise<Answer>,
    onAnswer: (answer: Answer) => void,
    onRefused: ((error: RingbeatError) => void) | null = null,
  ): void {
    this.#counter += 1;
    this.#flight = this.#repeat(call, this.#counter, onAnswer, onRefused);
  }

  /** Resolves when nothing is in flight. */
  async idle(): Promise<void> {
    while (this.#flight !== null) await this.#flight;
  }

  /** No further repetition; answers that still come are dropped. */
  close(): void {
    this.#closed = true;
  }

  async #repeat<Answer>(
    call: (counter: number) => Promise<Answer>,
    counter: number,
    onAnswer: (answer: Answer) => void,
    onRefused: ((error: RingbeatError) => void) | null,
  ): Promise<void> {
    for (let failures = 0; ; failures++) {
      let answer: Answer;
      try {
        answer = await call(counter);
      } catch (error) {
        if (onRefused !== null && error instanceof RingbeatError && error.code === 'NAMESPACE_GONE') {
          this.#hand(error, onRefused);
          return;
        }
        if (this.#closed) {
          this.#flight = null;
          return;
        }
        this.#onFailure();
        if (failures === 0) this.#log.warn({ event: 'redis_call_failed', call: this.#name, reason: messageOf(error) });
        await sleep(Math.min(20 * 2 ** failures, 1_000));
        continue;
      }
      this.#hand(answer, onAnswer);
      return;
    }
  }

  /** What was answered is handed on once, even where that throws: to ask again would do what it brings a second time. */
  #hand<Answer>(answer: Answer, onAnswer: (answer: Answer) => void): void {
    this.#flight = null;
    if (this.#closed) return;
    try {
      onAnswer(answer);
    } catch (error) {
      this.#log.error({ event: 'answer_not_handled', call: this.#name, err: error });
    }
  }
}
