import t from 'tap';
import type { EndMessage } from '../../worker/pools/channel.ts';
import { EndReader, EndWriter } from '../../worker/pools/end-ring.ts';
import { chanceOf } from '../support/chance.ts';

function endOf(job: number, json: string | null): EndMessage {
  return { kind: 'end', job, outcome: { json, rest: '{"state":"success"}' }, agoMs: 0, overweightKib: null };
}

function openRing() {
  const reader = new EndReader();
  return { reader, writer: new EndWriter(reader.shared) };
}

t.test('ends come out as they went in and in their order, whatever their lengths, many times around', (t) => {
  const { reader, writer } = openRing();
  const chance = chanceOf(20_261_121);
  const written: EndMessage[] = [];
  const wrong: unknown[] = [];
  let [refused, ended, bytes] = [0, 0, 0];
  for (let job = 0; job < 20_000; job++) {
    const json = chance.pick([null, '1', JSON.stringify('ü€😀'.repeat(chance.integer(0, 400)))]);
    const end = { ...endOf(job, json), overweightKib: chance.pick([null, 5]) };
    if (writer.write(end)) {
      written.push(end);
      bytes += Buffer.byteLength(json ?? '');
    } else refused += 1;
    if (chance.integer(0, 20) > 0) continue;
    const before = reader.written;
    for (let read = reader.read(before); read !== null; read = reader.read(before)) {
      const { agoMs, ...rest } = read;
      if (agoMs < 0 || agoMs > 60_000 || JSON.stringify({ ...rest, agoMs: 0 }) !== text(written[ended]))
        wrong.push(read);
      ended += 1;
    }
    if (ended !== written.length) wrong.push(`${written.length - ended} were not read`);
  }
  t.same(wrong, []);
  t.ok(refused > 0, 'some found no room');
  t.ok(bytes > 20 * 65_536, `${bytes} bytes`);
  t.end();
});

/** With its fields in the order of what is read. */
function text(end: EndMessage | undefined): string {
  const { kind, job, outcome, overweightKib } = end!;
  return JSON.stringify({ kind, job, outcome, overweightKib, agoMs: 0 });
}

t.test('an end that was written after a position is not read before it', (t) => {
  const { reader, writer } = openRing();
  writer.write(endOf(1, null));
  const before = writer.written;
  writer.write(endOf(2, null));
  t.equal(reader.read(before)?.job, 1);
  t.equal(reader.read(before), null);
  t.equal(reader.read(reader.written)?.job, 2);
  t.equal(reader.read(before), null, 'nor again what was read beyond it');
  t.end();
});

t.test('what is larger than the ring is refused, and nothing else is harmed', (t) => {
  const { reader, writer } = openRing();
  t.notOk(writer.write(endOf(1, JSON.stringify('x'.repeat(70_000)))));
  t.equal(reader.read(reader.written), null);
  t.ok(writer.write(endOf(2, '"y"')));
  t.match(reader.read(reader.written), { job: 2, outcome: { json: '"y"' } });
  t.end();
});
