import type { Log } from './log.ts';
import type { Service } from './service.ts';

/** Longest that a warm shutdown may take before the process ends anyway, ms. */
const WARM_MS = 30_000;

/**
 * Runs a service as this process: SIGTERM and SIGINT stop it and exit 0; a second one, or SIGQUIT, exits at once.
 * Resolves when the service has stopped.
 */
export async function runUntilStopped(service: Service, log: Log): Promise<void> {
  let stopping = false;
  const stopped = new Promise<void>((resolve, reject) => {
    const warm = (signal: NodeJS.Signals) => {
      if (stopping) return process.exit(0);
      stopping = true;
      log.info({ event: 'stopping', signal });
      setTimeout(() => process.exit(1), WARM_MS).unref();
      service.stop().then(resolve, reject);
    };
    process.on('SIGTERM', warm);
    process.on('SIGINT', warm);
    process.on('SIGQUIT', () => process.exit(0));
  });
  await service.start();
  await stopped;
}
