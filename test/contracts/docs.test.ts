import { execFile } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import t from 'tap';
import { listErrors } from '../../protocol/errors.ts';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const COMPILED = fileURLToPath(new URL('../../', import.meta.url));

t.test('docs/errors.md and docs/configuration.md are what the tables say', async (t) => {
  const tool = join(ROOT, 'tools/docs.mjs');
  const { stderr } = await promisify(execFile)(process.execPath, [tool, '--check', '--from', COMPILED]).catch(
    (error: { stderr: string }) => error,
  );
  t.equal(stderr, '');
});

/** All of our own TypeScript but the tests. */
function sourceTexts(): string[] {
  const rooms = ['protocol', 'schedule', 'runtime', 'lua', 'registry', 'scheduler', 'worker', 'client', 'cli', 'bench'];
  return rooms.flatMap((room) =>
    readdirSync(join(ROOT, room), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.ts') && `${room}/${file}` !== 'protocol/errors.ts')
      .map((file) => readFileSync(join(ROOT, room, file), 'utf8')),
  );
}

t.test('every error of the table is raised somewhere, and says what to do', async (t) => {
  const texts = sourceTexts().join('\n');
  for (const [code, text] of listErrors()) {
    t.ok(texts.includes(`'${code}'`), `${code} is raised`);
    t.match(text, /[.?}]$/, `${code}: ${text}`);
  }
});

t.test('links between the documents lead somewhere', async (t) => {
  const pages = [...readdirSync(join(ROOT, 'docs')).map((file) => `docs/${file}`), 'README.md', 'ARCHITECTURE.md'];
  for (const page of pages.filter((page) => page.endsWith('.md') && existsSync(join(ROOT, page)))) {
    const text = readFileSync(join(ROOT, page), 'utf8');
    for (const [, target] of text.matchAll(/\]\((?!https?:|#|mailto:)([^)#\s]+)(?:#[^)]*)?\)/g)) {
      const path = join(ROOT, page, '..', target!);
      t.ok(existsSync(path), `${page} -> ${target}`);
    }
  }
});
