// The main module of a child process of the processes pool; see processes-pool.ts.
import { messageOf } from '../../protocol/errors.ts';
import type { FromChild, ToChild } from './channel.ts';
import { failed, JobRunner } from './child.ts';

const send = (message: FromChild): void => {
  if (process.connected) process.send?.(message);
};
const runner = new JobRunner(send);

process.on('message', (received) => {
  const message = received as ToChild;
  switch (message.kind) {
    case 'setup':
      runner.start(message.setup).then(
        () => send({ kind: 'ready' }),
        (error) => send(failed(error)),
      );
      return;
    case 'run':
      runner.run(message, send);
      return;
    case 'stop':
      runner.stop().then(
        () => process.exit(0),
        (error) => {
          process.stderr.write(`${messageOf(error)}\n`);
          process.exit(1);
        },
      );
      return;
    default:
      runner.hear(message);
  }
});

// The worker is gone: its messages belong to others from now on.
process.on('disconnect', () => process.exit(1));
