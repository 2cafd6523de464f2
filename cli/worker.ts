import { Command } from 'commander';
import { parseRedisUrl } from '../lua/connection.ts';
import { COMMON_OPTIONS, requireOneRedis } from '../runtime/common-options.ts';
import { createLog } from '../runtime/log.ts';
import { addOptions, optionName, optionValues, variableName } from '../runtime/options.ts';
import { writePidFile } from '../runtime/pid-file.ts';
import { stoppedBySignals } from '../runtime/process.ts';
import type { Spelling } from '../worker/check-options.ts';
import { type WorkerOptions, workerConfig } from '../worker/config.ts';
import { WORKER_OPTIONS } from '../worker/options.ts';

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
  const options = optionValues(command, OPTIONS);
  const { broker, resultBackend, logLevel, logFormat, pidfile, metricsHost, metricsPort, ...workerOptions } = options;
  if (options.tasks.length === 0) command.error('error: give the modules that define your tasks with --tasks FILE');
  requireOneRedis(options);
  checkUsage(command, workerOptions);
  parseRedisUrl(options.redis, '--redis');
  if (pidfile !== null) writePidFile(pidfile);
  // The worker takes longer to load than most other commands to run.
  const [{ loadTasks }, { serveMetrics }, { Worker }] = await Promise.all([
    import('../worker/tasks-modules.ts'),
    import('../worker/metrics.ts'),
    import('../worker/worker.ts'),
  ]);
  await loadTasks(options.tasks);
  const log = createLog(logLevel, 'worker', logFormat);
  const worker = new Worker(workerOptions, log);
  if (metricsPort !== null) {
    const { port, server } = await serveMetrics(worker.metrics.registry, metricsHost, metricsPort);
    server.unref();
    log.info({ event: 'metrics_listening', host: metricsHost, port });
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

/** Ends with a word on what makes no sense, which calls each option what the user called it. */
function checkUsage(command: Command, options: WorkerOptions): void {
  const spell: Spelling = (option, value) => {
    const isVariable = command.getOptionValueSource(option) === 'env';
    const name = isVariable ? variableName(option) : `--${optionName(option)}`;
    return value === undefined ? name : `${name}${isVariable ? '=' : ' '}${value}`;
  };
  try {
    workerConfig(options, spell);
  } catch (error) {
    if (error instanceof TypeError || error instanceof RangeError) command.error(`error: ${error.message}`);
    throw error;
  }
}
