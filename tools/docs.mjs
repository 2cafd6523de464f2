// Writes docs/errors.md and docs/configuration.md from the tables that the program itself uses.
// With --check it writes nothing and exits 1 when they are stale. --from FOLDER: the compiled program, default dist.
import { readFileSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

const { values } = parseArgs({ options: { check: { type: 'boolean' }, from: { type: 'string' } } });
const root = new URL('../', import.meta.url);
const compiled = values.from === undefined ? new URL('dist/', root) : pathToFileURL(`${resolve(values.from)}/`);
const load = (path) => import(new URL(path, compiled).href);

const { listErrors } = await load('protocol/errors.js');
const { optionName, variableName } = await load('runtime/options.js');
const { COMMON_OPTIONS } = await load('runtime/common-options.js');
const { BEAT_OPTIONS, NAMESPACE_OPTIONS } = await load('scheduler/config.js');
const { WORKER_OPTIONS } = await load('worker/options.js');
const { DEV_OPTIONS } = await load('cli/dev.js');
const { API_OPTIONS } = await load('cli/api-client.js');

const NOTE = '<!-- Made by tools/docs.mjs: change the table in the source and run `npm run docs`. -->';

function errorsPage() {
  const rows = listErrors().map(([code, text]) => `| \`${code}\` | ${cell(text)} |`);
  return [
    '# Errors',
    '',
    NOTE,
    '',
    'Every error that Ringbeat raises on purpose has a code. Commands print the text; in the SDK an error carries `code`',
    'and the `values` that the text is filled with. What the HTTP API answers is in [http-api.md](http-api.md).',
    '',
    '| code | text |',
    '| --- | --- |',
    ...rows,
    '',
  ].join('\n');
}

function configurationPage() {
  const without = (table, other) => Object.fromEntries(Object.entries(table).filter(([key]) => !(key in other)));
  return [
    '# Configuration',
    '',
    NOTE,
    '',
    'Every option is a flag and an environment variable; the flag wins. `ringbeat <command> --help` shows the same. An',
    'option that may be given several times takes commas in its variable.',
    '',
    ...section('Every process', COMMON_OPTIONS),
    ...section('`ringbeat beat`', without(without(BEAT_OPTIONS, COMMON_OPTIONS), NAMESPACE_OPTIONS)),
    ...section(
      '`ringbeat beat`, for a new namespace',
      NAMESPACE_OPTIONS,
      'The first node of a namespace writes these into it, and later nodes follow what is written there; `ringbeat',
      'namespace set` changes them while nodes run.',
    ),
    ...section('`ringbeat worker`', WORKER_OPTIONS),
    ...section('`ringbeat dev`', DEV_OPTIONS),
    ...section(
      'Commands that talk to the API',
      API_OPTIONS,
      'What else these commands take is about their subject; see [the command line](cli.md) and their `--help`.',
    ),
  ].join('\n');
}

function section(title, table, ...intro) {
  const rows = Object.entries(table).map(([key, spec]) => {
    const short = spec.short === undefined ? '' : `${spec.short}, `;
    const value = spec.placeholder === null ? '' : ` ${spec.placeholder}`;
    const cells = [
      `\`${short}--${optionName(key)}${value}\``,
      `\`${variableName(key)}\``,
      shownDefault(spec),
      shownRange(spec),
    ];
    return `| ${[...cells, spec.doc].map(cell).join(' | ')} |`;
  });
  return [
    `## ${title}`,
    '',
    ...(intro.length > 0 ? [...intro, ''] : []),
    '| flag | variable | default | range | |',
    '| --- | --- | --- | --- | --- |',
    ...rows,
    '',
  ];
}

function shownDefault({ default: value, placeholder }) {
  if (placeholder === null) return 'off';
  if (value === null || (Array.isArray(value) && value.length === 0)) return '';
  return `\`${Array.isArray(value) ? value.join(',') : value}\``;
}

function shownRange({ min, max }) {
  const digits = (value) => value.toLocaleString('en-US');
  return min === undefined ? '' : `${digits(min)} to ${digits(max)}`;
}

function cell(text) {
  return text.replaceAll('|', '\\|');
}

const pages = { 'docs/errors.md': errorsPage(), 'docs/configuration.md': configurationPage() };
for (const [path, text] of Object.entries(pages)) {
  const file = new URL(path, root);
  let stored = '';
  try {
    stored = readFileSync(file, 'utf8');
  } catch (error) {
    if (error.code !== 'ENOENT') throw error;
  }
  if (stored === text) continue;
  if (values.check) {
    process.stderr.write(`${path} is stale: run npm run docs\n`);
    process.exitCode = 1;
  } else {
    writeFileSync(file, text);
  }
}
