import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { type Json, toPythonJson } from '../../protocol/json.ts';
import { retryEnvelope } from '../../protocol/retry-message.ts';

interface Sample {
  readonly message: { readonly raw: string };
}

/** What Celery published when a task asked to run again. */
const file = fileURLToPath(new URL('../../../test/fixtures/celery-samples/task-retry.json', import.meta.url));
const { raw } = (JSON.parse(readFileSync(file, 'utf8')) as Sample).message;

interface Envelope {
  readonly [key: string]: Json;
  readonly headers: { readonly [key: string]: Json; readonly eta: string; readonly id: string };
  readonly properties: { readonly [key: string]: Json; readonly delivery_tag: string };
}

const celerys: Envelope = JSON.parse(raw);
const { headers, properties } = celerys;
// Celery's request hands these two options on, and kombu takes what it does not know for properties. Nobody reads them.
const { replaced_task_nesting, origin, ...published } = properties;

/** The message as its producer had sent it. */
const first = toPythonJson({
  ...celerys,
  headers: { ...headers, eta: null, retries: 0, parent_id: null },
  properties: { ...published, delivery_tag: 'first' },
});

const retry = {
  retries: 1,
  etaMs: Date.parse(headers.eta),
  parentId: headers.id,
  tag: properties.delivery_tag,
  changes: {},
};

t.test('a retry is the message that Celery publishes for it, byte for byte', async (t) => {
  // Our times end with the millisecond.
  const eta = headers.eta.replace(/\.(\d{3})\d{3}/, '.$1000');
  t.not(replaced_task_nesting, undefined);
  t.not(origin, undefined);
  t.equal(
    retryEnvelope(first, retry),
    toPythonJson({ ...celerys, headers: { ...headers, eta }, properties: published }),
  );
});

t.test('a retry of a retry counts on', async (t) => {
  const again: Envelope = JSON.parse(retryEnvelope(raw, { ...retry, retries: 2, tag: 'second' }));
  t.match(again, { headers: { retries: 2, parent_id: headers.id }, properties: { delivery_tag: 'second' } });
  t.equal(again.body, celerys.body);
});
