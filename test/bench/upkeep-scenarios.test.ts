import t from 'tap';
import { SCENARIOS } from '../../bench/scenarios/index.ts';
import { measuresWhatItPromises, UPKEEP_SCENARIOS } from './smoke.ts';

// Each one mostly waits.
t.jobs = 3;

t.test('the scenarios of this file are there', async (t) => {
  const names = SCENARIOS.map((scenario) => scenario.name);
  t.same(
    UPKEEP_SCENARIOS.filter((name) => !names.includes(name)),
    [],
  );
});

for (const scenario of SCENARIOS.filter(({ name }) => UPKEEP_SCENARIOS.includes(name))) {
  t.test(`${scenario.name} measures what it promises and writes it down`, { buffered: true, timeout: 200_000 }, (t) =>
    measuresWhatItPromises(t, scenario),
  );
}
