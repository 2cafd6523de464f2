import { mkdirSync, writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { dirname, extname, resolve } from 'node:path';
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { messageOf, RingbeatError } from '../protocol/errors.ts';
import { renderResult } from './report.ts';
import { judge, type Result } from './result.ts';
import type { Measurement, Parameters, Scenario } from './scenario.ts';
import { SCENARIOS } from './scenarios/index.ts';
import { takeLimit } from './scenarios/limit.ts';
import { closeAllStages } from './stage.ts';
import { checkTable, writeTable } from './table.ts';

interface Options extends Partial<Parameters> {
  readonly aof?: boolean;
  readonly runs: number;
  readonly limitMessages: number;
  readonly out?: string;
}

/** How many messages each pass of the limit pushes. */
const LIMIT_MESSAGES = 150_000;

/** With the append-only file or without, in which order. */
const WAYS = { on: [true], off: [false], both: [true, false] } as const;

/** Exit codes: 0 done, whether or not every target was met; 1 failed; 2 usage. */
async function main(): Promise<void> {
  const program = new Command('bench').description(
    'Measures Ringbeat on this machine, with processes and a Redis of its own.',
  );
  for (const scenario of SCENARIOS) program.addCommand(scenarioCommand(scenario));
  program.addCommand(allCommand());
  program.addCommand(tableCommand());
  for (const command of [program, ...program.commands])
    command.exitOverride().showHelpAfterError('(--help shows every option)');
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, async () => {
      await closeAllStages();
      process.exit(1);
    });
  }
  try {
    await program.parseAsync();
  } catch (error) {
    await closeAllStages();
    if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : 2;
    else {
      process.stderr.write(
        `bench: ${error instanceof RingbeatError ? error.message : error instanceof Error ? error.stack : messageOf(error)}\n`,
      );
      process.exitCode = 1;
    }
  }
}

function scenarioCommand(scenario: Scenario): Command {
  const { defaults } = scenario;
  return (
    new Command(scenario.name)
      .description(scenario.doc)
      .addOption(
        wholeNumber('--schedules <N>', 'schedules, or messages where there are none', 1, 10_000_000).default(
          defaults.schedules,
        ),
      )
      .addOption(
        new Option('--every <S>', 'interval of each schedule, s')
          .argParser(numberWithin(0.1, 3_600))
          .default(defaults.every),
      )
      // Dispatch keeps its lateness for two minutes.
      .addOption(
        new Option('--seconds <S>', 'how long to measure, s').argParser(numberWithin(0, 100)).default(defaults.seconds),
      )
      .addOption(wholeNumber('--nodes <N>', 'beat nodes', 1, 16).default(defaults.nodes))
      .addOption(
        wholeNumber(
          '--rounds <N>',
          "how often scenarios that measure something several times do so (default: the scenario's)",
          1,
          100,
        ),
      )
      .option(
        '--aof',
        `Redis with its append-only file, settings as of the embedded Redis (default: ${scenario.aof ?? 'on'})`,
      )
      .option('--no-aof', 'Redis without it')
      .addOption(runsOption())
      .addOption(
        wholeNumber(
          '--limit-messages <N>',
          'messages of the raw LPUSH that the rate is compared with',
          1_000,
          10_000_000,
        ).default(LIMIT_MESSAGES),
      )
      .option(
        '--out <FILE>',
        'result file (default: bench/out/<scenario>.json); a second one, without AOF, gets -no-aof before its extension',
      )
      .action((options: Options) => take(scenario, options))
  );
}

function allCommand(): Command {
  return new Command('all')
    .description('every scenario with its defaults, one after the other')
    .addOption(runsOption())
    .option('--dir <DIR>', 'folder of the result files', 'bench/out')
    .action(async ({ runs, dir }: { runs: number; dir: string }) => {
      for (const scenario of SCENARIOS)
        await take(scenario, { runs, limitMessages: LIMIT_MESSAGES, out: `${dir}/${scenario.name}.json` });
    });
}

function runsOption(): Option {
  return wholeNumber('--runs <N>', 'runs whose median counts', 1, 100).default(1);
}

function tableCommand(): Command {
  return new Command('table')
    .description('write the figures of bench/results/*.json into bench/README.md and README.md')
    .option('--check', 'only say whether they are up to date')
    .action((options: { check?: boolean }) => {
      if (!options.check) return writeTable();
      if (checkTable()) return;
      process.stderr.write('README.md or bench/README.md differs from bench/results; run: npm run bench -- table\n');
      process.exitCode = 1;
    });
}

function wholeNumber(flags: string, doc: string, min: number, max: number): Option {
  return new Option(flags, doc).argParser((text) => {
    const value = numberWithin(min, max)(text);
    if (!Number.isInteger(value)) throw new InvalidArgumentError('Expected a whole number.');
    return value;
  });
}

function numberWithin(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = text.trim() === '' ? Number.NaN : Number(text);
    if (value >= min && value <= max) return value;
    throw new InvalidArgumentError(`Expected a number from ${min} to ${max}.`);
  };
}

async function take(scenario: Scenario, options: Options): Promise<void> {
  const ways = options.aof !== undefined ? [options.aof] : WAYS[scenario.aof ?? 'on'];
  const { schedules, every, seconds, nodes, rounds } = { ...scenario.defaults, ...options };
  const parameters = { schedules, every, seconds, nodes, ...(rounds === undefined ? {} : { rounds }) };
  const out = resolve(options.out ?? `bench/out/${scenario.name}.json`);
  for (const aof of ways) {
    const result = await measure(scenario, parameters, aof, options);
    process.stdout.write(`${renderResult(result)}\n`);
    save(result, ways.length > 1 && !aof ? withSuffix(out, '-no-aof') : out);
  }
}

async function measure(scenario: Scenario, parameters: Parameters, aof: boolean, options: Options): Promise<Result> {
  const say = (line: string) => process.stderr.write(`${scenario.name}: ${line}\n`);
  const loadBefore = loadavg()[0] ?? 0;
  const runs: Measurement[] = [];
  for (let run = 1; run <= options.runs; run++) {
    say(`run ${run} of ${options.runs}, AOF ${aof ? 'on' : 'off'}`);
    runs.push(await scenario.run(parameters, aof, say));
  }
  let limit = runs.at(-1)?.limit;
  if (limit === undefined) {
    say('taking the limit');
    limit = await takeLimit(options.limitMessages, aof);
  }
  return judge(scenario, { parameters, aof, loadBefore }, runs, limit);
}

function save(result: Result, file: string): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `${JSON.stringify(result, null, 2)}\n`);
  process.stdout.write(`written to ${file}\n`);
}

function withSuffix(file: string, suffix: string): string {
  const extension = extname(file);
  return `${file.slice(0, file.length - extension.length)}${suffix}${extension}`;
}

await main();
