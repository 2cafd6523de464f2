import { existsSync } from 'node:fs';
import { createRequire, Module, register } from 'node:module';
import { resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { tasks } from '../client/task.ts';
import { messageOf, RingbeatError } from '../protocol/errors.ts';

/** The entry point of this package, compiled or not. */
const ENTRY = new URL(import.meta.url.endsWith('.ts') ? '../index.ts' : '../index.js', import.meta.url);

const PACKAGE = 'ringbeat';

/**
 * Loads modules that define tasks. They may `import { task } from 'ringbeat'` wherever they lie, installed beside them
 * or not. Throws TASKS_MODULE when one cannot be loaded, NO_TASKS when none defined a task.
 */
export async function loadTasks(files: readonly string[]): Promise<void> {
  for (const file of files) {
    const path = resolve(file);
    if (!existsSync(path)) throw new RingbeatError('TASKS_MODULE', { file, reason: 'there is no such file' });
    if (!canResolvePackage(path)) lendPackage();
    try {
      await import(pathToFileURL(path).href);
    } catch (error) {
      throw new RingbeatError('TASKS_MODULE', { file, reason: whyNot(error) }, { cause: error });
    }
  }
  if (tasks.size === 0) throw new RingbeatError('NO_TASKS', { files: files.join(', ') });
}

function canResolvePackage(path: string): boolean {
  try {
    createRequire(path).resolve(PACKAGE);
    return true;
  } catch {
    return false;
  }
}

let isLent = false;

/** Lets `import 'ringbeat'` and `require('ringbeat')` find this package where Node does not find one. */
function lendPackage(): void {
  if (isLent) return;
  isLent = true;
  const hook = `export async function resolve(specifier, context, next) {
    if (specifier !== ${JSON.stringify(PACKAGE)}) return next(specifier, context);
    try { return await next(specifier, context); }
    catch (error) { if (error.code !== 'ERR_MODULE_NOT_FOUND') throw error; return { url: ${JSON.stringify(ENTRY.href)}, shortCircuit: true }; }
  }`;
  register(`data:text/javascript,${encodeURIComponent(hook)}`);
  // `require` does not ask those hooks, and Node 20 has no public ones for it.
  const loader = Module as typeof Module & { _resolveFilename(request: string, ...rest: unknown[]): string };
  const original = loader._resolveFilename;
  loader._resolveFilename = function resolveFilename(request, ...rest) {
    try {
      return original.call(loader, request, ...rest);
    } catch (error) {
      if (request !== PACKAGE) throw error;
      return original.call(loader, fileURLToPath(ENTRY));
    }
  };
}

function whyNot(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : null;
  if (code === 'ERR_UNKNOWN_FILE_EXTENSION') {
    return 'this Node does not load TypeScript; use Node 22.18 or newer, start with node --import tsx, or compile it first';
  }
  return messageOf(error);
}
