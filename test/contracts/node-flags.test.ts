import { readFileSync } from 'node:fs';
import t from 'tap';
import { NODE_FLAGS } from '../../runtime/node-flags.ts';

const root = new URL('../../../', import.meta.url);

t.test('the command and the image run with the flags that dev and the bench use', async (t) => {
  const flags = NODE_FLAGS.join(' ');
  t.equal(readFileSync(new URL('cli/main.ts', root), 'utf8').split('\n')[0], `#!/usr/bin/env -S node ${flags}`);
  const entry = JSON.stringify(['node', ...NODE_FLAGS, '/app/dist/cli/main.js']).replaceAll(',', ', ');
  t.match(readFileSync(new URL('Dockerfile', root), 'utf8'), `ENTRYPOINT ${entry}`);
});
