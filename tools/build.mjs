// Compiles TypeScript to dist/ and copies what tsc does not: the Lua scripts and the test fixtures.
import { spawnSync } from 'node:child_process';
import { chmodSync, cpSync, readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const tsc = spawnSync(process.execPath, [`${root}node_modules/typescript/bin/tsc`, '-p', root], { stdio: 'inherit' });
if (tsc.status !== 0) process.exit(tsc.status ?? 1);

cpSync(`${root}lua/include`, `${root}dist/lua/include`, { recursive: true });
for (const name of readdirSync(`${root}lua`)) {
  if (name.endsWith('.lua')) cpSync(`${root}lua/${name}`, `${root}dist/lua/${name}`);
}
chmodSync(`${root}dist/cli/main.js`, 0o755);
