import { DateTime } from 'luxon';

/** How a cron may come to an instant: in this zone, from the local time there. None comes more than once an hour. */
interface Kind {
  readonly tz: string;
  readonly fields: (local: DateTime) => string;
}

const daily = (local: DateTime) => `${local.hour} * * *`;

const KINDS: readonly Kind[] = [
  { tz: 'UTC', fields: daily },
  { tz: 'UTC', fields: () => '* * * *' },
  { tz: 'UTC', fields: (local) => `*/${local.hour === 0 ? 2 : local.hour} * * *` },
  { tz: 'Europe/Berlin', fields: daily },
  { tz: 'Europe/Berlin', fields: (local) => `${local.hour} ${local.day} ${local.month} *` },
  { tz: 'America/New_York', fields: (local) => `${local.hour} * * ${local.weekday % 7}` },
  { tz: 'Asia/Kolkata', fields: (local) => `${local.hour} ${local.day} * *` },
  { tz: 'Australia/Lord_Howe', fields: daily },
];

/**
 * The `schedule` fields, as JSON, of crons with seconds that are all due at this instant (a whole second, ms since epoch):
 * of several kinds and zones, none of them more than once an hour.
 */
export function cronsAt(dueMs: number): string[] {
  return KINDS.map(({ tz, fields }) => {
    const local = DateTime.fromMillis(dueMs, { zone: tz });
    return JSON.stringify({ cron: `${local.second} ${local.minute} ${fields(local)}`, tz });
  });
}
