import type { Log } from './log.ts';
import type { Service } from './service.ts';

/** Longest that a warm shutdown may take before the process ends anyway, ms. */
const WARM_MS = 30_000;

/** What becomes of a process that is sent a signal. */
export interface SignalHandlers {
  /** SIGTERM and SIGINT: finish or hand back, and stop. */
  warm(signal: NodeJS.Signals): Promise<void>;
  /** SIGQUIT at once, and a second one of the others: stop without waiting. */
  cold(signal: NodeJS.Signals): Promise<void>;
  /** SIGUSR1: say what it is doing. Default: nothing is said, nor is Node's debugger started. */
  report?(): void;
}

/** Hears signals from now on. Resolves when a handler has stopped the process's work; rejects as it does. */
export function stoppedBySignals(handlers: SignalHandlers): Promise<void> {
  return new Promise((resolve, reject) => {
    let isStopping = false;
    const stop = (signal: NodeJS.Signals) => {
      const isCold = isStopping || signal === 'SIGQUIT';
      isStopping = true;
      (isCold ? handlers.cold(signal) : handlers.warm(signal)).then(resolve, reject);
    };
    process.on('SIGTERM', stop);
    process.on('SIGINT', stop);
    process.on('SIGQUIT', stop);
    process.on('SIGUSR1', () => handlers.report?.());
  });
}

/**
 * Runs a service as this process: SIGTERM and SIGINT stop it and exit 0; a second one, or SIGQUIT, exits at once.
 * Resolves when the service has stopped.
 */
export async function runUntilStopped(service: Service, log: Log): Promise<void> {
  const stopped = stoppedBySignals({
    warm(signal) {
      log.info({ event: 'stopping', signal });
      setTimeout(() => process.exit(1), WARM_MS).unref();
      return service.stop();
    },
    cold: () => process.exit(0),
  });
  await service.start();
  await stopped;
}
