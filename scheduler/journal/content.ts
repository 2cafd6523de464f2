import type { JournalRecord } from './record-file.ts';

/**
 * What the records of a journal say. Every file begins with its header.
 *
 *   file <format> <namespace> <epoch> <restores> <shards> <sequence of each shard, commas>
 *                      which namespace; the file holds what comes after these sequences. `restores` counts how often
 *                      the namespace was put back into Redis from a journal
 *   meta <field> <value> …             the namespace's record
 *   alive <ms>                         until this Redis time nothing due was left undispatched
 *   shard <shard> <highest template number>
 *   template <shard> <text>            texts as in the change stream (lua/include/record-change.lua)
 *   put <shard> <text>
 *   change <shard> <sequence> <kind> <text> …      one entry of the change stream
 *   deleted <epoch>                    the namespace was deleted
 *   end                                the snapshot is complete
 */
const FORMAT = '1';

/** Which namespace, and which life of it, a file belongs to. */
export interface JournalIdentity {
  readonly namespace: string;
  readonly epoch: string;
  readonly restores: number;
  readonly shards: number;
}

export interface JournalHeader extends JournalIdentity {
  /** By shard: the sequence behind which the file's changes begin, or as of which a snapshot was begun. */
  readonly sequences: readonly number[];
}

export function headerRecord(header: JournalHeader): JournalRecord {
  const { namespace, epoch, restores, shards, sequences } = header;
  return ['file', FORMAT, namespace, epoch, String(restores), String(shards), sequences.join(',')];
}

/** The header that a record is; null when it is none of this version. */
export function readHeader(record: JournalRecord | undefined): JournalHeader | null {
  if (record === undefined) return null;
  const [kind, format, namespace, epoch, restores, shards, sequences] = record;
  if (kind !== 'file' || format !== FORMAT || namespace === undefined || epoch === undefined || sequences === undefined)
    return null;
  const header = {
    namespace,
    epoch,
    restores: Number(restores),
    shards: Number(shards),
    sequences: sequences.split(',').map(Number),
  };
  return header.sequences.length === header.shards ? header : null;
}

export function isSameIdentity(one: JournalIdentity, other: JournalIdentity): boolean {
  return (
    one.namespace === other.namespace &&
    one.epoch === other.epoch &&
    one.restores === other.restores &&
    one.shards === other.shards
  );
}

/** One entry of a shard's change stream. */
export interface Change {
  readonly shard: number;
  readonly sequence: number;
  /** Kind, text, kind, text, … in order. */
  readonly steps: readonly string[];
}

export function changeRecord({ shard, sequence, steps }: Change): JournalRecord {
  return ['change', String(shard), String(sequence), ...steps];
}

/** The first part of a `template` step: its number. */
export function templateNumber(text: string): number {
  return Number(text.slice(0, text.indexOf('\x1f')));
}

/** Pairs of field and value as a map. */
export function pairsOf(flat: readonly string[]): ReadonlyMap<string, string> {
  const pairs = new Map<string, string>();
  for (let i = 0; i + 1 < flat.length; i += 2) pairs.set(flat[i]!, flat[i + 1]!);
  return pairs;
}
