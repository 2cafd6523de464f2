import { Command } from 'commander';
import { requireOneRedis } from '../runtime/common-options.ts';
import { createLog } from '../runtime/log.ts';
import { addOptions, optionValues } from '../runtime/options.ts';
import { runUntilStopped } from '../runtime/process.ts';
import { BEAT_OPTIONS } from '../scheduler/config.ts';

export function beatCommand(): Command {
  const command = new Command('beat').description('run one beat node');
  addOptions(command, BEAT_OPTIONS);
  return command.action(async () => {
    const config = optionValues(command, BEAT_OPTIONS);
    requireOneRedis(config);
    const log = createLog(config.logLevel, 'beat', config.logFormat);
    // The HTTP server takes longer to load than most other commands to run.
    const { createBeatNode } = await import('../scheduler/node.ts');
    await runUntilStopped(await createBeatNode(config, log), log);
  });
}
