import { RingbeatError } from '../protocol/errors.ts';
import { LOG_FORMATS, LOG_LEVELS } from './log.ts';
import { type OptionSpec, oneOf, text } from './options.ts';

const NAMESPACE = /^[A-Za-z0-9._-]{1,64}$/;

const namespace: OptionSpec<string> = {
  ...text({ placeholder: 'NAME', default: 'rb', doc: 'namespace: the prefix of every key that Ringbeat writes' }),
  parse(value) {
    if (!NAMESPACE.test(value)) {
      throw new RingbeatError('BAD_NAMESPACE', {
        namespace: value,
        reason: value === '' ? 'it is empty' : 'it has other characters',
      });
    }
    return value;
  },
};

const level = oneOf(LOG_LEVELS, { short: '-l', default: 'info', doc: 'least severe event that is logged' });

/** In capitals too, as Celery's users write it: `-l INFO`. */
const logLevel: typeof level = { ...level, parse: (value, previous) => level.parse(value.toLowerCase(), previous) };

/** Options of every process. */
export const COMMON_OPTIONS = {
  redis: text({
    placeholder: 'URL',
    default: 'redis://127.0.0.1:6379/0',
    doc: 'schedule store: redis://, rediss:// or unix://',
  }),
  broker: text<string | null>({
    placeholder: 'URL',
    default: null,
    doc: 'where Celery queues are (default: the same as --redis)',
  }),
  resultBackend: text<string | null>({
    placeholder: 'URL',
    default: null,
    doc: 'where results are kept (default: the same as --broker)',
  }),
  namespace,
  logLevel,
  logFormat: oneOf(LOG_FORMATS, { default: 'json', doc: 'json: one object a line; pretty: for people' }),
};

/** Refuses the roles that this version cannot yet put on another Redis. */
export function requireOneRedis(options: { redis: string; broker: string | null; resultBackend: string | null }): void {
  for (const [name, url] of [
    ['--broker', options.broker],
    ['--result-backend', options.resultBackend],
  ] as const) {
    if (url !== null && url !== options.redis) {
      throw new RingbeatError('NOT_YET_SUPPORTED', {
        what: `A ${name} other than --redis`,
        remedy: `Leave ${name} out, or give it the URL of --redis.`,
      });
    }
  }
}
