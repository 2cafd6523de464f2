import { createHash } from 'node:crypto';

/**
 * A nominal time moved on by 0 to less than `widthMs`, always by the same for the same id and time, in whole ms. Scripts
 * compute the same (lua/include/next-run.lua).
 */
export function jittered(id: string, nominalMs: number, widthMs: number): number {
  const hash = createHash('sha1').update(`${id}:${nominalMs}`).digest().readUInt32BE(0);
  return nominalMs + Math.floor((hash / 2 ** 32) * widthMs);
}
