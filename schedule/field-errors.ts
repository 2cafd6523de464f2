import { LosslessNumber } from 'lossless-json';
import type { z } from 'zod';

/** What is wrong with one field of what a user handed in. */
export interface FieldError {
  /** The field, such as `schedule.every`; empty for the spec as a whole. */
  readonly path: string;
  readonly message: string;
}

/** The fields that zod refused, each with why. */
export function fieldErrors(issues: readonly z.core.$ZodIssue[]): FieldError[] {
  return issues.flatMap((issue) => {
    const path = issue.path.map(String).join('.');
    if (issue.code !== 'unrecognized_keys') return [{ path, message: issue.message }];
    return issue.keys.map((key) => ({ path: path === '' ? key : `${path}.${key}`, message: 'is not a known field' }));
  });
}

/** zod's issues in the words of this API. */
export const READABLE = {
  error(issue: z.core.$ZodRawIssue): string {
    if (issue.input === undefined && issue.code !== 'custom') return 'is required';
    switch (issue.code) {
      case 'invalid_type':
        return `must be ${TYPE_NAMES[issue.expected] ?? issue.expected}, got ${shown(issue.input)}`;
      case 'too_small':
        return issue.origin === 'string'
          ? 'must not be empty'
          : `must be at least ${issue.minimum}, got ${shown(issue.input)}`;
      case 'too_big':
        return issue.origin === 'array'
          ? `must have at most ${issue.maximum} members`
          : `must be at most ${issue.maximum}, got ${shown(issue.input)}`;
      case 'invalid_value':
        return `must be ${issue.values.map((value) => JSON.stringify(value)).join(', ')}, got ${shown(issue.input)}`;
      default:
        return 'is not valid';
    }
  },
};

const TYPE_NAMES: Readonly<Record<string, string>> = {
  string: 'a string',
  number: 'a number',
  int: 'a whole number',
  boolean: 'true or false',
  array: 'a JSON array',
  object: 'a JSON object',
};

/** A value as an error may show it: short, whatever was sent. */
function shown(value: unknown): string {
  if (Array.isArray(value)) return 'a JSON array';
  if (value instanceof LosslessNumber) return value.toString().slice(0, SHOWN_LENGTH);
  if (typeof value === 'object' && value !== null) return 'a JSON object';
  const json = JSON.stringify(value);
  return json.length <= SHOWN_LENGTH ? json : `${json.slice(0, SHOWN_LENGTH)}...`;
}

const SHOWN_LENGTH = 60;
