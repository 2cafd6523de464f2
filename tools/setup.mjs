// Installs the programs named on the command line where they are missing: `redis`, `celery`, `luacheck`, `faketime`.
// Run before `npm run demo`, `npm test` and `npm run check`; never from an npm install hook.
import { spawnSync } from 'node:child_process';

const PROGRAMS = {
  redis: {
    check: ['redis-server', ['--version']],
    apt: ['redis-server'],
    brew: ['redis'],
    is: 'redis-server (Redis 6.2 or newer)',
  },
  celery: {
    check: ['/usr/bin/python3', ['-c', 'import celery, redis']],
    apt: ['python3-celery', 'python3-redis'],
    brew: [],
    is: 'Celery for /usr/bin/python3 (Debian packages python3-celery and python3-redis)',
  },
  faketime: {
    check: ['sh', ['-c', 'ls /usr/lib/*/faketime/libfaketime.so.1']],
    apt: ['faketime'],
    brew: [],
    is: 'libfaketime (Debian package faketime)',
    optional: 'the tests with a moved clock are skipped',
  },
  luacheck: { check: ['luacheck', ['--version']], apt: ['lua-check'], brew: ['luacheck'], is: 'luacheck' },
};

const run = (program, args, options = {}) => spawnSync(program, args, { stdio: 'ignore', ...options });
const works = ([program, args]) => run(program, args).status === 0;

/** Installs what it can; returns why not everything could be, or ''. */
function install(missing) {
  const isRoot = process.getuid?.() === 0;
  if (isRoot && works(['apt-get', ['--version']])) {
    const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
    const packages = missing.flatMap((name) => PROGRAMS[name].apt);
    process.stderr.write(`setup: installing ${packages.join(' ')}\n`);
    const quietly = { env, encoding: 'utf8', stdio: ['ignore', 'ignore', 'pipe'] };
    // Another apt-get may be at work, as on a machine that has just been started.
    const patient = ['-o', 'DPkg::Lock::Timeout=120', '-o', 'APT::Get::Assume-Yes=true'];
    run('apt-get', [...patient, 'update'], quietly);
    const installed = run('apt-get', [...patient, 'install', '--no-install-recommends', ...packages], quietly);
    return installed.status === 0 ? '' : lastLine(installed.stderr);
  }
  const formulas = missing.flatMap((name) => PROGRAMS[name].brew);
  if (!isRoot && formulas.length > 0 && works(['brew', ['--version']])) {
    process.stderr.write(`setup: installing ${formulas.join(' ')}\n`);
    const installed = run('brew', ['install', ...formulas], { encoding: 'utf8', stdio: ['ignore', 'ignore', 'pipe'] });
    return installed.status === 0 ? '' : lastLine(installed.stderr);
  }
  return '';
}

const lastLine = (text) => text.trim().split('\n').at(-1);

const wanted = process.argv.length > 2 ? process.argv.slice(2) : ['redis'];
const unknown = wanted.filter((name) => !(name in PROGRAMS));
if (unknown.length > 0) {
  process.stderr.write(
    `setup: no such program: ${unknown.join(', ')}. Choose from ${Object.keys(PROGRAMS).join(', ')}.\n`,
  );
  process.exit(2);
}
const missing = wanted.filter((name) => !works(PROGRAMS[name].check));
const reason = missing.length > 0 ? install(missing) : '';
const absent = missing.filter((name) => !works(PROGRAMS[name].check));
for (const { is, optional } of absent.map((name) => PROGRAMS[name])) {
  if (optional) process.stderr.write(`setup: ${is} is missing: ${optional}\n`);
}
const still = absent.filter((name) => !PROGRAMS[name].optional);
if (still.length > 0) {
  const names = still.map((name) => PROGRAMS[name].is).join(' and ');
  const packages = still.flatMap((name) => PROGRAMS[name].apt).join(' ');
  const tried = reason === '' ? '' : ` (apt-get or brew could not: ${reason})`;
  process.stderr.write(
    `setup: ${names} is missing${tried}; install it, on Debian with: sudo apt-get install ${packages}\n`,
  );
  process.exit(1);
}
