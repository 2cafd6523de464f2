import type { Json } from '../protocol/json.ts';
import type { FieldError } from '../schedule/field-errors.ts';
import { isObject } from '../schedule/fields.ts';
import { checkSpec, isTooLarge, type SpecSchema, withoutDerivedOptions } from '../schedule/spec.ts';
import { KINDS } from '../schedule/timing.ts';
import type { Registry } from './registry.ts';

export type PatchOutcome =
  | { readonly kind: 'done' }
  | { readonly kind: 'missing' }
  | { readonly kind: 'too large' }
  | { readonly kind: 'invalid'; readonly errors: readonly FieldError[] }
  /** Others changed it at the same time, this often in a row. */
  | { readonly kind: 'contended'; readonly attempts: number };

/** How often a patch is put anew on what somebody else changed meanwhile. */
const ATTEMPTS = 5;

/**
 * Changes a stored schedule by a JSON merge patch on its spec (RFC 7396). Where the patch takes the kind of `schedule` away
 * and gives another, the members that only the old kind had go with it. Throws NAMESPACE_GONE.
 */
export async function patchSchedule(
  registry: Registry,
  schema: SpecSchema,
  id: string,
  patch: { readonly [key: string]: Json },
): Promise<PatchOutcome> {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const [stored] = await registry.get([id]);
    if (stored == null) return { kind: 'missing' };
    const merged = withoutOldKind(mergePatch(withoutDerivedOptions(stored.spec), patch), patch);
    const kinds = kindsOf(merged);
    if (kinds.length > 1) return { kind: 'invalid', errors: [twoKinds(kinds, patch)] };
    if (isTooLarge(merged)) return { kind: 'too large' };
    const result = checkSpec(schema, merged);
    if (!result.ok) return { kind: 'invalid', errors: result.errors };
    if (result.spec.id !== id) return { kind: 'invalid', errors: [{ path: 'id', message: 'cannot be changed' }] };
    // Somebody else may change it in between: then the patch belongs on what they left.
    if ((await registry.replace(result.spec, stored.revision)) !== 'refused') return { kind: 'done' };
  }
  return { kind: 'contended', attempts: ATTEMPTS };
}

type Kind = (typeof KINDS)[number];

/** What a schedule of each kind may hold beside the member that names the kind (schedule/timing.ts). */
const KIND_MEMBERS: Readonly<Record<Kind, readonly string[]>> = {
  every: ['phase'],
  cron: ['tz', 'dialect'],
  at: [],
  in: [],
  after: ['retry'],
  solar: ['lat', 'lon'],
  rrule: ['tz'],
};

function withoutOldKind(merged: Json, patch: Json): Json {
  const given = isObject(patch) ? patch.schedule : undefined;
  const schedule = isObject(merged) ? merged.schedule : undefined;
  if (!isObject(merged) || !isObject(given) || !isObject(schedule)) return merged;
  const [kind] = kindsOf(merged);
  if (kind === undefined) return merged;
  const left = KINDS.filter((old) => given[old] === null)
    .flatMap((old) => KIND_MEMBERS[old])
    .filter((member) => !KIND_MEMBERS[kind].includes(member) && given[member] === undefined);
  return {
    ...merged,
    schedule: Object.fromEntries(Object.entries(schedule).filter(([member]) => !left.includes(member))),
  };
}

/** The kinds that the `schedule` of a spec names; in one that can be right it is one. */
function kindsOf(spec: Json): Kind[] {
  const schedule = isObject(spec) ? spec.schedule : undefined;
  return isObject(schedule) ? KINDS.filter((kind) => Object.hasOwn(schedule, kind)) : [];
}

function twoKinds(kinds: readonly Kind[], patch: Json): FieldError {
  const given = isObject(patch) && isObject(patch.schedule) ? patch.schedule : {};
  const [stored = kinds[0]] = kinds.filter((kind) => !Object.hasOwn(given, kind));
  return {
    path: 'schedule',
    message: `would have ${kinds.join(' and ')}; set ${stored} to null in the patch to take it away`,
  };
}

/** RFC 7396. */
function mergePatch(target: Json | undefined, patch: Json): Json {
  if (!isObject(patch)) return patch;
  const members = new Map(isObject(target) ? Object.entries(target) : []);
  for (const [key, member] of Object.entries(patch)) {
    if (member === null) members.delete(key);
    else members.set(key, mergePatch(members.get(key), member));
  }
  return Object.fromEntries(members);
}
