import { spawnSync } from 'node:child_process';
import { cpus, totalmem } from 'node:os';
import { VERSION } from '../runtime/version.ts';

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGib: number;
  readonly node: string;
  readonly redis: string;
  readonly ringbeat: string;
}

export function describeMachine(): Machine {
  const redis = spawnSync('redis-server', ['--version'], { encoding: 'utf8' }).stdout ?? '';
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: cpus().length,
    memoryGib: Math.round(totalmem() / 2 ** 30),
    node: process.versions.node,
    redis: /v=(\S+)/.exec(redis)?.[1] ?? 'unknown',
    ringbeat: VERSION,
  };
}
