import { Command } from 'commander';
import t from 'tap';
import {
  addOptions,
  flag,
  integer,
  list,
  number,
  type OptionTable,
  oneOf,
  optionName,
  optionValues,
  text,
  variableName,
} from '../../runtime/options.ts';
import { BEAT_OPTIONS } from '../../scheduler/config.ts';

const TABLE = {
  apiPort: integer({ min: 0, max: 65_535, default: 7_380, doc: 'a port' }),
  shards: integer<number | null>({ min: 1, max: 16, default: null, doc: 'perhaps a number' }),
  threshold: number({ min: 0.5, max: 10, default: 1, doc: 'a number' }),
  host: text({ default: 'here', doc: 'a text' }),
  pool: oneOf(['async', 'solo'], { default: 'async', doc: 'a choice' }),
  token: list({ default: [], doc: 'several' }),
  queues: list({ default: ['celery'], short: '-Q', doc: 'several with a default' }),
  insecure: flag({ doc: 'a switch' }),
  noApi: flag({ doc: 'a switch that says no' }),
};

function parse<Table extends OptionTable>(
  table: Table,
  args: readonly string[],
  environment: Record<string, string> = {},
) {
  const before = { ...process.env };
  Object.assign(process.env, environment);
  const command = new Command('test').exitOverride().configureOutput({ writeErr: () => {} });
  try {
    addOptions(command, table).parse(args, { from: 'user' });
  } finally {
    for (const name of Object.keys(environment)) delete process.env[name];
    Object.assign(process.env, before);
  }
  return optionValues(command, table);
}

const DEFAULTS = {
  apiPort: 7_380,
  shards: null,
  threshold: 1,
  host: 'here',
  pool: 'async',
  token: [],
  queues: ['celery'],
  insecure: false,
  noApi: false,
};

t.test('names are made from the keys', async (t) => {
  t.equal(optionName('apiPort'), 'api-port');
  t.equal(variableName('apiPort'), 'RINGBEAT_API_PORT');
  t.equal(variableName('noApi'), 'RINGBEAT_NO_API');
});

t.test('without anything given, all have their defaults, and nobody can change them', async (t) => {
  const values = parse(TABLE, []);
  t.same(values, DEFAULTS);
  t.ok(Object.isFrozen(values));
});

t.test('flags are read', async (t) => {
  const args = ['--api-port', '1', '--shards=2', '--threshold', '0.5', '--host', 'there', '--pool', 'solo'];
  const more = ['--token', 'a', '--token', 'b,c', '-Q', 'x', '--insecure', '--no-api'];
  t.same(parse(TABLE, [...args, ...more]), {
    apiPort: 1,
    shards: 2,
    threshold: 0.5,
    host: 'there',
    pool: 'solo',
    token: ['a', 'b', 'c'],
    queues: ['x'],
    insecure: true,
    noApi: true,
  });
});

t.test('environment variables are read, and flags go before them', async (t) => {
  const environment = {
    RINGBEAT_API_PORT: '5',
    RINGBEAT_SHARDS: '3',
    RINGBEAT_TOKEN: 'a,b',
    RINGBEAT_QUEUES: 'y,z',
    RINGBEAT_INSECURE: '1',
    RINGBEAT_NO_API: '1',
    RINGBEAT_POOL: 'solo',
  };
  t.same(parse(TABLE, [], environment), {
    ...DEFAULTS,
    apiPort: 5,
    shards: 3,
    token: ['a', 'b'],
    queues: ['y', 'z'],
    insecure: true,
    noApi: true,
    pool: 'solo',
  });
  t.equal(parse(TABLE, ['--api-port', '6'], environment).apiPort, 6);
  t.same(parse(TABLE, ['--token', 'c'], environment).token, ['c']);
});

for (const no of ['0', 'false', '']) {
  t.test(`a switch whose variable is ${JSON.stringify(no)} is off`, async (t) => {
    const { insecure, noApi } = parse(TABLE, [], { RINGBEAT_INSECURE: no, RINGBEAT_NO_API: no });
    t.same({ insecure, noApi }, { insecure: false, noApi: false });
  });
}

const REFUSED: readonly (readonly [readonly string[], RegExp])[] = [
  [['--api-port', 'x'], /Expected a whole number from 0 to 65535, got "x"/],
  [['--api-port', '1.5'], /whole number/],
  [['--api-port', '-1'], /from 0 to 65535/],
  [['--api-port', '70000'], /from 0 to 65535/],
  [['--api-port', ''], /whole number/],
  [['--api-port', ' '], /whole number/],
  [['--api-port', 'Infinity'], /whole number/],
  [['--api-port', 'NaN'], /whole number/],
  [['--threshold', '0'], /Expected a number from 0.5 to 10, got "0"/],
  [['--pool', 'threads'], /Expected one of async, solo, got "threads"/],
  [['--api-prt', '1'], /Did you mean --api-port\?/],
  [['stray'], /too many arguments/],
];
for (const [args, message] of REFUSED) {
  t.test(`${args.join(' ')} is refused with the reason`, async (t) => {
    t.throws(() => parse(TABLE, args), { message });
  });
}

t.test('what a variable holds is checked as a flag is', async (t) => {
  t.throws(() => parse(TABLE, [], { RINGBEAT_API_PORT: 'x' }), { message: /RINGBEAT_API_PORT/ });
});

t.test('help shows every option with its variable and default', async (t) => {
  const help = addOptions(new Command('test'), BEAT_OPTIONS).helpInformation();
  for (const key of Object.keys(BEAT_OPTIONS)) {
    t.match(help, `--${optionName(key)}`);
    t.match(help.replaceAll(/\s+/g, ' '), `env: ${variableName(key)}`);
  }
});
