import { Command } from 'commander';
import { parseRedisUrl } from '../lua/connection.ts';
import { COMMON_OPTIONS, requireOneRedis } from '../runtime/common-options.ts';
import { createLog } from '../runtime/log.ts';
import { keepHeapSmall } from '../runtime/node-flags.ts';
import { addOptions, optionValues } from '../runtime/options.ts';
import { writePidFile } from '../runtime/pid-file.ts';
import { stoppedBySignals } from '../runtime/process.ts';
import { WORKER_OPTIONS, workerConfig } from '../worker/config.ts';
import { serveMetrics } from '../worker/metrics.ts';
import { loadTasks } from '../worker/tasks-modules.ts';
import { Worker } from '../worker/worker.ts';

const OPTIONS = { ...COMMON_OPTIONS, ...WORKER_OPTIONS };

/** `ringbeat worker`: one worker process. */
export function workerCommand(): Command {
  const command = new Command('worker').description('run the tasks that arrive in Celery queues');
  addOptions(command, OPTIONS);
  return command.action(async () => {
    try {
      await runWorker(command);
    } catch (error) {
      // Whatever the tasks modules opened must not keep a process alive that has nothing to do.
      setImmediate(() => process.exit());
      throw error;
    }
  });
}

async function runWorker(command: Command): Promise<void> {
  keepHeapSmall();
  const options = optionValues(command, OPTIONS);
  if (options.tasks.length === 0) command.error('error: give the modules that define your tasks with --tasks FILE');
  requireOneRedis(options);
  const { pool } = workerConfig(options);
  parseRedisUrl(options.redis, '--redis');
  if (options.pidfile !== null) writePidFile(options.pidfile);
  await loadTasks(options.tasks);
  const log = createLog(options.logLevel, 'worker', options.logFormat);
  const worker = new Worker({ ...options, pool }, log);
  if (options.metricsPort !== null) {
    const { port, server } = await serveMetrics(worker.metrics.registry, options.metricsHost, options.metricsPort);
    server.unref();
    log.info({ event: 'metrics_listening', host: options.metricsHost, port });
  }
  process.on('unhandledRejection', (reason) => log.error({ event: 'unhandled_rejection', err: reason }));
  const stopped = stoppedBySignals({
    warm: () => worker.stop(),
    cold: () => worker.stopNow(),
    report: () => worker.report(),
  });
  await worker.start();
  await Promise.race([stopped, worker.ended]);
  // A cold shutdown does not wait for tasks that still run.
  process.exit(0);
}
