#!/usr/bin/env -S node --max-semi-space-size=4
import { Command, CommanderError } from 'commander';
import { messageOf, RingbeatError } from '../protocol/errors.ts';
import { VERSION } from '../runtime/version.ts';
import { beatCommand } from './beat.ts';
import { devCommand } from './dev.ts';
import { namespaceCommand } from './namespace.ts';
import { workerCommand } from './worker.ts';

/** Exit codes: 0 done, 1 failed, 2 usage. */
async function main(): Promise<void> {
  const program = new Command('ringbeat')
    .description('A Redis-native scheduler for delayed and periodic Celery tasks.')
    .version(VERSION)
    .addCommand(devCommand())
    .addCommand(beatCommand())
    .addCommand(workerCommand())
    .addCommand(namespaceCommand());
  for (const command of [program, ...program.commands, ...program.commands.flatMap((command) => command.commands)]) {
    command.exitOverride().showHelpAfterError('(--help shows every option)');
  }
  try {
    await program.parseAsync();
  } catch (error) {
    if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : 2;
    else if (error instanceof RingbeatError) {
      process.stderr.write(`ringbeat: ${error.message}\n`);
      process.exitCode = error.code === 'BAD_NAMESPACE' || error.code === 'BAD_URL' ? 2 : 1;
    } else {
      process.stderr.write(`ringbeat: ${error instanceof Error ? (error.stack ?? error.message) : messageOf(error)}\n`);
      process.exitCode = 1;
    }
  }
}

await main();
