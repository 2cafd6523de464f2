// Installs the programs named on the command line where they are missing: `redis`, `celery`, `luacheck`.
// Run before `npm run demo`, `npm test` and `npm run check`; never from an npm install hook.
import { spawnSync } from 'node:child_process';

const PROGRAMS = {
  redis: { check: ['redis-server', ['--version']], apt: ['redis-server'], brew: ['redis'], is: 'redis-server (Redis 6.2 or newer)' },
  celery: {
    check: ['/usr/bin/python3', ['-c', 'import celery, redis']],
    apt: ['python3-celery', 'python3-redis'],
    brew: [],
    is: 'Celery for /usr/bin/python3 (Debian packages python3-celery and python3-redis)',
  },
  luacheck: { check: ['luacheck', ['--version']], apt: ['lua-check'], brew: ['luacheck'], is: 'luacheck' },
};

const run = (program, args, options = {}) => spawnSync(program, args, { stdio: 'ignore', ...options });
const works = ([program, args]) => run(program, args).status === 0;

function install(missing) {
  const isRoot = process.getuid?.() === 0;
  if (isRoot && works(['apt-get', ['--version']])) {
    const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
    const packages = missing.flatMap((name) => PROGRAMS[name].apt);
    process.stderr.write(`setup: installing ${packages.join(' ')}\n`);
    run('apt-get', ['update'], { env });
    run('apt-get', ['install', '-y', '--no-install-recommends', ...packages], { env, stdio: ['ignore', 'ignore', 'inherit'] });
  } else if (!isRoot && works(['brew', ['--version']])) {
    const packages = missing.flatMap((name) => PROGRAMS[name].brew);
    if (packages.length > 0) run('brew', ['install', ...packages], { stdio: ['ignore', 'ignore', 'inherit'] });
  }
}

const wanted = process.argv.length > 2 ? process.argv.slice(2) : ['redis'];
const unknown = wanted.filter((name) => !(name in PROGRAMS));
if (unknown.length > 0) {
  process.stderr.write(`setup: no such program: ${unknown.join(', ')}. Choose from ${Object.keys(PROGRAMS).join(', ')}.\n`);
  process.exit(2);
}
const missing = wanted.filter((name) => !works(PROGRAMS[name].check));
if (missing.length > 0) install(missing);
const still = missing.filter((name) => !works(PROGRAMS[name].check));
if (still.length > 0) {
  const names = still.map((name) => PROGRAMS[name].is).join(' and ');
  const packages = still.flatMap((name) => PROGRAMS[name].apt).join(' ');
  process.stderr.write(`setup: ${names} is missing; install it, on Debian with: sudo apt-get install ${packages}\n`);
  process.exit(1);
}
