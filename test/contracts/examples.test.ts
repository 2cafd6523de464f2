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

/** The examples of a page in one of these languages, one after the other, as a reader goes through them. */
function examplesOf(page: string, language: string): string | null {
  const blocks = [...readFileSync(join(ROOT, page), 'utf8').matchAll(/^```(\w+)\n(.*?)^```$/gms)];
  const examples = blocks.filter(([, name]) => name === language).map(([, , text]) => text);
  return examples.length === 0 ? null : `${GIVEN[page] ?? ''}${examples.join('')}export {};\n`;
}

t.test('the examples of the documents are programs that the package types', async (t) => {
  const pages = ['README.md', ...readdirSync(join(ROOT, 'docs')).map((file) => `docs/${file}`)];
  const texts = pages
    .filter((page) => page.endsWith('.md'))
    .flatMap((page) =>
      ['ts', 'js'].map((language) => [`${basename(page, '.md')}.m${language}`, page, language] as const),
    )
    .flatMap(([file, page, language]) => {
      const text = examplesOf(page, language);
      return text === null ? [] : [[file, text] as const];
    });
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
  t.ok(texts.length >= 5, `${texts.length} pages with examples`);
});
