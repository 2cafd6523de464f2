// The main module of a child process of the processes pool; see processes-pool.ts.
import type { FromChild, ToChild } from './channel.ts';
import { JobRunner } from './child.ts';

const send = (message: FromChild): void => {
  if (process.connected) process.send?.(message);
};
const runner = new JobRunner(send);

process.on('message', (received) => {
  const message = received as ToChild;
  if (message.kind === 'run') runner.run(message, send);
  else runner.hear(message);
});

// The worker is gone: its messages belong to others from now on.
process.on('disconnect', () => process.exit(1));
