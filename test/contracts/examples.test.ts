import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import ts from 'typescript';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const COMPILED = fileURLToPath(new URL('../../', import.meta.url));

t.setTimeout(120_000);

/** What examples leave to the reader. */
const GIVEN: Readonly<Record<string, string>> = {
  'docs/loops.md': "import { task } from 'ringbeat';\n/** @type {() => Promise<string[] | null>} */\nlet fetchMails;\n",
};

/** Of JavaScript only this is looked at: names, members and options that are not there. Types it does not write. */
const NO_SUCH_NAME = [2304, 2305, 2339, 2353, 2551, 2552, 2561];

/** The programs on a page in one of these languages: each begins with an import, and what follows without one belongs to it. */
function programsOf(page: string, language: string): string[] {
  const blocks = [...readFileSync(join(ROOT, page), 'utf8').matchAll(/^```(\w+)\n(.*?)^```$/gms)];
  const programs: string[] = [];
  for (const [, name, text = ''] of blocks) {
    if (name !== language) continue;
    const last = programs.pop();
    if (last === undefined) programs.push(`${GIVEN[page] ?? ''}${text}`);
    else if (text.includes(" from 'ringbeat';")) programs.push(last, text);
    else programs.push(last + text);
  }
  return programs.map((text) => `${text}export {};\n`);
}

t.test('the examples of the documents are programs that the package types', async (t) => {
  const pages = ['README.md', ...readdirSync(join(ROOT, 'docs')).map((file) => `docs/${file}`)];
  const texts = pages
    .filter((page) => page.endsWith('.md'))
    .flatMap((page) => ['ts', 'js'].map((language) => [page, language] as const))
    .flatMap(([page, language]) =>
      programsOf(page, language).map((text, at) => [`${basename(page, '.md')}-${at}.m${language}`, text] as const),
    );
  const folder = t.testdir(Object.fromEntries(texts));
  const program = ts.createProgram(
    texts.map(([file]) => join(folder, file)),
    {
      strict: true,
      allowJs: true,
      checkJs: true,
      noEmit: true,
      skipLibCheck: true,
      target: ts.ScriptTarget.ES2022,
      module: ts.ModuleKind.NodeNext,
      paths: { ringbeat: [join(COMPILED, 'index.d.ts')] },
      typeRoots: [join(ROOT, 'node_modules/@types')],
      types: ['node'],
    },
  );
  const found = ts
    .getPreEmitDiagnostics(program)
    .filter(({ file, code }) => !file?.fileName.endsWith('.mjs') || NO_SUCH_NAME.includes(code))
    .map(({ file, messageText }) => `${file?.fileName}: ${ts.flattenDiagnosticMessageText(messageText, '\n')}`);
  t.same(found, []);
  t.ok(texts.length >= 5, `${texts.length} programs`);
});
