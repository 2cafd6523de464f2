import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { changeRecord, headerRecord, type JournalIdentity } from '../../scheduler/journal/content.ts';
import { JournalFolder } from '../../scheduler/journal/folder.ts';
import { readJournal } from '../../scheduler/journal/read-journal.ts';
import {
  type Damage,
  encodeRecords,
  type JournalRecord,
  RecordWriter,
  readRecords,
} from '../../scheduler/journal/record-file.ts';
import { Segments } from '../../scheduler/journal/segments.ts';

async function readAll(file: string): Promise<{ records: JournalRecord[]; damage: Damage[] }> {
  const records: JournalRecord[] = [];
  const damage: Damage[] = [];
  for await (const some of readRecords(file, (found) => damage.push(found))) records.push(...some);
  return { records, damage };
}

/** Numbers from 0 to below `limit` that are always the same for one seed (mulberry32). */
function randomFrom(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % limit;
  };
}

const RECORDS: readonly JournalRecord[] = [
  ['put', 'a', ''],
  [''],
  ['ä€😀\x1e\x1f\x00', 'x'.repeat(3_000_000)],
  ['delete', 'a'],
];

t.test('what is written is read, whatever it is', async (t) => {
  const file = join(t.testdir(), 'records');
  const writer = await RecordWriter.create(file);
  for (const record of RECORDS) await writer.append([record]);
  await writer.append(RECORDS);
  await writer.sync();
  await writer.close();
  t.equal(writer.bytes, readFileSync(file).length);
  t.same(await readAll(file), { records: [...RECORDS, ...RECORDS], damage: [] });
  await t.rejects(RecordWriter.create(file), { code: 'EEXIST' }, 'no file is written over');
});

t.test('a file that is not there is damage of the whole', async (t) => {
  const { records, damage } = await readAll(join(t.testdir(), 'none'));
  t.same(records, []);
  t.match(damage, [{ offset: 0, isTail: true, reason: /ENOENT/ }]);
});

t.test('a torn last record is cut off, wherever it was torn', async (t) => {
  const file = join(t.testdir(), 'records');
  const [first, second] = [encodeRecords([['a', 'first']]), encodeRecords([['b', 'second']])];
  for (let length = 1; length < second.length; length++) {
    writeFileSync(file, Buffer.concat([first, second.subarray(0, length)]));
    const { records, damage } = await readAll(file);
    t.same(records, [['a', 'first']]);
    t.same(damage, [{ file, offset: first.length, bytes: length, isTail: true, reason: null }]);
  }
});

t.test('behind a damaged record reading goes on', async (t) => {
  const file = join(t.testdir(), 'records');
  const parts = [
    ['a', '1'],
    ['b', '2'],
    ['c', '3'],
  ].map((record) => encodeRecords([record]));
  const offset = parts[0]!.length;
  for (let at = 0; at < parts[1]!.length; at++) {
    const bytes = Buffer.concat(parts);
    bytes[offset + at]! ^= 0x40;
    writeFileSync(file, bytes);
    const { records, damage } = await readAll(file);
    t.same(records, [
      ['a', '1'],
      ['c', '3'],
    ]);
    t.same(damage, [{ file, offset, bytes: parts[1]!.length, isTail: false, reason: null }]);
  }
});

t.test('whatever happens to a file, nothing is read that was not written', async (t) => {
  const file = join(t.testdir(), 'records');
  for (let seed = 1; seed <= 300; seed++) {
    const random = randomFrom(seed);
    const written = Array.from({ length: 1 + random(40) }, (_, i) => [`${i}`, 'é\xfe\xff'.repeat(random(30))]);
    let bytes = encodeRecords(written);
    for (let hit = 0; hit <= random(4); hit++) {
      const at = random(bytes.length);
      const length = random(60);
      const kind = random(4);
      if (kind === 0) bytes.writeUInt8(random(256), at);
      else if (kind === 1) bytes.fill(random(256), at, Math.min(at + length, bytes.length));
      else if (kind === 2) bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + length)]);
      else bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(0, length), bytes.subarray(at)]);
      if (bytes.length === 0) bytes = Buffer.alloc(1);
    }
    writeFileSync(file, bytes);
    const { records, damage } = await readAll(file);
    const known = new Set(written.map((record) => JSON.stringify(record)));
    const invented = records.filter((record) => !known.has(JSON.stringify(record)));
    if (invented.length > 0) t.fail(`seed ${seed} reads ${JSON.stringify(invented)}`);
    const total = encodeRecords(records).length + damage.reduce((sum, { bytes }) => sum + bytes, 0);
    if (total !== bytes.length) t.fail(`seed ${seed}: ${bytes.length - total} bytes are neither read nor told`);
  }
  t.pass('300 files');
});

const NAMESPACE: JournalIdentity = { namespace: 'rb', epoch: 'epoch-1', restores: 0, shards: 2 };
const META: JournalRecord = ['meta', 'format', '1', 'epoch', 'epoch-1', 'shards', '2'];

function opening(sequences: readonly number[], identity = NAMESPACE): JournalRecord[] {
  return [headerRecord({ ...identity, sequences }), META, ['alive', '1000']];
}

async function writeFile(file: string, records: readonly JournalRecord[]): Promise<void> {
  const writer = await RecordWriter.create(file);
  await writer.append(records);
  await writer.close();
}

function change(shard: number, sequence: number, ...steps: string[]): JournalRecord {
  return changeRecord({ shard, sequence, steps });
}

async function openFolder(t: Test, dir = t.testdir()): Promise<JournalFolder> {
  const folder = await JournalFolder.open(dir, 'rb');
  t.teardown(() => folder.close());
  return folder;
}

/** A journal with a snapshot of one schedule in shard 0, and two changes behind it. */
async function exampleJournal(t: Test): Promise<JournalFolder> {
  const folder = await openFolder(t);
  const snapshot = folder.nextNumber();
  await writeFile(folder.partFile(snapshot), [
    ...opening([5, 7]),
    ['shard', '0', '3'],
    ['template', '0', '3\x1ftext'],
    ['put', '0', 'a'],
    ['shard', '1', '0'],
    ['end'],
  ]);
  await writeFile(folder.segmentFile(snapshot), [
    ...opening([5, 7]),
    change(0, 6, 'put', 'b'),
    ['alive', '2000'],
    change(0, 7, 'delete', 'a'),
  ]);
  await folder.completeSnapshot(snapshot);
  return folder;
}

async function stepsOf(folder: JournalFolder): Promise<string[]> {
  const told: string[] = [];
  await readJournal(folder, async (shard, steps) => {
    told.push(`${shard} ${steps.join(' ')}`);
  });
  return told;
}

t.test('a journal is its snapshot and the changes behind it', async (t) => {
  const folder = await exampleJournal(t);
  t.same(await stepsOf(folder), ['0 template 3\x1ftext', '0 put a', '0 put b', '0 delete a']);
  t.match(await readJournal(folder), {
    ...NAMESPACE,
    sequences: [7, 7],
    wholeUntil: 14,
    templateNumbers: [3, 0],
    aliveMs: 2_000,
    isDeleted: false,
    lacks: null,
    damage: [],
  });
});

t.test('changes that a snapshot has, and such that came twice, count once', async (t) => {
  const folder = await exampleJournal(t);
  await writeFile(folder.segmentFile(2), [
    ...opening([7, 7]),
    change(0, 7, 'delete', 'again'),
    change(1, 7, 'put', 'old'),
    change(1, 8, 'put', 'new'),
  ]);
  t.same((await stepsOf(folder)).slice(3), ['0 delete a', '1 put new']);
  t.match(await readJournal(folder), { sequences: [7, 8], wholeUntil: 15 });
});

t.test('a journal that lacks a change uses the rest, and claims no more than what it has whole', async (t) => {
  const folder = await exampleJournal(t);
  await writeFile(folder.segmentFile(2), [...opening([9, 7]), change(0, 10, 'put', 'late')]);
  t.same((await stepsOf(folder)).at(-1), '0 put late');
  t.match(await readJournal(folder), { sequences: [10, 7], wholeUntil: 14 });
});

t.test('what a restarted Redis had forgotten is numbered again', async (t) => {
  const folder = await exampleJournal(t);
  await writeFile(folder.segmentFile(2), [...opening([6, 7]), change(0, 7, 'put', 'other')]);
  t.same((await stepsOf(folder)).at(-1), '0 put other');
});

t.test('a journal with a damaged snapshot claims nothing, and gives what can be read', async (t) => {
  const folder = await exampleJournal(t);
  const file = folder.snapshotFile(1);
  const bytes = readFileSync(file);
  bytes[bytes.indexOf('text')]! ^= 1;
  writeFileSync(file, bytes);
  t.same(await stepsOf(folder), ['0 put a', '0 put b', '0 delete a']);
  t.match(await readJournal(folder), { wholeUntil: 0, sequences: [7, 7], damage: [{ file, isTail: false }] });

  truncateSync(file, bytes.length - encodeRecords([['end']]).length);
  t.match(await readJournal(folder), { wholeUntil: 0, damage: [{ isTail: false }] });
});

t.test('a snapshot without an end is damaged', async (t) => {
  const folder = await openFolder(t);
  await writeFile(folder.snapshotFile(1), [...opening([5, 7]), ['put', '0', 'a']]);
  t.match(await readJournal(folder), { wholeUntil: 0, damage: [{ reason: 'it has no end' }] });
});

t.test('a torn last change is cut off', async (t) => {
  const folder = await exampleJournal(t);
  appendFileSync(folder.segmentFile(1), encodeRecords([change(0, 8, 'put', 'torn')]).subarray(0, -1));
  t.match(await readJournal(folder), { wholeUntil: 14, damage: [{ isTail: true, reason: null }] });
});

t.test('changes alone are no journal', async (t) => {
  const folder = await openFolder(t);
  await writeFile(folder.segmentFile(1), [...opening([0, 0]), change(0, 1, 'put', 'a')]);
  t.match(await readJournal(folder), { lacks: 'snapshot' });
});

t.test('an empty folder is no journal', async (t) => {
  t.equal(await readJournal(await openFolder(t)), null);
});

t.test('a journal goes on over the restoration of what it holds, and does not mix with another one', async (t) => {
  const folder = await exampleJournal(t);
  const restored = { ...NAMESPACE, restores: 1 };
  await writeFile(folder.segmentFile(2), [...opening([7, 7], restored), change(0, 8, 'put', 'c')]);
  t.match(await readJournal(folder), { restores: 1, sequences: [8, 7] });
  t.equal((await stepsOf(folder)).at(-1), '0 put c');
  await writeFile(folder.segmentFile(3), [
    ...opening([9, 7], { ...NAMESPACE, restores: 2 }),
    change(0, 10, 'put', 'd'),
  ]);
  t.match(await readJournal(folder), { restores: 1, sequences: [8, 7] });
  t.equal((await stepsOf(folder)).at(-1), '0 put c');
});

t.test('of a deleted namespace nothing is known but that', async (t) => {
  const folder = await exampleJournal(t);
  await folder.setAside();
  t.same(readdirSync(join(folder.path, 'replaced')).sort(), ['changes-00000001', 'snapshot-00000001']);
  const segments = await Segments.begin(folder, folder.nextNumber(), [
    headerRecord({ ...NAMESPACE, sequences: [7, 7] }),
    ['deleted', NAMESPACE.epoch],
  ]);
  await segments.close();
  t.match(await readJournal(folder), { epoch: NAMESPACE.epoch, isDeleted: true });
});

t.test('a complete snapshot makes those before it superfluous, an unfinished one does not', async (t) => {
  const folder = await exampleJournal(t);
  await writeFile(folder.segmentFile(folder.nextNumber()), opening([7, 7]));
  const number = folder.nextNumber();
  await writeFile(folder.segmentFile(number), opening([7, 7]));
  await writeFile(folder.partFile(number), [...opening([7, 7]), ['end']]);
  t.same(await folder.contents(), { snapshot: 1, segments: [1, 2, 3] });
  await folder.completeSnapshot(number);
  t.same(await folder.contents(), { snapshot: 3, segments: [3] });
  t.same(readdirSync(folder.path).sort(), ['changes-00000003', 'lock', 'snapshot-00000003']);
});

t.test('an unfinished snapshot goes when the folder is opened again, and numbers go on', async (t) => {
  const dir = t.testdir();
  const first = await JournalFolder.open(dir, 'rb');
  writeFileSync(first.partFile(4), 'x');
  writeFileSync(first.segmentFile(6), '');
  first.close();
  const second = await openFolder(t, dir);
  t.notOk(existsSync(second.partFile(4)));
  t.equal(second.nextNumber(), 7);
});

t.test('records that are appended side by side come one after the other, over several segments', async (t) => {
  const folder = await openFolder(t);
  const segments = await Segments.begin(folder, folder.nextNumber(), opening([0, 0]));
  const appended = Array.from({ length: 20 }, (_, i) => segments.append([change(0, i + 1, 'put', `${i}`)]));
  appended.push(
    segments.roll(folder.nextNumber(), opening([20, 0]), false),
    segments.append([change(0, 21, 'put', 'z')]),
  );
  await Promise.all([...appended, segments.sync()]);
  await segments.close();
  t.same(
    (await readAll(folder.segmentFile(1))).records.slice(3).map(([, , sequence]) => Number(sequence)),
    [...Array.from({ length: 20 }, (_, i) => i + 1)],
  );
  t.equal((await readAll(folder.segmentFile(2))).records.length, 4);
});

t.test('a folder belongs to one process, and to another when that is gone', async (t) => {
  const dir = t.testdir();
  const folder = join(dir, 'rb.journal');
  mkdirSync(folder);
  const startTicks = readFileSync(`/proc/${process.ppid}/stat`, 'utf8').split(') ')[1]!.split(' ')[19];
  writeFileSync(join(folder, 'lock'), `${process.ppid} ${startTicks}`);
  await t.rejects(JournalFolder.open(dir, 'rb'), { code: 'JOURNAL_IN_USE', values: { pid: process.ppid } });
  for (const [holder, why] of [
    [`${process.ppid} 1`, 'a process that was given the same id later'],
    ['4194305 5', 'a process that ended'],
    ['', 'a lock that was cut off'],
  ] as const) {
    writeFileSync(join(folder, 'lock'), holder);
    const opened = await JournalFolder.open(dir, 'rb');
    opened.close();
    t.notOk(existsSync(join(folder, 'lock')), why);
  }
});

t.test('a folder that cannot be used is told', async (t) => {
  const dir = t.testdir({ file: 'no folder' });
  await t.rejects(JournalFolder.open(join(dir, 'file'), 'rb'), { code: 'JOURNAL_FOLDER' });
});

t.test('a namespace may be called like a folder', async (t) => {
  const dir = t.testdir();
  const folder = await JournalFolder.open(dir, '..');
  folder.close();
  t.same(readdirSync(dir), ['...journal']);
});
