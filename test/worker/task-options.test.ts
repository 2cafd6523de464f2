import t from 'tap';
import { type TaskOptions, task } from '../../client/task.ts';
import type { TaskRequest, TaskSender } from '../../index.ts';

const refused: readonly (readonly [Record<string, unknown>, RegExp])[] = [
  [{ rateLimit: '10/d' }, /Option rateLimit of task bad must be .*"10\/s", "100\/m" or "5\/h", got "10\/d"/],
  [{ rateLimit: -1 }, /rateLimit/],
  [{ globalRateLimit: 'ten' }, /globalRateLimit .* got "ten"/],
  [{ maxRetries: -1 }, /maxRetries .* got -1/],
  [{ maxRetries: 1.5 }, /maxRetries/],
  [{ defaultRetryDelay: -1 }, /defaultRetryDelay/],
  [{ retryBackoff: 'fast' }, /retryBackoff/],
  [{ retryBackoffMax: Number.NaN }, /retryBackoffMax/],
  [{ retryJitter: 1 }, /retryJitter/],
  [{ autoretryFor: 'Error' }, /autoretryFor .* list/],
  [{ autoretryFor: [1] }, /autoretryFor/],
  [{ timeLimit: 0 }, /timeLimit .* above 0/],
  [{ softTimeLimit: 5, timeLimit: 4 }, /softTimeLimit .* not be above timeLimit, got 5 and 4/],
  [{ priority: 10 }, /priority .* 0 .* 9/],
  [{ serializer: 'pickle' }, /serializer .* "json".* got "pickle"/],
  [{ shadow: '' }, /shadow/],
  [{ schema: {} }, /schema .*Standard Schema/],
  [{ onSuccess: 'x' }, /onSuccess .* function/],
  [{ acksLate: 'yes' }, /acksLate/],
  [{ max_retries: 3 }, /no option max_retries. Its options are .*maxRetries/],
];

for (const [options, message] of refused) {
  t.test(`a task is not defined with ${JSON.stringify(options)}`, async (t) => {
    t.throws(() => task('bad', () => {}, options as TaskOptions), { name: 'TypeError', message });
  });
}

t.test('priority, limits, shadow and ignoreResult of a task are those of the messages that it sends', async (t) => {
  const sent: TaskRequest[] = [];
  const client = {
    send: async (_task: string, request: TaskRequest) => void sent.push(request),
  } as unknown as TaskSender;
  const defined = task('sent', () => {}, {
    priority: 3,
    shadow: 'shown',
    timeLimit: 20,
    softTimeLimit: 10,
    ignoreResult: true,
    serializer: 'json',
  });
  await defined.applyAsync([], { client });
  await defined.applyAsync([], { client, options: { priority: 9, time_limit: 30 } });
  const own = { priority: 3, shadow: 'shown', time_limit: 20, soft_time_limit: 10, ignore_result: true };
  t.same(
    sent.map(({ options }) => options),
    [own, { ...own, priority: 9, time_limit: 30 }],
  );
});
