import type { ChildProcess } from 'node:child_process';
import { messageOf } from '../protocol/errors.ts';

/** Requests from the bench to its child processes, over the channel that `fork` opens. */
interface Request<Question> {
  readonly id: number;
  readonly question: Question;
}

interface Answer<Report> {
  readonly id: number;
  readonly report?: Report;
  readonly error?: string;
}

/** In the child: answers every question of the parent with what `perform` returns or throws. */
export function answerParent<Question, Report>(perform: (question: Question) => Report): void {
  process.on('message', (request: Request<Question>) => {
    let answer: Answer<Report>;
    try {
      answer = { id: request.id, report: perform(request.question) };
    } catch (error) {
      answer = { id: request.id, error: messageOf(error) };
    }
    process.send?.(answer);
  });
}

/** In the parent: a function that asks this child and waits for its answer; it rejects when the child ends. */
export function askChild<Question, Report>(child: ChildProcess, name: string): (question: Question) => Promise<Report> {
  const waiting = new Map<number, { resolve(report: Report): void; reject(error: Error): void }>();
  let lastId = 0;
  child.on('message', (answer: Answer<Report>) => {
    const waiter = waiting.get(answer.id);
    waiting.delete(answer.id);
    if (answer.report === undefined) waiter?.reject(new Error(`${name}: ${answer.error}`));
    else waiter?.resolve(answer.report);
  });
  child.once('exit', (code, signal) => {
    for (const waiter of waiting.values()) waiter.reject(new Error(`${name} ended (${signal ?? code})`));
  });
  return (question) =>
    new Promise((resolve, reject) => {
      lastId += 1;
      waiting.set(lastId, { resolve, reject });
      child.send({ id: lastId, question } satisfies Request<Question>, (error) => error !== null && reject(error));
    });
}
