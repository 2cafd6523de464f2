import t from 'tap';
import { argumentsOf } from '../../protocol/control-commands.ts';

t.test('words of the command line become the arguments that Celery makes of them', async (t) => {
  const cases: [string, string[], object][] = [
    ['ping', [], {}],
    ['revoke', ['id1', 'id2'], { task_id: ['id1', 'id2'] }],
    ['revoke', [], { task_id: [] }],
    ['terminate', ['KILL', 'id1'], { signal: 'KILL', task_id: ['id1'] }],
    ['time_limit', ['t', '10', '20.5'], { task_name: 't', soft: 10, hard: 20.5 }],
    ['rate_limit', ['t', '5/m'], { task_name: 't', rate_limit: '5/m' }],
    ['registered', ['a', 'b'], { taskinfoitems: ['a', 'b'] }],
    ['query_task', ['a'], { ids: ['a'] }],
    [
      'add_consumer',
      ['q', 'e', 'direct', 'r'],
      { queue: 'q', exchange: 'e', exchange_type: 'direct', routing_key: 'r' },
    ],
    ['autoscale', ['10', '3'], { max: 10, min: 3 }],
    ['pool_grow', [], {}],
    ['conf', ['True'], { with_defaults: true }],
    ['revoke_by_stamped_headers', ['k=v'], { headers: ['k=v'] }],
  ];
  for (const [method, words, args] of cases) t.same(argumentsOf(method, words), args, `${method} ${words.join(' ')}`);
});

t.test('words that fit no argument are refused', async (t) => {
  const cases: [string, string[], RegExp][] = [
    ['ping', ['x'], /^ping takes no arguments$/],
    ['rate_limit', ['t', '1/s', 'x'], /^rate_limit takes arguments: <task_name>/],
    ['pool_grow', ['many'], /^n must be a whole number, got "many"$/],
    ['pool_grow', ['1.5'], /^n must be a whole number/],
    ['time_limit', ['t', 'soon'], /^soft must be a number/],
    ['conf', ['maybe'], /^with_defaults must be yes or no/],
  ];
  for (const [method, words, message] of cases) t.throws(() => argumentsOf(method, words), { message });
});
