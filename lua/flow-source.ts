import { randomUUID } from 'node:crypto';
import type { Ids } from '../protocol/canvas-freeze.ts';
import { uuidOf } from '../protocol/message.ts';

/** Who sends what follows a task. */
export interface FlowSource extends Ids {
  /** What Celery calls the sending node. */
  readonly origin: string;
  /** Where tasks go that name no queue. */
  readonly defaultQueue: string;
}

/** Ids of what tasks send by themselves. */
export const newIds: Ids = { newId: randomUUID, replyTo: uuidOf('ringbeat') };
