import { isLosslessNumber } from 'lossless-json';
import { PythonError } from '../../lua/pidbox.ts';
import { type ControlCommandSpec, controlCommand } from '../../protocol/control-commands.ts';
import type { Json } from '../../protocol/json.ts';

/** What a request brings along, by name. */
export type Arguments = { readonly [name: string]: Json };

/** Refuses what Celery's functions refuse, as Python words it: arguments that are missing, and, for some, unknown ones. */
export function requireArguments(method: string, args: Arguments): void {
  const spec: ControlCommandSpec = controlCommand(method) ?? { kind: 'control', help: '' };
  const unknown = Object.keys(args).find((name) => !Object.hasOwn(spec.args ?? {}, name));
  if (spec.isStrict === true && unknown !== undefined) {
    throw new PythonError('TypeError', `${method}() got an unexpected keyword argument '${unknown}'`);
  }
  const missing = (spec.required ?? []).filter((name) => args[name] === undefined).map((name) => `'${name}'`);
  if (missing.length === 0) return;
  const noun = missing.length === 1 ? 'argument' : 'arguments';
  throw new PythonError(
    'TypeError',
    `${method}() missing ${missing.length} required positional ${noun}: ${missing.join(' and ')}`,
  );
}

/** One text or a list of them. */
export function textsOf(value: Json | undefined): string[] {
  if (typeof value === 'string') return [value];
  if (!isList(value)) return [];
  return value.filter((one) => typeof one === 'string');
}

/** A whole number; `fallback` when it is left out or null. Throws as Python does. */
export function integerOf<Fallback extends number | null>(
  name: string,
  value: Json | undefined,
  fallback: Fallback,
): number | Fallback {
  if (value === undefined || value === null) return fallback;
  const number = Number(value);
  if (Number.isSafeInteger(number) && typeof value !== 'boolean') return number;
  throw new PythonError('TypeError', `${name} must be an integer, not ${JSON.stringify(value)}`);
}

/** Seconds; null when they are left out. Throws as Python does. */
export function secondsOf(name: string, value: Json | undefined): number | null {
  if (value === undefined || value === null) return null;
  const number = Number(value);
  if (Number.isFinite(number) && number >= 0 && typeof value !== 'boolean') return number;
  throw new PythonError('ValueError', `${name} must be a number of seconds, not ${JSON.stringify(value)}`);
}

/** Whether Python takes it for true; flower sends 1. */
export function isTrue(value: Json | undefined): boolean {
  if (isLosslessNumber(value)) return Number(value.value) !== 0;
  if (typeof value === 'object' && value !== null) return Object.keys(value).length > 0;
  return Boolean(value);
}

export function isList(value: Json | undefined): value is readonly Json[] {
  return Array.isArray(value);
}

/** Python's way of writing a name of ours. */
export function snakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** Ids that a peer has revoked: newer workers send a list of them, older ones an object of id and time. */
export function revokedBy(value: Json | undefined): string[] {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return textsOf(value);
  return Object.keys(value);
}
