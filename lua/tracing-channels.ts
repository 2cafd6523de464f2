import { tracingChannel } from 'node:diagnostics_channel';

/**
 * Lets ioredis see whether anybody traces its commands. Node tells as of version 22; before, ioredis takes it that somebody
 * does, and writes every argument of every command out for him.
 */
export function tellTracingSubscribers(): void {
  const channels: object = Object.getPrototypeOf(tracingChannel('ioredis:command'));
  if ('hasSubscribers' in channels) return;
  Object.defineProperty(channels, 'hasSubscribers', {
    configurable: true,
    get(this: ReturnType<typeof tracingChannel>) {
      const { start, end, asyncStart, asyncEnd, error } = this;
      return [start, end, asyncStart, asyncEnd, error].some((channel) => channel.hasSubscribers);
    },
  });
}
