import t from 'tap';
import { isNewEnough } from '../../lua/redis-version.ts';

t.test('Redis 6.2 is the oldest that will do', (t) => {
  for (const version of ['6.2', '6.2.14', '7.0.15', '8.0', '10.1', 'unstable', '']) t.ok(isNewEnough(version), version);
  for (const version of ['2.8.24', '5.0.14', '6.0.16']) t.notOk(isNewEnough(version), version);
  t.end();
});
