#!/usr/bin/env -S node --max-semi-space-size=4 --no-parallel-scavenge --heap-growing-percent=50 --no-allocation-site-pretenuring
import { Command, CommanderError } from 'commander';
import { type ErrorCode, messageOf, RingbeatError } from '../protocol/errors.ts';
import { describeOption } from '../runtime/options.ts';
import { VERSION } from '../runtime/version.ts';
import { beatCommand } from './beat.ts';
import { controlCommand } from './control.ts';
import { deadLettersCommand } from './dead-letters.ts';
import { devCommand } from './dev.ts';
import { inspectCommand, statusCommand } from './inspect.ts';
import { namespaceCommand } from './namespace.ts';
import { schedulesCommand } from './schedules.ts';
import { nodesCommand, shardsCommand, statsCommand } from './status.ts';
import { tasksCommand } from './tasks.ts';
import { exportCommand, importCommand } from './transfer.ts';
import { workerCommand } from './worker.ts';

/** What only another command line can put right. */
const USAGE: ReadonlySet<ErrorCode> = new Set(['BAD_NAMESPACE', 'BAD_URL', 'BAD_API_URL']);

/** Exit codes: 0 done, 1 failed, 2 usage. */
async function main(): Promise<void> {
  const program = new Command('ringbeat')
    .description('A Redis-native scheduler for delayed and periodic Celery tasks.')
    .version(VERSION)
    .addCommand(devCommand())
    .addCommand(beatCommand())
    .addCommand(workerCommand())
    .addCommand(schedulesCommand())
    .addCommand(tasksCommand())
    .addCommand(exportCommand())
    .addCommand(importCommand())
    .addCommand(namespaceCommand())
    .addCommand(nodesCommand())
    .addCommand(shardsCommand())
    .addCommand(statsCommand())
    .addCommand(deadLettersCommand())
    .addCommand(statusCommand())
    .addCommand(inspectCommand())
    .addCommand(controlCommand());
  for (const command of [program, ...program.commands, ...program.commands.flatMap((command) => command.commands)]) {
    command
      .exitOverride()
      .showHelpAfterError('(--help shows every option)')
      .configureHelp({ optionDescription: describeOption });
  }
  try {
    await program.parseAsync();
  } catch (error) {
    if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : 2;
    else if (error instanceof RingbeatError) {
      process.stderr.write(`ringbeat: ${error.message}\n`);
      process.exitCode = USAGE.has(error.code) ? 2 : 1;
    } else {
      process.stderr.write(`ringbeat: ${error instanceof Error ? (error.stack ?? error.message) : messageOf(error)}\n`);
      process.exitCode = 1;
    }
  }
}

await main();
