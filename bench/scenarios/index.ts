import type { Scenario } from '../scenario.ts';
import { burst } from './burst.ts';
import { churn } from './churn.ts';
import { crons } from './crons.ts';
import { endToEnd } from './end-to-end.ts';
import { failover } from './failover.ts';
import { idle } from './idle.ts';
import { journalCost } from './journal-cost.ts';
import { journalRestore } from './journal-restore.ts';
import { limit } from './limit.ts';
import { loops } from './loops.ts';
import { memory } from './memory.ts';
import { oneShots } from './one-shots.ts';
import { parked } from './parked.ts';
import { register } from './register.ts';
import { spread } from './spread.ts';
import { start } from './start.ts';
import { sustain } from './sustain.ts';
import { worker } from './worker.ts';

/** Every scenario, the most telling first. */
export const SCENARIOS: readonly Scenario[] = [
  limit,
  spread,
  endToEnd,
  sustain,
  burst,
  crons,
  loops,
  oneShots,
  parked,
  register,
  failover,
  churn,
  journalRestore,
  journalCost,
  worker,
  memory,
  start,
  idle,
];
