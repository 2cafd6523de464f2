import { readFileSync } from 'node:fs';
import t from 'tap';
import { AsciiWriter } from '../../protocol/ascii-writer.ts';
import {
  beginEvent,
  customFields,
  endEvent,
  eventChannel,
  eventHead,
  eventRoutingKey,
  eventTail,
  writeCustom,
  writeEnvelope,
  writeFailed,
  writeReceived,
  writeRejected,
  writeRevoked,
  writeSent,
  writeSucceeded,
  writeTask,
  writeWorker,
} from '../../protocol/event-message.ts';
import { readMessage, type TaskMessage } from '../../protocol/message-reader.ts';

const SAMPLES = new URL('../../../test/fixtures/celery-samples/', import.meta.url);

/** All that Celery's events hold; each has some of it. */
interface Event {
  readonly hostname: string;
  readonly pid: number;
  readonly utcoffset: number;
  readonly clock: number;
  readonly timestamp: number;
  readonly type: string;
  readonly uuid: string;
  readonly name: string;
  readonly args: string;
  readonly kwargs: string;
  readonly root_id: string | null;
  readonly parent_id: string | null;
  readonly retries: number;
  readonly queue: string;
  readonly result: string;
  readonly runtime: number;
  readonly exception: string;
  readonly traceback?: string;
  readonly terminated: boolean;
  readonly signum: number | null;
  readonly expired: boolean;
  readonly requeue: boolean;
  readonly freq: number;
  readonly active: number;
  readonly processed: number;
  readonly loadavg: readonly number[];
  readonly sw_ident: string;
  readonly sw_ver: string;
  readonly sw_sys: string;
}

interface Sample {
  readonly channel: string;
  readonly message: { readonly raw: string; readonly body_text: string };
  readonly examples: readonly { readonly channel: string; readonly event: Event }[];
}

function sample(name: string): Sample {
  return JSON.parse(readFileSync(new URL(`${name}.json`, SAMPLES), 'utf8'));
}

function written(write: (to: AsciiWriter) => void): string {
  const writer = new AsciiWriter(8);
  write(writer);
  return writer.bytes.toString('latin1');
}

/** One of Celery's events written by our functions. */
function rewritten(event: Event): string {
  const { hostname, pid, utcoffset, clock, timestamp, type } = event;
  return written((to) => {
    beginEvent(to, eventHead({ hostname, pid, utcOffset: utcoffset }), clock);
    writeFields(to, event);
    endEvent(to, timestamp * 1_000, eventTail(type));
  });
}

function writeFields(to: AsciiWriter, event: Event): void {
  const { uuid, result, runtime, exception, traceback, terminated, signum, expired, requeue } = event;
  switch (event.type) {
    case 'task-received': {
      const { name, args, kwargs, root_id: rootId, parent_id: parentId, retries } = event;
      writeReceived(to, { id: uuid, name, args, kwargs, rootId, parentId, retries, etaMs: null, expiresMs: null });
      return;
    }
    case 'task-sent':
      writeSent(to, messageOf(event));
      return;
    case 'task-started':
      writeTask(to, uuid);
      return;
    case 'task-succeeded':
      writeSucceeded(to, uuid, result, runtime);
      return;
    case 'task-failed':
    case 'task-retried':
      writeFailed(to, uuid, exception, traceback ?? null);
      return;
    case 'task-revoked':
      writeRevoked(to, uuid, { terminated, signum, expired });
      return;
    case 'task-rejected':
      writeRejected(to, uuid, requeue);
      return;
    default: {
      const { freq, active, processed, loadavg, sw_ident, sw_ver, sw_sys } = event;
      const software = { name: sw_ident, version: sw_ver, system: sw_sys };
      writeWorker(to, freq, { active, processed, loadAverage: loadavg }, software);
      return;
    }
  }
}

/** The message of which Celery's `task-sent` tells. */
function messageOf({ uuid: id, name: task, args, kwargs, root_id, parent_id, retries, queue }: Event): TaskMessage {
  return readMessage(
    JSON.stringify({
      body: Buffer.from('[[], {}, {}]').toString('base64'),
      'content-type': 'application/json',
      headers: { id, task, argsrepr: args, kwargsrepr: kwargs, root_id, parent_id, retries },
      properties: { body_encoding: 'base64', delivery_info: { exchange: '', routing_key: queue }, delivery_tag: 'tag' },
    }),
  );
}

/** Celery's times have as many digits as a double needs, ours six. */
function rounded(json: string): string {
  return json.replace(
    /"(timestamp|runtime)": ([\d.]+)/g,
    (_, name, number) => `"${name}": ${Number(number).toFixed(6)}`,
  );
}

const SHAPES = [
  'task-sent',
  'task-received',
  'task-started',
  'task-succeeded',
  'task-failed',
  'task-retried',
  'task-revoked',
  'task-rejected',
  'worker-online',
  'worker-heartbeat',
  'worker-offline',
];
for (const name of SHAPES) {
  t.test(`${name} has the fields that Celery gives it, in its order`, async (t) => {
    for (const { event } of sample(`event-${name}`).examples) {
      const ours = JSON.parse(rewritten(event));
      t.same(ours, JSON.parse(rounded(JSON.stringify(event, null, 1))));
      t.same(Object.keys(ours), Object.keys(event));
    }
  });
}

function wrapped(body: string, hostname: string, routingKey: string, deliveryTag: string): string {
  return written((to) => writeEnvelope(to, { body: Buffer.from(body), hostname, routingKey, deliveryTag }));
}

t.test('a heartbeat and its envelope are Celery’s byte for byte', async (t) => {
  const { channel, message } = sample('event-envelope-single');
  const event = JSON.parse(message.body_text);
  const body = rewritten(event);
  t.equal(body, rounded(message.body_text));
  const deliveryTag = JSON.parse(message.raw).properties.delivery_tag;
  const routingKey = eventRoutingKey('worker-heartbeat');
  t.equal(wrapped(message.body_text, event.hostname, routingKey, deliveryTag), message.raw);
  t.equal(eventChannel(0, routingKey), channel);
});

t.test('a batch of task events and its envelope are Celery’s byte for byte', async (t) => {
  const { channel, message } = sample('event-envelope-multi');
  const events: Event[] = JSON.parse(message.body_text);
  const body = `[${events.map(rewritten).join(', ')}]`;
  t.equal(body, rounded(message.body_text));
  const deliveryTag = JSON.parse(message.raw).properties.delivery_tag;
  t.equal(wrapped(message.body_text, 'w1@host1', 'task.multi', deliveryTag), message.raw);
  t.equal(eventChannel(0, 'task.multi'), channel);
});

t.test('an envelope holds its body whatever its length is', async (t) => {
  for (const length of [0, 1, 2, 3, 24_575, 24_576, 24_577, 100_000]) {
    const body = Buffer.from(Array.from({ length }, (_, i) => 97 + (i % 26)));
    const read = JSON.parse(wrapped(body.toString(), 'ü@"h"', 'task.multi', 'tag'));
    t.equal(read.body, body.toString('base64'), `${length} bytes`);
    t.equal(read.headers.hostname, 'ü@"h"');
  }
});

t.test('an eta and an expiry are written as Celery writes times', async (t) => {
  const etaMs = Date.UTC(2027, 0, 2, 3, 4, 5, 678);
  const message = { id: 'a', name: 'add', args: '()', kwargs: '{}', rootId: null, parentId: null, retries: 2 };
  const fields = JSON.parse(`{${written((to) => writeReceived(to, { ...message, etaMs, expiresMs: etaMs + 1 }))}}`);
  t.match(fields, { eta: '2027-01-02T03:04:05.678000+00:00', expires: '2027-01-02T03:04:05.679000+00:00', retries: 2 });
});

t.test('every text is ASCII, whatever a task hands in', async (t) => {
  const odd = '"\\\n\u0000ü😀\u2028';
  const writers: readonly ((to: AsciiWriter) => void)[] = [
    (to) => writeTask(to, odd),
    (to) => writeSucceeded(to, odd, odd, 1),
    (to) => writeFailed(to, odd, odd, odd),
    (to) => writeCustom(to, odd, customFields({ [odd]: odd })),
  ];
  for (const fields of writers.map(written)) {
    t.match(fields, /^[\x20-\x7e]*$/);
    t.equal(JSON.parse(`{${fields}}`).uuid, odd);
  }
});

t.test("a task's own event cannot pass for somebody else's", async (t) => {
  const fields = { uuid: 'b', hostname: 'c', type: 'd', clock: 1, timestamp: 1, percent: 50 };
  t.equal(customFields(fields), ', "percent": 50');
  t.equal(customFields({}), '');
});

t.test('numbers are written so that they are read as they were', async (t) => {
  for (const value of [0, 7, 10, 99, 1_000, 2 ** 53 - 1, -1, 1.5])
    t.equal(
      written((to) => to.integer(value)),
      String(value),
    );
  t.equal(
    written((to) => to.integer(Infinity)),
    'null',
  );
  for (const [value, text] of [
    [0, '0.000000'],
    [1.5, '1.500000'],
    [0.0000004, '0.000000'],
    [0.9999999, '1.000000'],
    [1_795_233_566.504_009, '1795233566.504009'],
  ] as const)
    t.equal(
      written((to) => to.millionths(value)),
      text,
    );
});
