import type { Scenario } from '../scenario.ts';
import { awaiting } from './awaiting.ts';
import { burst } from './burst.ts';
import { churn } from './churn.ts';
import { crons } from './crons.ts';
import { endToEnd } from './end-to-end.ts';
import { events } from './events.ts';
import { failover } from './failover.ts';
import { idle } from './idle.ts';
import { journalCost } from './journal-cost.ts';
import { journalRestore } from './journal-restore.ts';
import { limit } from './limit.ts';
import { loops } from './loops.ts';
import { memory } from './memory.ts';
import { oneShots } from './one-shots.ts';
import { parked } from './parked.ts';
import { processes } from './processes.ts';
import { register } from './register.ts';
import { spread } from './spread.ts';
import { start } from './start.ts';
import { sustain } from './sustain.ts';
import { threads } from './threads.ts';
import { worker } from './worker.ts';
import { workerMemory } from './worker-memory.ts';

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
  awaiting,
  threads,
  processes,
  workerMemory,
  events,
  memory,
  start,
  idle,
];
