import { readFileSync } from 'node:fs';
import t from 'tap';
import {
  customFields,
  eventChannel,
  eventEnvelope,
  eventHead,
  eventRoutingKey,
  eventText,
  failedFields,
  receivedFields,
  rejectedFields,
  revokedFields,
  succeededFields,
  taskFields,
  workerFields,
} from '../../protocol/event-message.ts';
import { readMessage } from '../../protocol/message-reader.ts';
import { celeryTime } from '../../protocol/task-message.ts';
import { envelope } from '../worker/messages.ts';

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

/** One of Celery's events written by our functions. */
function rewritten(event: Event): string {
  const { hostname, pid, utcoffset, clock, timestamp, type } = event;
  return eventText(eventHead({ hostname, pid, utcOffset: utcoffset }), clock, fieldsOf(event), String(timestamp), type);
}

function fieldsOf(event: Event): string {
  const { uuid, result, runtime, exception, traceback, terminated, signum, expired, requeue } = event;
  switch (event.type) {
    case 'task-received': {
      const { name, args, kwargs, root_id, parent_id, retries } = event;
      const headers = { argsrepr: args, kwargsrepr: kwargs, root_id, parent_id, retries };
      return receivedFields(readMessage(envelope({ task: name, id: uuid, headers })));
    }
    case 'task-started':
      return taskFields(uuid);
    case 'task-succeeded':
      return succeededFields(uuid, result, runtime);
    case 'task-failed':
    case 'task-retried':
      return failedFields(uuid, exception, traceback ?? null);
    case 'task-revoked':
      return revokedFields(uuid, { terminated, signum, expired });
    case 'task-rejected':
      return rejectedFields(uuid, requeue);
    default: {
      const { freq, active, processed, loadavg, sw_ident, sw_ver, sw_sys } = event;
      const software = { name: sw_ident, version: sw_ver, system: sw_sys };
      return workerFields(freq, { active, processed, loadAverage: loadavg }, software);
    }
  }
}

const SHAPES = [
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
      t.same(ours, event);
      t.same(Object.keys(ours), Object.keys(event));
    }
  });
}

t.test('a heartbeat and its envelope are Celery’s byte for byte', async (t) => {
  const { channel, message } = sample('event-envelope-single');
  const event = JSON.parse(message.body_text);
  const body = rewritten(event);
  t.equal(body, message.body_text);
  const deliveryTag = JSON.parse(message.raw).properties.delivery_tag;
  const routingKey = eventRoutingKey('worker-heartbeat');
  const ours = eventEnvelope({ body: Buffer.from(body), hostname: event.hostname, routingKey, deliveryTag });
  t.equal(ours.toString(), message.raw);
  t.equal(eventChannel(0, routingKey), channel);
});

t.test('a batch of task events and its envelope are Celery’s byte for byte', async (t) => {
  const { channel, message } = sample('event-envelope-multi');
  const events: Event[] = JSON.parse(message.body_text);
  const body = `[${events.map(rewritten).join(', ')}]`;
  t.equal(body, message.body_text);
  const deliveryTag = JSON.parse(message.raw).properties.delivery_tag;
  const ours = eventEnvelope({ body: Buffer.from(body), hostname: 'w1@host1', routingKey: 'task.multi', deliveryTag });
  t.equal(ours.toString(), message.raw);
  t.equal(eventChannel(0, 'task.multi'), channel);
});

t.test('an envelope holds its body whatever its length is', async (t) => {
  for (const length of [0, 1, 2, 3, 24_575, 24_576, 24_577, 100_000]) {
    const body = Buffer.from(Array.from({ length }, (_, i) => 97 + (i % 26)));
    const text = eventEnvelope({ body, hostname: 'ü@"h"', routingKey: 'task.multi', deliveryTag: 'tag' }).toString();
    const read = JSON.parse(text);
    t.equal(read.body, body.toString('base64'), `${length} bytes`);
    t.equal(read.headers.hostname, 'ü@"h"');
  }
});

t.test('what a message does not tell is shown nevertheless', async (t) => {
  const etaMs = Date.UTC(2027, 0, 2, 3, 4, 5, 678);
  const message = readMessage(
    envelope({
      id: 'a',
      task: 'add',
      args: ['ü', [1, true, null]],
      kwargs: { k: "it's" },
      headers: {
        argsrepr: null,
        kwargsrepr: null,
        shadow: 'shown',
        root_id: null,
        retries: 2,
        eta: celeryTime(etaMs),
        expires: celeryTime(etaMs + 1),
      },
    }),
  );
  t.same(JSON.parse(`{${receivedFields(message)}}`), {
    uuid: 'a',
    name: 'shown',
    args: "['ü', [1, True, None]]",
    kwargs: `{'k': "it's"}`,
    root_id: null,
    parent_id: null,
    retries: 2,
    eta: '2027-01-02T03:04:05.678000+00:00',
    expires: '2027-01-02T03:04:05.679000+00:00',
  });
});

t.test('every text is ASCII, whatever a task hands in', async (t) => {
  const odd = '"\\\n\u0000ü😀\u2028';
  for (const fields of [
    taskFields(odd),
    succeededFields(odd, odd, 1),
    failedFields(odd, odd, odd),
    customFields(odd, { [odd]: odd }),
  ]) {
    t.match(fields, /^[\x20-\x7e]*$/);
    t.equal(JSON.parse(`{${fields}}`).uuid, odd);
  }
});

t.test("a task's own event cannot pass for somebody else's", async (t) => {
  const fields = customFields('a', { uuid: 'b', hostname: 'c', type: 'd', clock: 1, timestamp: 1, percent: 50 });
  t.equal(fields, '"uuid": "a", "percent": 50');
  t.equal(customFields('a', {}), '"uuid": "a"');
});
