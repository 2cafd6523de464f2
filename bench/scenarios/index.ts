import type { Scenario } from '../scenario.ts';
import { burst } from './burst.ts';
import { churn } from './churn.ts';
import { endToEnd } from './end-to-end.ts';
import { failover } from './failover.ts';
import { idle } from './idle.ts';
import { limit } from './limit.ts';
import { memory } from './memory.ts';
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
  register,
  failover,
  churn,
  worker,
  memory,
  start,
  idle,
];
