/** How a running task is told to end. (Its AbortSignal is made only when somebody asks for it: most tasks never do.) */
export class Cancellation {
  #controller: AbortController | null = null;
  #reason: Error | null = null;
  /** The task has ended or was given up: it has nothing more to say. */
  isOver = false;

  /** Why it was told to end; null: it was not. */
  get reason(): Error | null {
    return this.#reason;
  }

  get signal(): AbortSignal {
    if (this.#controller === null) {
      this.#controller = new AbortController();
      if (this.#reason !== null) this.#controller.abort(this.#reason);
    }
    return this.#controller.signal;
  }

  /** The first reason stays. */
  abort(reason: Error): void {
    if (this.#reason !== null) return;
    this.#reason = reason;
    this.#controller?.abort(reason);
  }
}
